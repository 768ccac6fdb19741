//! Questions to the store: finished tasks, on a connection of their own.

use super::error::Tried;
use super::rows::Millis;
use super::{Store, StoreError};
use crate::machine::wall;
use api::task::{Attempt, AttemptOutcome, PAGE_MAX, Requirements, TaskPage, TaskRecord, TaskState};
use duckdb::{Connection, Row, ToSql, params};
use jiff::Timestamp;
use serde_json::value::RawValue;

/// Bytes of results in one page; a page that would be larger ends earlier.
const PAGE_BYTES: u64 = 8 << 20;

/// Which finished tasks are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultFilter {
    /// Only those of this type.
    pub kind: Option<String>,
    /// Only those that ended in this state.
    pub status: Option<TaskState>,
    /// Only those that ended at this time or later.
    pub from: Option<Timestamp>,
    /// Only those that ended before this time.
    pub to: Option<Timestamp>,
    /// At most so many; between 1 and [`PAGE_MAX`].
    pub limit: usize,
    /// Only those submitted after this one: the `next` of the page before.
    pub after: Option<u64>,
}

/// A result counts unless its task was reopened behind it.
pub(super) const VALID: &str = "NOT EXISTS (SELECT 1 FROM reopened o WHERE o.seq = r.seq
    AND (o.log_index, o.place) > (r.log_index, r.place))";

pub(super) const RECORD: &str =
    "SELECT t.seq, t.task_id, t.kind, t.priority, r.state, t.config, t.labels, t.resources,
    t.timeout_ms, t.max_retries, t.retry_backoff_ms, epoch_ms(t.created_at), epoch_ms(r.finished_at),
    r.attempt, r.worker_id, r.error, r.result";

impl Store {
    /// Finished tasks in order of submission, with their results and without their attempts.
    pub fn results(&self, filter: &ResultFilter) -> Result<TaskPage, StoreError> {
        self.ask(|connection| results(connection, filter))
    }

    /// A finished task with attempts and result; of several under one id the newest. A task that
    /// has not ended is the machine's to tell of.
    pub fn task(&self, id: &str) -> Result<Option<TaskRecord>, StoreError> {
        self.ask(|connection| task(connection, id))
    }

    /// Reads every row of every table, so that DuckDB checks every block. Gives how many it read.
    pub fn verify(&self) -> Result<u64, StoreError> {
        self.ask(|connection| {
            let mut total = 0;
            for table in super::schema::TABLES {
                let sql = format!("SELECT count(*), coalesce(bit_xor(hash(t)), 0) FROM {table} t");
                let row = |row: &Row| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?));
                total += connection.query_row(&sql, [], row).tried("read every row")?.0;
            }
            Ok(total)
        })
    }

    pub(super) fn ask<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let reader = self.shared.reader.lock();
        match &*reader {
            Some(connection) => work(connection),
            None => Err(self.absent()),
        }
    }

    /// Why there is nothing to ask.
    pub(super) fn absent(&self) -> StoreError {
        let fault = self.shared.status.lock().fault.clone();
        StoreError::Absent { why: fault.unwrap_or_else(|| "it is closed".into()) }
    }
}

/// What a filter asks of the results `r`, with the values of its parameters.
pub(super) fn condition(filter: &ResultFilter) -> (String, Vec<Box<dyn ToSql>>) {
    let mut sql = "r.seq > ?".to_owned();
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(filter.after.unwrap_or(0))];
    let mut also = |condition: &str, value: Option<Box<dyn ToSql>>| {
        if let Some(value) = value {
            sql.push_str(condition);
            values.push(value);
        }
    };
    let time = |at: Timestamp| Box::new(Millis(at.as_millisecond())) as Box<dyn ToSql>;
    also(" AND r.kind = ?", filter.kind.clone().map(|kind| Box::new(kind) as _));
    also(" AND r.state = ?", filter.status.map(|status| Box::new(status.as_str()) as _));
    also(" AND r.finished_at >= ?", filter.from.map(time));
    also(" AND r.finished_at < ?", filter.to.map(time));
    (sql, values)
}

