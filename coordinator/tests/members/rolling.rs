//! Nodes reboot one after another while dead members are taken out: the rules of
//! `members::checks` over simulated minutes, in steps of a steward's round.
//!
//! A world here is who is up, who votes, and who was heard when by whom. Nothing is chosen by
//! chance but by proptest, which prints and shrinks what does not hold.

use coordinator::members::MemberStanding;
use coordinator::members::checks::{self, Join, Promotion, quorum};
use coordinator::members::watch::Watch;
use proptest::prelude::*;

const ROUND_MS: u64 = 250;
/// The shortest stabilisation time that a config may ask for.
const STABLE_MS: u64 = 60_000;
/// How long a node that is back is not caught up.
const CATCH_UP_MS: u64 = 1_000;
/// A leader's death is noticed after this time.
const ELECTION_MS: u64 = 500;

struct Node {
    raft_id: u64,
    voter: bool,
    member: bool,
    /// Since when it is up; none while it is down.
    up_since: Option<u64>,
    last_up: u64,
    /// When it found itself without a member's place and asked for a new one.
    rejoins: bool,
}

struct World {
    now: u64,
    nodes: Vec<Node>,
    /// Who leads, or since when nobody does.
    leader: Result<usize, u64>,
    watch: Watch,
    clean: bool,
    removed: Vec<usize>,
    next_id: u64,
}

impl World {
    fn new(count: usize, clean: bool) -> World {
        let node = |at| Node {
            raft_id: at as u64 + 1,
            voter: true,
            member: true,
            up_since: Some(0),
            last_up: 0,
            rejoins: false,
        };
        World {
            now: 0,
            nodes: (0..count).map(node).collect(),
            leader: Ok(0),
            watch: Watch::default(),
            clean,
            removed: Vec::new(),
            next_id: 100,
        }
    }

    fn voters(&self) -> usize {
        self.nodes.iter().filter(|n| n.voter).count()
    }

    fn caught_up(&self, node: &Node) -> bool {
        node.up_since.is_some_and(|since| since == 0 || self.now - since >= CATCH_UP_MS)
    }

    /// Voters that are up and have caught up: those who can commit a write.
    fn voters_up(&self) -> usize {
        self.nodes.iter().filter(|n| n.voter && self.caught_up(n)).count()
    }

    fn down(&mut self, at: usize) {
        self.nodes[at].last_up = self.now;
        self.nodes[at].up_since = None;
        if self.leader == Ok(at) {
            self.leader = Err(self.now);
            self.watch.rest();
        }
    }

    fn up(&mut self, at: usize) {
        self.nodes[at].up_since = Some(self.now);
        // Who was taken out meanwhile is told so, and a person lets it begin anew.
        self.nodes[at].rejoins = !self.nodes[at].member;
    }

    /// The members as their leader sees them.
    fn standings(&self, leader: usize) -> Vec<MemberStanding> {
        let leader_up = self.nodes[leader].up_since.unwrap_or(self.now);
        let standing = |(at, node): (usize, &Node)| {
            let own = at == leader;
            let up_ms = node.up_since.map(|since| self.now - since);
            MemberStanding {
                raft_id: node.raft_id,
                node_id: format!("n{at}"),
                address: format!("n{at}:8080"),
                voter: node.voter,
                replaces: None,
                wants_vote: true,
                own,
                reachable: up_ms.is_some(),
                silent_ms: match up_ms {
                    Some(_) => 0,
                    None => self.now - node.last_up.max(leader_up),
                },
                lag_entries: (own || self.caught_up(node)).then_some(0),
                machine_version: Some(2),
                moved_to: None,
            }
        };
        self.nodes.iter().enumerate().filter(|(_, n)| n.member).map(standing).collect()
    }

    /// What the steward does in a round.
    fn round(&mut self) {
        self.now += ROUND_MS;
        let leader = match self.leader {
            Ok(leader) => leader,
            Err(since) => {
                let able = |at: &usize| self.nodes[*at].voter && self.caught_up(&self.nodes[*at]);
                let next = (0..self.nodes.len()).find(able);
                if let Some(next) = next.filter(|_| self.now - since >= ELECTION_MS) {
                    self.leader = Ok(next);
                }
                return;
            }
        };
        let members = self.standings(leader);
        if let Some(Ok(Promotion::Vote(id))) = checks::next_promotion(&members) {
            self.nodes.iter_mut().find(|n| n.raft_id == id).unwrap().voter = true;
            return;
        }
        if let Some(at) = (0..self.nodes.len()).find(|at| self.nodes[*at].rejoins) {
            let id = self.next_id;
            let taken = checks::may_join(&members, &format!("n{at}"), id);
            assert_eq!(taken, Ok(Join::Learner { replaces: None, drops: None }));
            self.next_id += 1;
            let node = &mut self.nodes[at];
            (node.raft_id, node.member, node.rejoins) = (id, true, false);
            return;
        }
        let knows = self.watch.look(self.now);
        if !self.clean || !knows {
            return;
        }
        if let Some(id) = checks::dead_member(&members, STABLE_MS) {
            let at = self.nodes.iter().position(|n| n.raft_id == id).unwrap();
            assert!(self.nodes[at].up_since.is_none(), "n{at} is up and was taken out");
            assert!(self.now - self.nodes[at].last_up >= STABLE_MS, "n{at} was away for less");
            (self.nodes[at].voter, self.nodes[at].member) = (false, false);
            self.removed.push(at);
            let (up, left) = (self.voters_up(), self.voters());
            assert!(up > quorum(left), "{up} of {left} voters are up: no spare is left");
        }
    }

