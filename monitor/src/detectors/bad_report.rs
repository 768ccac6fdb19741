//! Bad report: a node answers, but not with a report.
//!
//! A missing endpoint or an unreadable answer is itself a fault: it blinds every other detector to
//! that node. Two addresses that lead to one process are named here too, since one of them is a
//! mistake in the observer's own list.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::ScrapeFailure;
use crate::snapshot::{ClusterSnapshot, Severity};

/// A finding for each node whose answers were no reports, and for each process listed twice.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &now.nodes {
        let is_bad = |s: &ClusterSnapshot| {
            s.nodes
                .iter()
                .any(|n| n.address == node.address && n.failure.as_ref().is_some_and(ScrapeFailure::answered))
        };
        let held = window.held(now, is_bad);
        if let Some(failure) = &node.failure
            && held.at_least(limits.confirmations, 0.0)
        {
            let evidence =
                vec![format!("{} {failure}", node.address), format!("{} rounds in a row", held.rounds)];
            let nodes = vec![node.name().to_owned()];
            findings.push(Finding::new(FaultKind::BadReport, Severity::Warning, held, nodes, evidence));
        }
    }
    for (node_id, addresses) in listed_twice(now) {
        let held = window.held(now, |s| listed_twice(s).iter().any(|(id, _)| *id == node_id));
        if held.at_least(limits.confirmations, 0.0) {
            let evidence =
                vec![format!("{} lead to one process, {node_id}: list it once", addresses.join(" and "))];
            findings.push(Finding::new(FaultKind::BadReport, Severity::Info, held, vec![node_id], evidence));
        }
    }
    findings
}

/// Node ids that one and the same process gave at more than one address.
fn listed_twice(snapshot: &ClusterSnapshot) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (node, report) in snapshot.reporting() {
        let nonce = &report.status.boot_nonce;
        if nonce.is_empty() {
            continue;
        }
        let addresses: Vec<String> = snapshot
            .reporting()
            .filter(|(_, r)| r.status.node_id == report.status.node_id && r.status.boot_nonce == *nonce)
            .map(|(n, _)| n.address.clone())
            .collect();
        if addresses.len() > 1 && addresses[0] == node.address {
            found.push((report.status.node_id.clone(), addresses));
        }
    }
    found
}
