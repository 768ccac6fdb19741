//! A leader whose own disk or threads fail it gives leadership away.
//!
//! Looked at once a tick. What is seen also goes into the pulse, so that nobody hands leadership to a
//! node in the same trouble.

use crate::node::NodeError;
use crate::raft::applier::ApplierProgress;
use crate::raft::driver::{Driver, Waiting};
use crate::raft::log::WriterProgress;
use crate::raft::stall::Stall;
use crate::raft::transport::Pulse;
use crate::replica::OlderEntries;
use crate::room::{DiskLevel, Room};
use parking_lot::Mutex;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a leader looks at to know whether it should lead.
pub struct Fitness {
    /// The disk.
    pub room: Arc<Room>,
    /// The log writer.
    pub writer: Arc<WriterProgress>,
    /// The applier.
    pub applier: Arc<ApplierProgress>,
    /// What counts as a stall.
    pub stall: Stall,
}

/// How the node stands, as its pulse tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Its log writer or applier stands still.
    pub stalled: bool,
    /// Its disk is at the floor.
    pub full: bool,
}

impl Fitness {
    fn look(&self) -> Trouble {
        let busy = |since: &Mutex<Option<Instant>>| since.lock().map_or(Duration::ZERO, |at| at.elapsed());
        Trouble {
            stalled: self.stall.stalled(busy(&self.writer.busy_since), busy(&self.applier.busy_since)),
            full: self.room.disk() != DiskLevel::Open,
        }
    }

    /// Leaves out what there is no room for: entries and snapshots of a leader. It sends them again.
    pub fn admit(&self, messages: &mut Vec<Message>) {
        if self.room.disk() == DiskLevel::Closed {
            messages.retain(|message| match message.get_msg_type() {
                MessageType::MsgAppend => message.get_entries().is_empty(),
                MessageType::MsgSnapshot => false,
                _ => true,
            });
        }
    }
}

impl<O: OlderEntries> Driver<O> {
    /// Looks at disk and threads, and hands leadership over where they fail.
    pub(super) fn mind_fitness(&mut self, waiting: &mut Waiting) {
        let before = std::mem::replace(&mut waiting.trouble, self.fitness.look());
        let trouble = waiting.trouble;
        if self.replica.standing().role != StateRole::Leader {
            self.fitness.room.set_cluster_full(false);
            if std::mem::take(&mut waiting.handing_over) {
                self.fitness.stall.handed_over(waiting.origin.elapsed());
            }
            if trouble.stalled && !waiting.proposals.is_empty() {
                // They may be committed elsewhere long before this node can apply them.
                self.replica.give_up_proposals();
            }
            return;
        }
        let full = self.full_voters(waiting);
        self.fitness.room.set_cluster_full(full);
        if trouble == Trouble::default() {
            return;
        }
        let now = waiting.origin.elapsed();
        if !self.fitness.stall.may_hand_over(now) {
            return;
        }
        let target = self.replica.best_transferee(|id| is_well(waiting.ends.get(&id)));
        if trouble != before {
            tracing::warn!(?trouble, target, "this leader's own disk or threads fail it");
        }
        if let Some(target) = target
            && self.replica.transfer_to(target).is_ok()
        {
            tracing::warn!(?trouble, target, "handing leadership over");
            self.fitness.stall.tried(now);
            self.telemetry.forced_handover();
            waiting.handing_over = true;
        }
    }

    /// Hands leadership to this member, or to the best one: a member that is well goes first, and a
    /// suspect, which would not take it, is not asked.
    pub(super) fn transfer(&mut self, to: Option<u64>, waiting: &Waiting) -> Result<(), NodeError> {
        let pulse = |id: u64| waiting.ends.get(&id);
        if to.and_then(pulse).is_some_and(|pulse| pulse.suspect) {
            return Err(NodeError::NoSuccessor(
                "its log lost its end in a crash; it can lead once it has caught up".into(),
            ));
        }
        let best = |may: &dyn Fn(Option<&Pulse>) -> bool| self.replica.best_transferee(|id| may(pulse(id)));
        match to.or_else(|| best(&is_well)).or_else(|| best(&can_lead)) {
            Some(target) => self.replica.transfer_to(target).map_err(NodeError::from),
            None if self.replica.standing().role != StateRole::Leader => Err(NodeError::NotLeader),
            None => Err(NodeError::NoSuccessor("no other voter was heard lately".into())),
        }
    }

    /// True where so many voters have a full disk that the others make no quorum.
    fn full_voters(&self, waiting: &Waiting) -> bool {
        let voters = self.replica.conf_state().voters;
        let is_full = |id: &&u64| match **id == self.raft_id {
            true => waiting.trouble.full,
            false => waiting.ends.get(*id).is_some_and(|pulse| pulse.trouble.full),
        };
        let full = voters.iter().filter(is_full).count();
        full > 0 && voters.len() - full < voters.len() / 2 + 1
    }
}

/// A member of which this is known would take leadership: a suspect does not.
fn can_lead(pulse: Option<&Pulse>) -> bool {
    pulse.is_none_or(|pulse| !pulse.suspect)
}

/// It also says of itself that nothing is wrong with it.
fn is_well(pulse: Option<&Pulse>) -> bool {
    pulse.is_some_and(|pulse| !pulse.suspect && pulse.trouble == Trouble::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_goes_to_members_that_are_well_and_never_to_a_suspect() {
        let well = Pulse::default();
        let full = Pulse { trouble: Trouble { full: true, stalled: false }, ..Pulse::default() };
        let suspect = Pulse { suspect: true, ..Pulse::default() };
        let told = [None, Some(&well), Some(&full), Some(&suspect)];
        assert_eq!(told.map(is_well), [false, true, false, false]);
        assert_eq!(told.map(can_lead), [true, true, true, false]);
    }
}
