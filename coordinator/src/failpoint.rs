//! Points at which a test ends the process: before and after each durable step.
//!
//! They exist only in builds with the feature `failpoints`; everywhere else `failpoint!` is
//! nothing. The program `coordinator-failpoints` takes from the environment which point is to end
//! it; `testbed` kills real clusters with it, and a test there sees to it that every point of
//! [`POINTS`] is reached. A test here sees to it that the list and the code name the same points.
//!
//! Invariant: a point has no effect but to end the process, or to hold the thread that reached it for
//! as long as a test wants. What it guards must be right whether the step behind it happened or not.

use api::failpoint::{Point, When};

/// The log engine's own point between writing a batch and syncing it.
pub const ENGINE_SYNC: &str = "log_fd::sync::err";

/// Every point, and when it is reached.
pub const POINTS: &[(&str, When)] = &[
    ("identity_before_write", When::Start),
    ("identity_before_rename", When::Start),
    ("identity_after_rename", When::Start),
    ("founding_before_accept", When::Founding),
    ("founding_after_accept", When::Founding),
    ("founding_before_founded", When::Founding),
    ("founding_after_founded", When::Founding),
    ("turn_before_tick", When::Write),
    ("log_before_write", When::Write),
    (ENGINE_SYNC, When::Write),
    ("log_after_sync", When::Write),
    ("hard_state_before_write", When::Write),
    ("hard_state_after_sync", When::Write),
    ("apply_before", When::Write),
    ("apply_before_answer", When::Write),
    ("apply_after_answer", When::Write),
    ("store_before_begin", When::Write),
    ("store_before_commit", When::Write),
    ("store_after_commit", When::Write),
    ("snapshot_before_write", When::Snapshot),
    ("snapshot_before_rename", When::Snapshot),
    ("snapshot_after_rename", When::Snapshot),
    ("naming_before_log", When::Snapshot),
    ("naming_after_log", When::Snapshot),
    ("purge_before", When::Snapshot),
    ("purge_after", When::Snapshot),
    ("install_before_log", When::Install),
    ("install_after_log", When::Install),
    ("install_before_swap", When::Install),
    ("install_after_swap", When::Install),
    ("rebuild_before_merge", When::Install),
    ("rebuild_after_merge", When::Install),
    ("sync_before_plan", When::Sync),
    ("sync_after_plan", When::Sync),
    ("sync_before_log", When::Sync),
    ("sync_after_log", When::Sync),
    ("sync_before_done", When::Sync),
    ("sync_after_done", When::Sync),
    ("renewal_before_quarantine", When::Rejoin),
    ("renewal_after_quarantine", When::Rejoin),
    ("renewal_before_end", When::Rejoin),
    ("cut_before_copy", When::Torn),
    ("cut_before", When::Torn),
    ("cut_after", When::Torn),
    ("database_before_move", When::Database),
    ("database_before_manifest", When::Database),
    ("database_after_manifest", When::Database),
    ("fence_before_rename", When::Fence),
    ("fence_after_rename", When::Fence),
    ("recover_before_log", When::Recover),
    ("recover_before_identity", When::Recover),
    ("restore_before_clear", When::Restore),
    ("restore_after_clear", When::Restore),
    ("restore_after_log", When::Restore),
    ("restore_before_identity", When::Restore),
    ("restore_after_identity", When::Restore),
];

/// As [`POINTS`], for whoever asks the program.
pub fn list() -> Vec<Point> {
    POINTS.iter().map(|(name, when)| Point { name: (*name).to_owned(), when: *when }).collect()
}

/// A point of `POINTS`: ends the process where a test asked for it, else does nothing.
macro_rules! failpoint {
    ($name:literal) => {{
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn named_in(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                named_in(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let uses = text.split("failpoint!(\"").skip(1);
                found.extend(uses.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }

    #[test]
    fn the_list_and_the_code_name_the_same_points() {
        let mut found = Vec::new();
        named_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let in_code: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        let listed: BTreeSet<&str> =
            POINTS.iter().map(|(name, _)| *name).filter(|n| *n != ENGINE_SYNC).collect();
        assert_eq!(in_code, listed);
        assert_eq!(in_code.len(), found.len(), "each point stands once");
        assert_eq!(listed.len() + 1, POINTS.len(), "each point is listed once");
    }
}
