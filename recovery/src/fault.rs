//! The ten failures by name.

use serde::{Deserialize, Serialize};

/// Which failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process is gone.
    ProcessCrash,
    /// Nodes that run do not hear each other.
    NetworkPartition,
    /// DuckDB is damaged.
    DatabaseCorruption,
    /// The log is damaged.
    LogCorruption,
    /// Two leaders that both believe it, or two clusters.
    SplitBrain,
    /// Terms run ahead, or elections repeat.
    TermDivergence,
    /// Equal logs, different states.
    StateDivergence,
    /// A thread stands still.
    Deadlock,
    /// Disk, memory, descriptors or CPU run out.
    ResourceExhaustion,
    /// A voter stays behind though its link is up.
    SlowFollower,
}

impl FaultKind {
    /// Every failure.
    pub const ALL: [FaultKind; 10] = [
        FaultKind::ProcessCrash,
        FaultKind::NetworkPartition,
        FaultKind::DatabaseCorruption,
        FaultKind::LogCorruption,
        FaultKind::SplitBrain,
        FaultKind::TermDivergence,
        FaultKind::StateDivergence,
        FaultKind::Deadlock,
        FaultKind::ResourceExhaustion,
        FaultKind::SlowFollower,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            FaultKind::ProcessCrash => "process_crash",
            FaultKind::NetworkPartition => "network_partition",
            FaultKind::DatabaseCorruption => "database_corruption",
            FaultKind::LogCorruption => "log_corruption",
            FaultKind::SplitBrain => "split_brain",
            FaultKind::TermDivergence => "term_divergence",
            FaultKind::StateDivergence => "state_divergence",
            FaultKind::Deadlock => "deadlock",
            FaultKind::ResourceExhaustion => "resource_exhaustion",
            FaultKind::SlowFollower => "slow_follower",
        }
    }
}
