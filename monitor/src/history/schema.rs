//! The file: its tables, and how it is opened.
//!
//! A file that DuckDB can't read is put aside under another name, never deleted, and a new one is
//! begun: history is worth having, but not worth a monitor that does not start. A file that
//! another process has open, or that is another program's, is refused.

use super::error::{HistoryError, Tried};
use super::tier::{self, Held};
use duckdb::{Config, Connection, Row};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Version of the tables.
const SCHEMA_VERSION: u32 = 1;
/// What `meta` says.
const APPLICATION: &str = "holdfast-monitor";
/// Bytes of DuckDB's write-ahead log at which it is moved into the file: about once an hour.
const CHECKPOINT_THRESHOLD: &str = "16MB";

/// Metric, node and peer.
pub(super) type SeriesKey = (String, Option<String>, Option<String>);
/// A series' id: counted from 1, none is ever taken back.
pub(super) type SeriesIds = BTreeMap<SeriesKey, u32>;

/// An open file with what is known of it.
pub(super) struct Open {
    pub(super) connection: Connection,
    pub(super) series: SeriesIds,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) held: [Held; tier::COUNT],
    /// Rows of each tier.
    pub(super) rows: [u64; tier::COUNT],
    /// The newest sample.
    pub(super) newest_ms: i64,
}

/// Opens the file, or memory; gives where a damaged file was put.
pub(super) fn open(
    path: Option<&Path>,
    memory_limit_mb: u64,
) -> Result<(Open, Option<PathBuf>), HistoryError> {
    let Some(path) = path else {
        let connection =
            Connection::open_in_memory_with_flags(config(memory_limit_mb)?).tried("open memory")?;
        return Ok((prepare(connection)?, None));
    };
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|source| HistoryError::File { path: folder.to_owned(), source })?;
    }
    match open_file(path, memory_limit_mb) {
        Ok(open) => Ok((open, None)),
        Err(Refusal::Unusable(why)) => Err(HistoryError::Open { path: path.to_owned(), why }),
        Err(Refusal::Damaged(why)) => {
            let aside = put_aside(path)?;
            tracing::error!(path = %path.display(), aside = %aside.display(), why, "history was damaged; a new one is begun");
            match open_file(path, memory_limit_mb) {
                Ok(open) => Ok((open, Some(aside))),
                Err(Refusal::Unusable(why) | Refusal::Damaged(why)) => {
                    Err(HistoryError::Open { path: path.to_owned(), why })
                }
            }
        }
    }
}

enum Refusal {
    /// Not the file's fault, or not our file.
    Unusable(String),
    Damaged(String),
}

fn open_file(path: &Path, memory_limit_mb: u64) -> Result<Open, Refusal> {
    let config = config(memory_limit_mb).map_err(|e| Refusal::Unusable(e.to_string()))?;
    let connection = Connection::open_with_flags(path, config).map_err(|error| {
        let why = error.to_string();
        let text = why.to_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if says(&["conflicting lock", "could not set lock"]) {
            return Refusal::Unusable("another monitor has it open; give another --output-dir".into());
        }
        let outside = [
            "permission denied",
            "no space",
            "could not write",
            "out of memory",
            "read-only",
            "too many open",
        ];
        match says(&outside) || says(&["version number", "cannot open file"]) {
            true => Refusal::Unusable(why),
            false => Refusal::Damaged(why),
        }
    })?;
    let foreign = is_foreign(&connection).map_err(|e| Refusal::Damaged(e.to_string()))?;
    if let Some(why) = foreign {
        return Err(Refusal::Unusable(why));
    }
    prepare(connection).map_err(|e| Refusal::Damaged(e.to_string()))
}

/// Why the file is not ours, if it is not.
fn is_foreign(connection: &Connection) -> duckdb::Result<Option<String>> {
    let count =
        "SELECT count(*), count(*) FILTER (table_name = 'meta') FROM duckdb_tables() WHERE NOT internal";
    let (tables, metas): (u64, u64) =
        connection.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if tables == 0 {
        return Ok(None);
    }
    if metas == 0 {
        return Ok(Some(format!("it is another program's database, with {tables} tables")));
    }
    let sql = "SELECT application, schema_version FROM meta";
    let row = |row: &Row| Ok((row.get(0)?, row.get(1)?));
    let (application, version): (String, u32) = match connection.query_row(sql, [], row) {
        Ok(found) => found,
        Err(error) if error.to_string().contains("Binder Error") => {
            return Ok(Some("it is another program's database: its `meta` has other columns".into()));
        }
        Err(error) => return Err(error),
    };
    Ok(match (application.as_str(), version) {
        (APPLICATION, SCHEMA_VERSION) => None,
        (APPLICATION, version) => {
            Some(format!("its tables are of version {version}, this monitor knows {SCHEMA_VERSION}"))
        }
        (other, _) => Some(format!("it is a database of `{other}`")),
    })
}

/// Moves the file and its log to a name that is free.
fn put_aside(path: &Path) -> Result<PathBuf, HistoryError> {
    let failed = |source| HistoryError::File { path: path.to_owned(), source };
    let at = Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
    let aside = PathBuf::from(format!("{}.damaged-{at}", path.display()));
    let wal = |path: &Path| PathBuf::from(format!("{}.wal", path.display()));
    std::fs::rename(path, &aside).map_err(failed)?;
    match std::fs::rename(wal(path), wal(&aside)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(aside),
    }
}

