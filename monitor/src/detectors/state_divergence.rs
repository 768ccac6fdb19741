//! State divergence: the same log made two states.
//!
//! Compared only at an index that both nodes passed, so a node that lags is never accused. A
//! majority of the voters decides who is wrong; without one nobody is named, and the finding says
//! who holds what.

use super::{FaultKind, Finding, Limits, Window};
use crate::snapshot::{Agreement, ClusterSnapshot, Dissent, DissentIn, Severity, dissent};

/// The disagreement on state, if it held.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let shows = |s: &ClusterSnapshot| {
        s.checksums.iter().any(|pair| matches!(pair.agreement, Agreement::StateUnequal { .. }))
    };
    let held = window.held(now, shows);
    if !held.at_least(limits.confirmations, 0.0) {
        return Vec::new();
    }
    let found = dissent(now, DissentIn::State);
    found
        .map(|found| {
            let (nodes, evidence) = blame(&found, "equal logs, different states");
            Finding::new(FaultKind::StateDivergence, Severity::Critical, held, nodes, evidence)
        })
        .into_iter()
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
