//! The content of the database, boiled down so that it can be compared with memory.
//!
//! Every task has one hash of what was submitted and, once it has ended, one of how. Both sides
//! compute them from their own columns or fields. Attempts are not compared: memory keeps only
//! the last ones.

use super::error::Tried;
use super::query::VALID;
use super::{Store, StoreError};
use crate::machine::Effect;
use crate::machine::checksum::Canon;
use duckdb::{Connection, Row};
use std::collections::BTreeMap;

/// A task, boiled down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Print {
    /// What was submitted.
    pub spec: u128,
    /// How it ended, where it has.
    pub result: Option<u128>,
}

/// The tasks that these effects tell of.
pub fn prints_of(effects: &[Effect]) -> BTreeMap<u64, Print> {
    let mut prints: BTreeMap<u64, Print> = BTreeMap::new();
    for effect in effects {
        match effect {
            Effect::TaskSubmitted { spec } => {
                let mut canon = Canon::new(20);
                canon.u64(spec.seq).text(&spec.id).text(&spec.demand.kind).u64(u64::from(spec.priority));
                canon.text(&spec.config).text(&super::rows::labels_json(&spec.demand));
                canon.text(&super::rows::json(&spec.demand.resources)).u64(spec.timeout_ms);
                canon.u64(u64::from(spec.max_retries)).u64(spec.retry_backoff_ms);
                canon.i64(crate::machine::wall(spec.created_wall_ms).as_millisecond());
                prints.entry(spec.seq).or_default().spec = canon.hash();
            }
            Effect::TaskFinished { spec, state, attempt, worker_id, finished_wall_ms, error, result } => {
                let mut canon = Canon::new(21);
                canon.u64(spec.seq).text(state.as_str()).u64(u64::from(*attempt));
                canon.maybe_text(worker_id.as_deref());
                canon.i64(crate::machine::wall(*finished_wall_ms).as_millisecond());
                canon.maybe_text(error.as_deref()).maybe_text(result.as_deref());
                prints.entry(spec.seq).or_default().result = Some(canon.hash());
            }
            _ => {}
        }
    }
    prints
}

impl Store {
    /// The tasks from number `first` to `last` as the database holds them.
    pub fn prints(&self, first: u64, last: u64) -> Result<BTreeMap<u64, Print>, StoreError> {
        self.ask(|connection| prints(connection, first, last))
    }

    /// Reads a part of a table from the file, so that DuckDB checks its blocks: rows `from` up to
    /// `from + count` by their place. Gives false behind the last one.
    pub fn read_rows(&self, table: &str, from: u64, count: u64) -> Result<bool, StoreError> {
        let table = super::chores::table_named(table)?;
        self.ask(|connection| {
            let sql = format!(
                "SELECT coalesce(bit_xor(hash(t)), 0) FROM {table} t WHERE rowid >= {from} AND rowid < {}",
                from.saturating_add(count)
            );
            let _: u64 = connection.query_row(&sql, [], |row| row.get(0)).tried("read rows")?;
            let sql = format!("SELECT coalesce(max(rowid), -1) FROM {table}");
            let last: i64 = connection.query_row(&sql, [], |row| row.get(0)).tried("find the last row")?;
            Ok(i64::try_from(from.saturating_add(count)).is_ok_and(|next| next <= last))
        })
    }
}

fn prints(connection: &Connection, first: u64, last: u64) -> Result<BTreeMap<u64, Print>, StoreError> {
    let mut prints: BTreeMap<u64, Print> = BTreeMap::new();
    let sql = "SELECT seq, task_id, kind, priority, config, labels, resources, timeout_ms, max_retries,
        retry_backoff_ms, epoch_ms(created_at) FROM tasks WHERE seq BETWEEN ? AND ?";
    let mut statement = connection.prepare(sql).tried("prepare the comparison of tasks")?;
    let rows = statement.query_map([first, last], spec_print).tried("compare tasks")?;
    for row in rows {
        let (seq, hash) = row.tried("read a task")?;
        prints.entry(seq).or_default().spec = hash;
    }
    let sql = format!(
        "SELECT seq, state, attempt, worker_id, epoch_ms(finished_at), error, result FROM results r
         WHERE seq BETWEEN ? AND ? AND {VALID} ORDER BY log_index, place"
    );
    let mut statement = connection.prepare(&sql).tried("prepare the comparison of results")?;
    let rows = statement.query_map([first, last], result_print).tried("compare results")?;
    for row in rows {
        let (seq, hash) = row.tried("read a result")?;
        prints.entry(seq).or_default().result = Some(hash);
    }
    Ok(prints)
}

fn spec_print(row: &Row) -> duckdb::Result<(u64, u128)> {
    let text = |at: usize| row.get::<_, String>(at);
    let seq: u64 = row.get(0)?;
    let mut canon = Canon::new(20);
    canon.u64(seq).text(&text(1)?).text(&text(2)?).u64(row.get(3)?);
    canon.text(&text(4)?).text(&text(5)?).text(&text(6)?).u64(row.get(7)?);
    canon.u64(row.get(8)?).u64(row.get(9)?).i64(row.get(10)?);
    Ok((seq, canon.hash()))
}

fn result_print(row: &Row) -> duckdb::Result<(u64, u128)> {
    let maybe = |at: usize| row.get::<_, Option<String>>(at);
    let seq: u64 = row.get(0)?;
    let mut canon = Canon::new(21);
    canon.u64(seq).text(&row.get::<_, String>(1)?).u64(row.get(2)?).maybe_text(maybe(3)?.as_deref());
    canon.i64(row.get(4)?).maybe_text(maybe(5)?.as_deref()).maybe_text(maybe(6)?.as_deref());
    Ok((seq, canon.hash()))
}
