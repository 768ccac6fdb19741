//! The tables, and what is checked before a file counts as ours and sound.
//!
//! Beside the file lies a mark (`coordinator.duckdb.owner`). It is locked while a store has the
//! file open, since DuckDB's own lock does not keep two stores of one process apart; and it says
//! that the file is ours even when its first page no longer does, which tells a damaged file
//! (quarantined) from another program's (left alone).

use super::error::Tried;
use super::quarantine::{Quarantined, quarantine};
use super::{StoreError, StoreOptions};
use duckdb::{Config, Connection};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version of the tables.
pub const SCHEMA_VERSION: u32 = 1;
/// What the mark and `meta.application` say.
const APPLICATION: &str = "holdfast";

/// Bytes of DuckDB's write-ahead log at which it is moved into the file.
const CHECKPOINT_THRESHOLD: &str = "64MB";

/// The tables that hold rows of history.
pub(super) const TABLES: [&str; 6] = ["tasks", "attempts", "results", "reopened", "workers", "events"];

const TABLES_SQL: &str = "
CREATE TABLE tasks (
    log_index UBIGINT NOT NULL, place UINTEGER NOT NULL, seq UBIGINT NOT NULL, task_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL, priority UTINYINT NOT NULL, config VARCHAR NOT NULL, labels VARCHAR NOT NULL,
    resources VARCHAR NOT NULL, timeout_ms UBIGINT NOT NULL, max_retries UINTEGER NOT NULL,
    retry_backoff_ms UBIGINT NOT NULL, created_at TIMESTAMP NOT NULL);
CREATE TABLE attempts (
    log_index UBIGINT NOT NULL, place UINTEGER NOT NULL, seq UBIGINT NOT NULL, task_id VARCHAR NOT NULL,
    attempt UINTEGER NOT NULL, worker_id VARCHAR NOT NULL, token UBIGINT NOT NULL,
    assigned_at TIMESTAMP NOT NULL, started_at TIMESTAMP, finished_at TIMESTAMP, outcome VARCHAR,
    error VARCHAR, result VARCHAR, used VARCHAR NOT NULL);
CREATE TABLE results (
    log_index UBIGINT NOT NULL, place UINTEGER NOT NULL, seq UBIGINT NOT NULL, task_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL, state VARCHAR NOT NULL, attempt UINTEGER NOT NULL, worker_id VARCHAR,
    finished_at TIMESTAMP NOT NULL, error VARCHAR, result VARCHAR);
CREATE TABLE reopened (
    log_index UBIGINT NOT NULL, place UINTEGER NOT NULL, seq UBIGINT NOT NULL, task_id VARCHAR NOT NULL,
    reopened_at TIMESTAMP NOT NULL);
CREATE TABLE workers (
    log_index UBIGINT NOT NULL, place UINTEGER NOT NULL, worker_id VARCHAR NOT NULL, state VARCHAR NOT NULL,
    slots UINTEGER NOT NULL, labels VARCHAR NOT NULL, resources VARCHAR NOT NULL, types VARCHAR NOT NULL,
    host VARCHAR, registered_at TIMESTAMP NOT NULL, changed_at TIMESTAMP NOT NULL);
CREATE TABLE events (
    log_index UBIGINT NOT NULL, place UINTEGER NOT NULL, happened_at TIMESTAMP NOT NULL,
    kind VARCHAR NOT NULL, subject VARCHAR NOT NULL, detail VARCHAR NOT NULL);
";

const META_SQL: &str = "
CREATE TABLE meta (application VARCHAR NOT NULL, schema_version UINTEGER NOT NULL, applied_index UBIGINT NOT NULL);
INSERT INTO meta VALUES ('holdfast', 1, 0);
";

/// The same tables, empty and temporary, for a rebuild.
pub(super) fn staging_sql() -> String {
    TABLES
        .iter()
        .map(|table| format!("CREATE OR REPLACE TEMP TABLE staged_{table} AS SELECT * FROM {table} LIMIT 0;"))
        .collect()
}

