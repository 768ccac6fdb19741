//! Changes of the membership: proposed one at a time, taken over when they are committed.
//!
//! raft-rs takes a second change while one is under way, and commits an empty entry in its place;
//! here it is refused at once, and whoever waits for a change that was emptied on the way is told
//! so ([`super::Turn::refused`]).
//!
//! A committed change is taken over in the turn that hands it out, before the machine has applied
//! what stands in front of it: the sets decide about votes and majorities, not about tasks.
//! [`super::Committed::conf`] carries the result, so that the machine can remember it with the
//! records, and snapshots carry the sets of their own index, never later ones.
//!
//! After a restart Raft begins with the sets of the snapshot and takes the changes behind it over
//! again from the log. Nobody is elected meanwhile: raft-rs does not campaign over a committed
//! change that is not applied, and a change is on disk only together with a commit index that
//! covers the one before it (it was proposed by a leader that had applied that one).

use super::{OlderEntries, Place, ProposeRefused, Replica, Tag};
use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType};

/// What a committed change made of the sets.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfOutcome {
    /// The sets behind the entry, each in order.
    pub state: ConfState,
    /// Why Raft did not take the change; the sets are as before then. The same on every replica.
    pub refused: Option<String>,
}

impl<O: OlderEntries> Replica<O> {
    /// Proposes a change of the membership (see `machine::members::MemberChange::to_raft`).
    pub fn change_members(&mut self, change: &ConfChangeV2, tag: Tag) -> Result<(), ProposeRefused> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(ProposeRefused::NotLeader);
        }
        if self.change_pending() {
            return Err(ProposeRefused::ChangePending);
        }
        if let Err(e) = self.try_change(change) {
            return Err(ProposeRefused::Impossible(e));
        }
        let before = self.raw.raft.raft_log.last_index();
        let proposed = self.raw.propose_conf_change(Vec::new(), change.clone());
        if proposed.is_err() || self.raw.raft.raft_log.last_index() != before + 1 {
            return Err(ProposeRefused::Busy);
        }
        self.proposals.push_back((before + 1, self.raw.raft.term, tag));
        self.changes.insert(tag);
        Ok(())
    }

    /// True while a change is proposed and not applied, or a joint configuration has not ended.
    pub fn change_pending(&self) -> bool {
        self.raw.raft.has_pending_conf() || self.joint()
    }

    pub(super) fn joint(&self) -> bool {
        !self.raw.raft.prs().conf().to_conf_state().voters_outgoing.is_empty()
    }

    /// What the change would make of the sets, without making it.
    fn try_change(&self, change: &ConfChangeV2) -> Result<(), String> {
        let mut changer = raft::Changer::new(self.raw.raft.prs());
        let tried = if change.leave_joint() {
            changer.leave_joint()
        } else if let Some(auto_leave) = change.enter_joint() {
            changer.enter_joint(auto_leave, &change.changes)
        } else {
            changer.simple(&change.changes)
        };
        tried.map(drop).map_err(|e| e.to_string())
    }

    /// Voters, learners, and in a joint configuration the voters before it; each in order.
    pub fn conf_state(&self) -> ConfState {
        sorted(self.raw.raft.prs().conf().to_conf_state())
    }

    pub(super) fn place(&self) -> Place {
        let id = self.config.raft_id;
        let sets = self.raw.raft.prs().conf();
        if sets.voters().contains(id) {
            Place::Voter
        } else if sets.learners().contains(&id) {
            Place::Learner
        } else {
            Place::None
        }
    }

    /// Takes a committed change over; nothing for every other entry, and for one that can't be
    /// read, which the node must not apply.
    pub(super) fn take_change(&mut self, entry: &Entry) -> Option<ConfOutcome> {
        let change = match entry.get_entry_type() {
            // The first form of changes is never written here.
            EntryType::EntryNormal | EntryType::EntryConfChange => return None,
            EntryType::EntryConfChangeV2 => ConfChangeV2::parse_from_bytes(&entry.data).ok()?,
        };
        match self.raw.apply_conf_change(&change) {
            Ok(state) => Some(ConfOutcome { state: sorted(state), refused: None }),
            Err(e) => Some(ConfOutcome { state: self.conf_state(), refused: Some(e.to_string()) }),
        }
    }

    /// Raft ends a joint configuration when the leader that made it has applied it. Where that
    /// leader is gone, the next one sees to it.
    pub(super) fn leave_joint_if_due(&mut self) {
        if self.raw.raft.state == StateRole::Leader
            && self.joint()
            && self.raw.raft.prs().conf().to_conf_state().auto_leave
            && !self.raw.raft.has_pending_conf()
            && self.raw.raft.commit_to_current_term()
        {
            // Refused (a transfer is under way): the next tick asks again.
            let _ = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }
}

/// raft-rs keeps its sets in hash maps, whose order differs between processes.
fn sorted(mut state: ConfState) -> ConfState {
    for list in [&mut state.voters, &mut state.learners, &mut state.voters_outgoing, &mut state.learners_next]
    {
        list.sort_unstable();
    }
    state
}
