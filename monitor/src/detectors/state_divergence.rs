//! State divergence: the same log made two states, or a state is not what its node made of the log.
//!
//! Compared only at an index that both nodes passed, so a node that lags is never accused. A
//! majority of the voters decides who is wrong; without one nobody is named, and the finding says
//! who holds what.
//!
//! A bit that flips in memory shows in no checksum until something is made of that record: the hashes
//! were taken before. The node's own check compares the records with them; its word counts.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::shorten;
use crate::snapshot::{Agreement, ClusterSnapshot, Dissent, DissentIn, Severity, dissent};
use api::admin::IntegrityCheck;
use api::cluster::Report;

/// Nodes that say so of themselves, and the disagreement, if it held.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let mut findings = contradict_themselves(now, window, limits);
    let shows = |s: &ClusterSnapshot| {
        s.checksums.iter().any(|pair| matches!(pair.agreement, Agreement::StateUnequal { .. }))
    };
    let held = window.held(now, shows);
    if held.at_least(limits.confirmations, 0.0)
        && let Some(found) = dissent(now, DissentIn::State)
    {
        let (nodes, evidence) = blame(&found, "equal logs, different states");
        match findings.iter_mut().find(|known| known.nodes == nodes) {
            Some(same) => same.evidence.extend(evidence),
            None => findings.push(Finding::new(
                FaultKind::StateDivergence,
                Severity::Critical,
                held,
                nodes,
                evidence,
            )),
        }
    }
    findings
}

/// The last check of a node's own records, where it found damage.
fn own_damage(report: &Report) -> Option<&IntegrityCheck> {
    report.state_checksum.integrity.as_ref().filter(|check| !check.sound)
}

fn contradict_themselves(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    now.reporting()
        .filter_map(|(node, report)| {
            let name = node.name();
            let check = own_damage(report)?;
            let held = window.held(now, |s| s.report_of(name).is_some_and(|r| own_damage(r).is_some()));
            held.at_least(limits.confirmations, 0.0).then(|| {
                let evidence = vec![
                    format!("{name} says its records in memory are not what their hashes say"),
                    shorten(&check.detail, 200),
                ];
                let nodes = vec![name.to_owned()];
                Finding::new(FaultKind::StateDivergence, Severity::Critical, held, nodes, evidence)
            })
        })
        .collect()
}

/// Whom a disagreement names, and what it shows.
pub(super) fn blame(found: &Dissent, what: &str) -> (Vec<String>, Vec<String>) {
    let mut evidence = vec![format!("{what} at index {}", found.index)];
    for (hash, nodes) in &found.camps {
        // The end of the text is the hash that differs.
        let own = hash.rsplit('/').next().unwrap_or(hash);
        evidence.push(format!("{} by {}", own.chars().take(12).collect::<String>(), nodes.join(", ")));
    }
    let nodes = match &found.minority {
        Some(minority) => minority.clone(),
        None => {
            evidence.push("no majority of the voters agrees: nobody can be blamed".into());
            Vec::new()
        }
    };
    (nodes, evidence)
}
