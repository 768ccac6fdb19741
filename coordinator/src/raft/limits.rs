//! Limits of the Raft side that a reload of the config may change while the threads run.

use crate::config::Config;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The limits; the threads look each time.
#[derive(Debug)]
pub struct RaftLimits {
    batch_commands: AtomicUsize,
    snapshot_threshold_entries: AtomicU64,
    max_log_entries: AtomicU64,
}

impl RaftLimits {
    /// As the config has them.
    pub fn new(config: &Config) -> RaftLimits {
        RaftLimits {
            batch_commands: AtomicUsize::new(config.max_batch_size),
            snapshot_threshold_entries: AtomicU64::new(config.snapshot_threshold),
            max_log_entries: AtomicU64::new(config.max_log_size),
        }
    }

    /// Takes new ones.
    pub fn set(&self, config: &Config) {
        self.batch_commands.store(config.max_batch_size, Ordering::Relaxed);
        self.snapshot_threshold_entries.store(config.snapshot_threshold, Ordering::Relaxed);
        self.max_log_entries.store(config.max_log_size, Ordering::Relaxed);
    }

    /// Commands packed into one entry at most.
    pub fn batch_commands(&self) -> usize {
        self.batch_commands.load(Ordering::Relaxed)
    }

    /// Entries since the last snapshot that make one wished for; as many stay behind it.
    pub fn snapshot_threshold_entries(&self) -> u64 {
        self.snapshot_threshold_entries.load(Ordering::Relaxed)
    }

    /// Entries since the last snapshot at which one is taken in any case.
    pub fn max_log_entries(&self) -> u64 {
        self.max_log_entries.load(Ordering::Relaxed)
    }
}
