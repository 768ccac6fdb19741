//! The store: DuckDB behind the machine, for the record and for questions.
//!
//! The machine answers for what lives; the store keeps what happened: tasks, attempts, results,
//! workers, events. The applier hands over each entry's effects and goes on at once; a thread
//! named `store` writes them in batches, each batch and the applied index in one transaction, so
//! that the file always holds exactly the effects up to the index it names. Rows are inserted and
//! never updated. Nothing that a client was promised depends on this file: it can be rebuilt.
//!
//! Invariants:
//! - [`Store::append`] never blocks and never fails. What does not fit into the bounded backlog is
//!   dropped, and from then on the store is *stale*: it says so and takes nothing until it is
//!   rebuilt, so that the file never has a hole below its applied index.
//! - A file that can't be read is moved into quarantine, never deleted, and never a file that is
//!   not ours.
//! - A store that can't be opened is an unhealthy one ([`Store::broken`]), not a stopped node.

mod calm;
mod chores;
mod content;
mod error;
mod history;
mod quarantine;
mod query;
mod rebuild;
mod rows;
mod schema;
mod writer;

pub use chores::Retention;
pub use content::{Print, prints_of};
pub use error::StoreError;
pub use history::Slice;
pub use quarantine::{Quarantined, files_of};
pub use query::ResultFilter;
pub use schema::SCHEMA_VERSION;

use crate::machine::Effect;
use duckdb::Connection;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Effects that may wait to be written.
pub const BACKLOG_BOUND: usize = 500_000;
/// Effects written in one transaction, about.
const BATCH_EFFECTS: usize = 20_000;

/// Told of every transaction: how many effects, how long.
pub type OnBatch = Arc<dyn Fn(usize, Duration) + Send + Sync>;

/// Told of the index up to which the file holds the effects.
pub type OnWritten = Arc<dyn Fn(u64) + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// DuckDB's memory limit.
    pub memory_limit_mb: u64,
    /// DuckDB's threads.
    pub threads: u32,
    /// DuckDB settings, passed through.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Effects that may wait to be written.
    pub backlog_bound: usize,
    /// Time between two transactions while nobody waits for one: many small ones cost more.
    pub linger: Duration,
    /// Where a damaged file is moved; `quarantine` beside the file where this is none.
    pub quarantine: Option<PathBuf>,
    /// Told of every transaction.
    pub on_batch: Option<OnBatch>,
    /// Told what is written.
    pub on_written: Option<OnWritten>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            memory_limit_mb: 512,
            threads: 1,
            settings: BTreeMap::new(),
            backlog_bound: BACKLOG_BOUND,
            linger: Duration::from_millis(500),
            quarantine: None,
            on_batch: None,
            on_written: None,
        }
    }
}

/// How the store does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// True while it takes effects and writes them.
    pub healthy: bool,
    /// What was seen; where it is not healthy, what to do.
    pub detail: String,
    /// Highest index whose effects it holds.
    pub applied_index: u64,
    /// The index that the file itself names; entries without effects are written down lazily.
    pub durable_index: u64,
    /// Highest index it was given.
    pub appended_index: u64,
    /// Effects that wait to be written.
    pub backlog_effects: usize,
    /// The bound on them.
    pub backlog_bound: usize,
    /// True where it has to be rebuilt.
    pub needs_rebuild: bool,
    /// True where the file was found damaged when it was opened again: it has to be rebuilt.
    pub damaged: bool,
    /// True where the file is another program's or another version's: only a person replaces it.
    pub not_ours: bool,
    /// True where the file can be opened and what it holds can't be worked with.
    pub unusable: bool,
    /// Effects that were dropped since the last rebuild.
    pub dropped_effects: u64,
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// Bytes of the file and its write-ahead log.
    pub file_bytes: u64,
    /// Transactions since it was opened.
    pub transactions: u64,
    /// The last error, also one that was overcome.
    pub last_error: Option<String>,
    /// Where a damaged file went when this one was opened or rebuilt.
    pub quarantined: Option<String>,
}

