//! PURE. The table of nodes.

use super::format::{escape_path, grouped, milliseconds, percent, short_hash};
use super::stale;
use crate::report::Span;
use crate::snapshot::{Agreement, ClusterSnapshot, DissentIn, NodeState, NodeView, dissent};
use api::cluster::{Report, Role};
use web::fragments::{Mark, NodeFigures, NodeRow, Nodes, Share, Tone};

/// Where a share turns from plain to a warning, and from that to bad, percent. Of disk; memory has
/// no floor of its own.
const SHARE_WARN_PERCENT: f64 = 85.0;
const SHARE_BAD_PERCENT: f64 = 95.0;
/// Entries behind from which lag is shown as a warning.
const LAG_WARN_ENTRIES: u64 = 1_000;

/// Every node.
pub(super) fn nodes(snapshot: &ClusterSnapshot) -> Nodes {
    Nodes { rows: snapshot.nodes.iter().map(|node| row(snapshot, node)).collect() }
}

/// One node's row.
pub(super) fn row(snapshot: &ClusterSnapshot, node: &NodeView) -> NodeRow {
    let (state, why) = match &node.state {
        NodeState::Reporting => (reporting(node), None),
        NodeState::Unknown { why } => (Mark::new(Tone::Warn, "unknown"), Some(why.clone())),
        NodeState::Down { why } => (Mark::new(Tone::Bad, "down"), Some(why.clone())),
    };
    NodeRow {
        name: node.name().to_owned(),
        href: format!("/nodes/{}", escape_path(node.name())),
        address: node.address.clone(),
        state,
        why,
        stale: stale(snapshot, node),
        figures: node.report.as_ref().map(|report| figures(snapshot, node, report)),
    }
}

/// A reporting node is as well as it says.
fn reporting(node: &NodeView) -> Mark {
    use api::cluster::HealthStatus;
    match node.report.as_ref().map(|r| r.health.status) {
        Some(HealthStatus::Failing) => Mark::new(Tone::Bad, "failing"),
        Some(HealthStatus::Degraded) => Mark::new(Tone::Warn, "degraded"),
        _ => Mark::new(Tone::Good, "reporting"),
    }
}

fn figures(snapshot: &ClusterSnapshot, node: &NodeView, report: &Report) -> NodeFigures {
    let status = &report.status;
    let behind = snapshot.highest_commit.saturating_sub(status.applied_index);
    let lag_tone = if behind > LAG_WARN_ENTRIES { Tone::Warn } else { Tone::Idle };
    let live: u64 = status.tasks.iter().filter(|(state, _)| !state.is_final()).map(|(_, n)| *n).sum();
    let (agreement, compared_index) = agreement(snapshot, node.name());
    NodeFigures {
        role: role(snapshot, node, status.role),
        term: grouped(status.term),
        commit: grouped(status.commit_index),
        applied: grouped(status.applied_index),
        lag: Mark::new(lag_tone, grouped(behind)),
        checksum: short_hash(checksum_at(report, compared_index)),
        agreement,
        live_tasks: grouped(live),
        disk: share(report.resources.disk_usage),
        memory: share(report.resources.memory_usage),
        cpu: percent(report.resources.cpu_usage),
        uptime: Span(status.uptime_seconds.round()).to_string(),
        version: status.version.clone(),
        answer: milliseconds(node.took_ms),
    }
}

fn role(snapshot: &ClusterSnapshot, node: &NodeView, role: Role) -> Mark {
    let is_leader = snapshot.leader.as_deref() == Some(node.name());
    let tone = match role {
        Role::Leader if is_leader => Tone::Good,
        Role::Leader | Role::Failed => Tone::Bad,
        Role::Follower | Role::Learner => Tone::Idle,
        Role::Candidate | Role::Uninitialised | Role::Joining | Role::Suspect | Role::Removed => Tone::Warn,
    };
    Mark::new(tone, role.as_str())
}

fn share(value: f64) -> Share {
    let tone = match value {
        v if v >= SHARE_BAD_PERCENT => Tone::Bad,
        v if v >= SHARE_WARN_PERCENT => Tone::Warn,
        _ => Tone::Idle,
    };
    // NaN and what lies outside become the nearest end.
    Share { text: percent(value), percent: value.clamp(0.0, 100.0) as u8, tone }
}

/// The checksum at the index that was compared, so that equal ones look equal; without one, the
/// present one.
fn checksum_at(report: &Report, index: Option<u64>) -> &str {
    let held = &report.state_checksum;
    let at = held.checkpoints.iter().find(|c| Some(c.index) == index);
    at.map_or(held.checksum.as_str(), |c| c.checksum.as_str())
}

/// What a node's checksum is worth against the others', in words and a sign, and at which index.
fn agreement(snapshot: &ClusterSnapshot, name: &str) -> (Mark, Option<u64>) {
    let mine = || snapshot.checksums.iter().filter(|pair| pair.a == name || pair.b == name);
    let unequal = mine().find_map(|pair| match pair.agreement {
        Agreement::StateUnequal { index } => Some((DissentIn::State, index)),
        Agreement::LogUnequal { index } => Some((DissentIn::Log, index)),
        _ => None,
    });
    if let Some((kind, met_at)) = unequal {
        let judged = dissent(snapshot, kind);
        let is_in = |nodes: &[String]| nodes.iter().any(|n| n == name);
        // The index at which a majority decided, if this node stood there, too.
        let judged_at = judged.as_ref().filter(|d| d.camps.iter().any(|(_, nodes)| is_in(nodes)));
        let index = judged_at.map_or(met_at, |d| d.index);
        let at = grouped(index);
        let mark = match judged.and_then(|d| d.minority) {
            Some(minority) if !is_in(&minority) => Mark::new(Tone::Idle, format!("= majority at {at}")),
            _ => Mark::new(Tone::Bad, format!("≠ unequal at {at}")),
        };
        return (mark, Some(index));
    }
    let equal = mine().filter_map(|pair| match pair.agreement {
        Agreement::Equal { index } => Some(index),
        _ => None,
    });
    match equal.max() {
        Some(index) => (Mark::new(Tone::Good, format!("= equal at {}", grouped(index))), Some(index)),
        None => (Mark::new(Tone::Idle, "not compared"), None),
    }
}
