//! What the writer thread does between two batches: reopening the file, taking in a peer's
//! history, letting old history go.
//!
//! Each chore is short, so that effects wait only for moments. Whoever asked blocks until it is
//! done; on the HTTP side that is a thread for blocking work.

use super::error::Tried;
use super::rows::{self, Millis, transaction};
use super::schema::{self, SCHEMA_VERSION, TABLES};
use super::writer::Writer;
use super::{Store, StoreError};
use duckdb::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Finished tasks that one chore lets go at most.
const PRUNE_TASKS: u64 = 5_000;

/// How long finished tasks stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Those that ended before this time (Unix milliseconds) go.
    pub before_wall_ms: i64,
    /// At most so many stay, the newest.
    pub keep_tasks: u64,
}

pub(super) enum Chore {
    /// Closes the file and opens it anew, so that what is read next comes from the disk.
    Reopen,
    /// Adds the rows of a Parquet file that the table lacks.
    Import { table: &'static str, file: PathBuf },
    /// Lets some of the oldest history go.
    Prune(Retention),
}

/// A chore and whoever waits for it.
pub(super) struct Ordered {
    pub(super) chore: Chore,
    pub(super) done: crossbeam_channel::Sender<Result<u64, StoreError>>,
}

impl Store {
    /// Closes the file and opens it anew: a file that was damaged, cut or removed beneath it is
    /// seen. Gives the rows it holds.
    pub fn reopen(&self, limit: Duration) -> Result<u64, StoreError> {
        self.order(Chore::Reopen, limit)
    }

    /// Adds what a peer's table holds and this one lacks; `table` as [`Store::tables`] names it.
    /// Gives the rows added.
    pub fn import(&self, table: &str, file: &Path, limit: Duration) -> Result<u64, StoreError> {
        let table = table_named(table)?;
        self.order(Chore::Import { table, file: file.to_owned() }, limit)
    }

    /// Lets at most a few thousand finished tasks go that are beyond the retention. Gives how
    /// many rows went; 0 means that nothing more has to.
    pub fn prune(&self, retention: Retention, limit: Duration) -> Result<u64, StoreError> {
        self.order(Chore::Prune(retention), limit)
    }

    /// The tables that hold history, and the version of their columns.
    pub fn tables() -> (&'static [&'static str], u32) {
        (&TABLES, SCHEMA_VERSION)
    }

    fn order(&self, chore: Chore, limit: Duration) -> Result<u64, StoreError> {
        let (done, outcome) = crossbeam_channel::bounded(1);
        {
            let mut backlog = self.shared.backlog.lock();
            if backlog.closing || self.shared.ended.load(Ordering::Acquire) {
                return Err(StoreError::Absent { why: "it is closed".into() });
            }
            backlog.chores.push_back(Ordered { chore, done });
        }
        self.shared.work.notify_one();
        outcome.recv_timeout(limit).unwrap_or_else(|e| {
            let why = match e {
                crossbeam_channel::RecvTimeoutError::Timeout => {
                    format!("its writer had no time for it within {} s", limit.as_secs())
                }
                crossbeam_channel::RecvTimeoutError::Disconnected => "it was closed".into(),
            };
            Err(StoreError::Absent { why })
        })
    }
}

pub(super) fn table_named(name: &str) -> Result<&'static str, StoreError> {
    TABLES.into_iter().find(|table| *table == name).ok_or_else(|| StoreError::Absent {
        why: format!("it has no table `{name}`; it has {}", TABLES.join(", ")),
    })
}

impl Writer {
    pub(super) fn do_chore(&mut self, ordered: Ordered) {
        let outcome = match ordered.chore {
            Chore::Reopen => self.reopen_checked(),
            Chore::Import { table, file } => self.with_open(|connection| import(connection, table, &file)),
            Chore::Prune(retention) => self.with_open(|connection| prune(connection, retention)),
        };
        // Whoever asked may have given up.
        let _ = ordered.done.send(outcome);
    }

    fn with_open(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<u64, StoreError>,
    ) -> Result<u64, StoreError> {
        let Some(open) = &self.open else {
            return Err(StoreError::Absent { why: "the file is not open".into() });
        };
        let changed = transaction(&open.connection, work)?;
        self.shared.status.lock().rows = rows::recount(&open.connection);
        Ok(changed)
    }

