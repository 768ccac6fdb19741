//! Network partition: nodes that run do not hear each other.
//!
//! The matrix of who hears whom is the evidence; the observer's own view is one vote. A cut may go
//! one way only, and a node may bridge two others that do not hear each other. Processes that just
//! started are still making their links, and dead ones are no partition.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::ScrapeFailure;
use crate::snapshot::{ClusterSnapshot, Hearing, Link, NodeState, NodeView, Severity};

/// Cuts between nodes, nodes that nobody reaches, and cuts of the observer itself.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    if now.reporting().next().is_none() {
        return observer_cut_off(now, window, limits).into_iter().collect();
    }
    let mut findings: Vec<Finding> = cuts_between(now, window, limits).into_iter().collect();
    findings.extend(now.nodes.iter().filter_map(|node| unreached(node, now, window, limits)));
    findings
}

/// Nobody reports and nobody refused: that is the observer's own state, and says nothing of nodes.
fn observer_cut_off(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let blind = |s: &ClusterSnapshot| {
        s.reporting().next().is_none() && !s.nodes.iter().any(|n| matches!(n.state, NodeState::Down { .. }))
    };
    let held = window.held(now, blind);
    held.at_least(limits.confirmations, 0.0).then(|| {
        let mut evidence = vec![format!(
            "this observer reaches none of {} nodes, {} rounds in a row; what they do is unknown",
            now.nodes.len(),
            held.rounds
        )];
        evidence.extend(
            now.nodes.iter().take(7).filter_map(|n| Some(format!("{}: {}", n.address, n.failure.as_ref()?))),
        );
        Finding::new(FaultKind::NetworkPartition, Severity::Info, held, Vec::new(), evidence)
    })
}

/// The link is cut between two nodes that both report and have had time to make it.
fn is_cut(snapshot: &ClusterSnapshot, link: &Link, limits: &Limits) -> bool {
    let settled = |name: &str| {
        snapshot.node(name).is_some_and(|n| {
            n.takes_part()
                && n.report.as_ref().is_some_and(|r| r.status.uptime_seconds > limits.settle_seconds)
        })
    };
    link.hearing == Hearing::Silent && settled(&link.from) && settled(&link.to)
}

fn cuts_between(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let cut: Vec<(&Link, super::Held)> = now
        .links
        .iter()
        .filter_map(|link| {
            if !is_cut(now, link, limits) {
                return None;
            }
            let held = window
                .held(now, |s| s.link(&link.from, &link.to).is_some_and(|then| is_cut(s, then, limits)));
            held.at_least(limits.confirmations, 0.0).then_some((link, held))
        })
        .collect();
    let longest = cut.iter().map(|(_, held)| *held).max_by_key(|held| held.rounds)?;
    let mut nodes: Vec<String> = Vec::new();
    for name in now.nodes.iter().map(NodeView::name) {
        if cut.iter().any(|(l, _)| l.from == name || l.to == name) {
            nodes.push(name.to_owned());
        }
    }
    // Where one node, and only one, is at an end of every cut, it is the one that is cut off.
    let on_all: Vec<&String> =
        nodes.iter().filter(|n| cut.iter().all(|(l, _)| l.from == **n || l.to == **n)).collect();
    if let [only] = on_all[..] {
        nodes = vec![only.clone()];
    }
    let mut evidence: Vec<String> = cut.iter().take(12).map(|(link, _)| describe(now, link)).collect();
    if cut.len() > 12 {
        evidence.push(format!("and {} more cuts", cut.len() - 12));
    }
    let severity = if now.leader.is_some() { Severity::Warning } else { Severity::Critical };
    Some(Finding::new(FaultKind::NetworkPartition, severity, longest, nodes, evidence))
}

fn describe(now: &ClusterSnapshot, link: &Link) -> String {
    let back = now.link(&link.to, &link.from).map(|l| l.hearing);
    let way = if back == Some(Hearing::Hears) { " (one way: it is heard)" } else { "" };
    let why =
        link.error.as_deref().map(|e| format!(": {}", crate::report::shorten(e, 120))).unwrap_or_default();
    format!("{} does not hear {}{way}{why}", link.from, link.to)
}

/// A node that gives no answer and no refusal. Its peers decide whether it is cut off or we are.
fn unreached(node: &NodeView, now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let name = node.name();
    let lost = |s: &ClusterSnapshot| {
        s.node_at(&node.address).is_some_and(|n| {
            matches!(n.state, NodeState::Unknown { .. })
                && n.stopped_at.is_none()
                && matches!(
                    n.failure,
                    Some(
                        ScrapeFailure::TimedOut { connected: false, .. } | ScrapeFailure::Unreachable { .. }
                    ) | Some(ScrapeFailure::Refused)
                )
        })
    };
    let held = window.held(now, lost);
    if !held.at_least(limits.confirmations, 0.0) {
        return None;
    }
    let hearers: Vec<&str> = now.heard_by(name).collect();
    let failure = node.failure.as_ref()?;
    let (severity, what) = if hearers.is_empty() {
        (Severity::Warning, "no reporting peer hears it either; its host or its network is gone".to_owned())
    } else {
        (
            Severity::Info,
            format!("{} still hear it: only this observer's way to it is cut", hearers.join(", ")),
        )
    };
    let evidence = vec![format!("{}: {failure}, {} rounds in a row", node.address, held.rounds), what];
    Some(Finding::new(FaultKind::NetworkPartition, severity, held, vec![name.to_owned()], evidence))
}
