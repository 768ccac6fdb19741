//! The machine's bounds.
//!
//! They decide what `apply` does, so they are part of the replicated state: they travel in
//! snapshots and stand in the checksum. A node's own config never touches them. A later version
//! changes them by a logged command only.

use serde::{Deserialize, Serialize};

/// Bounds that every replica keeps alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Finished tasks kept in memory; the oldest leaves when one more ends.
    pub finished_tasks: u64,
    /// Tasks that have not ended; beyond it a submission is refused as overloaded.
    pub unfinished_tasks: u64,
    /// Attempts kept with a task; older ones are only in DuckDB.
    pub attempts_per_task: u32,
    /// Bytes of an attempt's error that are kept once another attempt has followed it.
    pub superseded_error_bytes: u32,
    /// Registered workers, lost ones included.
    pub workers: u32,
    /// Named leases.
    pub named_leases: u32,
    /// The longest back-off before a retry.
    pub backoff_cap_ms: u64,
    /// How long a lost worker is remembered.
    pub lost_worker_ms: u64,
    /// Checkpoints that are remembered.
    pub checkpoints: u32,
    /// A checkpoint is remembered at every multiple of this index.
    pub checkpoint_interval: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            finished_tasks: 100_000,
            unfinished_tasks: 1_000_000,
            attempts_per_task: 20,
            superseded_error_bytes: 4096,
            workers: 10_000,
            named_leases: 10_000,
            backoff_cap_ms: 300_000,
            lost_worker_ms: 600_000,
            checkpoints: 64,
            checkpoint_interval: 256,
        }
    }
}
