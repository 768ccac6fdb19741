//! A node whose state can't be read, and whose log does not begin early enough to bring it back.
//!
//! Its term, vote and log are sound; only the file that the log begins behind is damaged. It takes no
//! part meanwhile, so nothing of it is relied upon, and what it lacks is replaced by the state on
//! which a majority of the others agrees, as a person would ask for by `force_sync`. Its identity,
//! vote, log and database stay.
//!
//! Invariant: it is not done again and again. A disk that damages one file may damage the next; after
//! [`MOST`] times in a day a person is asked.

use super::force_sync::{Request, read, sync_state, write};
use crate::config::Config;
use crate::node::Node;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// How often it is done unasked within `WITHIN_HOURS`.
pub const MOST: usize = 3;
const WITHIN_HOURS: i64 = 24;
/// After a failed attempt, doubled after each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_secs(300);
const FILE: &str = "unasked.json";

/// When it was done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Unasked {
    at: Vec<jiff::Timestamp>,
}

/// Brings the state of a node back that has lost it; returns at once where it has not. Otherwise the
/// process begins anew, or it is told why it can't be done.
pub async fn bring_back(node: &Node, config: &Config) {
    let Some(why) = node.lost_state() else { return };
    if !config.enable_redundancy {
        tracing::error!(
            why,
            "this node is alone in its cluster, so nobody has its state: put back a backup (coordinator restore)"
        );
        return;
    }
    let mut pause = FIRST_PAUSE;
    loop {
        match may_begin(&config.data_dir, jiff::Timestamp::now()) {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!(
                    "the state was brought back {MOST} times in a day and is damaged again: look at this node's disk, then ask by POST /api/admin/force_sync"
                );
                return;
            }
            Err(why) => {
                tracing::error!(
                    why,
                    "whether the state was brought back before can't be read; it is not done"
                );
                return;
            }
        }
        // Somebody else may have asked for it.
        if let Ok(operation) = node
            .operation_book()
            .begin_alone_cancellable("force_sync", "bringing back a state that is damaged")
        {
            let cancelled = operation.token().clone();
            let request = Request { why: why.clone(), keep_database: true };
            if sync_state(node, config, &request, operation).await.is_ok() {
                if let Err(why) = note(&config.data_dir, jiff::Timestamp::now()) {
                    tracing::warn!(why, "that the state was brought back could not be noted");
                }
                return;
            }
            if cancelled.is_cancelled() {
                tracing::warn!(
                    "bringing the state back was cancelled; ask for it by POST /api/admin/force_sync"
                );
                return;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn lately(data_dir: &Path, now: jiff::Timestamp) -> Result<Unasked, String> {
    let mut unasked: Unasked = read(data_dir, FILE)?.unwrap_or_default();
    // What lies days ahead is from a clock that was wrong.
    unasked.at.retain(|at| now.duration_since(*at).as_hours().abs() < WITHIN_HOURS);
    Ok(unasked)
}

fn may_begin(data_dir: &Path, now: jiff::Timestamp) -> Result<bool, String> {
    Ok(lately(data_dir, now)?.at.len() < MOST)
}

fn note(data_dir: &Path, now: jiff::Timestamp) -> Result<(), String> {
    let mut unasked = lately(data_dir, now)?;
    unasked.at.push(now);
    write(data_dir, FILE, &unasked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_damages_each_new_state_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let hour = |n: i64| jiff::Timestamp::from_second(1_800_000_000 + n * 3600).unwrap();
        for n in 0..3 {
            assert_eq!(may_begin(folder.path(), hour(n)), Ok(true), "{n}");
            note(folder.path(), hour(n)).unwrap();
        }
        assert_eq!(may_begin(folder.path(), hour(3)), Ok(false));
        assert_eq!(may_begin(folder.path(), hour(23)), Ok(false));
        assert_eq!(may_begin(folder.path(), hour(24)), Ok(true), "the first was a day ago");
        std::fs::write(folder.path().join("force_sync").join(FILE), "{").unwrap();
        assert!(may_begin(folder.path(), hour(24)).is_err());
    }
}
