//! The thread that writes: rounds in, one transaction for all that wait.
//!
//! A round is written as soon as the thread has it, and not before a second after the last
//! transaction where rounds come faster than that. What a transaction holds is on disk when it
//! ends: the process may be killed at any moment, and what was once read from history is read
//! again. A transaction that fails is tried again with a growing pause while rounds wait in a
//! bounded queue; beyond it they are dropped, counted and said.

use super::error::{HistoryError, Tried};
use super::sample::{Sample, Value};
use super::schema::{Open, SeriesKey};
use super::settings::Settings;
use super::tier::{self, Held};
use super::{Begun, Ended, Record, Shared};
use crate::events::Event;
use duckdb::{Connection, params};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The least time between two transactions.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Rounds in one transaction, at most.
const BATCH_ROUNDS: usize = 64;
/// Between two looks at what is too old.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// The most series and names that are told apart; samples of further ones are dropped.
const MAX_SERIES: usize = 100_000;
const MAX_NAMES: usize = 10_000;

/// What the thread is told.
pub(super) enum Order {
    Record(Box<Record>),
    Close,
}

pub(super) struct Writer {
    pub(super) open: Open,
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    last_commit: Option<Instant>,
    looked_at: Instant,
    /// Named in the transaction that is open.
    added_series: Vec<SeriesKey>,
    added_names: Vec<String>,
}

impl Writer {
    pub(super) fn new(open: Open, settings: Settings, shared: Arc<Shared>) -> Self {
        shared.publish(&open);
        Writer {
            open,
            settings,
            shared,
            last_commit: None,
            looked_at: Instant::now(),
            added_series: Vec::new(),
            added_names: Vec::new(),
        }
    }

