//! The log on disk: raft-engine, opened strictly, and the thread that writes to it.
//!
//! The writer takes everything that waits in its queue and makes it durable with one sync, so
//! that many writes share the cost. It reports the highest number that is durable.
//!
//! Invariant: what is reported durable was written by `Engine::write(non-empty batch, sync)`;
//! raft-engine's own `sync()` does nothing. A failed sync ends the process (the engine panics,
//! the profile aborts): after it nobody knows what the disk holds.
//!
//! Invariant: a term and a vote are promises that can't be asked back from anybody, so they are
//! never the log's last record. A second record with the same follows before the sync. Whoever
//! finds the last record bad has lost entries at most; if it was the one before, a valid record
//! stands behind it, which is damage.

use super::DataError;
use crate::raft::driver::{Inbox, Input};
use crate::replica::{LogWrite, OlderEntries, Recovered, Truncated};
use crate::room::Room;
use crate::telemetry::Telemetry;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The one Raft group's id in the engine.
pub const GROUP: u64 = 1;
pub(super) const HARD_STATE_KEY: &[u8] = b"hard_state";
/// The newest snapshot's metadata and name, as Raft's own message.
pub(super) const SNAPSHOT_KEY: &[u8] = b"snapshot";
/// Index and term of the last entry that was compacted away, big-endian.
pub(super) const TRUNCATED_KEY: &[u8] = b"truncated";
/// Bytes written with one sync at most.
const MAX_SYNC_BYTES: usize = 8 * 1024 * 1024;

/// Tells raft-engine what an entry is.
#[derive(Clone)]
pub struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// Opens the engine; any bad record is an error ([`super::log_end::check`] comes first).
pub fn open_engine(folder: &Path) -> Result<Engine, DataError> {
    let config = Config {
        dir: folder.to_string_lossy().into_owned(),
        recovery_mode: RecoveryMode::AbsoluteConsistency,
        recovery_threads: 1,
        target_file_size: ReadableSize::mb(32),
        purge_threshold: ReadableSize::mb(256),
        // Compression costs more CPU here than the bytes are worth.
        batch_compression_threshold: ReadableSize::kb(0),
        // Format 1 without recycled files: records can be checked without the engine.
        format_version: raft_engine::Version::V1,
        enable_log_recycle: false,
        ..Default::default()
    };
    Engine::open(config).map_err(|e| DataError::Engine { path: folder.into(), why: e.to_string() })
}

/// Counters of the writer, read by health and metrics.
#[derive(Debug, Default)]
pub struct WriterProgress {
    /// Batches synced.
    pub syncs: AtomicU64,
    /// Since when the present write goes on.
    pub busy_since: Mutex<Option<Instant>>,
}

/// The log, open.
#[derive(Clone)]
pub struct RaftLog {
    pub(super) engine: Arc<Engine>,
    /// Which log of this process it is.
    number: u64,
}

/// Logs opened by this process.
static OPENED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The log that this thread has read; 0 before any.
    static READS: Cell<u64> = const { Cell::new(0) };
}

impl OlderEntries for RaftLog {
    fn fetch(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, String> {
        let mut out = Vec::new();
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX).max(1);
        let first = self.engine.first_index(GROUP).unwrap_or(u64::MAX);
        let last = self.engine.last_index(GROUP).unwrap_or(0);
        let (low, high) = (low.max(first), high.min(last + 1));
        if low >= high {
            return Ok(out);
        }
        self.reading(|engine| {
            engine
                .fetch_entries_to::<Entries>(GROUP, low, high, Some(max), &mut out)
                .map_err(|e| format!("reading entries {low}..{high} of the log: {e}"))
        })?;
        Ok(out)
    }
}

impl RaftLog {
    /// Opens the log in `folder`; any record that is bad is an error.
    pub fn open(folder: &Path) -> Result<RaftLog, DataError> {
        super::log_end::cut_unwritten(folder)?;
        let number = OPENED.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(RaftLog { engine: Arc::new(open_engine(folder)?), number })
    }

