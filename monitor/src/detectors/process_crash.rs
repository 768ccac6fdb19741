//! Process crash: nothing listens on the node's port, and its peers lost it too.
//!
//! A time-out is not enough (that may be the network) and neither is our own refusal while a peer
//! still hears the node: [`NodeState::Down`] has both in it. When every node refuses there is no
//! peer left to ask; the refusals are still answers of living hosts, and the evidence says that
//! nothing else speaks for them.
//!
//! A node that said goodbye has not crashed. It is named all the same once it has been away for
//! longer than its grace time ([`super::is_pardoned`]), whatever its host answers by then: its
//! process is known to have ended.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::{Span, seconds_between};
use crate::snapshot::{ClusterSnapshot, NodeState, NodeView, Severity};

fn is_down(snapshot: &ClusterSnapshot, address: &str) -> bool {
    let has_gone = |node: &NodeView| match node.state {
        NodeState::Reporting => false,
        NodeState::Down { .. } => true,
        NodeState::Unknown { .. } => {
            node.stopped_at.is_some() && snapshot.heard_by(node.name()).next().is_none()
        }
    };
    snapshot.node_at(address).is_some_and(has_gone)
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
    let failure = node.failure.as_ref().map(ToString::to_string);
    let mut evidence = match node.stopped_at {
        Some(at) => vec![
            format!(
                "it said that it stops {} ago and is not back, {rounds} rounds in a row",
                Span(seconds_between(at, now.at))
            ),
            format!("{}: {}", node.address, failure.unwrap_or_default()),
        ],
        None => vec![format!("{} refuses connections, {rounds} rounds in a row", node.address)],
    };
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
