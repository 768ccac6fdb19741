//! Members come and go: learners are added and get their votes, voters are taken out, and a node
//! that lost its disk comes back under a new number and takes its old place in one step.
//!
//! The world plays the operator and the leader's steward: it asks whoever leads for the next step
//! of what is wanted, one at a time, by the rules that the node keeps too (nobody is taken out
//! who is needed for a quorum, a learner votes once it has nearly caught up).

use crate::clients::CHANGE_TAGS;
use crate::node::SimNode;
use crate::world::World;
use coordinator::machine::members::{MemberChange, MemberRecord, MemberStep, Membership};
use raft::StateRole;
use raft::eraftpb::ConfState;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers of one place's incarnations differ by this.
pub const INCARNATION: u64 = 100;
/// A learner that lacks fewer entries may vote.
const CAUGHT_UP: u64 = 10;
/// Voters that are never taken out: below it a majority is too easily lost.
const FEWEST_VOTERS: usize = 3;

/// The record of a node: places are named, numbers are incarnations.
pub fn record(id: u64) -> MemberRecord {
    MemberRecord {
        node_id: format!("node-{}", id % INCARNATION),
        incarnation: format!("{}", id / INCARNATION),
        address: format!("node-{}:8080", id % INCARNATION),
        replaces: None,
        wants_vote: true,
    }
}

/// The members as they were founded.
pub fn founders(ids: &[u64]) -> Membership {
    let records: BTreeMap<u64, MemberRecord> = ids.iter().map(|id| (*id, record(*id))).collect();
    Membership::founded(records)
}

/// Everybody who has a vote, before a joint change too.
pub fn voters(conf: &ConfState) -> BTreeSet<u64> {
    conf.voters.iter().chain(&conf.voters_outgoing).copied().collect()
}

impl World {
    /// The next step of what is wanted, asked of whoever leads.
    pub fn steward(&mut self) {
        if !self.plan.members || self.quiet && self.members_settled() || !self.random.chance(60) {
            return;
        }
        let at = self.random.below(self.nodes.len() as u64) as usize;
        let Some(running) = &self.nodes[at].running else { return };
        let leads = running.replica.standing().role == StateRole::Leader;
        if !leads || running.replica.change_pending() {
            return;
        }
        let Some(change) = self.next_change(at) else { return };
        let kind = match &change.steps[..] {
            [MemberStep::Learner(_)] => "member added as a learner",
            [MemberStep::Voter(_)] => "learner given a vote",
            [MemberStep::Remove(_)] => "member removed",
            _ => "voter replaced in one step",
        };
        let tag = CHANGE_TAGS + self.now;
        let Some(running) = &mut self.nodes[at].running else { return };
        // The change was chosen by the replica's own sets, as of now.
        if running.replica.change_members(&change.to_raft(), u64::MAX, tag).is_ok() {
            self.faults.count(kind);
            self.trace.tell(self.now, || format!("change of members: {:?}", change.steps));
        }
    }

    fn next_change(&mut self, at: usize) -> Option<MemberChange> {
        let own = self.nodes[at].id;
        let running = self.nodes[at].running.as_ref()?;
        let conf = running.replica.conf_state();
        let last = running.replica.standing().last;
        let caught_up: BTreeSet<u64> = running
            .replica
            .progress()
            .into_iter()
            .filter(|(id, matched)| *id == own || matched + CAUGHT_UP > last)
            .map(|(id, _)| id)
            .collect();
        let up: BTreeSet<u64> =
            self.nodes.iter().filter(|n| n.running.is_some() && !n.suspect()).map(|n| n.id).collect();
        let sound = |without: u64| {
            let left: Vec<u64> = conf.voters.iter().copied().filter(|v| *v != without).collect();
            let counted = left.iter().filter(|v| up.contains(v) && caught_up.contains(v)).count();
            counted > left.len() / 2
        };
        // A learner that has caught up votes, in its old number's place where there is one.
        for learner in conf.learners.iter().filter(|id| caught_up.contains(id) && up.contains(id)) {
            let old = conf.voters.iter().find(|v| *v % INCARNATION == learner % INCARNATION);
            let steps = match old {
                Some(old) if sound(*old) => vec![MemberStep::Voter(*learner), MemberStep::Remove(*old)],
                Some(_) => continue,
                None => vec![MemberStep::Voter(*learner)],
            };
            return Some(MemberChange { steps, ..MemberChange::default() });
        }
        // A node that is up and no member joins.
        let all: BTreeSet<u64> = voters(&conf).into_iter().chain(conf.learners.iter().copied()).collect();
        if let Some(joins) = up.iter().find(|id| !all.contains(id)) {
            // A learner of an earlier incarnation of it goes first.
            let stale = conf.learners.iter().find(|l| *l % INCARNATION == joins % INCARNATION);
            let change = match stale {
                Some(stale) => MemberChange { steps: vec![MemberStep::Remove(*stale)], ..Default::default() },
                None => MemberChange {
                    steps: vec![MemberStep::Learner(*joins)],
                    records: vec![(*joins, record(*joins))],
                    ..Default::default()
                },
            };
            return Some(change);
        }
        if self.healed || !self.random.chance(300) || conf.voters.len() <= FEWEST_VOTERS {
            return None;
        }
        let victim = *self.random.pick(&conf.voters)?;
        (victim != own && sound(victim))
            .then(|| MemberChange { steps: vec![MemberStep::Remove(victim)], ..MemberChange::default() })
    }

    /// A node that was taken out starts anew with an empty disk, as a node that was never there.
    pub fn retire_removed(&mut self) {
        let members = self.truth.members.all();
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let was = self.truth.members_seen.contains(&node.id);
            if was && !members.contains(&node.id) {
                self.wipe(at);
            }
        }
    }

    /// A node loses its disk, while all others are sound: with more lost, nobody could know.
    pub fn lose_disk(&mut self, at: usize) {
        let sound = self.nodes.iter().all(|n| !n.suspect() && n.running.is_some());
        let pending =
            self.nodes.iter().any(|n| n.running.as_ref().is_some_and(|r| r.replica.change_pending()));
        if !sound || pending || !self.members_settled() || !self.all_caught_up() {
            return;
        }
        self.faults.count("disk lost for good");
        self.wipe(at);
    }

    fn wipe(&mut self, at: usize) {
        self.crash(at, crate::disk::End::Kill);
        let id = self.nodes[at].id + INCARNATION;
        let down_until = self.now + 20;
        self.trace.tell(self.now, || format!("node {} is empty and comes back as {id}", id - INCARNATION));
        let clock = std::mem::take(&mut self.nodes[at].clock);
        self.nodes[at] = SimNode { down_until, clock, boots: self.nodes[at].boots, ..SimNode::new(id) };
    }

    fn all_caught_up(&self) -> bool {
        let ends: Vec<u64> =
            self.nodes.iter().filter_map(|n| n.running.as_ref()).map(|r| r.machine.applied_index()).collect();
        let newest = self.truth.highest_committed();
        ends.iter().all(|end| *end + 3 > newest)
    }

    /// Every place has a voter, and no change is under way.
    pub fn members_settled(&self) -> bool {
        let members = &self.truth.members;
        let everybody = self.nodes.iter().all(|n| members.voters.contains(&n.id));
        everybody && !members.joint() && members.learners.is_empty()
    }
}
