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
    ///
    /// `looked_at` is the index as of which the members were looked at. Where they have changed since,
    /// what allowed the change may not hold any more, and it is refused.
    pub fn change_members(
        &mut self,
        change: &ConfChangeV2,
        looked_at: u64,
        tag: Tag,
    ) -> Result<(), ProposeRefused> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(ProposeRefused::NotLeader);
        }
        if self.change_pending() || looked_at < self.sets_index {
            return Err(ProposeRefused::ChangePending);
        }
        if self.successor_may_come() {
            return Err(ProposeRefused::Busy);
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
        let outcome = match self.raw.apply_conf_change(&change) {
            Ok(state) => ConfOutcome { state: sorted(state), refused: None },
            Err(e) => ConfOutcome { state: self.conf_state(), refused: Some(e.to_string()) },
        };
        self.sets_index = entry.index;
        self.step_down_if_no_voter();
        Some(outcome)
    }

    /// A change that takes the vote of a member may be committed by that very member: it came to lead
    /// with the change in its log. raft-rs lets it lead on, and ends the process at its next write.
    /// The others have the change, and what told them that it is committed is on its way.
    fn step_down_if_no_voter(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            raft.become_follower(raft.term, raft::INVALID_ID);
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
            && !self.successor_may_come()
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

#[cfg(test)]
mod tests {
    use super::super::Recovered;
    use super::super::fixture::{self, Disk, config, voters};
    use super::*;
    use crate::machine::members::{MemberChange, MemberStep};
    use raft::eraftpb::{Message, MessageType};

    fn answer(msg_type: MessageType, from: u64, index: u64) -> Message {
        Message { msg_type, from, to: 2, term: 1, index, ..Message::default() }
    }

    /// Member 2 of three leads; its first entry is committed and applied.
    fn leader() -> Replica<Disk> {
        let recovered = Recovered { conf_state: voters(&[1, 2, 3]), ..Recovered::default() };
        let mut replica = fixture::replica(config(2), Vec::new(), recovered);
        replica.campaign();
        for granted in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
            persist(&mut replica);
            replica.step(answer(granted, 1, 0));
        }
        persist(&mut replica);
        replica.step(answer(MessageType::MsgAppendResponse, 1, 1));
        persist(&mut replica);
        replica.on_applied(1);
        replica
    }

    fn persist(replica: &mut Replica<Disk>) {
        while let Some(write) = replica.turn().writes.last() {
            replica.on_durable(write.number);
        }
    }

    #[test]
    fn a_leader_that_commits_its_own_removal_steps_down() {
        let mut replica = leader();
        assert_eq!(replica.standing().role, StateRole::Leader);
        let change = MemberChange { steps: vec![MemberStep::Remove(2)], ..MemberChange::default() };
        replica.change_members(&change.to_raft(), 1, 7).unwrap();
        let removal = replica.turn().writes.last().unwrap().number;
        // What comes after it is on its way to the disk when it is committed.
        replica.raw.propose(Vec::new(), Vec::new()).unwrap();
        let later = replica.turn().writes.last().unwrap().number;
        replica.on_durable(removal);
        for peer in [1, 3] {
            replica.step(answer(MessageType::MsgAppendResponse, peer, 2));
        }
        let turn = replica.turn();
        let told = turn.send.iter().filter(|m| m.get_msg_type() == MessageType::MsgAppend && m.commit == 2);
        assert_eq!(told.count(), 2, "the others are told");
        assert_eq!(turn.apply.last().unwrap().conf.as_ref().unwrap().state.voters, [1, 3]);
        assert_eq!(replica.standing().role, StateRole::Follower);
        replica.on_durable(later);
        persist(&mut replica);
        assert_eq!(replica.standing().place, Place::None);
    }

    #[test]
    fn a_change_whose_members_were_looked_at_before_the_last_change_is_refused() {
        let mut replica = leader();
        let remove = |id| MemberChange { steps: vec![MemberStep::Remove(id)], ..MemberChange::default() };
        let learner = MemberChange { steps: vec![MemberStep::Learner(4)], ..MemberChange::default() };
        replica.change_members(&learner.to_raft(), 1, 7).unwrap();
        assert_eq!(
            replica.change_members(&remove(3).to_raft(), 1, 8),
            Err(ProposeRefused::ChangePending),
            "one at a time"
        );
        persist(&mut replica);
        replica.step(answer(MessageType::MsgAppendResponse, 1, 2));
        persist(&mut replica);
        replica.on_applied(2);
        assert!(!replica.change_pending());
        assert_eq!(
            replica.change_members(&remove(3).to_raft(), 1, 9),
            Err(ProposeRefused::ChangePending),
            "who asked did not know of the learner"
        );
        replica.change_members(&remove(3).to_raft(), 2, 10).unwrap();
    }
}