/// An open file.
pub(super) struct Open {
    pub(super) connection: Connection,
    pub(super) applied_index: u64,
    pub(super) rows: BTreeMap<String, u64>,
    /// Locked while it lives.
    _mark: File,
}

impl Open {
    /// A second connection, for queries.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        self.connection.try_clone().tried("open a second connection")
    }
}

/// Opens the file; a damaged one of ours is moved away first and a fresh one begun.
pub(super) fn open_or_quarantine(
    path: &Path,
    options: &StoreOptions,
) -> Result<(Open, Option<Quarantined>), StoreError> {
    match open(path, options) {
        Ok(open) => Ok((open, None)),
        Err(StoreError::Corrupt { why, .. }) => {
            let quarantined = quarantine(path, options.quarantine.as_deref(), &why)?;
            tracing::error!(path = %path.display(), folder = %quarantined.folder.display(), why, "database quarantined");
            Ok((open(path, options)?, Some(quarantined)))
        }
        Err(error) => Err(error),
    }
}

/// Opens the file, or makes it.
pub(super) fn open(path: &Path, options: &StoreOptions) -> Result<Open, StoreError> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| StoreError::io("make", folder, e))?;
    }
    let bytes = match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(StoreError::Foreign { path: path.to_owned(), why: "it is no regular file".into() });
        }
        Ok(found) => found.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
        Err(e) => return Err(StoreError::io("look at", path, e)),
    };
    if bytes > 0 {
        let file = File::options().read(true).write(true).open(path);
        file.map_err(|e| StoreError::io("open for writing", path, e))?;
    }
    let mark_path = mark_path(path);
    let marked = std::fs::read_to_string(&mark_path).is_ok_and(|text| text.starts_with(APPLICATION));
    let ours = marked || bytes == 0;
    let mut mark = take_mark(path, &mark_path)?;
    let opened = connect(path, options, ours).and_then(|connection| {
        let (applied_index, rows) = check(&connection, path, marked)?;
        Ok((connection, applied_index, rows))
    });
    match opened {
        Ok((connection, applied_index, rows)) => {
            if !marked {
                let text = format!("{APPLICATION} owns {}\n", path.display());
                let written = mark.write_all(text.as_bytes()).and_then(|()| mark.sync_all());
                written.map_err(|e| StoreError::io("write", &mark_path, e))?;
            }
            Ok(Open { connection, applied_index, rows, _mark: mark })
        }
        Err(error) => {
            if !marked {
                drop(mark);
                let _ = std::fs::remove_file(&mark_path);
            }
            Err(error)
        }
    }
}

fn take_mark(path: &Path, mark_path: &Path) -> Result<File, StoreError> {
    let file = File::options().read(true).append(true).create(true).open(mark_path);
    let file = file.map_err(|e| StoreError::io("open", mark_path, e))?;
    file.try_lock().map_err(|e| match e {
        std::fs::TryLockError::WouldBlock => {
            StoreError::Locked { path: path.to_owned(), detail: format!("{} is locked", mark_path.display()) }
        }
        std::fs::TryLockError::Error(e) => StoreError::io("lock", mark_path, e),
    })?;
    Ok(file)
}

fn connect(path: &Path, options: &StoreOptions, ours: bool) -> Result<Connection, StoreError> {
    let open = |why: String| StoreError::Open { path: path.to_owned(), why };
    let config = config(options).map_err(|e| open(e.to_string()))?;
    Connection::open_with_flags(path, config).map_err(|error| {
        let why = error.to_string();
        let text = why.to_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if says(&["conflicting lock", "could not set lock"]) {
            return StoreError::Locked { path: path.to_owned(), detail: why };
        }
        // None of these is the file's fault.
        if says(&[
            "permission denied",
            "no space",
            "could not write",
            "out of memory",
            "version number",
            "not recognized",
        ]) || says(&[
            "invalid input error",
            "too many open files",
            "read-only file system",
            "parser error",
        ]) {
            return open(why);
        }
        match ours {
            true => StoreError::Corrupt { path: path.to_owned(), why },
            false => StoreError::Foreign { path: path.to_owned(), why },
        }
    })
}

