//! A leader whose own disk or threads fail it gives leadership away.
//!
//! Looked at once a tick. What is seen also goes into the pulse, so that nobody hands leadership to a
//! node in the same trouble.

use crate::raft::applier::ApplierProgress;
use crate::raft::driver::{Driver, Waiting};
use crate::raft::log::WriterProgress;
use crate::raft::stall::Stall;
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
        let fit = |id| waiting.ends.get(&id).is_some_and(|pulse| pulse.trouble == Trouble::default());
        let target = self.replica.best_transferee(fit);
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
