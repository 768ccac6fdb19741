//! Who belongs to the cluster, as the log has made it.
//!
//! Raft counts with numbers (Raft ids); a member's record says which node and which incarnation a
//! number is and where it is reached. A change travels as a configuration change of Raft with the
//! new records in its context, so that every replica learns both from one entry. A node that
//! lost its disk has a new incarnation and so a new number: two numbers of one node id may stand
//! here side by side, until the new one takes the old one's place in one step.
//!
//! Invariants:
//! - The sets are those that Raft computed for the entry; nothing here counts by itself.
//! - A number without a place in any set has no record. It is remembered among the removed, so
//!   that a node which comes back can be told what became of it.

use super::checksum::Canon;
use super::effect::{Effect, EventKind};
use super::{Machine, event};
use crate::command::{Reply, Stamp};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Version byte of a change's context.
const CONTEXT_VERSION: u8 = 1;
/// Removed members that are remembered.
const MAX_REMOVED: usize = 64;

/// A member: who it is and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its node id.
    pub node_id: String,
    /// Its incarnation.
    pub incarnation: String,
    /// `host:port`, as it told.
    pub address: String,
    /// Raft id of the voter whose place it takes once it has caught up.
    pub replaces: Option<u64>,
    /// False for one that stays a learner.
    pub wants_vote: bool,
}

/// One step of a change. Several in one change are taken at once, by joint consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberStep {
    /// Give this member a vote.
    Voter(u64),
    /// Let this member follow without a vote.
    Learner(u64),
    /// Take this member out.
    Remove(u64),
}

/// A change of the membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberChange {
    /// The steps; none leaves a joint configuration.
    pub steps: Vec<MemberStep>,
    /// Records that are new or differ.
    pub records: Vec<(u64, MemberRecord)>,
    /// The leader's wall clock, for people.
    pub wall_ms: i64,
}

/// A member that was taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedMember {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its node id.
    pub node_id: String,
    /// The index of the entry that took it out.
    pub index: u64,
}

/// The members at one index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Index of the last entry that changed it; 0 as it was founded.
    pub changed_index: u64,
    /// Raft ids that vote.
    pub voters: BTreeSet<u64>,
    /// Raft ids that follow without a vote.
    pub learners: BTreeSet<u64>,
    /// In a joint configuration: the voters before it. Both majorities count.
    pub outgoing: BTreeSet<u64>,
    /// In a joint configuration: voters that become learners when it ends.
    pub learners_next: BTreeSet<u64>,
    /// True where the joint configuration ends by itself.
    pub auto_leave: bool,
    /// Who the Raft ids are.
    pub records: BTreeMap<u64, MemberRecord>,
    /// The last members that were taken out, oldest first.
    pub removed: VecDeque<RemovedMember>,
}

impl MemberChange {
    /// The change as Raft takes it. One step is taken at once, several by a joint configuration
    /// that ends by itself.
    pub fn to_raft(&self) -> ConfChangeV2 {
        let mut change = ConfChangeV2::default();
        let steps = self.steps.iter().map(|step| {
            let (kind, node_id) = match *step {
                MemberStep::Voter(id) => (ConfChangeType::AddNode, id),
                MemberStep::Learner(id) => (ConfChangeType::AddLearnerNode, id),
                MemberStep::Remove(id) => (ConfChangeType::RemoveNode, id),
            };
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = node_id;
            single
        });
        change.set_changes(steps.collect::<Vec<_>>().into());
        let mut context = vec![CONTEXT_VERSION];
        // Serialising plain structs into memory has no failure.
        context.extend(postcard::to_stdvec(&(self.wall_ms, &self.records)).unwrap_or_default());
        change.context = context.into();
        change
    }