fn config(options: &StoreOptions) -> duckdb::Result<Config> {
    let mut config = Config::default()
        .enable_autoload_extension(false)?
        .max_memory(&format!("{}MB", options.memory_limit_mb))?
        .threads(i64::from(options.threads.max(1)))?
        // A checkpoint compresses the last row group anew. The default (16 MB) does that three times
        // for every group of our rows, this about once.
        .with("checkpoint_threshold", CHECKPOINT_THRESHOLD)?;
    for (key, value) in &options.settings {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        config = config.with(key, text)?;
    }
    Ok(config)
}

/// Makes the tables where there are none, else checks that they are ours. Gives the applied index
/// and the rows by table.
fn check(
    connection: &Connection,
    path: &Path,
    marked: bool,
) -> Result<(u64, BTreeMap<String, u64>), StoreError> {
    let broken = |why: String| match marked {
        true => StoreError::Corrupt { path: path.to_owned(), why },
        false => StoreError::Foreign { path: path.to_owned(), why },
    };
    let failed = |error: duckdb::Error| broken(error.to_string());
    let count = "SELECT count(*) FROM duckdb_tables() WHERE NOT temporary AND NOT internal";
    let tables: u64 = connection.query_row(count, [], |row| row.get(0)).map_err(failed)?;
    if tables == 0 {
        let sql = format!("BEGIN; {TABLES_SQL} {META_SQL} COMMIT;");
        connection.execute_batch(&sql).tried("make the tables")?;
    }
    let count = "SELECT count(*) FROM duckdb_tables() WHERE NOT internal AND table_name = 'meta'";
    let meta: u64 = connection.query_row(count, [], |row| row.get(0)).map_err(failed)?;
    if meta == 0 {
        return Err(broken(format!("it has {tables} tables, and none is called `meta`")));
    }
    let sql = "SELECT application, schema_version, applied_index, count(*) OVER () FROM meta";
    let row = |row: &duckdb::Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let (application, found, applied_index, metas): (String, u32, u64, u64) =
        connection.query_row(sql, [], row).map_err(failed)?;
    if application != APPLICATION || metas != 1 {
        return Err(broken(format!("its `meta` names `{application}` in {metas} rows")));
    }
    if found != SCHEMA_VERSION {
        return Err(StoreError::SchemaVersion { path: path.to_owned(), found, known: SCHEMA_VERSION });
    }
    let rows = count_rows(connection).map_err(failed)?;
    Ok((applied_index, rows))
}

pub(super) fn count_rows(connection: &Connection) -> duckdb::Result<BTreeMap<String, u64>> {
    let mut rows = BTreeMap::new();
    for table in TABLES {
        let sql = format!("SELECT count(*) FROM {table}");
        rows.insert(table.to_owned(), connection.query_row(&sql, [], |row| row.get(0))?);
    }
    Ok(rows)
}

/// DuckDB's write-ahead log beside the file.
pub(super) fn wal_path(path: &Path) -> PathBuf {
    with_suffix(path, ".wal")
}

/// Notes beside the file that history may be missing in it.
pub(super) fn want_history(path: &Path) {
    if let Err(error) = std::fs::write(wanted_path(path), b"") {
        tracing::warn!(%error, path = %path.display(), "can't note that history is missing; after a crash it is not asked for");
    }
}

/// The note of [`want_history`].
pub(super) fn wanted_path(path: &Path) -> PathBuf {
    with_suffix(path, ".history-wanted")
}

fn mark_path(path: &Path) -> PathBuf {
    with_suffix(path, ".owner")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// True to its name or an error: nobody has the file open, and it is not another program's.
pub(super) fn owned_and_free(path: &Path) -> Result<(), StoreError> {
    let mark_path = mark_path(path);
    if !std::fs::read_to_string(&mark_path).is_ok_and(|text| text.starts_with(APPLICATION)) {
        let why = format!("{} does not say so", mark_path.display());
        return Err(StoreError::Foreign { path: path.to_owned(), why });
    }
    take_mark(path, &mark_path).map(drop)
}