/// How a rebuild treats what the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebuild {
    /// Keep it and add what is missing: for a file that is sound but behind.
    Merge,
    /// Move it into quarantine and begin a new one, for this reason.
    Fresh {
        /// The reason, for the manifest.
        why: String,
    },
}

/// A rebuild that waits for the writer.
struct RebuildJob {
    index: u64,
    effects: Vec<Effect>,
    mode: Rebuild,
}

/// What waits for the writer.
#[derive(Default)]
struct Backlog {
    entries: VecDeque<(u64, Vec<Effect>)>,
    effects: usize,
    rebuild: Option<RebuildJob>,
    chores: VecDeque<chores::Ordered>,
    /// Entries are kept and not written: a rebuild is being prepared.
    held: bool,
    appended_index: u64,
    /// Highest index whose effects were dropped; 0 for none.
    dropped_through: u64,
    dropped_effects: u64,
    /// Somebody waits: write now.
    urgent: usize,
    flush_wanted: bool,
    closing: bool,
}

impl Backlog {
    fn stale(&self) -> bool {
        self.dropped_through > 0
    }
}

/// What the writer says of itself.
#[derive(Default)]
struct Status {
    rows: BTreeMap<String, u64>,
    transactions: u64,
    /// Why it can't write now.
    fault: Option<String>,
    /// The fault is that the file is damaged.
    damaged: bool,
    /// The fault is that the file is not ours to replace.
    not_ours: bool,
    /// The fault is what the file holds.
    unusable: bool,
    last_error: Option<String>,
    quarantined: Option<Quarantined>,
}

struct Shared {
    path: PathBuf,
    options: StoreOptions,
    backlog: Mutex<Backlog>,
    /// The writer waits on it.
    work: Condvar,
    /// Those who wait for an index wait on it.
    progress: Condvar,
    applied: AtomicU64,
    durable: AtomicU64,
    status: Mutex<Status>,
    /// For queries; none while the file is not open.
    reader: Mutex<Option<Connection>>,
    /// Read by whoever has a further connection; written by whoever closes the file.
    exports: RwLock<()>,
    ended: AtomicBool,
}

/// A handle on the store. Dropping the last one ends the thread.
pub struct Store {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the file, or makes it. Gives the index up to which it holds effects.
    ///
    /// A damaged file of ours goes into quarantine and a fresh one is begun, at index 0; then,
    /// and wherever the index lies below what the log still has, the caller calls
    /// [`Store::rebuild`].
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<(Store, u64), StoreError> {
        let path = path.as_ref();
        let (open, quarantined) = schema::open_or_quarantine(path, &options)?;
        let index = open.applied_index;
        let reader = open.reader()?;
        let status = Status { rows: open.rows.clone(), quarantined, ..Status::default() };
        let shared = Arc::new(Shared::new(path, options, index, status, Some(reader)));
        let writer = writer::Writer::new(Arc::clone(&shared), Some(open));
        let thread = writer::spawn(writer)?;
        Ok((Store { shared, thread: Mutex::new(Some(thread)) }, index))
    }

    /// A store that could not be opened: it drops what it is given and says why. A
    /// [`Store::rebuild`] with [`Rebuild::Fresh`] opens it after all.
    pub fn broken(path: impl AsRef<Path>, options: StoreOptions, error: &StoreError) -> Store {
        let why = error.to_string();
        let not_ours = error.is_not_ours();
        let status =
            Status { fault: Some(why.clone()), not_ours, last_error: Some(why), ..Status::default() };
        let shared = Arc::new(Shared::new(path.as_ref(), options, 0, status, None));
        shared.backlog.lock().dropped_through = 1;
        let thread = writer::spawn(writer::Writer::new(Arc::clone(&shared), None)).ok();
        Store { shared, thread: Mutex::new(thread) }
    }