    /// Reads entries, on a thread that has read no other log.
    ///
    /// The engine keeps the block it read last, for each thread, and knows it by the number of its
    /// file and its place therein: in another log that is laid out alike, it would answer from that.
    fn reading<T: Send>(&self, read: impl FnOnce(&Engine) -> T + Send) -> T {
        let had = READS.replace(self.number);
        if had == 0 || had == self.number {
            return read(&self.engine);
        }
        READS.set(had);
        std::thread::scope(|scope| {
            let read = scope.spawn(|| read(&self.engine)).join();
            read.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// One entry.
    pub(super) fn entry(&self, index: u64) -> Result<Option<Entry>, String> {
        let entry = self.reading(|engine| engine.get_entry::<Entries>(GROUP, index));
        entry.map_err(|e| format!("reading entry {index}: {e}"))
    }

    /// What a restart begins with: the sets of the newest snapshot, `founders` where there is none.
    pub fn recovered(&self, founders: ConfState) -> Result<Recovered, String> {
        let hard_state = self
            .engine
            .get_message::<HardState>(GROUP, HARD_STATE_KEY)
            .map_err(|e| format!("reading the hard state: {e}"))?
            .unwrap_or_default();
        let snapshot = self
            .engine
            .get_message::<Snapshot>(GROUP, SNAPSHOT_KEY)
            .map_err(|e| format!("reading the snapshot's name: {e}"))?;
        let conf_state = snapshot
            .as_ref()
            .map(|s| s.get_metadata().get_conf_state().clone())
            .filter(|sets| !sets.voters.is_empty())
            .unwrap_or(founders);
        let truncated = self
            .engine
            .get(GROUP, TRUNCATED_KEY)
            .map(|b| decode_truncated(&b))
            .transpose()?
            .unwrap_or_default();
        let last = match self.engine.last_index(GROUP) {
            Some(index) if index > truncated.index => {
                let entry = self.entry(index)?.ok_or(format!("entry {index} is missing"))?;
                Truncated { index, term: entry.term }
            }
            _ => truncated,
        };
        Ok(Recovered { hard_state, conf_state, truncated, last, snapshot })
    }

    /// Begins a log behind a snapshot; it must be empty.
    pub fn begin_at(&self, snapshot: &Snapshot, at: Truncated, hard_state: &HardState) -> Result<(), String> {
        let mut batch = LogBatch::default();
        let named = Gathered::default().name(snapshot, at, &mut batch);
        named
            .and_then(|()| batch.put_message(GROUP, HARD_STATE_KEY.to_vec(), hard_state))
            .and_then(|()| self.engine.write(&mut batch, true))
            .map(drop)
            .map_err(|e| format!("the new log can't be written: {e}"))
    }

    /// Entries from `from` on, at most `limit`, for people.
    pub fn page(&self, from: u64, limit: usize) -> Result<Vec<Entry>, String> {
        self.fetch(from, from.saturating_add(limit as u64), 4 * 1024 * 1024)
    }

    /// Index bounds (first, last) of what the disk holds.
    pub fn bounds(&self) -> (u64, u64) {
        (self.engine.first_index(GROUP).unwrap_or(1), self.engine.last_index(GROUP).unwrap_or(0))
    }

    /// Index of the snapshot that a synced batch names; 0 without one.
    pub fn named_index(&self) -> u64 {
        self.named_snapshot().map_or(0, |snapshot| snapshot.get_metadata().index)
    }

    /// The snapshot that a synced batch names.
    pub fn named_snapshot(&self) -> Option<Snapshot> {
        self.engine.get_message::<Snapshot>(GROUP, SNAPSHOT_KEY).ok().flatten()
    }

    /// Starts the writer thread.
    pub fn start_writer(
        &self,
        inbox: Inbox,
        progress: Arc<WriterProgress>,
        telemetry: Telemetry,
        room: Arc<Room>,
    ) -> std::io::Result<(Sender<LogWrite>, std::thread::JoinHandle<()>)> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let engine = self.engine.clone();
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || run_writer(&engine, &receiver, &inbox, &progress, &telemetry, &room))?;
        Ok((sender, thread))
    }
}

/// Between two attempts to write to a disk that is full.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The queue needs no bound of its own: what is in it was admitted by the replica, which bounds
/// the bytes in flight.
fn run_writer(
    engine: &Engine,
    queue: &Receiver<LogWrite>,
    inbox: &Inbox,
    progress: &WriterProgress,
    telemetry: &Telemetry,
    room: &Room,
) {
    let mut held: Option<LogWrite> = None;
    let mut promised = None;
    loop {
        let Some(first) = held.take().or_else(|| queue.recv().ok()) else { return };
        *progress.busy_since.lock() = Some(Instant::now());
        let mut batch = LogBatch::default();
        let mut written = Gathered::default();
        let mut taken = Vec::new();
        let mut next = Some(first);
        while let Some(write) = next.take() {
            if !written.fits(&write) {
                held = Some(write);
                break;
            }
            written.take(&write, &mut batch, engine);
            taken.push(write);
            if batch.approximate_size() < MAX_SYNC_BYTES {
                next = queue.try_recv().ok();
            }
        }
        let started = Instant::now();
        if !batch.is_empty() {
            written.point_before();
            let state = taken.iter().rev().find_map(|write| write.hard_state.as_ref());
            let promise = state.map(|state| (state.term, state.vote)).filter(|new| promised != Some(*new));
            let again = || {
                let mut again = LogBatch::default();
                let mut gathered = Gathered::default();
                taken.iter().for_each(|write| gathered.take(write, &mut again, engine));
                again
            };
            write_batch(engine, batch, written.must_sync && promise.is_none(), again, room);
            if let (Some(state), Some(_)) = (state, promise) {
                write_batch(engine, hard_state_alone(state), true, || hard_state_alone(state), room);
                promised = promise;
            }
            written.point_after();
            if written.compacted {
                failpoint!("purge_before");
                // Frees the files in which nothing is left; what stays is moved together.
                if let Err(e) = engine.purge_expired_files() {
                    tracing::warn!(error = %e, "old log files could not be purged; tried again at the next compaction");
                }
                failpoint!("purge_after");
            }
            if written.must_sync {
                telemetry.log_sync(started.elapsed(), written.entries as u64);
                telemetry.traces().synced(&taken, started);
                progress.syncs.fetch_add(1, Ordering::Relaxed);
            }
        }
        *progress.busy_since.lock() = None;
        let send = taken.into_iter().flat_map(|write| write.then_send).collect();
        if !inbox.tell(Input::Durable { number: written.number, send }) {
            return;
        }
    }
}

/// Writes a batch, when there is room for it.
///
/// A disk that became full all the same, between the look and the write, fails the write and leaves
/// the engine as it was; the batch is made anew and written when there is room.
fn write_batch(
    engine: &Engine,
    mut batch: LogBatch,
    must_sync: bool,
    again: impl Fn() -> LogBatch,
    room: &Room,
) {
    let mut attempt = 0u64;
    loop {
        attempt += 1;
        room.wait_to_write(batch.approximate_size() as u64);
        let Err(error) = engine.write(&mut batch, must_sync) else { return };
        let full = match &error {
            raft_engine::Error::Io(e) => e.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()),
            raft_engine::Error::TryAgain(_) => true,
            _ => false,
        };
        if !full {
            // Nothing of it was acknowledged. Without its log the node can't go on, and what
            // the disk holds is decided at the next start.
            tracing::error!(%error, attempt, "the log can't be written; the process ends");
            std::process::abort();
        }
        tracing::error!(%error, attempt, "no room for the log; trying again");
        if !room.drop_ballast() {
            std::thread::sleep(RETRY_PAUSE);
        }
        batch = again();
    }
}

