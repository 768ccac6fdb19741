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
    /// A lag that was too long is over below this.
    pub lag_low_entries: u64,
    /// For how long that may last.
    pub lag_hold_seconds: f64,
    /// How long a voter may take to acknowledge: its round trip from the leader and the time below
    /// which 99 of 100 of its log's syncs stayed, milliseconds. It holds as long as a lag does.
    pub ack_p99_ms: f64,
    /// Slow acknowledgement is over below this.
    pub ack_low_ms: f64,
    /// How long one operation may take.
    pub operation_seconds: f64,
    /// How long the applier or the Raft thread may stand still while there is work.
    pub stall_seconds: f64,
    /// How long one synced log write may take. Disks stall for a while without being stuck.
    pub log_stall_seconds: f64,
    /// Disk use that is a warning, percent.
    pub disk_warn_percent: f64,
    /// Such a warning is over below this.
    pub disk_low_percent: f64,
    /// Disk use at which the node's floor is near, percent.
    pub disk_floor_percent: f64,
    /// Memory use, percent of the machine's.
    pub memory_percent: f64,
    /// Too much memory is over below this.
    pub memory_low_percent: f64,
    /// Open file descriptors, percent of their limit.
    pub fds_percent: f64,
    /// Too many descriptors are over below this.
    pub fds_low_percent: f64,
    /// Milliseconds between the clocks of two nodes.
    pub clock_offset_ms: u64,
    /// Clocks agree again below this.
    pub clock_offset_low_ms: u64,
    /// Leader changes within a minute.
    pub leader_changes_per_minute: u64,
    /// How long a node's term may run ahead of the leader's.
    pub term_ahead_seconds: f64,
    /// How long a leader without a quorum, or of an old term, may go on claiming to lead. A sound
    /// one steps down within an election time-out.
    pub stale_leader_seconds: f64,
    /// Links of a process this young are still being made.
    pub settle_seconds: f64,
    /// How long a node that said goodbye may stay away, as long as the others are a quorum.
    pub stop_grace_seconds: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            confirmations: 2,
            lag_entries: 1_000,
            lag_low_entries: 500,
            lag_hold_seconds: 10.0,
            ack_p99_ms: 500.0,
            ack_low_ms: 400.0,
            operation_seconds: 60.0,
            stall_seconds: 2.0,
            log_stall_seconds: 5.0,
            disk_warn_percent: 85.0,
            disk_low_percent: 82.0,
            disk_floor_percent: 95.0,
            memory_percent: 90.0,
            memory_low_percent: 85.0,
            fds_percent: 90.0,
            fds_low_percent: 80.0,
            clock_offset_ms: 250,
            clock_offset_low_ms: 200,
            leader_changes_per_minute: 3,
            term_ahead_seconds: 5.0,
            stale_leader_seconds: 2.0,
            settle_seconds: 5.0,
            stop_grace_seconds: 120.0,
        }
    }
}

impl Limits {
    /// The same with the low-water marks of resources in place of their limits.
    pub fn low_water(&self) -> Limits {
        Limits {
            disk_warn_percent: self.disk_low_percent,
            memory_percent: self.memory_low_percent,
            fds_percent: self.fds_low_percent,
            ..self.clone()
        }
    }

    /// What is wrong with them, each as key and reason.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.confirmations == 0 {
            faults.push(("confirmations", "must be at least 1".to_owned()));
        }
        let seconds = [
            ("lag_hold_seconds", self.lag_hold_seconds),
            ("operation_seconds", self.operation_seconds),
            ("stall_seconds", self.stall_seconds),
            ("log_stall_seconds", self.log_stall_seconds),
            ("term_ahead_seconds", self.term_ahead_seconds),
            ("stale_leader_seconds", self.stale_leader_seconds),
            ("settle_seconds", self.settle_seconds),
            ("stop_grace_seconds", self.stop_grace_seconds),
        ];
        for (key, value) in seconds.into_iter().filter(|(_, value)| !(0.0..=3_600.0).contains(value)) {
            faults.push((key, format!("{value} is not between 0 and 3600 s")));
        }
        let marks = [
            ("lag_low_entries", self.lag_low_entries as f64, self.lag_entries as f64),
            ("ack_low_ms", self.ack_low_ms, self.ack_p99_ms),
            ("disk_low_percent", self.disk_low_percent, self.disk_warn_percent),
            ("disk_warn_percent", self.disk_warn_percent, self.disk_floor_percent),
            ("memory_low_percent", self.memory_low_percent, self.memory_percent),
            ("fds_low_percent", self.fds_low_percent, self.fds_percent),
            ("clock_offset_low_ms", self.clock_offset_low_ms as f64, self.clock_offset_ms as f64),
        ];
        for (key, low, high) in marks.into_iter().filter(|(_, low, high)| !(*low <= *high && *low >= 0.0)) {
            faults.push((key, format!("{low} must not be above its limit, which is {high}")));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn the_defaults_hold_together_and_nonsense_is_named() {
        assert!(Limits::default().faults().is_empty());
        let limits = Limits {
            confirmations: 0,
            disk_low_percent: 99.0,
            ack_p99_ms: f64::NAN,
            stall_seconds: -1.0,
            ..Limits::default()
        };
        let keys: Vec<&str> = limits.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["confirmations", "stall_seconds", "ack_low_ms", "disk_low_percent"]);
    }
}