    /// Reads what [`MemberChange::to_raft`] wrote, from an entry's data.
    pub fn decode(data: &[u8]) -> Result<MemberChange, String> {
        let change = ConfChangeV2::parse_from_bytes(data).map_err(|e| e.to_string())?;
        let steps = change.get_changes().iter().map(|single| match single.get_change_type() {
            ConfChangeType::AddNode => MemberStep::Voter(single.node_id),
            ConfChangeType::AddLearnerNode => MemberStep::Learner(single.node_id),
            ConfChangeType::RemoveNode => MemberStep::Remove(single.node_id),
        });
        let steps = steps.collect();
        let (wall_ms, records) = match change.context.split_first() {
            None => (0, Vec::new()),
            Some((&CONTEXT_VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| e.to_string())?,
            Some((version, _)) => {
                return Err(format!(
                    "its records have version {version}, this program knows {CONTEXT_VERSION}: update it"
                ));
            }
        };
        Ok(MemberChange { steps, records, wall_ms })
    }
}

impl Membership {
    /// The founders, all of them voters.
    pub fn founded(records: BTreeMap<u64, MemberRecord>) -> Membership {
        Membership { voters: records.keys().copied().collect(), records, ..Membership::default() }
    }

    /// True between the two halves of a change that took several steps at once.
    pub fn joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Every Raft id that has a place.
    pub fn all(&self) -> BTreeSet<u64> {
        [&self.voters, &self.learners, &self.outgoing, &self.learners_next]
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// The sets as Raft takes them, for a snapshot at this index.
    pub fn conf_state(&self) -> ConfState {
        let list = |set: &BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
        ConfState {
            voters: list(&self.voters),
            learners: list(&self.learners),
            voters_outgoing: list(&self.outgoing),
            learners_next: list(&self.learners_next),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }

    /// The number under which a node votes, or follows where it has no vote.
    pub fn id_of(&self, node_id: &str) -> Option<u64> {
        let named = |id: &&u64| self.records.get(id).is_some_and(|r| r.node_id == node_id);
        let mut ranked = self.voters.iter().chain(&self.outgoing).chain(&self.learners);
        ranked.find(named).copied()
    }

    /// True for a node that was taken out, as far back as that is remembered.
    pub fn has_removed(&self, node_id: &str) -> bool {
        self.removed.iter().any(|r| r.node_id == node_id)
    }

    fn take(&mut self, index: u64, change: &MemberChange, conf: &ConfState) {
        self.changed_index = index;
        self.records.extend(change.records.iter().cloned());
        self.voters = conf.voters.iter().copied().collect();
        self.learners = conf.learners.iter().copied().collect();
        self.outgoing = conf.voters_outgoing.iter().copied().collect();
        self.learners_next = conf.learners_next.iter().copied().collect();
        self.auto_leave = conf.auto_leave;
        let all = self.all();
        let gone: Vec<u64> = self.records.keys().filter(|id| !all.contains(id)).copied().collect();
        for raft_id in gone {
            if let Some(record) = self.records.remove(&raft_id) {
                self.removed.push_back(RemovedMember { raft_id, node_id: record.node_id, index });
            }
        }
        while self.removed.len() > MAX_REMOVED {
            self.removed.pop_front();
        }
    }

    /// The hash that goes into the state's checksum; 0 where nobody was ever a member.
    pub(super) fn hash(&self) -> u128 {
        if *self == Membership::default() {
            return 0;
        }
        let mut canon = Canon::new(5);
        canon.u64(self.changed_index).u8(u8::from(self.auto_leave));
        for set in [&self.voters, &self.learners, &self.outgoing, &self.learners_next] {
            canon.u64(set.len() as u64);
            for id in set {
                canon.u64(*id);
            }
        }
        canon.u64(self.records.len() as u64);
        for (id, record) in &self.records {
            canon.u64(*id).text(&record.node_id).text(&record.incarnation).text(&record.address);
            canon.u64(record.replaces.unwrap_or(0)).u8(u8::from(record.wants_vote));
        }
        canon.u64(self.removed.len() as u64);
        for removed in &self.removed {
            canon.u64(removed.raft_id).text(&removed.node_id).u64(removed.index);
        }
        canon.hash()
    }
}

impl Machine {
    /// The state before the first entry of a cluster with these founders.
    pub fn found(&mut self, members: Membership, version: u32) {
        self.members = members;
        self.version = version.max(1);
    }

    /// The members.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// Applies the configuration change of the entry at `index`; `conf` is what Raft made of it.
    ///
    /// After it comes [`Machine::finish_entry`].
    pub fn change_members(
        &mut self,
        index: u64,
        change: &MemberChange,
        conf: &ConfState,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        self.members.take(index, change, conf);
        let name = |id: &u64| {
            let known = self.members.records.get(id).map(|r| r.node_id.clone());
            let gone = || self.members.removed.iter().find(|r| r.raft_id == *id).map(|r| r.node_id.clone());
            known.or_else(gone).unwrap_or_else(|| format!("{id:x}"))
        };
        let at = Stamp { log_ms: self.log_ms, wall_ms: change.wall_ms };
        for step in &change.steps {
            let (id, what) = match step {
                MemberStep::Voter(id) => (id, "voter"),
                MemberStep::Learner(id) => (id, "learner"),
                MemberStep::Remove(id) => (id, "removed"),
            };
            effects.push(event(EventKind::MembersChanged, &name(id), what.to_owned(), at));
        }
        Reply::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node_id: &str) -> MemberRecord {
        MemberRecord {
            node_id: node_id.into(),
            incarnation: "i".into(),
            address: format!("{node_id}:8080"),
            replaces: None,
            wants_vote: true,
        }
    }

    #[test]
    fn a_change_comes_back_as_it_was_written() {
        let change = MemberChange {
            steps: vec![MemberStep::Voter(4), MemberStep::Remove(3), MemberStep::Learner(u64::MAX)],
            records: vec![(4, MemberRecord { replaces: Some(3), ..record("n3") })],
            wall_ms: -5,
        };
        let bytes = change.to_raft().write_to_bytes().unwrap();
        assert_eq!(MemberChange::decode(&bytes), Ok(change));
        assert_eq!(
            MemberChange::decode(&[]),
            Ok(MemberChange::default()),
            "the end of a joint configuration"
        );
    }

    #[test]
    fn a_context_of_a_newer_program_is_named() {
        let mut change = MemberChange::default().to_raft();
        change.context = vec![9, 1, 2].into();
        let error = MemberChange::decode(&change.write_to_bytes().unwrap()).unwrap_err();
        assert!(error.contains("version 9") && error.contains("update"), "{error}");
    }

    #[test]
    fn who_has_no_place_left_is_remembered_as_removed() {
        let mut machine = Machine::new();
        assert_eq!(machine.members().hash(), 0);
        let founders = [(1, record("n1")), (2, record("n2")), (3, record("n3"))];
        machine.found(Membership::founded(founders.into()), 1);
        let (before, mut effects) = (machine.checksum(), Vec::new());
        let joint = ConfState {
            voters: vec![1, 2, 4],
            voters_outgoing: vec![1, 2, 3],
            auto_leave: true,
            ..ConfState::default()
        };
        let swap = MemberChange {
            steps: vec![MemberStep::Voter(4), MemberStep::Remove(3)],
            records: vec![(4, record("n3"))],
            wall_ms: 1,
        };
        machine.change_members(9, &swap, &joint, &mut effects);
        assert!(machine.members().joint() && machine.members().records.contains_key(&3));
        assert_eq!(machine.members().id_of("n3"), Some(4), "the one that votes from now on");
        let after = ConfState { voters: vec![1, 2, 4], ..ConfState::default() };
        machine.change_members(10, &MemberChange::default(), &after, &mut effects);
        let members = machine.members();
        assert_eq!(members.removed, [RemovedMember { raft_id: 3, node_id: "n3".into(), index: 10 }]);
        assert_eq!((members.all().len(), members.joint(), effects.len()), (3, false, 2));
        assert_ne!(machine.checksum(), before);
        assert_eq!(machine.checksum(), machine.recompute_checksum());
        let bytes = machine.encode_snapshot();
        assert_eq!(Machine::decode_snapshot(&bytes).unwrap().members(), machine.members());
    }
}