fn hard_state_alone(state: &HardState) -> LogBatch {
    let mut batch = LogBatch::default();
    if let Err(e) = batch.put_message(GROUP, HARD_STATE_KEY.to_vec(), state) {
        tracing::error!(error = %e, "the hard state can't be encoded for the log; the process ends");
        std::process::abort();
    }
    batch
}

/// Several writes that become one batch.
#[derive(Default)]
struct Gathered {
    number: u64,
    entries: usize,
    last_index: Option<u64>,
    must_sync: bool,
    hard_state: bool,
    compacted: bool,
    replaced: bool,
}

impl Gathered {
    /// A write that goes back behind an entry of this batch, or that replaces the log, begins a
    /// batch of its own.
    fn fits(&self, write: &LogWrite) -> bool {
        let alone = self.replaced || write.install.is_some();
        if alone && (self.entries > 0 || self.replaced || self.number > 0) {
            return false;
        }
        match (self.last_index, write.entries.first()) {
            (Some(last), Some(first)) => first.index == last + 1,
            _ => true,
        }
    }

    fn take(&mut self, write: &LogWrite, batch: &mut LogBatch, engine: &Engine) {
        self.number = self.number.max(write.number);
        self.must_sync |= write.must_sync;
        self.entries += write.entries.len();
        if let Some(last) = write.entries.last() {
            self.last_index = Some(last.index);
        }
        if let Err(e) = self.encode(write, batch, engine) {
            tracing::error!(error = %e, "entries can't be encoded for the log; the process ends");
            std::process::abort();
        }
    }

