//! History: samples, events and findings, for charts and for the morning after.
//!
//! A round becomes samples ([`sample`], by the list in [`metric`]), a thread of its own writes them
//! to DuckDB, and questions ([`query`]) are answered on another connection. Nothing
//! here ever holds up a round: [`History::record`] hands over and returns.
//!
//! Invariants:
//! - What an answer once held, later ones hold until retention drops it, also after a kill -9:
//!   only what is on disk is read.
//! - A gap is a gap. What was not observed has no point, and nothing is interpolated.
//! - Everything is bounded: queue, rows, age, series, points of an answer, time of a question.
//!
//! With a directory the file is `history.duckdb` in it; without one, history lies in memory, lasts
//! less long and ends with the process. Where a Prometheus-compatible server keeps history,
//! [`prometheus`] asks it for what it has.

mod error;
pub mod metric;
pub mod prometheus;
pub mod query;
mod reader;
pub mod sample;
mod schema;
pub mod settings;
pub mod tier;
mod writer;

pub use error::HistoryError;
pub use query::{Answer, Asked, Point, Query, Series};
pub use reader::Export;
pub use settings::Settings;

use crate::detectors::{FaultKind, Finding};
use crate::events::Event;
use duckdb::Connection;
use jiff::Timestamp;
use parking_lot::Mutex;
use sample::Sample;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Semaphore;
use writer::{Order, Writer};

/// Rounds that may wait to be written.
const QUEUE_ROUNDS: usize = 256;
/// Questions at once: one is answered, the others wait.
const MAX_QUESTIONS: usize = 16;
/// How long a question may take.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);
/// How long an export may take.
const EXPORT_LIMIT: Duration = Duration::from_secs(120);
/// Events or findings in one answer, at most.
pub const MAX_ENTRIES: usize = 1_000;

/// A finding that began.
#[derive(Debug, Clone)]
pub struct Begun {
    /// What.
    pub finding: Finding,
    /// When it was found.
    pub at: Timestamp,
}

/// A finding that ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Of what kind.
    pub kind: FaultKind,
    /// The nodes it concerned.
    pub nodes: Vec<String>,
    /// When it was seen to be gone.
    pub at: Timestamp,
}

/// What one round leaves to history.
#[derive(Debug, Clone)]
pub struct Record {
    /// When the round was.
    pub at: Timestamp,
    /// Its samples.
    pub samples: Vec<Sample>,
    /// What happened in it.
    pub events: Vec<Event>,
    /// Findings that began.
    pub begun: Vec<Begun>,
    /// Findings that ended.
    pub ended: Vec<Ended>,
}

/// An event of the past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastEvent {
    /// When it was seen.
    pub at: Timestamp,
    /// What kind of thing.
    pub kind: String,
    /// How much it mattered.
    pub severity: String,
    /// Which nodes it concerned.
    pub nodes: Vec<String>,
    /// The whole of it, for people.
    pub text: String,
    /// For findings: of what kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A finding of the past, or one that still stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastFinding {
    /// Of what kind.
    pub kind: String,
    /// The nodes it concerned.
    pub nodes: Vec<String>,
    /// How bad it was.
    pub severity: String,
    /// When it was first seen.
    pub since: Timestamp,
    /// When it was found.
    pub found_at: Timestamp,
    /// When it was gone, or this monitor ended; none while it stands.
    pub ended_at: Option<Timestamp>,
    /// What was seen when it was found.
    pub evidence: Vec<String>,
}

/// How history stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Standing {
    /// The file; none where it lies in memory or elsewhere.
    pub file: Option<PathBuf>,
    /// The size of the file and its write-ahead log.
    pub file_bytes: u64,
    /// Rows of samples, all tiers together.
    pub rows: u64,
    /// Series that are told apart.
    pub series: usize,
    /// The oldest sample or step.
    pub oldest: Option<Timestamp>,
    /// Rounds written since the monitor started.
    pub rounds_written: u64,
    /// Rounds that were dropped because writing was too slow or failed.
    pub rounds_lost: u64,
    /// The last error, until writing succeeds again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where a damaged file was put when this one was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub put_aside: Option<PathBuf>,
}

/// What writer and readers share.
struct Shared {
    path: Option<PathBuf>,
    known: Mutex<Known>,
    rounds_written: AtomicU64,
    rounds_lost: AtomicU64,
    error: Mutex<Option<String>>,
    put_aside: Option<PathBuf>,
    ended: AtomicBool,
}

