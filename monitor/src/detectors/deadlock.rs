//! Deadlock: the node answers, but one of its threads stands still while there is work.
//!
//! A slow disk makes progress, slowly; a stuck thread makes none. So the counters are compared over
//! rounds of one process, and a busy time alone counts only beyond its own limit. A process that
//! takes connections and answers nothing at all, round after round, is stuck as a whole (a crashed
//! one refuses, a cut-off one takes no connection).

use super::{FaultKind, Finding, Held, Limits, Window};
use crate::report::{ScrapeFailure, Span};
use crate::snapshot::{ClusterSnapshot, NodeView, Severity};
use api::cluster::Report;

/// Operations that may rightly wait for others without end.
const PATIENT_OPERATIONS: [&str; 1] = ["founding"];

/// A finding for each node that stands still, with every sign of it.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    now.nodes.iter().filter_map(|node| of_node(node, now, window, limits)).collect()
}

fn of_node(node: &NodeView, now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let signs = match &node.report {
        Some(report) => {
            let mut signs = stuck_threads(node.name(), report, now, window, limits);
            signs.extend(overdue_operation(node.name(), report, now, window, limits));
            signs
        }
        None => answers_nothing(&node.address, now, window, limits).into_iter().collect(),
    };
    let longest = signs.iter().map(|(held, _)| *held).max_by_key(|held| held.rounds)?;
    let evidence = signs.into_iter().map(|(_, text)| text).collect();
    let nodes = vec![node.name().to_owned()];
    Some(Finding::new(FaultKind::Deadlock, Severity::Critical, longest, nodes, evidence))
}

/// Each thread that has made no progress for too long, with how long.
fn stuck_threads(
    name: &str,
    report: &Report,
    now: &ClusterSnapshot,
    window: &Window,
    limits: &Limits,
) -> Vec<(Held, String)> {
    let same_process = |r: &Report| r.status.boot_nonce == report.status.boot_nonce;
    let still = |is_so: &dyn Fn(&Report) -> bool| {
        window.held(now, |s| s.report_of(name).is_some_and(|r| same_process(r) && is_so(r)))
    };
    let mut signs = Vec::new();
    let applied = report.progress.applied_entries;
    let apply =
        still(&|r| r.progress.applied_entries == applied && r.status.commit_index > r.status.applied_index);
    let busy_seconds = report.progress.apply_busy_ms as f64 / 1_000.0;
    let apply_seconds = apply.seconds.max(if apply.rounds > 0 { busy_seconds } else { 0.0 });
    if apply.rounds >= limits.confirmations && apply_seconds >= limits.stall_seconds {
        let waiting = report.status.commit_index - report.status.applied_index;
        signs.push((
            apply,
            format!("{name} applied nothing for {}, {waiting} committed entries wait", Span(apply_seconds)),
        ));
    }
    let syncs = report.progress.log_syncs;
    let log = still(&|r| r.progress.log_syncs == syncs && r.progress.log_busy_ms > 0);
    let log_seconds = report.progress.log_busy_ms as f64 / 1_000.0;
    if log.rounds >= limits.confirmations && log_seconds >= limits.log_stall_seconds {
        signs.push((log, format!("{name}'s log writer is in one write for {}", Span(log_seconds))));
    }
    let turns = report.progress.raft_turns;
    let raft = still(&|r| takes_part(r) && r.progress.raft_turns == turns);
    // The first of these rounds is the one that brought the count; the others found it unmoved.
    if raft.rounds > limits.confirmations && raft.seconds >= limits.stall_seconds {
        signs.push((raft, format!("{name}'s Raft thread has not turned for {}", Span(raft.seconds))));
    }
    signs
}

fn takes_part(report: &Report) -> bool {
    use api::cluster::Role;
    matches!(report.status.role, Role::Leader | Role::Follower | Role::Candidate | Role::Learner)
}

/// The operation that has exceeded its limit by most.
fn overdue_operation(
    name: &str,
    report: &Report,
    now: &ClusterSnapshot,
    window: &Window,
    limits: &Limits,
) -> Option<(Held, String)> {
    let is_overdue = |r: &Report, id: &str| {
        r.operations.operations.iter().any(|o| {
            o.id == id
                && o.duration_seconds > limits.operation_seconds
                && !PATIENT_OPERATIONS.contains(&o.kind.as_str())
        })
    };
    let longest = report
        .operations
        .operations
        .iter()
        .filter(|o| is_overdue(report, &o.id))
        .max_by(|a, b| a.duration_seconds.total_cmp(&b.duration_seconds))?;
    let held = window.held(now, |s| s.report_of(name).is_some_and(|r| is_overdue(r, &longest.id)));
    held.at_least(limits.confirmations, 0.0).then(|| {
        let kind = crate::report::shorten(&longest.kind, 60);
        let limit = Span(limits.operation_seconds);
        (held, format!("{name}'s {kind} runs for {}, limit {limit}", Span(longest.duration_seconds)))
    })
}

/// A process that takes connections and gives no answer. One round more than usual is wanted,
/// because the first may have used a connection from before a cut; and where nobody reports at all,
/// the observer suspects itself instead.
fn answers_nothing(
    address: &str,
    now: &ClusterSnapshot,
    window: &Window,
    limits: &Limits,
) -> Option<(Held, String)> {
    now.reporting().next()?;
    let held = window.held(now, |s| {
        s.nodes.iter().any(|n| {
            n.address == address && matches!(n.failure, Some(ScrapeFailure::TimedOut { connected: true, .. }))
        })
    });
    held.at_least(limits.confirmations + 1, 0.0).then(|| {
        (held, format!("{address} takes connections and answers nothing, {} rounds in a row", held.rounds))
    })
}