    fn reopen_checked(&mut self) -> Result<u64, StoreError> {
        let shared = Arc::clone(&self.shared);
        // No other connection may be left, or the file would stay open; questions wait for it.
        let _alone = shared.exports.write();
        let mut reader = shared.reader.lock();
        *reader = None;
        let Some(open) = self.open.take() else {
            return Err(StoreError::Absent { why: "the file is not open".into() });
        };
        let durable = open.applied_index;
        let written = open.connection.execute_batch("CHECKPOINT").tried("write the file out");
        drop(open);
        let outcome = written.and_then(|()| {
            let open = schema::open(&shared.path, &shared.options)?;
            if open.applied_index < durable {
                let why = format!(
                    "it names index {} and {durable} was written: it was removed or replaced while it was open",
                    open.applied_index
                );
                self.open = Some(open);
                return Err(StoreError::Corrupt { path: shared.path.clone(), why });
            }
            *reader = Some(open.reader()?);
            let rows = open.rows.values().sum();
            shared.status.lock().rows.clone_from(&open.rows);
            self.open = Some(open);
            Ok(rows)
        });
        if let Err(error) = &outcome {
            self.failed(error);
            let mut backlog = shared.backlog.lock();
            backlog.dropped_through = backlog.dropped_through.max(backlog.appended_index).max(1);
        }
        outcome
    }
}

/// What makes two rows of a table the same, beside the place at which they were written: a
/// rebuilt row has another one.
fn same(table: &str) -> &'static str {
    match table {
        "tasks" => "t.seq = s.seq",
        "attempts" => "t.seq = s.seq AND t.token = s.token",
        "results" => {
            "t.seq = s.seq AND t.state = s.state AND t.attempt = s.attempt AND t.finished_at = s.finished_at"
        }
        "reopened" => "t.seq = s.seq AND t.reopened_at = s.reopened_at",
        "workers" => "t.worker_id = s.worker_id AND t.state = s.state AND t.changed_at = s.changed_at",
        _ => {
            "t.happened_at = s.happened_at AND t.kind = s.kind AND t.subject = s.subject AND t.detail = s.detail"
        }
    }
}

fn import(connection: &Connection, table: &str, file: &Path) -> Result<u64, StoreError> {
    let sql = format!(
        "INSERT INTO {table} SELECT * FROM read_parquet({}) s WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE {})",
        super::history::quoted(file),
        same(table)
    );
    Ok(connection.execute(&sql, []).tried("take in a peer's history")? as u64)
}

fn prune(connection: &Connection, retention: Retention) -> Result<u64, StoreError> {
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u64>(0)).tried("count results");
    let before = Millis(retention.before_wall_ms);
    // Every reopening voids one result.
    let finished =
        count("SELECT count(*) FROM results")?.saturating_sub(count("SELECT count(*) FROM reopened")?);
    let surplus = finished.saturating_sub(retention.keep_tasks).min(PRUNE_TASKS);
    let valid = super::query::VALID;
    let old = format!("SELECT seq FROM results r WHERE finished_at < ? AND {valid} LIMIT {PRUNE_TASKS}");
    let most = format!("SELECT seq FROM results r WHERE {valid} ORDER BY finished_at, seq LIMIT {surplus}");
    connection
        .execute_batch("CREATE OR REPLACE TEMP TABLE leaving (seq UBIGINT)")
        .tried("find old history")?;
    connection.execute(&format!("INSERT INTO leaving {old}"), [&before]).tried("find old history")?;
    if surplus > 0 && count("SELECT count(*) FROM leaving")? == 0 {
        connection.execute(&format!("INSERT INTO leaving {most}"), []).tried("find surplus history")?;
    }
    let mut gone = 0;
    if count("SELECT count(*) FROM leaving")? > 0 {
        for table in ["attempts", "results", "reopened", "tasks"] {
            let sql = format!("DELETE FROM {table} WHERE seq IN (SELECT seq FROM leaving)");
            gone += connection.execute(&sql, []).tried("let old history go")? as u64;
        }
    }
    let events = format!(
        "DELETE FROM events WHERE rowid IN (SELECT rowid FROM events WHERE happened_at < ? LIMIT {PRUNE_TASKS})"
    );
    gone += connection.execute(&events, [&before]).tried("let old events go")? as u64;
    let workers = format!(
        "DELETE FROM workers WHERE rowid IN (SELECT w.rowid FROM workers w WHERE w.changed_at < ? AND EXISTS
         (SELECT 1 FROM workers n WHERE n.worker_id = w.worker_id AND n.changed_at > w.changed_at) LIMIT {PRUNE_TASKS})"
    );
    gone += connection.execute(&workers, [&before]).tried("let old workers go")? as u64;
    connection.execute_batch("DROP TABLE leaving").tried("forget what left")?;
    Ok(gone)
}
