//! The state as a restored cluster begins with it.
//!
//! Workers of the old cluster may still run what they were given, and its named leases may still
//! be held. Neither means anything here: every lease is ended, its task waits again and loses no
//! retry by it, workers have to register again, and tokens go on far beyond any that the old
//! cluster may have given out since the backup.

use super::Machine;
use super::attempts::AttemptEnd;
use super::members::Membership;
use crate::command::Stamp;
use api::task::AttemptOutcome;

/// How far the tokens jump: more than a cluster gives out in its life.
const TOKEN_JUMP: u64 = 1 << 40;
/// Tokens stay below this.
const TOKEN_BOUND: u64 = 1 << 61;

impl Machine {
    /// Ends everything that others hold, draws a line under the tokens, and takes these for the
    /// members.
    pub fn begin_anew(&mut self, wall_ms: i64, members: Membership) -> Result<(), String> {
        let last_token = self.last_token.saturating_add(TOKEN_JUMP);
        if last_token >= TOKEN_BOUND {
            return Err("its token counter is at its bound: it was restored too often".into());
        }
        let at = Stamp { log_ms: self.log_ms, wall_ms };
        let live: Vec<u64> = self.leases.values().copied().collect();
        for seq in live {
            // What the restore takes away is not the task's fault.
            self.change_task(seq, |task| task.budget_base += 1);
            let why = "the cluster was restored from a backup".to_owned();
            let end = AttemptEnd::silent(AttemptOutcome::LeaseExpired, Some(why), at);
            self.end_attempt(seq, end, at, &mut Vec::new());
        }
        for worker in std::mem::take(&mut self.workers).into_values() {
            self.records = self.records.wrapping_sub(worker.hash);
        }
        for (name, lease) in std::mem::take(&mut self.named) {
            self.records = self.records.wrapping_sub(lease.compute_hash(&name));
        }
        self.checkpoints.clear();
        self.members = Membership { changed_index: self.applied_index, ..members };
        self.last_token = last_token;
        Ok(())
    }
}