    /// Rounds for so long, in which writes never stop: a quorum is up in each.
    fn run(&mut self, for_ms: u64) {
        let until = self.now + for_ms;
        while self.now < until {
            self.round();
            let (up, all) = (self.voters_up(), self.voters());
            assert!(up >= quorum(all), "{up} of {all} voters are up: no quorum, after {:?}", self.removed);
        }
    }

    fn can_lose(&self, at: usize) -> bool {
        let Ok(leader) = self.leader else { return false };
        let verdict = checks::can_lose(&self.standings(leader), &format!("n{at}"));
        verdict.is_some_and(|verdict| verdict.can_lose)
    }
}

/// Reboots every node that is not dead, one after the other, each away for so long. A node goes
/// down when the cluster says that it can lose it.
fn reboot_all(world: &mut World, away_ms: &[u64], dead: &[usize]) {
    for at in 0..world.nodes.len() {
        if dead.contains(&at) {
            continue;
        }
        for _ in 0..10_000 {
            if world.can_lose(at) {
                break;
            }
            world.run(ROUND_MS);
        }
        assert!(world.can_lose(at), "n{at} could never be lost, after {:?}", world.removed);
        world.down(at);
        world.run(away_ms[at % away_ms.len()]);
        world.up(at);
    }
}

/// Lesson 23: cleanup of dead servers shrank the quorum while nodes rebooted one after another.
#[test]
fn rolling_reboot_keeps_quorum() {
    let mut runner = proptest::test_runner::TestRunner::default();
    let away = prop::collection::vec((0..4u64, 1..300u64), 7).prop_map(|all| {
        // Short, just below, just above and far beyond the stabilisation time.
        let long = [0, STABLE_MS - 1_000, STABLE_MS - 100, 2 * STABLE_MS];
        all.into_iter().map(|(kind, more)| long[kind as usize] + more * 10).collect::<Vec<u64>>()
    });
    let cases = (prop::sample::select(vec![3usize, 5, 7]), away, 0..3usize, any::<bool>());
    runner
        .run(&cases, |(count, away, dead, rested)| {
            let mut world = World::new(count, true);
            world.run(20_000);
            // As many as may be dead while one more reboots.
            let dead: Vec<usize> = (0..dead.min((count - 1) / 2 - 1)).map(|at| count - 1 - at).collect();
            dead.iter().for_each(|at| world.down(*at));
            world.run(if rested { 2 * STABLE_MS } else { ELECTION_MS });
            reboot_all(&mut world, &away, &dead);
            world.run(2 * STABLE_MS);
            // Who lives has a vote again in the end; who is dead is gone where a spare stays.
            let voters: Vec<usize> = (0..count).filter(|at| world.nodes[*at].voter).collect();
            let alive: Vec<usize> = (0..count).filter(|at| !dead.contains(at)).collect();
            assert_eq!(voters, alive, "taken out: {:?}", world.removed);
            if count == 3 {
                assert!(world.removed.is_empty(), "three nodes have no spare");
            }
            Ok(())
        })
        .unwrap();
}

/// Two of five away for longer than the stabilisation time: nobody goes, since one more could not be
/// lost. When the one comes back, the other goes.
#[test]
fn a_dead_one_goes_when_the_other_is_back() {
    let mut world = World::new(5, true);
    world.run(20_000);
    world.down(3);
    world.down(4);
    world.run(5 * STABLE_MS);
    assert!(world.removed.is_empty() && world.voters() == 5, "{:?}", world.removed);
    world.up(3);
    world.run(5_000);
    assert_eq!(world.removed, [4]);
    assert_eq!((world.voters(), world.voters_up()), (4, 4));
    // And four can lose one more, also while it is away for long: then three are left.
    world.down(2);
    world.run(2 * STABLE_MS);
    assert_eq!(world.removed, [4, 2]);
    world.down(1);
    world.run(5 * STABLE_MS);
    assert_eq!((world.voters(), world.voters_up()), (3, 2), "never below a quorum and a spare");
}

/// Without the setting nobody ever goes.
#[test]
fn cleanup_is_opt_in() {
    let mut world = World::new(5, false);
    world.down(4);
    world.run(20 * STABLE_MS);
    assert_eq!((world.voters(), world.removed.len()), (5, 0));
}
