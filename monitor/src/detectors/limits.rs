//! PURE. Where "too much" begins.

use serde::{Deserialize, Serialize};

/// The limits of all detectors. Every one may be set in the config file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Rounds in a row before anything is a finding.
    pub confirmations: u32,
    /// Entries a voter may be behind.
    pub lag_entries: u64,
    /// For how long that may last.
    pub lag_hold_seconds: f64,
    /// How long one operation may take.
    pub operation_seconds: f64,
    /// How long the applier or the Raft thread may stand still while there is work.
    pub stall_seconds: f64,
    /// How long one synced log write may take. Disks stall for a while without being stuck.
    pub log_stall_seconds: f64,
    /// Disk use that is a warning, percent.
    pub disk_warn_percent: f64,
    /// Disk use at which the node's floor is near, percent.
    pub disk_floor_percent: f64,
    /// Memory use, percent of the machine's.
    pub memory_percent: f64,
    /// Open file descriptors, percent of their limit.
    pub fds_percent: f64,
    /// Leader changes within a minute.
    pub leader_changes_per_minute: u64,
    /// How long a node's term may run ahead of the leader's.
    pub term_ahead_seconds: f64,
    /// How long a leader without a quorum, or of an old term, may go on claiming to lead. A sound
    /// one steps down within an election time-out.
    pub stale_leader_seconds: f64,
    /// Links of a process this young are still being made.
    pub settle_seconds: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            confirmations: 2,
            lag_entries: 1_000,
            lag_hold_seconds: 10.0,
            operation_seconds: 60.0,
            stall_seconds: 2.0,
            log_stall_seconds: 5.0,
            disk_warn_percent: 85.0,
            disk_floor_percent: 95.0,
            memory_percent: 90.0,
            fds_percent: 90.0,
            leader_changes_per_minute: 3,
            term_ahead_seconds: 5.0,
            stale_leader_seconds: 2.0,
            settle_seconds: 5.0,
        }
    }
}