/// What the writer last committed.
#[derive(Default)]
struct Known {
    series: Arc<schema::SeriesIds>,
    names: Arc<BTreeMap<u64, String>>,
    held: Option<[tier::Held; tier::COUNT]>,
    rows: u64,
}

impl Shared {
    fn publish(&self, open: &schema::Open) {
        let mut known = self.known.lock();
        if known.series.len() != open.series.len() {
            known.series = Arc::new(open.series.clone());
        }
        if known.names.len() != open.names.len() {
            known.names = Arc::new(open.names.iter().map(|(name, id)| (*id, name.clone())).collect());
        }
        known.held = Some(open.held);
        known.rows = open.rows.iter().sum();
    }

    fn series(&self) -> Arc<schema::SeriesIds> {
        self.known.lock().series.clone()
    }

    fn names(&self) -> Arc<BTreeMap<u64, String>> {
        self.known.lock().names.clone()
    }

    fn held(&self) -> [tier::Held; tier::COUNT] {
        self.known.lock().held.unwrap_or([tier::Held { from_ms: 0, to_ms: 0 }; tier::COUNT])
    }

    fn written(&self, rounds: u64) {
        self.rounds_written.fetch_add(rounds, Ordering::Relaxed);
        *self.error.lock() = None;
    }

    fn lost(&self, rounds: u64) {
        self.rounds_lost.fetch_add(rounds, Ordering::Relaxed);
    }

