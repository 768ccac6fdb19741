//! Rebuilding: the file is made to hold what the machine knows.
//!
//! A sound file that is behind keeps what it has, and only what it lacks is added: it is the only
//! place that still holds tasks which have left memory. What the machine knows is staged in
//! temporary tables and merged in one transaction with the applied index, so that a crash leaves
//! either the old file or the new one.

use super::error::Tried;
use super::rows::{self, append, set_applied, transaction};
use super::schema::{Open, staging_sql};
use super::{RebuildJob, StoreError};
use std::collections::BTreeMap;

/// Rows that the file lacks. `reopened` first: it looks at the results as they were.
const MERGE_SQL: &str = "
INSERT INTO tasks SELECT * FROM staged_tasks s
    WHERE NOT EXISTS (SELECT 1 FROM tasks t WHERE t.seq = s.seq);
INSERT INTO attempts SELECT * FROM staged_attempts s
    WHERE NOT EXISTS (SELECT 1 FROM attempts a WHERE a.seq = s.seq AND a.token = s.token);
CREATE OR REPLACE TEMP TABLE missing_results AS SELECT * FROM staged_results s
    WHERE NOT EXISTS (SELECT 1 FROM results r WHERE r.seq = s.seq AND r.state = s.state
        AND r.attempt = s.attempt AND r.finished_at = s.finished_at);
INSERT INTO reopened SELECT s.log_index, 0, s.seq, s.task_id, s.created_at FROM staged_tasks s
    WHERE EXISTS (SELECT 1 FROM results r WHERE r.seq = s.seq)
        AND (EXISTS (SELECT 1 FROM missing_results m WHERE m.seq = s.seq)
            OR NOT EXISTS (SELECT 1 FROM staged_results f WHERE f.seq = s.seq));
INSERT INTO results SELECT * FROM missing_results;
INSERT INTO workers SELECT * FROM staged_workers s
    WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.worker_id = s.worker_id AND w.state = s.state
        AND w.registered_at = s.registered_at);
DROP TABLE missing_results;
";

/// Merges the job's effects into the file. Gives the rows by table afterwards.
pub(super) fn merge(open: &Open, job: &RebuildJob) -> Result<BTreeMap<String, u64>, StoreError> {
    let connection = &open.connection;
    let entries = [(job.index, job.effects.clone())];
    connection.execute_batch(&staging_sql()).tried("make the staging tables")?;
    append(connection, &entries, "staged_")?;
    failpoint!("rebuild_before_merge");
    transaction(connection, |connection| {
        connection.execute_batch(MERGE_SQL).tried("merge what was missing")?;
        set_applied(connection, job.index.max(open.applied_index))
    })?;
    failpoint!("rebuild_after_merge");
    let drop = super::schema::TABLES.iter().map(|table| format!("DROP TABLE IF EXISTS staged_{table};"));
    connection.execute_batch(&drop.collect::<String>()).tried("drop the staging tables")?;
    Ok(rows::recount(connection))
}
