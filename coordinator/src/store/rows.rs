//! Effects as rows.
//!
//! `log_index` and `place` (the effect's position in its entry) order the rows of one task: a
//! result counts unless the task was reopened behind it.

use super::error::Tried;
use super::schema::TABLES;
use super::{StoreError, schema};
use crate::machine::{Demand, Effect, Worker};
use duckdb::types::{TimeUnit, ToSqlOutput, Value};
use duckdb::{Appender, Connection, ToSql, params};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Entries of the log with their effects.
pub(super) type Entries = [(u64, Vec<Effect>)];

/// Unix milliseconds as a DuckDB timestamp, drawn to the years that it and the wire both know.
pub(super) struct Millis(pub(super) i64);

impl ToSql for Millis {
    fn to_sql(&self) -> duckdb::Result<ToSqlOutput<'_>> {
        let ms = crate::machine::wall(self.0).as_millisecond();
        Ok(ToSqlOutput::Owned(Value::Timestamp(TimeUnit::Microsecond, ms.saturating_mul(1000))))
    }
}

/// Appends the rows of all effects; `prefix` is put before the tables' names. Gives the rows by table.
pub(super) fn append(
    connection: &Connection,
    entries: &Entries,
    prefix: &str,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut rows = BTreeMap::new();
    for table in TABLES {
        let mut appender: Option<Appender> = None;
        let mut count = 0;
        for (index, effects) in entries {
            for (place, effect) in (0u32..).zip(effects) {
                if table_of(effect) != Some(table) {
                    continue;
                }
                if appender.is_none() {
                    appender = Some(open_appender(connection, prefix, table)?);
                }
                if let Some(appender) = &mut appender {
                    append_row(appender, *index, place, effect).tried("append a row")?;
                    count += 1;
                }
            }
        }
        if let Some(mut appender) = appender {
            appender.flush().tried("write the rows")?;
        }
        rows.insert(table.to_owned(), count);
    }
    Ok(rows)
}

fn open_appender<'a>(
    connection: &'a Connection,
    prefix: &str,
    table: &str,
) -> Result<Appender<'a>, StoreError> {
    if prefix.is_empty() {
        return connection.appender(table).tried("open an appender");
    }
    let table = format!("{prefix}{table}");
    connection.appender_to_catalog_and_db(&table, "temp", "main").tried("open an appender")
}

fn table_of(effect: &Effect) -> Option<&'static str> {
    match effect {
        Effect::TaskSubmitted { .. } => Some("tasks"),
        Effect::Assigned { .. } => None,
        Effect::AttemptEnded { .. } => Some("attempts"),
        Effect::TaskFinished { .. } => Some("results"),
        Effect::TaskReopened { .. } => Some("reopened"),
        Effect::WorkerChanged { .. } => Some("workers"),
        Effect::Event { .. } => Some("events"),
    }
}

/// The labels as an object; with alternatives as a list, the labels first.
pub(super) fn labels_json(demand: &Demand) -> Cow<'static, str> {
    match demand.any_of.is_empty() {
        true => json_map(&demand.labels),
        false => {
            let sets: Vec<_> = std::iter::once(&demand.labels).chain(&demand.any_of).collect();
            Cow::Owned(json(&sets))
        }
    }
}

fn append_row(out: &mut Appender, index: u64, place: u32, effect: &Effect) -> duckdb::Result<()> {
    match effect {
        Effect::TaskSubmitted { spec } => out.append_row(params![
            index,
            place,
            spec.seq,
            &*spec.id,
            spec.demand.kind,
            spec.priority,
            &*spec.config,
            labels_json(&spec.demand),
            json_map(&spec.demand.resources),
            spec.timeout_ms,
            spec.max_retries,
            spec.retry_backoff_ms,
            Millis(spec.created_wall_ms)
        ]),
        Effect::Assigned { .. } => Ok(()),
        Effect::AttemptEnded { spec, attempt, result, .. } => out.append_row(params![
            index,
            place,
            spec.seq,
            &*spec.id,
            attempt.attempt,
            &*attempt.worker_id,
            attempt.token,
            Millis(attempt.assigned_wall_ms),
            attempt.started_wall_ms.map(Millis),
            attempt.finished_wall_ms.map(Millis),
            attempt.outcome.map(|outcome| outcome.as_str()),
            attempt.error.as_deref(),
            result.as_deref(),
            json(&attempt.used)
        ]),
        Effect::TaskFinished { spec, state, attempt, worker_id, finished_wall_ms, error, result } => out
            .append_row(params![
                index,
                place,
                spec.seq,
                &*spec.id,
                spec.demand.kind,
                state.as_str(),
                *attempt,
                worker_id.as_deref(),
                Millis(*finished_wall_ms),
                error.as_deref(),
                result.as_deref()
            ]),
        Effect::TaskReopened { spec, wall_ms } => {
            out.append_row(params![index, place, spec.seq, &*spec.id, Millis(*wall_ms)])
        }
        Effect::WorkerChanged { worker, wall_ms } => append_worker(out, index, place, worker, *wall_ms),
        Effect::Event { kind, subject, detail, wall_ms } => {
            out.append_row(params![index, place, Millis(*wall_ms), kind.as_str(), &**subject, detail])
        }
    }
}

fn append_worker(
    out: &mut Appender,
    index: u64,
    place: u32,
    worker: &Worker,
    wall_ms: i64,
) -> duckdb::Result<()> {
    let spec = worker.spec();
    out.append_row(params![
        index,
        place,
        worker.id(),
        worker.state().as_str(),
        spec.slots,
        json(&spec.labels),
        json(&spec.resources),
        json(&spec.types),
        spec.host.as_deref(),
        Millis(worker.registered_wall_ms()),
        Millis(wall_ms)
    ])
}

/// Most maps are empty.
fn json_map<V: Serialize>(map: &BTreeMap<String, V>) -> Cow<'static, str> {
    if map.is_empty() { Cow::Borrowed("{}") } else { Cow::Owned(json(map)) }
}

pub(super) fn json(value: &impl Serialize) -> String {
    // Maps of text have no failure.
    serde_json::to_string(value).unwrap_or_default()
}

/// Names the index up to which the file holds effects.
pub(super) fn set_applied(connection: &Connection, index: u64) -> Result<(), StoreError> {
    connection.execute("UPDATE meta SET applied_index = ?", [index]).tried("write the applied index")?;
    Ok(())
}

/// Runs `work` in a transaction.
pub(super) fn transaction<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    failpoint!("store_before_begin");
    connection.execute_batch("BEGIN").tried("begin a transaction")?;
    let outcome = work(connection).and_then(|value| {
        failpoint!("store_before_commit");
        connection.execute_batch("COMMIT").tried("commit")?;
        failpoint!("store_after_commit");
        Ok(value)
    });
    if outcome.is_err() {
        // Nothing to roll back where the commit itself ended the transaction.
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome
}

/// The rows as they are counted anew.
pub(super) fn recount(connection: &Connection) -> BTreeMap<String, u64> {
    schema::count_rows(connection).unwrap_or_default()
}