    fn encode(&mut self, write: &LogWrite, batch: &mut LogBatch, engine: &Engine) -> raft_engine::Result<()> {
        if let Some(snapshot) = &write.install {
            // Entries behind the snapshot belong to another history: all go.
            self.replaced = true;
            let metadata = snapshot.get_metadata();
            let end = engine.last_index(GROUP).unwrap_or(0).max(metadata.index) + 1;
            batch.add_command(GROUP, Command::Compact { index: end });
            self.name(snapshot, Truncated { index: metadata.index, term: metadata.term }, batch)?;
        }
        batch.add_entries::<Entries>(GROUP, &write.entries)?;
        if let Some(state) = &write.hard_state {
            // A term or a vote; the commit index alone need not be durable.
            self.hard_state |= write.must_sync && write.entries.is_empty();
            batch.put_message(GROUP, HARD_STATE_KEY.to_vec(), state)?;
        }
        if let Some((snapshot, truncated)) = &write.compact {
            batch.add_command(GROUP, Command::Compact { index: truncated.index + 1 });
            self.name(snapshot, *truncated, batch)?;
        }
        Ok(())
    }

    /// Where a test ends the process just before this is written.
    fn point_before(&self) {
        match self {
            Gathered { replaced: true, .. } => failpoint!("install_before_log"),
            Gathered { compacted: true, .. } => failpoint!("naming_before_log"),
            _ => {}
        }
        if self.entries > 0 {
            failpoint!("log_before_write");
        }
        if self.hard_state {
            failpoint!("hard_state_before_write");
        }
    }

    /// Where a test ends it when this is durable, and nobody has been told.
    fn point_after(&self) {
        if self.entries > 0 {
            failpoint!("log_after_sync");
        }
        if self.hard_state {
            failpoint!("hard_state_after_sync");
        }
        match self {
            Gathered { replaced: true, .. } => failpoint!("install_after_log"),
            Gathered { compacted: true, .. } => failpoint!("naming_after_log"),
            _ => {}
        }
    }

    fn name(
        &mut self,
        snapshot: &Snapshot,
        truncated: Truncated,
        batch: &mut LogBatch,
    ) -> raft_engine::Result<()> {
        self.compacted = true;
        batch.put_message(GROUP, SNAPSHOT_KEY.to_vec(), snapshot)?;
        let bytes = [truncated.index.to_be_bytes(), truncated.term.to_be_bytes()].concat();
        batch.put(GROUP, TRUNCATED_KEY.to_vec(), bytes)
    }
}

fn decode_truncated(bytes: &[u8]) -> Result<Truncated, String> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    match (bytes.len(), word(0), word(8)) {
        (16, Some(index), Some(term)) => Ok(Truncated { index, term }),
        _ => Err(format!("the mark of the log's beginning has {} bytes instead of 16", bytes.len())),
    }
}