    fn failed(&self, why: String) {
        *self.error.lock() = Some(why);
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A handle on history. Cheap to clone.
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
    orders: SyncSender<Order>,
    reader: Arc<Mutex<Option<Connection>>>,
    questions: Arc<Semaphore>,
    server: Option<Arc<prometheus::Server>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl History {
    /// Opens the file, or memory where there is none.
    pub fn open(path: Option<&Path>, settings: &Settings) -> Result<History, HistoryError> {
        let settings = if path.is_some() { settings.clone() } else { settings.in_memory() };
        let (open, put_aside) = schema::open(path, settings.memory_limit_mb)?;
        let reader = open.connection.try_clone().map_err(|error| HistoryError::Database {
            tried: "open a second connection",
            why: error.to_string(),
        })?;
        let shared = Arc::new(Shared {
            path: path.map(Path::to_owned),
            known: Mutex::default(),
            rounds_written: AtomicU64::new(0),
            rounds_lost: AtomicU64::new(0),
            error: Mutex::new(None),
            put_aside,
            ended: AtomicBool::new(false),
        });
        let (orders, received) = sync_channel(QUEUE_ROUNDS);
        let writer = Writer::new(open, settings, shared.clone());
        let thread =
            std::thread::Builder::new().name("history".into()).spawn(move || writer.run(&received)).map_err(
                |source| HistoryError::File { path: path.unwrap_or(Path::new("thread")).to_owned(), source },
            )?;
        Ok(History {
            shared,
            orders,
            reader: Arc::new(Mutex::new(Some(reader))),
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            server: None,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// The same, asking `server` for what it has.
    pub fn with_server(mut self, server: prometheus::Server) -> History {
        self.server = Some(Arc::new(server));
        self
    }

    /// Hands over a round. Never waits: what does not fit is dropped and counted.
    pub fn record(&self, record: Record) {
        match self.orders.try_send(Order::Record(Box::new(record))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.shared.lost(1);
                let lost = self.shared.rounds_lost.load(Ordering::Relaxed);
                if lost.is_power_of_two() {
                    tracing::warn!(rounds_lost = lost, "history is written too slowly; rounds are dropped");
                }
            }
            Err(TrySendError::Disconnected(_)) => self.shared.lost(1),
        }
    }

    /// Answers a question: from the server what it has, from our own what it can't have.
    pub async fn query(&self, query: Query) -> Result<Answer, HistoryError> {
        let Some(server) = &self.server else { return self.query_own(query).await };
        let theirs = {
            let _permit = self.questions.clone().try_acquire_owned().map_err(|_| HistoryError::Busy)?;
            server.ask(&query).await?
        };
        let mut own = query.clone();
        own.metrics.retain(|metric| metric.promql.is_none());
        let mut answer = if own.metrics.is_empty() {
            let series = Vec::new();
            Answer {
                from: query.from,
                to: query.to,
                step_seconds: query.step_seconds,
                source: String::new(),
                series,
            }
        } else {
            self.query_own(own).await?
        };
        answer.series.extend(theirs);
        answer.series.sort_by_key(|s| query.metrics.iter().position(|metric| *metric == s.metric));
        answer.source = server.url().to_owned();
        Ok(answer)
    }

    async fn query_own(&self, query: Query) -> Result<Answer, HistoryError> {
        let shared = self.shared.clone();
        self.ask(QUESTION_LIMIT, move |connection| reader::ask(connection, &shared, &query)).await
    }

    /// Events of that time, the latest first.
    pub async fn events(
        &self,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<PastEvent>, HistoryError> {
        let limit = limit.min(MAX_ENTRIES);
        self.ask(QUESTION_LIMIT, move |connection| reader::events(connection, from, to, limit, &[])).await
    }

    /// Changes of the leader in that time, the latest first.
    pub async fn leader_events(
        &self,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<PastEvent>, HistoryError> {
        let limit = limit.min(MAX_ENTRIES);
        let kinds = ["leader_changed", "leader_lost"];
        self.ask(QUESTION_LIMIT, move |connection| reader::events(connection, from, to, limit, &kinds)).await
    }

    /// When the last round before `before` was written, if one was; for the present, `before` is none.
    pub async fn last_round(&self, before: Option<Timestamp>) -> Result<Option<Timestamp>, HistoryError> {
        self.ask(QUESTION_LIMIT, move |connection| reader::last_round(connection, before)).await
    }

    /// Findings that stood at any moment of that time, the latest first.
    pub async fn findings(
        &self,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<PastFinding>, HistoryError> {
        let limit = limit.min(MAX_ENTRIES);
        self.ask(QUESTION_LIMIT, move |connection| reader::findings(connection, from, to, limit)).await
    }

    /// Writes a Parquet file of that time to `path`. Gives the rows in it.
    pub async fn export(
        &self,
        what: Export,
        from: Timestamp,
        to: Timestamp,
        path: PathBuf,
    ) -> Result<u64, HistoryError> {
        let shared = self.shared.clone();
        self.ask(EXPORT_LIMIT, move |connection| reader::export(connection, &shared, what, from, to, &path))
            .await
    }

    /// Runs `work` on the reader's connection; interrupts it at the limit.
    async fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Connection) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let permit = self.questions.clone().try_acquire_owned().map_err(|_| HistoryError::Busy)?;
        let reader = self.reader.clone();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let mut answer = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let reader = reader.lock();
            let connection = reader.as_ref().ok_or(HistoryError::Ended)?;
            let _ = started.send(connection.interrupt_handle());
            work(connection)
        });
        let ended = |_| HistoryError::Ended;
        let slow = HistoryError::Slow { limit_seconds: limit.as_secs() };
        // It waits for its turn as long as for its answer; only what runs can be interrupted.
        let Ok(handle) = tokio::time::timeout(limit, has_started).await else { return Err(slow) };
        match tokio::time::timeout(limit, &mut answer).await {
            Ok(answer) => answer.map_err(ended)?,
            Err(_) => {
                if let Ok(handle) = handle {
                    handle.interrupt();
                }
                Err(slow)
            }
        }
    }

    /// How history stands.
    pub fn standing(&self) -> Standing {
        let shared = &self.shared;
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let file_bytes = shared
            .path
            .as_deref()
            .map_or(0, |path| bytes(path) + bytes(Path::new(&format!("{}.wal", path.display()))));
        let (rows, series) = {
            let known = shared.known.lock();
            (known.rows, known.series.len())
        };
        let oldest_ms = shared.held().iter().filter(|h| h.from_ms < h.to_ms).map(|h| h.from_ms).min();
        Standing {
            file: shared.path.clone(),
            file_bytes,
            rows,
            series,
            oldest: oldest_ms.filter(|ms| *ms > i64::MIN).and_then(|ms| Timestamp::from_millisecond(ms).ok()),
            rounds_written: shared.rounds_written.load(Ordering::Relaxed),
            rounds_lost: shared.rounds_lost.load(Ordering::Relaxed),
            error: shared.error.lock().clone(),
            put_aside: shared.put_aside.clone(),
        }
    }

    /// Writes what waits and closes the file. Blocks.
    pub fn close(&self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.lock().take() else { return };
        // The queue may be full: the writer is emptying it.
        if self.orders.send(Order::Close).is_err() {
            tracing::error!("history's thread is gone");
        }
        if thread.join().is_err() {
            tracing::error!("history's thread failed");
        }
        *self.reader.lock() = None;
    }
}

/// Nodes as one text, in order.
fn nodes_key(nodes: &[String]) -> String {
    let mut nodes: Vec<&String> = nodes.iter().collect();
    nodes.sort();
    serde_json::to_string(&nodes).unwrap_or_default()
}

#[cfg(test)]
mod tests;