fn config(memory_limit_mb: u64) -> Result<Config, HistoryError> {
    Config::default()
        .enable_autoload_extension(false)
        .and_then(|c| c.max_memory(&format!("{memory_limit_mb}MB")))
        .and_then(|c| c.threads(1))
        .and_then(|c| c.with("checkpoint_threshold", CHECKPOINT_THRESHOLD))
        .tried("set up DuckDB")
}

fn tables_sql() -> String {
    let joined = (1..tier::COUNT).map(|tier| {
        format!(
            "CREATE TABLE {} (at_ms BIGINT NOT NULL, series UINTEGER NOT NULL, min DOUBLE NOT NULL,
             max DOUBLE NOT NULL, sum DOUBLE NOT NULL, count UINTEGER NOT NULL, last DOUBLE NOT NULL);",
            tier::table(tier)
        )
    });
    format!(
        "BEGIN;
         CREATE TABLE meta (application VARCHAR NOT NULL, schema_version UINTEGER NOT NULL);
         INSERT INTO meta VALUES ('{APPLICATION}', {SCHEMA_VERSION});
         CREATE TABLE series (id UINTEGER NOT NULL, metric VARCHAR NOT NULL, node VARCHAR, peer VARCHAR);
         CREATE TABLE names (id UBIGINT NOT NULL, name VARCHAR NOT NULL);
         CREATE TABLE tiers (tier UINTEGER NOT NULL, from_ms BIGINT NOT NULL, to_ms BIGINT NOT NULL);
         CREATE TABLE {} (at_ms BIGINT NOT NULL, series UINTEGER NOT NULL, value DOUBLE NOT NULL);
         {}
         CREATE TABLE events (at_ms BIGINT NOT NULL, kind VARCHAR NOT NULL, severity VARCHAR NOT NULL,
             nodes VARCHAR NOT NULL, text VARCHAR NOT NULL, fault VARCHAR);
         CREATE TABLE findings (kind VARCHAR NOT NULL, nodes VARCHAR NOT NULL, severity VARCHAR NOT NULL,
             since BIGINT NOT NULL, found_at BIGINT NOT NULL, ended_at BIGINT, evidence VARCHAR NOT NULL);
         COMMIT;",
        tier::table(0),
        joined.collect::<String>()
    )
}

/// Makes the tables where there are none, and reads what must be known to go on.
fn prepare(connection: Connection) -> Result<Open, HistoryError> {
    let count = "SELECT count(*) FROM duckdb_tables() WHERE NOT internal";
    let tables: u64 = connection.query_row(count, [], |row| row.get(0)).tried("list the tables")?;
    if tables == 0 {
        connection.execute_batch(&tables_sql()).tried("make the tables")?;
    }
    let mut open = Open {
        series: BTreeMap::new(),
        names: BTreeMap::new(),
        held: [Held { from_ms: 0, to_ms: 0 }; tier::COUNT],
        rows: [0; tier::COUNT],
        newest_ms: i64::MIN,
        connection,
    };
    read_series(&mut open).tried("read the series")?;
    for tier in 0..tier::COUNT {
        let sql = format!("SELECT count(*), min(at_ms), max(at_ms) FROM {}", tier::table(tier));
        let row = |row: &Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (rows, first, last): (u64, Option<i64>, Option<i64>) =
            open.connection.query_row(&sql, [], row).tried("read the tiers")?;
        let width_ms = tier::SECONDS[tier] as i64 * 1_000;
        open.rows[tier] = rows;
        open.held[tier] = match (tier, first, last) {
            (0, first, last) => {
                open.newest_ms = last.unwrap_or(i64::MIN);
                Held { from_ms: first.unwrap_or(i64::MIN), to_ms: i64::MAX }
            }
            (_, Some(first), Some(last)) => Held { from_ms: first, to_ms: last + width_ms },
            _ => Held { from_ms: i64::MIN, to_ms: i64::MIN },
        };
    }
    // Said in its own table, because a bucket without a sample leaves no row.
    let sql = "SELECT tier, from_ms, to_ms FROM tiers";
    let mut statement = open.connection.prepare(sql).tried("read the tiers")?;
    let row = |row: &Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let rows: Vec<(u32, i64, i64)> =
        statement.query_map([], row).and_then(Iterator::collect).tried("read the tiers")?;
    drop(statement);
    for (tier, from_ms, to_ms) in rows {
        if let Some(held) = open.held.get_mut(tier as usize) {
            *held = Held { from_ms, to_ms };
        }
    }
    // What was going on when the monitor ended was last seen then.
    let newest = open.newest_ms.max(0);
    let sql = "UPDATE findings SET ended_at = greatest(found_at, ?) WHERE ended_at IS NULL";
    open.connection.execute(sql, [newest]).tried("end what was found before")?;
    Ok(open)
}

fn read_series(open: &mut Open) -> duckdb::Result<()> {
    let mut statement = open.connection.prepare("SELECT id, metric, node, peer FROM series")?;
    let row = |row: &Row| Ok(((row.get(1)?, row.get(2)?, row.get(3)?), row.get(0)?));
    open.series = statement.query_map([], row)?.collect::<duckdb::Result<_>>()?;
    let mut statement = open.connection.prepare("SELECT name, id FROM names")?;
    open.names =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<duckdb::Result<_>>()?;
    Ok(())
}
