//! Slow follower: a voter that stays behind, or acknowledges late, while its link to the leader is up.
//!
//! Lag alone proves nothing. A node that joined a minute ago lags, and a node behind a partition
//! lags. So only voters are looked at, the link from the leader must be up, the lag must hold, and
//! a node that is catching up fast enough to be there soon is left in peace.
//!
//! A voter may also keep up and yet be slow: every write that waits for it waits long. What it adds
//! is the round trip from the leader and its own log's syncs; both are measured, by the leader and
//! by the voter, and the sum must stay above its limit for as long as a lag must hold.

use super::{FaultKind, Finding, Held, Limits, Window};
use crate::report::{Span, seconds_between};
use crate::snapshot::{ClusterSnapshot, Hearing, Severity};

/// A node that will have caught up within this time at its present speed is not slow.
const CATCHING_UP_SECONDS: f64 = 30.0;
/// Over how long a log's syncs are looked at, seconds.
const SYNC_SECONDS: f64 = 10.0;
/// Fewer syncs than this in that time say nothing.
const LEAST_SYNCS: u64 = 5;

/// A voter that the leader hears. Without a quorum of reports nobody knows where the log ends.
fn is_linked(snapshot: &ClusterSnapshot, name: &str) -> bool {
    let Some(leader) = snapshot.leader.as_deref().filter(|_| snapshot.quorum.is_met()) else { return false };
    leader != name
        && snapshot.is_voter(name)
        && snapshot.link(leader, name).is_some_and(|l| l.hearing == Hearing::Hears)
}

fn is_behind(snapshot: &ClusterSnapshot, name: &str, lag_entries: u64) -> bool {
    is_linked(snapshot, name) && snapshot.lag_entries(name).is_some_and(|lag| lag > lag_entries)
}

/// A finding for each voter whose lag or slowness held.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    now.reporting()
        .filter_map(|(node, _)| {
            let name = node.name();
            let lag = lags(name, now, window, limits);
            let ack = acknowledges_late(name, now, window, limits);
            let held = lag.iter().chain(&ack).map(|(held, _)| *held).max_by_key(|held| held.rounds)?;
            let mut evidence: Vec<String> = lag.into_iter().chain(ack).flat_map(|(_, texts)| texts).collect();
            evidence.push("its link to the leader is up".to_owned());
            let nodes = vec![name.to_owned()];
            Some(Finding::new(FaultKind::SlowFollower, Severity::Warning, held, nodes, evidence))
        })
        .collect()
}

fn lags(name: &str, now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<(Held, Vec<String>)> {
    let held = window.latched(
        now,
        limits.confirmations,
        limits.lag_hold_seconds,
        |s| is_behind(s, name, limits.lag_entries),
        |s| is_behind(s, name, limits.lag_low_entries),
    )?;
    let lag = now.lag_entries(name)?;
    let first = window.back_from(now).take(held.rounds as usize - 1).last()?.lag_entries(name)?;
    let gained_per_second = first.saturating_sub(lag) as f64 / held.seconds.max(0.001);
    if gained_per_second > 0.0 && lag as f64 / gained_per_second < CATCHING_UP_SECONDS {
        return None;
    }
    let applied = now.report_of(name)?.status.applied_index;
    let limit = limits.lag_entries;
    let evidence = vec![
        format!("{name} is {lag} entries behind, limit {limit}, for {}", Span(held.seconds)),
        format!("applied {applied}, committed {}", now.highest_commit),
    ];
    Some((held, evidence))
}

/// Milliseconds a write waits for this voter: round trip, and its syncs of the last seconds.
fn ack_ms(at: &ClusterSnapshot, window: &Window, name: &str) -> Option<(f64, f64)> {
    let leader = at.leader.as_deref()?;
    let rtt_ms = at.link(leader, name)?.rtt_ms?;
    let report = at.report_of(name)?;
    let earlier = window
        .back_from(at)
        .take_while(|s| seconds_between(s.at, at.at) <= SYNC_SECONDS)
        .filter_map(|s| s.report_of(name))
        .take_while(|r| r.status.boot_nonce == report.status.boot_nonce)
        .last()?;
    let syncs = report.performance.log_sync.since(&earlier.performance.log_sync)?;
    let p99_ms = syncs.quantile(0.99).filter(|_| syncs.count() >= LEAST_SYNCS)? * 1_000.0;
    Some((rtt_ms, p99_ms))
}

fn acknowledges_late(
    name: &str,
    now: &ClusterSnapshot,
    window: &Window,
    limits: &Limits,
) -> Option<(Held, Vec<String>)> {
    let later_than = |s: &ClusterSnapshot, limit_ms: f64| {
        is_linked(s, name) && ack_ms(s, window, name).is_some_and(|(rtt, sync)| rtt + sync > limit_ms)
    };
    // Dear, so only where it is so now.
    if !later_than(now, limits.ack_low_ms) {
        return None;
    }
    let held = window.latched(
        now,
        limits.confirmations,
        limits.lag_hold_seconds,
        |s| later_than(s, limits.ack_p99_ms),
        |s| later_than(s, limits.ack_low_ms),
    )?;
    let (rtt_ms, sync_ms) = ack_ms(now, window, name)?;
    let text = format!(
        "{name} acknowledges after {:.0} ms (round trip {rtt_ms:.1} ms, p99 of its log's syncs {sync_ms:.0} ms), \
         limit {:.0} ms, for {}",
        rtt_ms + sync_ms,
        limits.ack_p99_ms,
        Span(held.seconds)
    );
    Some((held, vec![text]))
}
