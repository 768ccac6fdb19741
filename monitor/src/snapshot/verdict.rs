//! PURE. One sentence on the cluster, and how bad it is.
//!
//! The sentence leads with what matters most: does anybody answer, is there one leader, is there a
//! quorum, how much may still be lost. What is not known is said to be not known. The sentence has
//! no running times in it: it is read aloud when it changes, and must not change every second.

use crate::detectors::{FaultKind, Finding};

use super::{ClusterSnapshot, NodeState, NodeView, Severity};
use api::cluster::{HealthStatus, Role};

/// How long a cluster may be without a leader before that is critical, seconds. An election takes
/// well under one.
const LEADERLESS_CRITICAL_SECONDS: f64 = 3.0;

/// Nodes that the sentence names one by one.
const MAX_CLAUSES: usize = 7;

/// The sentence and its severity, given what the detectors found: nothing is called healthy while
/// something is known to be wrong with it.
pub(super) fn judge(snapshot: &ClusterSnapshot, findings: &[Finding]) -> (String, Severity) {
    let (mut sentence, mut severity) = of_nodes(snapshot, findings);
    add_findings(findings, &mut sentence, &mut severity);
    (sentence, severity)
}

fn of_nodes(snapshot: &ClusterSnapshot, findings: &[Finding]) -> (String, Severity) {
    let total = snapshot.nodes.len();
    let reporting = snapshot.reporting().count();
    if reporting == 0 {
        return nobody(snapshot, total);
    }
    if snapshot.cluster_ids.len() > 1 {
        let ids = snapshot.cluster_ids.join(", ");
        return (
            format!("{} clusters under one configuration: {ids}", snapshot.cluster_ids.len()),
            Severity::Critical,
        );
    }
    let top: Vec<&str> = snapshot
        .leaders
        .iter()
        .filter(|c| c.term == snapshot.highest_term)
        .map(|c| c.node_id.as_str())
        .collect();
    if top.len() > 1 {
        let names = top.join(" and ");
        return (
            format!("Split brain: {names} both lead term {}", snapshot.highest_term),
            Severity::Critical,
        );
    }
    let accused = |node: &NodeView| {
        findings.iter().any(|f| f.severity > Severity::Info && f.nodes.iter().any(|n| n == node.name()))
    };
    let healthy = snapshot.nodes.iter().filter(|n| is_healthy(n) && !accused(n)).count();
    let quorum = &snapshot.quorum;
    let (head, mut severity) = match &snapshot.leader {
        Some(leader) => {
            let tight = quorum.can_lose == 0 && quorum.voters.len() > 2;
            let severity = if healthy < total || tight { Severity::Warning } else { Severity::Info };
            let since = since(snapshot).unwrap_or_default();
            let can_lose = quorum.can_lose;
            (format!("{healthy} of {total} healthy, leader {leader}{since}, can lose {can_lose}"), severity)
        }
        None if quorum.voters.is_empty() => {
            (format!("{reporting} of {total} report, no cluster founded yet"), Severity::Warning)
        }
        None if !quorum.is_met() => (
            format!(
                "No quorum: {} of {} voters report, writes stop",
                quorum.reporting.len(),
                quorum.voters.len()
            ),
            Severity::Critical,
        ),
        None => {
            let seconds = snapshot.leaderless_seconds.unwrap_or(0.0);
            let severity =
                if seconds > LEADERLESS_CRITICAL_SECONDS { Severity::Critical } else { Severity::Warning };
            (format!("{healthy} of {total} healthy, no leader"), severity)
        }
    };
    let mut sentence = head;
    for clause in exceptions(snapshot) {
        sentence.push_str("; ");
        sentence.push_str(&clause);
    }
    if let Some(work) = &snapshot.work
        && work.maintenance.enabled
    {
        sentence.push_str("; maintenance is on");
    }
    if !quorum.unwatched.is_empty() {
        sentence.push_str(&format!("; not watched: {}", quorum.unwatched.join(", ")));
        severity = severity.max(Severity::Warning);
    }
    (sentence, severity)
}

/// ` since 14:02`, with the date where that was another day.
fn since(snapshot: &ClusterSnapshot) -> Option<String> {
    let since = snapshot.leader_since?;
    let day = |at: jiff::Timestamp| at.strftime("%Y-%m-%d").to_string();
    let form = if day(since) == day(snapshot.at) { "%H:%M" } else { "%m-%d %H:%M" };
    Some(format!(" since {}", since.strftime(form)))
}

/// A clause for each finding. A crash is in the sentence already, as a node that is down.
fn add_findings(findings: &[Finding], sentence: &mut String, severity: &mut Severity) {
    for finding in findings.iter().filter(|f| f.severity > Severity::Info) {
        *severity = finding.severity.max(*severity);
        if finding.kind == FaultKind::ProcessCrash {
            continue;
        }
        sentence.push_str("; ");
        sentence.push_str(&finding.kind.as_str().replace('_', " "));
        if !finding.nodes.is_empty() {
            sentence.push_str(&format!(" on {}", finding.nodes.join(", ")));
        }
    }
}

/// Nobody reports. Refusals are answers; anything else may be our own network.
fn nobody(snapshot: &ClusterSnapshot, total: usize) -> (String, Severity) {
    let down = snapshot.nodes.iter().filter(|n| matches!(n.state, NodeState::Down { .. })).count();
    if total > 0 && down == total {
        return (format!("All {total} nodes are down: every connection is refused"), Severity::Critical);
    }
    if down > 0 {
        return (format!("Nobody reports: {down} of {total} down, the others unknown"), Severity::Critical);
    }
    (format!("This monitor reaches none of {total} nodes; that says nothing about them"), Severity::Warning)
}

fn is_healthy(node: &NodeView) -> bool {
    node.takes_part() && node.report.as_ref().is_some_and(|r| r.health.status == HealthStatus::Ok)
}

/// A clause for each node that is not healthy, up to a number.
fn exceptions(snapshot: &ClusterSnapshot) -> Vec<String> {
    let mut clauses: Vec<String> = Vec::new();
    let mut more = 0_usize;
    for node in snapshot.nodes.iter().filter(|n| !is_healthy(n)) {
        if clauses.len() == MAX_CLAUSES {
            more += 1;
            continue;
        }
        let name = node.name();
        clauses.push(match (&node.state, &node.report) {
            (_, None) if node.stopped_at.is_some() => format!("{name} stopped on purpose"),
            (NodeState::Down { .. }, _) => format!("{name} down"),
            (_, None) => format!("{name} unknown"),
            (_, Some(report)) if !node.takes_part() => format!("{name} {}", report.status.role),
            (_, Some(report)) if report.health.status == HealthStatus::Failing => format!("{name} failing"),
            // Between two leaders everyone is degraded for a moment, and the sentence said so.
            (_, Some(report)) if snapshot.leader.is_none() && report.status.role != Role::Leader => continue,
            (_, Some(_)) => format!("{name} degraded"),
        });
    }
    if more > 0 {
        clauses.push(format!("and {more} more"));
    }
    clauses
}
