//! Log corruption: a node's log fails its own check, or differs from the quorum's.
//!
//! A torn tail after a power loss is cut by the node, which is then suspect until it has caught up;
//! its log is healthy again and nothing is said here.

use super::{FaultKind, Finding, Limits, Window, state_divergence};
use crate::snapshot::{Agreement, ClusterSnapshot, DissentIn, Severity, dissent};

/// Logs that say so themselves, and logs that differ.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, report) in now.reporting() {
        let name = node.name();
        let held = window.held(now, |s| s.report_of(name).is_some_and(|r| !r.log.healthy));
        if held.at_least(limits.confirmations, 0.0) {
            let mut evidence = vec![format!("{name} says its log is damaged")];
            evidence.extend(super::database_corruption::details(&report.log));
            evidence.extend(report.status.role_detail.clone());
            let nodes = vec![name.to_owned()];
            findings.push(Finding::new(FaultKind::LogCorruption, Severity::Critical, held, nodes, evidence));
        }
    }
    let shows = |s: &ClusterSnapshot| {
        s.checksums.iter().any(|pair| matches!(pair.agreement, Agreement::LogUnequal { .. }))
    };
    let held = window.held(now, shows);
    if held.at_least(limits.confirmations, 0.0)
        && let Some(found) = dissent(now, DissentIn::Log)
    {
        let (nodes, evidence) = state_divergence::blame(&found, "the logs differ");
        let known = |f: &Finding| f.kind == FaultKind::LogCorruption && f.nodes == nodes;
        match findings.iter_mut().find(|f| known(f)) {
            Some(same) => same.evidence.extend(evidence),
            None => findings.push(Finding::new(
                FaultKind::LogCorruption,
                Severity::Critical,
                held,
                nodes,
                evidence,
            )),
        }
    }
    findings
}
