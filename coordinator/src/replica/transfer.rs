//! Handing leadership over: to whom it can go.
//!
//! raft-rs keeps a mark for each peer that was heard, and wipes all of them whenever it counts its
//! quorum: in that moment nobody looks alive. Who was heard, and when, is therefore counted here.
//!
//! Invariant: once a member was told to lead, this leader's log does not grow until the longest
//! election time-out has passed. The member campaigns when its threads and its disk let it, which may
//! be late. raft-rs takes the transfer back after the shortest time-out and writes on; then the
//! candidate takes the term, can't win with the shorter log, and nobody leads until somebody's timer
//! runs out.

use super::{OlderEntries, ProposeRefused, Replica};
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, StateRole};

/// How far a member may be behind to take over: it has to catch up before it is told to.
const LAG_ENTRIES: u64 = 1024;

impl<O: OlderEntries> Replica<O> {
    /// A member sent something.
    pub(super) fn note_heard(&mut self, from: u64) {
        let progress = self.raw.raft.prs();
        if progress.get(from).is_none() {
            return;
        }
        // Those that left the group go, so that this never outgrows it.
        if self.heard.len() > progress.iter().count() {
            self.heard.retain(|id, _| progress.get(*id).is_some());
        }
        self.heard.insert(from, self.ticks);
    }

    /// True where the member was heard within the shortest election time-out.
    fn heard_lately(&self, raft_id: u64) -> bool {
        let limit = self.config.election_ticks_min as u64;
        self.heard.get(&raft_id).is_some_and(|at| self.ticks - at <= limit)
    }

    /// Hands leadership to `raft_id`: a voter that stays one, nearly caught up, and not while a
    /// change of the membership is under way.
    pub fn transfer_to(&mut self, raft_id: u64) -> Result<(), ProposeRefused> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(ProposeRefused::NotLeader);
        }
        if self.change_pending() {
            return Err(ProposeRefused::ChangePending);
        }
        if !self.conf_state().voters.contains(&raft_id) {
            return Err(ProposeRefused::Impossible("only a voter can lead".into()));
        }
        let refused = |why: String| Err(ProposeRefused::NoSuccessor(why));
        if !self.heard_lately(raft_id) {
            return refused("it was not heard for an election time-out".into());
        }
        let last = self.raw.raft.raft_log.last_index();
        match self.raw.raft.prs().get(raft_id) {
            Some(p) if p.state == ProgressState::Snapshot => {
                return refused("it is being sent a snapshot".into());
            }
            Some(p) if p.matched + LAG_ENTRIES <= last => {
                return refused(format!("it is {} entries behind", last - p.matched));
            }
            Some(_) => {}
            None => return refused("nothing is known of its log".into()),
        }
        self.raw.transfer_leader(raft_id);
        Ok(())
    }

    /// Looks whether a member is told to lead by what leaves now.
    pub(super) fn note_told_to_lead(&mut self, leaving: &[Message]) {
        if leaving.iter().any(|message| message.get_msg_type() == MessageType::MsgTimeoutNow) {
            self.told_to_lead = Some((self.raw.raft.term, self.ticks));
        }
    }

    /// True while a member that was told to lead may still campaign: nothing may be appended.
    pub(super) fn successor_may_come(&self) -> bool {
        let limit = self.config.election_ticks_max as u64;
        self.told_to_lead.is_some_and(|(term, at)| term == self.raw.raft.term && self.ticks - at <= limit)
    }

    /// The voter that is furthest along, other than this one, among those that are fit.
    pub fn best_transferee(&self, fit: impl Fn(u64) -> bool) -> Option<u64> {
        let voters = self.conf_state().voters;
        let may =
            |id: u64| id != self.config.raft_id && voters.contains(&id) && self.heard_lately(id) && fit(id);
        let progress = self.raw.raft.prs().iter().filter(|(id, _)| may(**id));
        progress.max_by_key(|(id, p)| (p.matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }
}
