//! Bad report: a node answers, but not with a report.
//!
//! A missing endpoint or an unreadable answer is itself a fault: it blinds every other detector to
//! that node. Two addresses that lead to one process are named here too, since one of them is a
//! mistake in the observer's own list; and an address behind which two nodes answer in turn, since
//! then nothing that is said of it holds for longer than a round. A node of another release than
//! this observer is told as information: what it adds to its report is not read.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::ScrapeFailure;
use crate::snapshot::{ClusterSnapshot, Severity};
use std::collections::BTreeMap;

/// A finding for each node whose answers were no reports, and for each process listed twice.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &now.nodes {
        let is_bad = |s: &ClusterSnapshot| {
            s.node_at(&node.address).is_some_and(|n| n.failure.as_ref().is_some_and(ScrapeFailure::answered))
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
    findings.extend(now.nodes.iter().filter_map(|node| answers_in_turn(&node.address, now, window, limits)));
    findings.extend(other_release(now, window, limits));
    findings
}

/// Who answers at an address.
fn node_id_at<'a>(snapshot: &'a ClusterSnapshot, address: &str) -> Option<&'a str> {
    Some(snapshot.node_at(address)?.report.as_ref()?.status.node_id.as_str())
}

/// Two nodes behind one address: its node id went to and fro.
fn answers_in_turn(
    address: &str,
    now: &ClusterSnapshot,
    window: &Window,
    limits: &Limits,
) -> Option<Finding> {
    let present = node_id_at(now, address)?;
    // A node that was replaced changes its id once and for all; dear only where it changed at all.
    let rounds = || window.back_from(now);
    if rounds().all(|s| node_id_at(s, address).is_none_or(|id| id == present)) {
        return None;
    }
    let mut ids: Vec<String> = rounds().filter_map(|s| node_id_at(s, address)).map(str::to_owned).collect();
    ids.insert(0, present.to_owned());
    ids.dedup();
    let oldest = rounds().rfind(|s| node_id_at(s, address).is_some())?;
    if (ids.len() as u32) <= limits.confirmations.max(2) {
        return None;
    }
    let held = window.held(now, |s| s.round >= oldest.round);
    let changes = ids.len() - 1;
    ids.sort();
    ids.dedup();
    let evidence = vec![
        format!(
            "{address} answers as {} in turn, {changes} changes in {} rounds",
            ids.join(" and "),
            held.rounds
        ),
        "does a load balancer stand there? Name each node by its own address".to_owned(),
    ];
    Some(Finding::new(FaultKind::BadReport, Severity::Warning, held, ids, evidence))
}

/// Major and minor version.
fn release(version: &str) -> &str {
    let end = version.match_indices('.').nth(1).map_or(version.len(), |(at, _)| at);
    &version[..end]
}

/// Nodes of another release than this observer.
fn other_release(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let others = |s: &ClusterSnapshot| -> Vec<(String, String)> {
        s.reporting()
            .filter(|(_, r)| release(&r.status.version) != release(api::VERSION))
            .map(|(n, r)| (n.name().to_owned(), crate::report::shorten(&r.status.version, 40)))
            .collect()
    };
    let held = window.held(now, |s| !others(s).is_empty());
    held.at_least(limits.confirmations, 0.0).then(|| {
        let others = others(now);
        let evidence = others.iter().take(8).map(|(name, version)| {
            format!("{name} is of version {version}, this monitor of {}", api::VERSION)
        });
        let evidence = evidence.collect();
        let nodes = others.into_iter().map(|(name, _)| name).collect();
        Finding::new(FaultKind::BadReport, Severity::Info, held, nodes, evidence)
    })
}

/// Node ids that one and the same process gave at more than one address.
fn listed_twice(snapshot: &ClusterSnapshot) -> Vec<(String, Vec<String>)> {
    let mut processes: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (node, report) in snapshot.reporting().filter(|(_, r)| !r.status.boot_nonce.is_empty()) {
        let process = (report.status.node_id.as_str(), report.status.boot_nonce.as_str());
        processes.entry(process).or_default().push(node.address.clone());
    }
    let twice = processes.into_iter().filter(|(_, addresses)| addresses.len() > 1);
    twice.map(|((node_id, _), addresses)| (node_id.to_owned(), addresses)).collect()
}