    /// Hands over an entry's effects. Never blocks. Effects that the file holds already are
    /// skipped; those that don't fit are dropped and make the store stale.
    pub fn append(&self, index: u64, mut effects: Vec<Effect>) {
        effects.retain(|effect| !matches!(effect, Effect::Assigned { .. }));
        let mut backlog = self.shared.backlog.lock();
        if index <= self.shared.applied.load(Ordering::Acquire) {
            return;
        }
        backlog.appended_index = backlog.appended_index.max(index);
        let full = backlog.effects + effects.len() > self.shared.options.backlog_bound;
        if (backlog.stale() && !backlog.held) || full || self.shared.ended.load(Ordering::Acquire) {
            backlog.dropped_through = backlog.dropped_through.max(index);
            backlog.dropped_effects += effects.len() as u64;
            return;
        }
        // The writer has set its alarm once something waits; only then, and where somebody is in a
        // hurry, does it have to be woken. To wake it for each entry costs more than to apply one.
        let wake = backlog.entries.is_empty()
            || backlog.urgent > 0
            || backlog.effects < BATCH_EFFECTS && backlog.effects + effects.len() >= BATCH_EFFECTS;
        backlog.effects += effects.len();
        // Entries without effects only move the index.
        match backlog.entries.back_mut() {
            Some((last, waiting)) if effects.is_empty() && waiting.is_empty() => *last = index,
            _ => backlog.entries.push_back((index, effects)),
        }
        drop(backlog);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Keeps what is appended from now on, and writes nothing of it until a rebuild comes or the
    /// hold is dropped. Whoever gathers the machine's records for a rebuild holds first, so that
    /// no entry behind them is missed.
    pub fn hold(&self) -> Hold<'_> {
        self.shared.backlog.lock().held = true;
        Hold { store: self }
    }

    /// Has the file hold what the machine knows: `effects` as
    /// [`crate::machine::Machine::effects_for_rebuild`] gave them at `index`.
    ///
    /// Returns at once; [`Store::wait_for`] tells when it is done, [`Store::health`] how it went.
    pub fn rebuild(&self, index: u64, effects: Vec<Effect>, mode: Rebuild) {
        let mut backlog = self.shared.backlog.lock();
        backlog.entries.retain(|(at, _)| *at > index);
        backlog.effects = backlog.entries.iter().map(|(_, effects)| effects.len()).sum();
        backlog.appended_index = backlog.appended_index.max(index);
        if backlog.dropped_through <= index {
            backlog.dropped_through = 0;
            backlog.dropped_effects = 0;
        }
        backlog.rebuild = Some(RebuildJob { index, effects, mode });
        backlog.held = false;
        drop(backlog);
        self.shared.work.notify_one();
    }

    /// Highest index whose effects it holds.
    pub fn applied_index(&self) -> u64 {
        self.shared.applied.load(Ordering::Acquire)
    }

