//! PURE. Names what is wrong: one file a fault, each a function of the present snapshot, the ones
//! before it and the limits.
//!
//! Invariants:
//! - One round proves nothing. A finding needs its condition in `confirmations` rounds in a row,
//!   the present one included, so the first round of an observer finds nothing at all.
//! - Every finding carries what was seen, in words a person can check against the nodes.
//! - One observer is not the truth. When nobody answers and nobody refused, there is one finding
//!   about the observer, and none about the nodes.
//! - What crossed a limit is over when it falls below the low-water mark, not at the limit: a figure
//!   that sways round a limit is one finding, not ten.
//! - Who goes on purpose says so. A node whose process said goodbye to its peers is left alone for a
//!   grace time, as long as the others are a quorum; a crash says nothing, and is named at once.
//! - A detector states its own condition and leaves causes alone: that a partition explains a slow
//!   follower is the recovery daemon's diagnosis.

mod bad_report;
mod clock_offset;
mod database_corruption;
mod deadlock;
mod limits;
mod log_corruption;
mod network_partition;
mod process_crash;
mod resource_exhaustion;
mod slow_follower;
mod split_brain;
mod state_divergence;
mod term_divergence;
mod window;

pub use limits::Limits;
pub use window::{Held, Window};

use crate::report::seconds_between;
use crate::snapshot::{ClusterSnapshot, NodeView, Severity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process is gone.
    ProcessCrash,
    /// Nodes that run do not hear each other.
    NetworkPartition,
    /// The database file is damaged.
    DatabaseCorruption,
    /// The log is damaged, or differs from the quorum's.
    LogCorruption,
    /// More than one leader, or more than one cluster.
    SplitBrain,
    /// Terms run apart, or leaders change too often.
    TermDivergence,
    /// Equal logs made different states.
    StateDivergence,
    /// A thread stands still while there is work.
    Deadlock,
    /// Disk, memory or descriptors run out.
    ResourceExhaustion,
    /// A voter stays behind while its link is up.
    SlowFollower,
    /// A node answers with something that is no report.
    BadReport,
    /// A node's wall clock is away from the others'.
    ClockOffset,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [FaultKind; 12] = [
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
        FaultKind::BadReport,
        FaultKind::ClockOffset,
    ];

    /// The name on the wire and in labels.
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
            FaultKind::BadReport => "bad_report",
            FaultKind::ClockOffset => "clock_offset",
        }
    }

    /// The path at a node under which it shows.
    pub const fn shown_at(self) -> &'static str {
        match self {
            FaultKind::DatabaseCorruption => "/api/health/db",
            FaultKind::LogCorruption => "/api/health/log",
            FaultKind::StateDivergence => "/api/health/state_checksum",
            FaultKind::ResourceExhaustion => "/api/health/resources",
            FaultKind::Deadlock => "/api/health/live",
            FaultKind::BadReport => "/api/report",
            _ => "/api/status",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub kind: FaultKind,
    /// The nodes it concerns (node id, else address). Empty where it concerns the cluster as a
    /// whole, or nobody knows whom to blame.
    pub nodes: Vec<String>,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen, one sentence each.
    pub evidence: Vec<String>,
    /// Where a person can see it for himself: address and path at the nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub look_at: Vec<String>,
    /// When it was first seen without a break, as far back as the window goes.
    pub since: Timestamp,
    /// In how many rounds in a row, the present one included.
    pub rounds: u32,
}

impl Finding {
    /// A finding that held as `held` says.
    fn new(
        kind: FaultKind,
        severity: Severity,
        held: Held,
        nodes: Vec<String>,
        evidence: Vec<String>,
    ) -> Self {
        Finding {
            kind,
            nodes,
            severity,
            evidence,
            look_at: Vec::new(),
            since: held.since,
            rounds: held.rounds,
        }
    }

    /// What makes two findings of different rounds the same one.
    pub fn key(&self) -> (FaultKind, Vec<String>) {
        let mut nodes = self.nodes.clone();
        nodes.sort();
        (self.kind, nodes)
    }
}

/// Everything that is wrong now, the worst first.
///
/// `window` holds the snapshots before `now`; one of the same or a later round in it is ignored.
pub fn detect_all(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let detectors = [
        process_crash::detect,
        network_partition::detect,
        database_corruption::detect,
        log_corruption::detect,
        split_brain::detect,
        term_divergence::detect,
        state_divergence::detect,
        deadlock::detect,
        resource_exhaustion::detect,
        slow_follower::detect,
        bad_report::detect,
        clock_offset::detect,
    ];
    let mut findings: Vec<Finding> =
        detectors.iter().flat_map(|detect| detect(now, window, limits)).collect();
    let pardoned = |name: &String| now.node(name).is_some_and(|node| is_pardoned(node, now, window, limits));
    findings.retain(|finding| finding.nodes.is_empty() || !finding.nodes.iter().all(pardoned));
    for finding in &mut findings {
        finding.look_at = look_at(finding, now);
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.key().cmp(&b.key())));
    findings
}

/// True where a node is away because it was stopped on purpose: it said so, not long ago, and the
/// others can do without it. What is seen of it meanwhile is no fault.
pub fn is_pardoned(node: &NodeView, now: &ClusterSnapshot, window: &Window, limits: &Limits) -> bool {
    let away_seconds = node.stopped_at.map(|at| seconds_between(at, now.at));
    // One answer that is missed among the others is no lost quorum.
    let lost_quorum = || window.held(now, |s| !s.quorum.is_met()).at_least(limits.confirmations, 0.0);
    away_seconds.is_some_and(|seconds| seconds < limits.stop_grace_seconds) && !lost_quorum()
}

/// The most places a finding names.
const MAX_PLACES: usize = 8;

/// Where a finding shows at the nodes it concerns; at all nodes where it concerns none by name.
fn look_at(finding: &Finding, now: &ClusterSnapshot) -> Vec<String> {
    let path = finding.kind.shown_at();
    let of_finding = now.nodes.iter().filter(|n| finding.nodes.iter().any(|name| name == n.name()));
    let places: Vec<String> = of_finding.take(MAX_PLACES).map(|n| format!("{}{path}", n.address)).collect();
    match places.is_empty() {
        true => now.nodes.iter().take(MAX_PLACES).map(|n| format!("{}{path}", n.address)).collect(),
        false => places,
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod healthy_tests;
#[cfg(test)]
mod tests;
