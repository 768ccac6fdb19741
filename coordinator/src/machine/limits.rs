//! The machine's bounds and times.
//!
//! They decide what `apply` does, or what a leader does in everybody's name, so they are part of
//! the replicated state: they travel in snapshots and stand in the checksum. A node's own config
//! never touches them. [`super::settings`] says which of them can be changed, and how far.

use super::checksum::Canon;
use serde::{Deserialize, Serialize};

/// Bounds and times that every replica keeps alike.
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
    /// How long a finished task stays in memory.
    pub finished_retention_ms: u64,
    /// A lease lasts this long without its worker naming it.
    pub lease_ttl_ms: u64,
    /// Between a worker's heartbeats.
    pub heartbeat_interval_ms: u64,
    /// A worker is lost after this silence.
    pub worker_lost_ms: u64,
    /// What an attempt gets beyond its limit, for the report to arrive.
    pub timeout_grace_ms: u64,
    /// Priority of a task that names none.
    pub default_priority: u64,
    /// How long one attempt may run where the task does not say.
    pub default_timeout_ms: u64,
    /// How many retries a task has that does not say.
    pub default_max_retries: u64,
    /// Before the first retry of a task that does not say.
    pub default_retry_backoff_ms: u64,
    /// Tasks in one batch.
    pub batch_tasks: u64,
    /// Idempotency keys that are remembered.
    pub request_keys: u64,
    /// How long one is remembered.
    pub request_key_ttl_ms: u64,
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
            finished_retention_ms: 600_000,
            lease_ttl_ms: api::worker::LEASE_TTL_MS,
            heartbeat_interval_ms: api::worker::HEARTBEAT_INTERVAL_MS,
            worker_lost_ms: api::worker::WORKER_LOST_MS,
            timeout_grace_ms: 5_000,
            default_priority: api::task::DEFAULT_PRIORITY as u64,
            default_timeout_ms: (api::task::DEFAULT_TIMEOUT_SECONDS * 1000.0) as u64,
            default_max_retries: api::task::DEFAULT_MAX_RETRIES as u64,
            default_retry_backoff_ms: (api::task::DEFAULT_RETRY_BACKOFF_SECONDS * 1000.0) as u64,
            batch_tasks: api::task::MAX_BATCH_TASKS as u64,
            request_keys: 100_000,
            request_key_ttl_ms: 86_400_000,
        }
    }
}

impl Limits {
    pub(super) fn write(&self, canon: &mut Canon) {
        canon.u64(self.finished_tasks).u64(self.unfinished_tasks);
        canon.u64(u64::from(self.attempts_per_task)).u64(u64::from(self.superseded_error_bytes));
        canon.u64(u64::from(self.workers)).u64(u64::from(self.named_leases));
        canon.u64(self.backoff_cap_ms).u64(self.lost_worker_ms);
        canon.u64(u64::from(self.checkpoints)).u64(self.checkpoint_interval);
        canon.u64(self.finished_retention_ms).u64(self.lease_ttl_ms);
        canon.u64(self.heartbeat_interval_ms).u64(self.worker_lost_ms).u64(self.timeout_grace_ms);
        canon.u64(self.default_priority).u64(self.default_timeout_ms);
        canon.u64(self.default_max_retries).u64(self.default_retry_backoff_ms);
        canon.u64(self.batch_tasks).u64(self.request_keys).u64(self.request_key_ttl_ms);
    }
}