    /// The log's entries behind this index are still needed: they would be lost with a crash. A store
    /// that can't write, or has to be rebuilt, needs none; it takes them from the machine.
    pub fn needs_log_behind(&self) -> u64 {
        let shared = &self.shared;
        let stale = shared.backlog.lock().stale();
        let takes = !stale && shared.status.lock().fault.is_none() && !shared.ended.load(Ordering::Acquire);
        if takes { shared.durable.load(Ordering::Acquire) } else { u64::MAX }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Waits until the effects of `index` are in, at most `limit`. Blocks the calling thread.
    pub fn wait_for(&self, index: u64, limit: Duration) -> Result<(), StoreError> {
        self.wait(limit, |shared, _| shared.applied.load(Ordering::Acquire) >= index, index, false)
    }

    /// Waits until all that was given is in and the file names its index.
    pub fn flush(&self, limit: Duration) -> Result<(), StoreError> {
        let index = self.shared.backlog.lock().appended_index.max(self.applied_index());
        self.wait(limit, |shared, _| shared.durable.load(Ordering::Acquire) >= index, index, true)
    }

    fn wait(
        &self,
        limit: Duration,
        done: impl Fn(&Shared, &Backlog) -> bool,
        index: u64,
        flush: bool,
    ) -> Result<(), StoreError> {
        let shared = &self.shared;
        let deadline = Instant::now() + limit;
        let mut backlog = shared.backlog.lock();
        if done(shared, &backlog) {
            return Ok(());
        }
        backlog.urgent += 1;
        backlog.flush_wanted |= flush;
        shared.work.notify_one();
        let mut outcome = Ok(());
        while !done(shared, &backlog) {
            let applied_index = shared.applied.load(Ordering::Acquire);
            if backlog.stale() && backlog.entries.is_empty() && backlog.rebuild.is_none() {
                outcome = Err(StoreError::Absent { why: "it is stale and has to be rebuilt".into() });
                break;
            }
            if shared.progress.wait_until(&mut backlog, deadline).timed_out() {
                outcome = Err(StoreError::Behind { index, applied_index });
                break;
            }
        }
        backlog.urgent -= 1;
        outcome
    }

    /// How it does. Cheap.
    pub fn health(&self) -> StoreHealth {
        let shared = &self.shared;
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        let file_bytes = bytes(&shared.path) + bytes(&schema::wal_path(&shared.path));
        let backlog = shared.backlog.lock();
        let status = shared.status.lock();
        let ended = shared.ended.load(Ordering::Acquire);
        let detail = match &status.fault {
            Some(why) => why.clone(),
            None if backlog.stale() => format!(
                "stale: {} effects were dropped up to index {}; rebuild it (POST /api/admin/rebuild_db)",
                backlog.dropped_effects, backlog.dropped_through
            ),
            None if ended => "closed".to_owned(),
            None if backlog.rebuild.is_some() => "is being rebuilt".to_owned(),
            None => "takes effects".to_owned(),
        };
        StoreHealth {
            healthy: status.fault.is_none() && !backlog.stale() && !ended,
            detail,
            applied_index: shared.applied.load(Ordering::Acquire),
            durable_index: shared.durable.load(Ordering::Acquire),
            appended_index: backlog.appended_index,
            backlog_effects: backlog.effects,
            backlog_bound: shared.options.backlog_bound,
            needs_rebuild: backlog.stale(),
            damaged: status.damaged,
            not_ours: status.not_ours,
            unusable: status.unusable,
            dropped_effects: backlog.dropped_effects,
            rows: status.rows.clone(),
            file_bytes,
            transactions: status.transactions,
            last_error: status.last_error.clone(),
            quarantined: status.quarantined.as_ref().map(|q| q.folder.display().to_string()),
        }
    }

    /// Writes what waits, closes the file and joins the thread. Effects given later are dropped.
    pub fn close(&self) {
        self.shared.backlog.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // The thread never panics by design; should it, the file is as its last transaction left it.
            let _ = thread.join();
        }
        *self.shared.reader.lock() = None;
    }
}

/// As long as it lives, nothing is written; see [`Store::hold`].
pub struct Hold<'a> {
    store: &'a Store,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut backlog = self.store.shared.backlog.lock();
        if std::mem::take(&mut backlog.held) && backlog.stale() {
            // Nothing came of it: what was kept would lie behind a hole.
            backlog.dropped_through = backlog.dropped_through.max(backlog.appended_index);
            backlog.dropped_effects += backlog.effects as u64;
            backlog.entries.clear();
            backlog.effects = 0;
        }
        drop(backlog);
        self.store.shared.work.notify_one();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(
        path: &Path,
        options: StoreOptions,
        index: u64,
        status: Status,
        reader: Option<Connection>,
    ) -> Self {
        Shared {
            path: path.to_owned(),
            options,
            backlog: Mutex::new(Backlog { appended_index: index, ..Backlog::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            applied: AtomicU64::new(index),
            durable: AtomicU64::new(index),
            status: Mutex::new(status),
            reader: Mutex::new(reader),
            exports: RwLock::new(()),
            ended: AtomicBool::new(false),
        }
    }

    /// Nothing more is written; whoever waits is told.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.progress.notify_all();
    }
}
