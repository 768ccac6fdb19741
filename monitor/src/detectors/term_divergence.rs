//! Term divergence: leaders change too often unasked, or a node's term runs ahead of the leader's.
//!
//! One failover is one change and one term; the limit allows for several. Changes are counted in
//! two ways and the larger is taken: by the leaders this observer saw, and by what the nodes count
//! themselves, which includes those between two rounds.
//!
//! Leadership that moves on request, or because its holder is stopped, is no fault however often it
//! does. So nodes count the elections they began because they heard no leader, and the times they
//! gave leadership away because they failed themselves; of the changes only so many count. Where a
//! node does not tell, every change counts.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::{Span, seconds_between};
use crate::snapshot::{ClusterSnapshot, Severity};
use std::collections::BTreeMap;

/// How far back changes are counted.
const MINUTE_SECONDS: f64 = 60.0;

/// Repeated elections, and terms that run ahead.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let mut findings: Vec<Finding> = restless(now, window, limits).into_iter().collect();
    findings.extend(now.reporting().filter_map(|(node, _)| runs_ahead(node.name(), now, window, limits)));
    findings
}

fn restless(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let Changes { changes, how, unasked } = changes_in_last_minute(now, window);
    let above =
        |s: &ClusterSnapshot| changes_in_last_minute(s, window).counted() > limits.leader_changes_per_minute;
    let held = window.held(now, above);
    if !held.at_least(limits.confirmations, 0.0) {
        return None;
    }
    let limit = limits.leader_changes_per_minute;
    let mut evidence = vec![format!("{changes} leader changes in the last minute ({how}), limit {limit}")];
    if let Some(unasked) = unasked {
        evidence
            .push(format!("{unasked} elections or forced hand-overs in that time, which nobody asked for"));
    }
    evidence.push(format!("term {} now", now.highest_term));
    let candidates: Vec<String> = now
        .reporting()
        .filter(|(_, r)| r.status.role == api::cluster::Role::Candidate)
        .map(|(n, _)| n.name().to_owned())
        .collect();
    if !candidates.is_empty() {
        evidence.push(format!("candidates now: {}", candidates.join(", ")));
    }
    Some(Finding::new(FaultKind::TermDivergence, Severity::Warning, held, candidates, evidence))
}

/// Leader changes within a minute.
struct Changes {
    changes: u64,
    /// Whose count that is.
    how: String,
    /// Elections that nobody asked for, and hand-overs of leaders that failed; none where a node does
    /// not tell.
    unasked: Option<u64>,
}

impl Changes {
    /// Those that are held against the limit.
    fn counted(&self) -> u64 {
        self.unasked.map_or(self.changes, |unasked| unasked.min(self.changes))
    }
}

/// Leader changes in the minute before `now`.
fn changes_in_last_minute(now: &ClusterSnapshot, window: &Window) -> Changes {
    let minute: Vec<&ClusterSnapshot> = window
        .back_from(now)
        .take_while(|s| seconds_between(s.at, now.at) <= MINUTE_SECONDS)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .chain([now])
        .collect();
    let mut seen: Vec<(&str, u64)> =
        minute.iter().filter_map(|s| Some((s.leader.as_deref()?, s.highest_term))).collect();
    seen.dedup();
    let observed = seen.len().saturating_sub(1) as u64;
    let mut most = (observed, "as seen from here".to_owned());
    for (node, report) in now.reporting() {
        // That it found the leader when it was started is no change.
        let oldest_of_this_process = minute.iter().find_map(|s| {
            s.report_of(node.name()).filter(|r| {
                r.status.boot_nonce == report.status.boot_nonce && r.status.current_leader.is_some()
            })
        });
        let counted = oldest_of_this_process
            .map_or(0, |old| report.status.leader_changes.saturating_sub(old.status.leader_changes));
        if counted > most.0 {
            most = (counted, format!("counted by {}", node.name()));
        }
    }
    let (changes, how) = most;
    Changes { changes, how, unasked: unasked_in(&minute) }
}

/// Elections that nodes began by themselves in these rounds, and forced hand-overs.
///
/// Each process counts from its first report in them, or from nothing where it was started in them.
fn unasked_in(rounds: &[&ClusterSnapshot]) -> Option<u64> {
    let mut processes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let began = rounds.first()?.at;
    for snapshot in rounds {
        for (_, report) in snapshot.reporting() {
            let count = report.status.elections? + report.status.forced_handovers;
            let is_new = report.status.uptime_seconds < seconds_between(began, snapshot.at);
            let first = if is_new { 0 } else { count };
            processes.entry(&report.status.boot_nonce).or_insert((first, count)).1 = count;
        }
    }
    Some(processes.values().map(|(first, last)| last.saturating_sub(*first)).sum())
}

fn is_ahead(snapshot: &ClusterSnapshot, name: &str) -> bool {
    let Some(report) = snapshot.report_of(name) else { return false };
    let led = snapshot
        .leaders
        .iter()
        .filter(|c| c.cluster_id == report.status.cluster_id && c.node_id != name)
        .map(|c| c.term)
        .max();
    report.status.cluster_id.is_some() && led.is_some_and(|term| report.status.term > term)
}

fn runs_ahead(name: &str, now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let held = window.held(now, |s| is_ahead(s, name));
    if !held.at_least(limits.confirmations, limits.term_ahead_seconds) {
        return None;
    }
    let report = now.report_of(name)?;
    let led = now.leaders.iter().filter(|c| c.node_id != name).map(|c| c.term).max()?;
    let evidence = vec![format!(
        "{name} ({}) is in term {}, the leader in term {led}, for {}",
        report.status.role,
        report.status.term,
        Span(held.seconds)
    )];
    Some(Finding::new(FaultKind::TermDivergence, Severity::Warning, held, vec![name.to_owned()], evidence))
}