    /// Writes until it is told to close or nobody is left to tell it anything.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        let mut closing = false;
        while !closing {
            let Ok(first) = orders.recv() else { break };
            let mut batch = Vec::new();
            closing = !take(first, &mut batch);
            let due = self.last_commit.map(|at| at + BATCH_INTERVAL);
            while !closing && batch.len() < BATCH_ROUNDS {
                let wait = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
                match orders.recv_timeout(wait) {
                    Ok(order) => closing = !take(order, &mut batch),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => closing = true,
                }
            }
            self.write(&batch, closing);
            if self.looked_at.elapsed() >= RETENTION_INTERVAL {
                self.looked_at = Instant::now();
                self.keep_retention();
            }
        }
        if let Err(error) = self.open.connection.execute_batch("CHECKPOINT") {
            // The next start replays the write-ahead log: nothing is lost.
            tracing::warn!(%error, "history was not checkpointed at the end");
        }
    }

    /// Tries until it is done; when closing, once.
    fn write(&mut self, batch: &[Record], closing: bool) {
        if batch.is_empty() {
            return;
        }
        let mut pause = RETRY_FIRST;
        loop {
            match self.try_write(batch) {
                Ok(()) => {
                    self.last_commit = Some(Instant::now());
                    self.shared.written(batch.len() as u64);
                    self.shared.publish(&self.open);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "history was not written");
                    self.shared.failed(error.to_string());
                }
            }
            if closing || self.shared.is_ended() {
                self.shared.lost(batch.len() as u64);
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    #[cfg(test)]
    pub(super) fn write_for_test(&mut self, batch: &[Record]) {
        self.try_write(batch).unwrap();
    }

    fn try_write(&mut self, batch: &[Record]) -> Result<(), HistoryError> {
        let (held, rows, newest_ms) = (self.open.held, self.open.rows, self.open.newest_ms);
        let outcome = begin(&self.open.connection).and_then(|()| {
            for record in batch {
                self.add_samples(record)?;
                add_events(&self.open.connection, &record.events)?;
                add_findings(&self.open.connection, &record.begun, &record.ended)?;
            }
            self.join_tiers()?;
            self.open.connection.execute_batch("COMMIT").tried("commit")
        });
        if outcome.is_err() {
            let _ = self.open.connection.execute_batch("ROLLBACK");
            (self.open.held, self.open.rows, self.open.newest_ms) = (held, rows, newest_ms);
            for key in &self.added_series {
                self.open.series.remove(key);
            }
            for name in &self.added_names {
                self.open.names.remove(name);
            }
        }
        self.added_series.clear();
        self.added_names.clear();
        outcome
    }

    fn add_samples(&mut self, record: &Record) -> Result<(), HistoryError> {
        let at_ms = record.at.as_millisecond();
        if self.open.newest_ms == i64::MIN {
            self.open.held = std::array::from_fn(|tier| {
                let begin = tier::complete_to(tier, at_ms);
                Held { from_ms: begin, to_ms: if tier == 0 { i64::MAX } else { begin } }
            });
        }
        let mut rows = Vec::with_capacity(record.samples.len());
        let named_series = self.added_series.len();
        for sample in &record.samples {
            let Some(series) = self.series_id(sample)? else { continue };
            let value = match &sample.value {
                Value::Number(number) => *number,
                Value::Name(name) => match super::sample::place_of(sample.metric, name) {
                    Some(place) => place,
                    None if sample.metric.states.is_empty() => match self.name_id(name)? {
                        Some(id) => id as f64,
                        None => continue,
                    },
                    None => continue,
                },
            };
            rows.push((series, value));
        }
        self.name_series(named_series)?;
        let mut out = self.open.connection.appender(tier::table(0)).tried("open an appender")?;
        for (series, value) in &rows {
            out.append_row(params![at_ms, series, value]).tried("append a sample")?;
        }
        out.flush().tried("write samples")?;
        drop(out);
        self.open.rows[0] += rows.len() as u64;
        self.open.newest_ms = self.open.newest_ms.max(at_ms);
        self.open.held[0].from_ms = self.open.held[0].from_ms.min(at_ms);
        Ok(())
    }

    fn series_id(&mut self, sample: &Sample) -> Result<Option<u32>, HistoryError> {
        let key = (sample.metric.name.to_owned(), sample.node.clone(), sample.peer.clone());
        if let Some(id) = self.open.series.get(&key) {
            return Ok(Some(*id));
        }
        if self.open.series.len() >= MAX_SERIES {
            return Ok(None);
        }
        let id = self.open.series.len() as u32 + 1;
        self.added_series.push(key.clone());
        self.open.series.insert(key, id);
        Ok(Some(id))
    }

    /// Writes the series named since so many were: the first round of many nodes names thousands.
    fn name_series(&self, known: usize) -> Result<(), HistoryError> {
        if self.added_series.len() == known {
            return Ok(());
        }
        let mut out = self.open.connection.appender("series").tried("open an appender")?;
        for key in &self.added_series[known..] {
            out.append_row(params![self.open.series.get(key), key.0, key.1, key.2]).tried("name a series")?;
        }
        out.flush().tried("name series")
    }

    fn name_id(&mut self, name: &str) -> Result<Option<u64>, HistoryError> {
        if let Some(id) = self.open.names.get(name) {
            return Ok(Some(*id));
        }
        if self.open.names.len() >= MAX_NAMES {
            return Ok(None);
        }
        let id = self.open.names.len() as u64 + 1;
        self.open
            .connection
            .execute("INSERT INTO names VALUES (?, ?)", params![id, name])
            .tried("keep a name")?;
        self.added_names.push(name.to_owned());
        self.open.names.insert(name.to_owned(), id);
        Ok(Some(id))
    }

    /// Joins the complete buckets of each tier from the tier before it.
    fn join_tiers(&mut self) -> Result<(), HistoryError> {
        if self.open.newest_ms == i64::MIN {
            return Ok(());
        }
        let mut moved = false;
        let mut available_ms = self.open.newest_ms;
        for tier in 1..tier::COUNT {
            let from_ms = self.open.held[tier].to_ms;
            let to_ms = tier::complete_to(tier, available_ms);
            if to_ms <= from_ms {
                break;
            }
            let added = self.open.connection.execute(&join_sql(tier), params![from_ms, to_ms]);
            self.open.rows[tier] += added.tried("join samples")? as u64;
            self.open.held[tier].to_ms = to_ms;
            available_ms = to_ms;
            moved = true;
        }
        if moved {
            self.write_tiers()?;
        }
        Ok(())
    }

    fn write_tiers(&self) -> Result<(), HistoryError> {
        let rows: Vec<String> = (1..tier::COUNT)
            .map(|tier| format!("({tier}, {}, {})", self.open.held[tier].from_ms, self.open.held[tier].to_ms))
            .collect();
        let sql = format!("DELETE FROM tiers; INSERT INTO tiers VALUES {};", rows.join(", "));
        self.open.connection.execute_batch(&sql).tried("note the tiers")
    }

    /// Drops what is too old or too much.
    fn keep_retention(&mut self) {
        let held = self.open.held;
        let rows = self.open.rows;
        if let Err(error) = self.try_retention() {
            let _ = self.open.connection.execute_batch("ROLLBACK");
            (self.open.held, self.open.rows) = (held, rows);
            tracing::error!(%error, "old history was not dropped");
            self.shared.failed(error.to_string());
        }
        self.shared.publish(&self.open);
    }

    pub(super) fn try_retention(&mut self) -> Result<(), HistoryError> {
        let newest_ms = self.open.newest_ms;
        if newest_ms == i64::MIN {
            return Ok(());
        }
        begin(&self.open.connection)?;
        for tier in 0..tier::COUNT {
            let Held { from_ms, .. } = self.open.held[tier];
            let age_ms = self.settings.age_ms(tier);
            let mut cut_ms = from_ms;
            // A twentieth of slack: many small deletions cost more than a few larger ones.
            if newest_ms - from_ms > age_ms + age_ms / 20 {
                cut_ms = newest_ms - age_ms;
            }
            if self.open.rows[tier] > self.settings.max_rows {
                cut_ms = cut_ms.max(from_ms + (newest_ms - from_ms) / 10 + 1);
            }
            // What was not joined yet stays.
            let joined_ms = self.open.held.get(tier + 1).map_or(i64::MAX, |next| next.to_ms);
            cut_ms = tier::complete_to(tier, cut_ms.min(joined_ms));
            if cut_ms > from_ms {
                let sql = format!("DELETE FROM {} WHERE at_ms < ?", tier::table(tier));
                let gone = self.open.connection.execute(&sql, [cut_ms]).tried("drop old samples")?;
                self.open.rows[tier] = self.open.rows[tier].saturating_sub(gone as u64);
                self.open.held[tier].from_ms = cut_ms;
            }
        }
        self.write_tiers()?;
        let oldest_ms = newest_ms - self.settings.age_ms(tier::COUNT - 1);
        for (table, time) in [("events", "at_ms"), ("findings", "coalesce(ended_at, found_at)")] {
            let most = self.settings.max_rows;
            let sql = format!(
                "DELETE FROM {table} WHERE {time} < greatest(?, coalesce((SELECT {time} FROM {table}
                 ORDER BY 1 DESC LIMIT 1 OFFSET {most}), ?))"
            );
            self.open.connection.execute(&sql, [oldest_ms, oldest_ms]).tried("drop old events")?;
        }
        self.open.connection.execute_batch("COMMIT").tried("commit")
    }
}

