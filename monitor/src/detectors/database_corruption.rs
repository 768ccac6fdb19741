//! Database corruption: a node says that its database fails its check.
//!
//! The node compares its database with its own memory, so this is no divergence: the node's
//! machine goes on being right. While it rebuilds the file by itself, that is news and no alarm.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::shorten;
use crate::snapshot::{ClusterSnapshot, Severity};
use api::cluster::{PartHealth, Report};

/// The most details that become evidence.
const MAX_DETAILS: usize = 8;

/// A finding for each node whose database has been unhealthy.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    now.reporting()
        .filter_map(|(node, report)| {
            let name = node.name();
            let held = window.held(now, |s| s.report_of(name).is_some_and(|r| !r.db.healthy));
            held.at_least(limits.confirmations, 0.0).then(|| {
                let rebuilding = is_rebuilding(report);
                let severity = if rebuilding { Severity::Info } else { Severity::Warning };
                let mut evidence = vec![format!("{name} says its database is not healthy")];
                if rebuilding {
                    evidence.push("it is rebuilding it".into());
                }
                evidence.extend(details(&report.db));
                Finding::new(FaultKind::DatabaseCorruption, severity, held, vec![name.to_owned()], evidence)
            })
        })
        .collect()
}

fn is_rebuilding(report: &Report) -> bool {
    report.operations.operations.iter().any(|o| o.kind == "rebuild_db")
        || report.db.details.get("rebuilding").and_then(serde_json::Value::as_bool) == Some(true)
}

/// A part's details as evidence, bounded: what is said in words, then figures.
pub(super) fn details(part: &PartHealth) -> Vec<String> {
    let words = part.details.iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())));
    let figures = part
        .details
        .iter()
        .filter(|(_, value)| value.is_number() || value.is_boolean())
        .map(|(key, value)| (key, value.to_string()));
    words
        .chain(figures)
        .take(MAX_DETAILS)
        .map(|(key, text)| shorten(&format!("{key}: {text}"), 200))
        .collect()
}
