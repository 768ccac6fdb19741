//! PURE. The rules about members.
//!
//! All of them count *sound* voters: the leader itself, and those that answer it, were heard of
//! lately and are nearly caught up. What a rule refuses it explains with the numbers, so that a
//! person can see what to mend first.

use super::MemberStanding;
use api::cluster::CanLose;

/// A voter whose log is further behind is not counted on.
pub const MAX_LAG_ENTRIES: u64 = 1000;
/// A voter that was silent for longer is not counted on.
pub const MAX_SILENCE_MS: u64 = 3000;
/// A learner this near to the leader's log gets its vote.
pub const CAUGHT_UP_ENTRIES: u64 = 100;
/// How long the old incarnation of a node must have been silent before a new one is taken in.
pub const OLD_VOTER_SILENCE_MS: u64 = 10_000;
/// Voters at most.
pub const MAX_VOTERS: usize = 7;
/// Voters and learners at most.
pub const MAX_MEMBERS: usize = 16;

/// How many of `voters` must agree.
pub const fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Why a member is not counted on; none for a sound one.
pub fn unsound(member: &MemberStanding) -> Option<String> {
    if member.own {
        return None;
    }
    if !member.reachable {
        return Some("does not answer".into());
    }
    if member.silent_ms > MAX_SILENCE_MS {
        return Some(format!("silent for {} ms", member.silent_ms));
    }
    match member.lag_entries {
        None => Some("its log is not known yet".into()),
        Some(lag) if lag > MAX_LAG_ENTRIES => Some(format!("{lag} entries behind")),
        Some(_) => None,
    }
}

fn voters(members: &[MemberStanding]) -> impl Iterator<Item = &MemberStanding> {
    members.iter().filter(|m| m.voter)
}

/// The sound voters but for `left_out`, and why each of the others is not counted on.
fn sound_but<'a>(members: &'a [MemberStanding], left_out: &[u64]) -> (Vec<&'a str>, Vec<String>) {
    let (mut sound, mut others) = (Vec::new(), Vec::new());
    for voter in voters(members).filter(|v| !left_out.contains(&v.raft_id)) {
        match unsound(voter) {
            None => sound.push(voter.node_id.as_str()),
            Some(why) => others.push(format!("{} {why}", voter.node_id)),
        }
    }
    (sound, others)
}

fn listed(sound: &[&str], others: &[String]) -> String {
    let names = if sound.is_empty() { "none".to_owned() } else { sound.join(", ") };
    match others {
        [] => names,
        others => format!("{names}; not counted on: {}", others.join(", ")),
    }
}

/// Does the cluster keep its quorum without `node`? None where that is no member.
pub fn can_lose(members: &[MemberStanding], node: &str) -> Option<CanLose> {
    let verdict = |can_lose, why| Some(CanLose { node: node.to_owned(), can_lose, why });
    let member = members.iter().filter(|m| m.node_id == node).max_by_key(|m| m.voter)?;
    if !member.voter {
        return verdict(true, format!("{node} is a learner and has no vote"));
    }
    let count = voters(members).count();
    let (sound, others) = sound_but(members, &[member.raft_id]);
    let needed = quorum(count);
    let why = format!(
        "without {node}, {} of {count} voters are up and caught up ({}); a quorum is {needed}",
        sound.len(),
        listed(&sound, &others)
    );
    verdict(sound.len() >= needed, why)
}

/// May `node` be taken out? Gives the Raft ids that go with it.
pub fn may_remove(members: &[MemberStanding], node: &str) -> Result<Vec<u64>, String> {
    let ids: Vec<u64> = members.iter().filter(|m| m.node_id == node).map(|m| m.raft_id).collect();
    if !voters(members).any(|v| v.node_id == node) {
        return Ok(ids);
    }
    let left = voters(members).filter(|v| v.node_id != node).count();
    if left == 0 {
        return Err(format!("{node} is the only voter; a cluster needs one"));
    }
    let (sound, others) = sound_but(members, &ids);
    let needed = quorum(left);
    if sound.len() < needed {
        return Err(format!(
            "of the {left} voters that would be left, {} are up and caught up ({}), and a quorum of {left} is {needed}: bring the others back first, or add a member",
            sound.len(),
            listed(&sound, &others)
        ));
    }
    Ok(ids)
}

/// What is to be done with a node that asks to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// It is a member already.
    Member,
    /// Take it in as a learner.
    Learner {
        /// The voter of the same node id, whose place it takes when it has caught up.
        replaces: Option<u64>,
        /// A learner of the same node id, which goes.
        drops: Option<u64>,
    },
}

/// A node that may not join now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// Why, and what to do.
    pub why: String,
    /// True where waiting may help.
    pub later: bool,
}

