//! Slow follower: a voter that stays behind while its link to the leader is up.
//!
//! Lag alone proves nothing. A node that joined a minute ago lags, and a node behind a partition
//! lags. So only voters are looked at, the link from the leader must be up, the lag must hold, and
//! a node that is catching up fast enough to be there soon is left in peace.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::Span;
use crate::snapshot::{ClusterSnapshot, Hearing, Severity};

/// A node that will have caught up within this time at its present speed is not slow.
const CATCHING_UP_SECONDS: f64 = 30.0;

fn is_behind(snapshot: &ClusterSnapshot, name: &str, lag_entries: u64) -> bool {
    // Without a quorum of reports nobody knows where the log ends.
    let Some(leader) = snapshot.leader.as_deref().filter(|_| snapshot.quorum.is_met()) else { return false };
    leader != name
        && snapshot.is_voter(name)
        && snapshot.link(leader, name).is_some_and(|l| l.hearing == Hearing::Hears)
        && snapshot.lag_entries(name).is_some_and(|lag| lag > lag_entries)
}

/// A finding for each voter whose lag held.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    now.reporting()
        .filter_map(|(node, report)| {
            let name = node.name();
            let held = window.held(now, |s| is_behind(s, name, limits.lag_entries));
            if !held.at_least(limits.confirmations, limits.lag_hold_seconds) {
                return None;
            }
            let lag = now.lag_entries(name)?;
            let first = window.back_from(now).take(held.rounds as usize - 1).last()?.lag_entries(name)?;
            let gained_per_second = first.saturating_sub(lag) as f64 / held.seconds.max(0.001);
            if gained_per_second > 0.0 && lag as f64 / gained_per_second < CATCHING_UP_SECONDS {
                return None;
            }
            let evidence = vec![
                format!(
                    "{name} is {lag} entries behind, over {} for {}",
                    limits.lag_entries,
                    Span(held.seconds)
                ),
                format!("applied {}, committed {}", report.status.applied_index, now.highest_commit),
                "its link to the leader is up".to_owned(),
            ];
            let nodes = vec![name.to_owned()];
            Some(Finding::new(FaultKind::SlowFollower, Severity::Warning, held, nodes, evidence))
        })
        .collect()
}