/// False for the order to close.
fn take(order: Order, batch: &mut Vec<Record>) -> bool {
    match order {
        Order::Record(record) => {
            batch.push(*record);
            true
        }
        Order::Close => false,
    }
}

fn begin(connection: &Connection) -> Result<(), HistoryError> {
    connection.execute_batch("BEGIN").tried("begin a transaction")
}

fn join_sql(tier: usize) -> String {
    let width_ms = tier::SECONDS[tier] * 1_000;
    let (source, target) = (tier::table(tier - 1), tier::table(tier));
    let figures = match tier {
        1 => "min(value), max(value), sum(value), count(*), arg_max(value, at_ms)",
        _ => "min(min), max(max), sum(sum), sum(count), arg_max(last, at_ms)",
    };
    format!(
        "INSERT INTO {target} SELECT (at_ms // {width_ms}) * {width_ms} AS bucket, series, {figures}
         FROM {source} WHERE at_ms >= ? AND at_ms < ? GROUP BY bucket, series ORDER BY bucket, series"
    )
}

fn add_events(connection: &Connection, events: &[Event]) -> Result<(), HistoryError> {
    for event in events {
        let nodes = serde_json::to_string(&event.nodes).unwrap_or_default();
        let kind = serde_json::to_value(event.kind).unwrap_or_default();
        connection
            .execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                params![
                    event.at.as_millisecond(),
                    kind.as_str().unwrap_or_default(),
                    event.severity.as_str(),
                    nodes,
                    event.text,
                    event.fault.map(|fault| fault.as_str())
                ],
            )
            .tried("write an event")?;
    }
    Ok(())
}

fn add_findings(connection: &Connection, begun: &[Begun], ended: &[Ended]) -> Result<(), HistoryError> {
    for Begun { finding, at } in begun {
        connection
            .execute(
                "INSERT INTO findings VALUES (?, ?, ?, ?, ?, NULL, ?)",
                params![
                    finding.kind.as_str(),
                    super::nodes_key(&finding.nodes),
                    finding.severity.as_str(),
                    finding.since.as_millisecond(),
                    at.as_millisecond(),
                    serde_json::to_string(&finding.evidence).unwrap_or_default()
                ],
            )
            .tried("write a finding")?;
    }
    for Ended { kind, nodes, at } in ended {
        connection
            .execute(
                "UPDATE findings SET ended_at = ? WHERE ended_at IS NULL AND kind = ? AND nodes = ?",
                params![at.as_millisecond(), kind.as_str(), super::nodes_key(nodes)],
            )
            .tried("end a finding")?;
    }
    Ok(())
}
