//! The rules about members, as golden scripts: `tests/members/*.txt`.
//!
//! `member NAME[/INCARNATION] WORDS…` puts a member there (voter, learner, own, down, silent=MS,
//! lag=N, replaces=NAME/INCARNATION, unasked); the other lines ask. A block is some lines, `---`,
//! and what they print. `HOLDFAST_REWRITE_GOLDEN=1` writes what comes out into the scripts.

mod rolling;

use coordinator::members::MemberStanding;
use coordinator::members::checks::{self, Join, Promotion};
use coordinator::raft::identity::raft_id;
use std::path::Path;

#[derive(Default)]
struct Session {
    members: Vec<MemberStanding>,
    out: String,
}

fn id(name: &str) -> u64 {
    let (node_id, incarnation) = name.split_once('/').unwrap_or((name, "1"));
    raft_id(node_id, incarnation)
}

impl Session {
    fn name(&self, raft_id: u64) -> String {
        let member = self.members.iter().find(|m| m.raft_id == raft_id).expect("a member");
        let first = coordinator::raft::identity::raft_id(&member.node_id, "1") == raft_id;
        if first { member.node_id.clone() } else { format!("{} (new)", member.node_id) }
    }

    fn member(&mut self, words: &[&str]) {
        let raft_id = id(words[0]);
        let node_id = words[0].split('/').next().unwrap().to_owned();
        let mut member = MemberStanding {
            raft_id,
            address: format!("{node_id}:8080"),
            node_id,
            voter: true,
            replaces: None,
            wants_vote: true,
            own: false,
            reachable: true,
            silent_ms: 20,
            lag_entries: Some(0),
            machine_version: Some(2),
            moved_to: None,
        };
        for word in &words[1..] {
            match word.split_once('=') {
                None if *word == "voter" => member.voter = true,
                None if *word == "learner" => member.voter = false,
                None if *word == "voteless" => (member.voter, member.wants_vote) = (false, false),
                None if *word == "own" => (member.own, member.silent_ms) = (true, 0),
                None if *word == "down" => (member.reachable, member.silent_ms) = (false, 60_000),
                None if *word == "unasked" => member.lag_entries = None,
                Some(("silent", ms)) => member.silent_ms = ms.parse().unwrap(),
                Some(("lag", n)) => member.lag_entries = Some(n.parse().unwrap()),
                Some(("replaces", name)) => member.replaces = Some(id(name)),
                _ => panic!("{word}"),
            }
        }
        self.members.retain(|m| m.raft_id != raft_id);
        self.members.push(member);
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = match words[0] {
            "member" => return self.member(&words[1..]),
            "gone" => {
                let gone = id(words[1]);
                return self.members.retain(|m| m.raft_id != gone);
            }
            "can_lose" => match checks::can_lose(&self.members, words[1]) {
                None => "no member".into(),
                Some(verdict) => format!("{}: {}", if verdict.can_lose { "yes" } else { "no" }, verdict.why),
            },
            "remove" => match checks::may_remove(&self.members, words[1]) {
                Ok(ids) => {
                    format!("yes, {}", ids.iter().map(|i| self.name(*i)).collect::<Vec<_>>().join(" and "))
                }
                Err(why) => format!("no: {why}"),
            },
            "join" => {
                let node_id = words[1].split('/').next().unwrap();
                match checks::may_join(&self.members, node_id, id(words[1])) {
                    Ok(Join::Member) => "is a member".into(),
                    Ok(Join::Learner { replaces, drops }) => {
                        let mut said = "as a learner".to_owned();
                        if let Some(old) = replaces {
                            said.push_str(&format!(", takes the place of {}", self.name(old)));
                        }
                        if let Some(old) = drops {
                            said.push_str(&format!(", {} goes", self.name(old)));
                        }
                        said
                    }
                    Err(no) => format!("{}: {}", if no.later { "not yet" } else { "no" }, no.why),
                }
            }
            "promote" => match checks::next_promotion(&self.members) {
                None => "nobody".into(),
                Some(Ok(Promotion::Vote(new))) => format!("{} gets a vote", self.name(new)),
                Some(Ok(Promotion::Replace { new, old })) => {
                    format!("{} for {}, in one change", self.name(new), self.name(old))
                }
                Some(Ok(Promotion::MoveLeadership)) => "leadership moves first".into(),
                Some(Err(why)) => format!("not yet: {why}"),
            },
            "dead" => match checks::dead_member(&self.members, words[1].parse().unwrap()) {
                None => "nobody".into(),
                Some(dead) => format!("{} goes", self.name(dead)),
            },
            "forgotten" => {
                let names = words[1..].to_vec();
                let found = checks::forgotten(&self.members, |m| names.contains(&m.node_id.as_str()), 30_000);
                let found: Vec<_> = found.iter().map(|m| m.node_id.clone()).collect();
                if found.is_empty() { "nobody".into() } else { found.join(", ") }
            }
            other => panic!("{other}"),
        };
        self.out.push_str(&said);
        self.out.push('\n');
    }
}

fn run(text: &str) -> String {
    let mut session = Session::default();
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line == "---" {
            out.push_str(&std::mem::take(&mut session.out));
            while lines.peek().is_some_and(|line| !line.is_empty()) {
                lines.next();
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            session.run(line);
        }
    }
    assert!(session.out.is_empty(), "the last block has no `---`");
    out
}

#[test]
fn the_rules_are_as_the_scripts_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/members");
    let mut scripts: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    scripts.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    scripts.sort();
    assert_eq!(scripts.len(), 5);
    for path in scripts {
        let expected = std::fs::read_to_string(&path).unwrap();
        let found = run(&expected);
        if found != expected && std::env::var_os("HOLDFAST_REWRITE_GOLDEN").is_some() {
            std::fs::write(&path, found).unwrap();
            continue;
        }
        for (number, (was, is)) in expected.lines().zip(found.lines()).enumerate() {
            assert_eq!(is, was, "{}, line {}", path.display(), number + 1);
        }
        assert_eq!(found, expected, "{}", path.display());
    }
}