fn results(connection: &Connection, filter: &ResultFilter) -> Result<TaskPage, StoreError> {
    let limit = filter.limit.clamp(1, PAGE_MAX);
    let (condition, values) = condition(filter);
    let sql = format!(
        "SELECT r.seq, coalesce(strlen(r.result), 0) + coalesce(strlen(r.error), 0) FROM results r
         WHERE {condition} AND {VALID} ORDER BY r.seq LIMIT {}",
        limit + 1
    );
    let values: Vec<&dyn ToSql> = values.iter().map(|value| &**value).collect();
    let mut statement = connection.prepare(&sql).tried("prepare the query of results")?;
    let found = statement.query_map(values.as_slice(), |row| Ok((row.get(0)?, row.get(1)?)));
    let found: Result<Vec<(u64, u64)>, _> = found.tried("query results")?.collect();
    let found = found.tried("read results")?;

    let mut bytes = 0;
    let fits = |(at, (_, size)): &(usize, &(u64, u64))| {
        bytes += size;
        *at < limit && (*at == 0 || bytes <= PAGE_BYTES)
    };
    let rows = found.iter().enumerate().take_while(fits).count();
    let (Some((first, _)), Some((last, _))) = (found.first(), found[..rows].last()) else {
        return Ok(TaskPage { tasks: Vec::new(), next: None });
    };
    let wanted: std::collections::BTreeSet<u64> = found[..rows].iter().map(|(seq, _)| *seq).collect();
    let list = wanted.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let sql = format!(
        "{RECORD} FROM results r JOIN tasks t ON t.seq = r.seq
         WHERE r.seq BETWEEN ? AND ? AND t.seq BETWEEN ? AND ? AND r.seq IN ({list}) AND {VALID} ORDER BY r.seq"
    );
    let mut statement = connection.prepare(&sql).tried("prepare the query of tasks")?;
    let tasks = statement.query_map(params![first, last, first, last], record).tried("query tasks")?;
    let tasks: Result<Vec<(u64, TaskRecord)>, _> = tasks.collect();
    let tasks = tasks.tried("read tasks")?.into_iter().map(|(_, task)| task).collect();
    Ok(TaskPage { tasks, next: (found.len() > rows).then(|| last.to_string()) })
}

fn task(connection: &Connection, id: &str) -> Result<Option<TaskRecord>, StoreError> {
    let sql = "SELECT max(seq) FROM tasks WHERE task_id = ?";
    let seq: Option<u64> = connection.query_row(sql, [id], |row| row.get(0)).tried("find a task")?;
    let Some(seq) = seq else { return Ok(None) };
    let sql = format!(
        "{RECORD} FROM results r JOIN tasks t ON t.seq = r.seq WHERE r.seq = ? AND t.seq = ? AND {VALID}"
    );
    let found = match connection.query_row(&sql, [seq, seq], record) {
        Ok((_, task)) => task,
        Err(duckdb::Error::QueryReturnedNoRows) => return Ok(None),
        Err(source) => return Err(StoreError::DuckDb { tried: "read a task", source }),
    };
    let sql = "SELECT attempt, worker_id, token, epoch_ms(assigned_at), epoch_ms(started_at),
        epoch_ms(finished_at), outcome, error FROM attempts WHERE seq = ? ORDER BY token";
    let mut statement = connection.prepare(sql).tried("prepare the query of attempts")?;
    let attempts = statement.query_map([seq], attempt).tried("query attempts")?;
    let attempts: Result<Vec<Attempt>, _> = attempts.collect();
    Ok(Some(TaskRecord { attempts: attempts.tried("read attempts")?, ..found }))
}

fn attempt(row: &Row) -> duckdb::Result<Attempt> {
    let outcome: Option<String> = row.get(6)?;
    Ok(Attempt {
        attempt: row.get(0)?,
        worker_id: row.get(1)?,
        token: row.get(2)?,
        assigned_at: wall(row.get(3)?),
        started_at: row.get::<_, Option<i64>>(4)?.map(wall),
        finished_at: row.get::<_, Option<i64>>(5)?.map(wall),
        outcome: outcome.as_deref().and_then(outcome_of),
        error: row.get(7)?,
    })
}

fn outcome_of(name: &str) -> Option<AttemptOutcome> {
    use AttemptOutcome::*;
    [Completed, Failed, TimedOut, LeaseExpired, Cancelled].into_iter().find(|o| o.as_str() == name)
}

/// As the rows have them: labels as an object, or as a list with the alternatives behind them.
fn requirements(labels: &str, resources: &str) -> Requirements {
    let mut sets: Vec<_> = match labels.starts_with('[') {
        true => serde_json::from_str(labels).unwrap_or_default(),
        false => serde_json::from_str(labels).into_iter().collect(),
    };
    let any_of = sets.split_off(sets.len().min(1));
    Requirements {
        labels: sets.pop().unwrap_or_default(),
        resources: serde_json::from_str(resources).unwrap_or_default(),
        any_of,
    }
}

fn record(row: &Row) -> duckdb::Result<(u64, TaskRecord)> {
    let json = |text: String| RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let state: String = row.get(4)?;
    let labels: String = row.get(6)?;
    let resources: String = row.get(7)?;
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let record = TaskRecord {
        task_id: row.get(1)?,
        kind: row.get(2)?,
        priority: row.get(3)?,
        state: TaskState::parse(&state).unwrap_or(TaskState::Failed),
        config: json(row.get(5)?),
        requirements: requirements(&labels, &resources),
        timeout_seconds: seconds(row.get(8)?),
        max_retries: row.get(9)?,
        retry_backoff_seconds: seconds(row.get(10)?),
        created_at: wall(row.get(11)?),
        finished_at: Some(wall(row.get(12)?)),
        attempt: row.get(13)?,
        worker_id: row.get(14)?,
        token: None,
        error: row.get(15)?,
        attempts: Vec::new(),
        result: row.get::<_, Option<String>>(16)?.map(json),
    };
    Ok((row.get(0)?, record))
}
