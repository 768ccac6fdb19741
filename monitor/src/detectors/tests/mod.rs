//! The detectors on staged rounds, by what they name.

mod bad_report;
mod calm;
mod clock_offset;
mod deadlock;
mod divergence;
mod network_partition;
mod on_purpose;
mod process_crash;
mod resource_exhaustion;
mod slow_follower;
mod split_brain;
mod term_divergence;

use super::{FaultKind, Finding};
use crate::report::ScrapeFailure;

fn kinds(findings: &[Finding]) -> Vec<FaultKind> {
    findings.iter().map(|f| f.kind).collect()
}

fn timed_out(connected: bool) -> ScrapeFailure {
    ScrapeFailure::TimedOut { connected, waited_ms: 1_000 }
}
