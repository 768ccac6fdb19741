//! History as Parquet files: for a peer that lost its own, for a backup, for people.
//!
//! A table is read in slices by log index, each bounded in rows and bytes, so that neither side
//! ever holds much of it, and a transfer that broke off goes on with the next slice. Files are
//! made on a connection of their own: nobody's question waits for them.

use super::chores::table_named;
use super::error::Tried;
use super::query::{self, RECORD, VALID};
use super::{ResultFilter, Store, StoreError};
use duckdb::{Connection, params};
use std::path::Path;

/// Rows of one slice, unless one entry alone has more.
const SLICE_ROWS: u64 = 50_000;
/// Bytes of text in one slice, unless one entry alone has more.
const SLICE_BYTES: u64 = 64 << 20;

/// A part of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// It holds the rows up to and with this log index.
    pub upto: u64,
    /// True where more follow.
    pub more: bool,
    /// Its rows.
    pub rows: u64,
}

impl Store {
    /// Writes the next rows of a table behind log index `after`, none beyond `until`, to a Parquet
    /// file.
    pub fn export_slice(&self, table: &str, after: u64, until: u64, to: &Path) -> Result<Slice, StoreError> {
        let table = table_named(table)?;
        self.apart(|connection| export_slice(connection, table, after, until, to))
    }

    /// Writes the finished tasks that fit to a Parquet file, all of them. Gives how many.
    pub fn export_results(&self, filter: &ResultFilter, to: &Path) -> Result<u64, StoreError> {
        self.apart(|connection| export_results(connection, filter, to))
    }

    /// True where rows that have left memory may be missing: after a rebuild, until a peer's
    /// history was taken in.
    pub fn history_wanted(&self) -> bool {
        super::schema::wanted_path(&self.shared.path).exists()
    }

    /// The history is as whole as it can be had.
    pub fn history_complete(&self) -> Result<(), StoreError> {
        let note = super::schema::wanted_path(&self.shared.path);
        match std::fs::remove_file(&note) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", &note, e)),
            _ => Ok(()),
        }
    }

    /// Works on a connection of its own; the file stays open as long.
    fn apart<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _open = self.shared.exports.read();
        let own = match &*self.shared.reader.lock() {
            Some(reader) => reader.try_clone().tried("open another connection")?,
            None => return Err(self.absent()),
        };
        work(&own)
    }
}

fn export_results(connection: &Connection, filter: &ResultFilter, to: &Path) -> Result<u64, StoreError> {
    const COLUMNS: &str = "seq, task_id, type, priority, state, config, labels, resources, timeout_ms,
        max_retries, retry_backoff_ms, created_ms, finished_ms, attempt, worker_id, error, result";
    let (condition, values) = query::condition(filter);
    // COPY takes no parameters, so what fits is chosen first.
    let sql = format!(
        "CREATE OR REPLACE TEMP TABLE chosen AS SELECT * FROM ({RECORD} FROM results r JOIN tasks t ON t.seq = r.seq
         WHERE {condition} AND {VALID}) AS chosen_rows({COLUMNS})"
    );
    let values: Vec<&dyn duckdb::ToSql> = values.iter().map(|value| &**value).collect();
    connection.execute(&sql, values.as_slice()).tried("choose results")?;
    let sql = format!(
        "COPY (SELECT * EXCLUDE (created_ms, finished_ms), make_timestamp(created_ms * 1000) AS created_at,
             make_timestamp(finished_ms * 1000) AS finished_at FROM chosen ORDER BY seq)
         TO {} (FORMAT parquet, COMPRESSION zstd)",
        quoted(to)
    );
    connection.execute_batch(&sql).tried("write the Parquet file")?;
    let count = connection.query_row("SELECT count(*) FROM chosen", [], |row| row.get(0));
    connection.execute_batch("DROP TABLE chosen").tried("forget the choice")?;
    count.tried("count the results")
}

fn export_slice(
    connection: &Connection,
    table: &str,
    after: u64,
    until: u64,
    to: &Path,
) -> Result<Slice, StoreError> {
    let bytes = match table {
        "tasks" => "strlen(config)",
        "attempts" | "results" => "coalesce(strlen(result), 0) + coalesce(strlen(error), 0)",
        "events" => "strlen(detail)",
        _ => "100",
    };
    // Whole entries only, so that the next slice begins behind one.
    let sql = format!(
        "SELECT coalesce(max(log_index) FILTER (bytes <= {SLICE_BYTES}), min(log_index)) FROM (
             SELECT log_index, sum({bytes}) OVER (ORDER BY log_index, place) AS bytes
             FROM (SELECT * FROM {table} WHERE log_index > ? AND log_index <= {until} ORDER BY log_index, place LIMIT {SLICE_ROWS}))"
    );
    let upto: Option<u64> = connection.query_row(&sql, [after], |row| row.get(0)).tried("find a slice")?;
    let upto = upto.unwrap_or(after);
    let sql = format!(
        "COPY (SELECT * FROM {table} WHERE log_index > {after} AND log_index <= {upto} ORDER BY log_index, place) TO {} (FORMAT parquet, COMPRESSION zstd)",
        quoted(to)
    );
    connection.execute_batch(&sql).tried("write a slice")?;
    let sql = format!(
        "SELECT count(*) FILTER (log_index <= $2), count(*) FILTER (log_index > $2) > 0 FROM {table}
         WHERE log_index > $1 AND log_index <= {until}"
    );
    let row = connection.query_row(&sql, params![after, upto], |row| Ok((row.get(0)?, row.get(1)?)));
    let (rows, more) = row.tried("count a slice")?;
    Ok(Slice { upto, more, rows })
}

/// A path as SQL text.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "''"))
}