/// Writes one synced entry, as the writer would.
#[cfg(test)]
pub fn write_entries_for_test(engine: &Engine, index: u64) {
    let mut batch = LogBatch::default();
    let entry = Entry { index, term: 1, data: vec![index as u8; 200].into(), ..Default::default() };
    batch.add_entries::<Entries>(GROUP, &[entry]).unwrap();
    let state = HardState { term: 1, commit: index, ..Default::default() };
    batch.put_message(GROUP, HARD_STATE_KEY.to_vec(), &state).unwrap();
    engine.write(&mut batch, true).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::driver::inbox;
    use crate::raft::log_end::{self, LogEnd};
    use crate::room::RoomLimits;
    use std::path::PathBuf;

    /// Has these written by the writer thread, and gives the log's file.
    fn written(folder: &Path, writes: Vec<LogWrite>) -> PathBuf {
        let log = RaftLog::open(&folder.join("log")).unwrap();
        let limits = RoomLimits { floor_percent: 100.0, reserve_bytes: 0, max_memory_bytes: u64::MAX };
        let (inbox, outbox) = inbox();
        let telemetry = Telemetry::new("n1").unwrap();
        let room = Room::start(folder, limits);
        let (queue, thread) = log.start_writer(inbox, Arc::default(), telemetry, room).unwrap();
        writes.into_iter().for_each(|write| queue.send(write).unwrap());
        drop(queue);
        thread.join().unwrap();
        drop((log, outbox));
        log_end::files(&folder.join("log")).unwrap().pop().unwrap()
    }

    fn entry(index: u64) -> LogWrite {
        entry_of(7, index)
    }

    fn entry_of(term: u64, index: u64) -> LogWrite {
        let entries = vec![Entry { index, term, data: vec![1; 64].into(), ..Entry::default() }];
        LogWrite { number: index, entries, must_sync: true, ..LogWrite::default() }
    }

    /// The log opens again after its last record went bad.
    fn without_last_record(folder: &Path, file: &Path) -> (LogEnd, RaftLog) {
        let mut bytes = std::fs::read(file).unwrap();
        *bytes.iter_mut().rev().find(|byte| **byte != 0).unwrap() ^= 1;
        std::fs::write(file, bytes).unwrap();
        let found = log_end::check(&folder.join("log"), &folder.join("quarantine")).unwrap();
        (found, RaftLog::open(&folder.join("log")).unwrap())
    }

    #[test]
    fn a_vote_is_never_the_record_that_a_torn_end_takes_away() {
        let folder = tempfile::tempdir().unwrap();
        let state = HardState { term: 7, vote: 3, commit: 0, ..HardState::default() };
        let vote =
            LogWrite { number: 1, hard_state: Some(state.clone()), must_sync: true, ..LogWrite::default() };
        let file = written(folder.path(), vec![vote]);
        let (found, log) = without_last_record(folder.path(), &file);
        assert!(matches!(found, LogEnd::Torn { .. }), "{found:?}");
        assert_eq!(log.recovered(ConfState::default()).unwrap().hard_state, state);
    }

    #[test]
    fn a_new_term_that_comes_with_entries_is_written_twice_and_a_known_one_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = HardState { term: 7, vote: 0, commit: 0, ..HardState::default() };
        let first = LogWrite { hard_state: Some(state.clone()), ..entry(1) };
        let file = written(folder.path(), vec![first]);
        assert_eq!(log_end::look(&file).unwrap(), Ok(2), "the entry with the term, and the term");
        let (_, log) = without_last_record(folder.path(), &file);
        assert_eq!((log.bounds().1, log.recovered(ConfState::default()).unwrap().hard_state), (1, state));
    }

    #[test]
    fn two_logs_that_are_laid_out_alike_are_read_apart() {
        let folder = tempfile::tempdir().unwrap();
        let log = |name: &str, term: u64| {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            written(&folder, vec![entry_of(term, 1), entry_of(term, 2)]);
            RaftLog::open(&folder.join("log")).unwrap()
        };
        let (one, other) = (log("one", 7), log("other", 8));
        for _ in 0..2 {
            for (log, term) in [(&one, 7), (&other, 8)] {
                assert_eq!(log.recovered(ConfState::default()).unwrap().last, Truncated { index: 2, term });
                let terms: Vec<u64> = log.page(1, 10).unwrap().iter().map(|entry| entry.term).collect();
                assert_eq!(terms, [term, term]);
                assert_eq!(log.fetch(2, 3, 0).unwrap()[0].term, term);
            }
        }
    }

    /// The log's file as this version writes it: a later one must be able to read it.
    #[test]
    fn a_log_of_this_version_is_read_as_ever() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/log-1.raftlog");
        if std::env::var_os("HOLDFAST_REWRITE_GOLDEN").is_some() {
            let folder = tempfile::tempdir().unwrap();
            let state = HardState { term: 7, vote: 3, commit: 1, ..HardState::default() };
            let second = LogWrite { hard_state: Some(state), ..entry(2) };
            let bytes = std::fs::read(written(folder.path(), vec![entry(1), second, entry(3)])).unwrap();
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            std::fs::write(&golden, &bytes[..end]).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&golden, folder.path().join("0000000000000001.raftlog")).unwrap();
        let found = log_end::check(folder.path(), &folder.path().join("quarantine")).unwrap();
        assert_eq!(found, LogEnd::Whole);
        let log = RaftLog::open(folder.path()).unwrap();
        let Recovered { hard_state, last, .. } = log.recovered(ConfState::default()).unwrap();
        assert_eq!((hard_state.term, hard_state.vote, hard_state.commit), (7, 3, 1));
        assert_eq!(last, Truncated { index: 3, term: 7 });
        let page = log.page(1, 10).unwrap();
        assert!(
            page.len() == 3 && page.iter().all(|e| e.data.as_ref() == [1; 64] && e.term == 7),
            "{page:?}"
        );
    }
}