/// May the incarnation `raft_id` of `node_id` join?
pub fn may_join(members: &[MemberStanding], node_id: &str, raft_id: u64) -> Result<Join, NotTaken> {
    if members.iter().any(|m| m.raft_id == raft_id) {
        return Ok(Join::Member);
    }
    let (mut replaces, mut drops) = (None, None);
    for old in members.iter().filter(|m| m.node_id == node_id) {
        if old.own || old.silent_ms < OLD_VOTER_SILENCE_MS {
            return Err(NotTaken {
                why: format!(
                    "another process of node {node_id} was heard {} s ago: two nodes have one node_id, or its disk was lost a moment ago; its place is free once it was silent for {} s",
                    if old.own { 0 } else { old.silent_ms / 1000 },
                    OLD_VOTER_SILENCE_MS / 1000
                ),
                later: true,
            });
        }
        if old.voter {
            replaces = Some(old.raft_id);
        } else {
            drops = Some(old.raft_id);
        }
    }
    if members.len() >= MAX_MEMBERS && drops.is_none() {
        return Err(NotTaken {
            why: format!("the cluster has {} members; the limit is {MAX_MEMBERS}", members.len()),
            later: false,
        });
    }
    Ok(Join::Learner { replaces, drops })
}

/// A vote that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promotion {
    /// Give it a vote.
    Vote(u64),
    /// Give it the vote of another, which goes, in one change.
    Replace {
        /// Who gets it.
        new: u64,
        /// Who goes.
        old: u64,
    },
    /// It is to take the leader's own place: leadership moves first.
    MoveLeadership,
}

/// The first learner that may get its vote now, or why the first that is caught up may not.
pub fn next_promotion(members: &[MemberStanding]) -> Option<Result<Promotion, String>> {
    let ready = |m: &&MemberStanding| {
        !m.voter
            && m.wants_vote
            && unsound(m).is_none()
            && m.lag_entries.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES)
    };
    let learner = members.iter().find(ready)?;
    let count = voters(members).count();
    let old = learner.replaces.and_then(|id| voters(members).find(|v| v.raft_id == id));
    if let Some(old) = old {
        if old.node_id == learner.node_id && old.silent_ms < OLD_VOTER_SILENCE_MS {
            return Some(Err(format!(
                "{} has caught up, but its old incarnation was heard {} ms ago",
                learner.node_id, old.silent_ms
            )));
        }
        if old.own {
            return Some(Ok(Promotion::MoveLeadership));
        }
        let (sound, others) = sound_but(members, &[old.raft_id]);
        if sound.len() + 1 < quorum(count) {
            return Some(Err(format!(
                "{} has caught up, but with it only {} of {count} voters would be sound ({})",
                learner.node_id,
                sound.len() + 1,
                listed(&sound, &others)
            )));
        }
        return Some(Ok(Promotion::Replace { new: learner.raft_id, old: old.raft_id }));
    }
    if count >= MAX_VOTERS {
        return Some(Err(format!(
            "{} stays a learner: the cluster has {count} voters, and {MAX_VOTERS} is the limit",
            learner.node_id
        )));
    }
    let (sound, others) = sound_but(members, &[]);
    let (after, sound_after) = (count + 1, sound.len() + 1);
    if sound_after < quorum(after) {
        return Some(Err(format!(
            "{} has caught up, but with it only {sound_after} of {after} voters would be sound ({})",
            learner.node_id,
            listed(&sound, &others)
        )));
    }
    Some(Ok(Promotion::Vote(learner.raft_id)))
}

/// The first member that was silent for `after_ms` and may go without a person's word.
///
/// A voter goes only where a quorum of those that are left, and one more, are sound: the cluster
/// must be able to lose another one right afterwards.
pub fn dead_member(members: &[MemberStanding], after_ms: u64) -> Option<u64> {
    let dead = |m: &&MemberStanding| !m.own && !m.reachable && m.silent_ms >= after_ms;
    members.iter().filter(dead).find_map(|member| {
        let taken_over = members.iter().any(|m| m.replaces == Some(member.raft_id));
        if !member.voter {
            return Some(member.raft_id);
        }
        let left = voters(members).count() - 1;
        let (sound, _) = sound_but(members, &[member.raft_id]);
        (left > 0 && !taken_over && sound.len() > quorum(left)).then_some(member.raft_id)
    })
}

/// Voters that do not answer and that this node's config does not name: stopped and edited out,
/// they still count for every majority.
pub fn forgotten(
    members: &[MemberStanding],
    configured: impl Fn(&MemberStanding) -> bool,
    after_ms: u64,
) -> Vec<&MemberStanding> {
    let left = |m: &&MemberStanding| !m.own && !m.reachable && m.silent_ms >= after_ms && !configured(m);
    voters(members).filter(left).collect()
}
