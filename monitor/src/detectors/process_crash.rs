//! Process crash: nothing listens on the node's port, and its peers lost it too.
//!
//! A time-out is not enough (that may be the network) and neither is our own refusal while a peer
//! still hears the node: [`NodeState::Down`] has both in it. When every node refuses there is no
//! peer left to ask; the refusals are still answers of living hosts, and the evidence says that
//! nothing else speaks for them.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::{Span, seconds_between};
use crate::snapshot::{ClusterSnapshot, NodeState, NodeView, Severity};

fn is_down(snapshot: &ClusterSnapshot, address: &str) -> bool {
    snapshot.nodes.iter().any(|n| n.address == address && matches!(n.state, NodeState::Down { .. }))
}

/// A finding for each node that was down in `confirmations` rounds.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    now.nodes
        .iter()
        .filter_map(|node| {
            let held = window.held(now, |s| is_down(s, &node.address));
            held.at_least(limits.confirmations, 0.0).then(|| {
                let severity = if now.quorum.is_met() { Severity::Warning } else { Severity::Critical };
                let nodes = vec![node.name().to_owned()];
                Finding::new(FaultKind::ProcessCrash, severity, held, nodes, evidence(now, node, held.rounds))
            })
        })
        .collect()
}

fn evidence(now: &ClusterSnapshot, node: &NodeView, rounds: u32) -> Vec<String> {
    let mut evidence = vec![format!("{} refuses connections, {rounds} rounds in a row", node.address)];
    let silent: Vec<&str> = now
        .links
        .iter()
        .filter(|l| l.to == node.name() && l.hearing == crate::snapshot::Hearing::Silent)
        .map(|l| l.from.as_str())
        .collect();
    evidence.push(if silent.is_empty() {
        "no other node reports on it: the refusal is the only evidence".to_owned()
    } else {
        format!("{} lost it too", silent.join(", "))
    });
    evidence.push(match node.last_report_at {
        Some(at) => format!("its last report is {} old", Span(seconds_between(at, now.at))),
        None => "it has not reported since this observer started".to_owned(),
    });
    evidence
}
