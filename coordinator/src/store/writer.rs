//! The writer thread: takes what waits, writes it in one transaction, says how far it is.
//!
//! A transaction that fails is tried again on a reopened file, with a growing pause. Meanwhile
//! the backlog fills up to its bound, and nobody waits for this thread but those who asked to.

use super::calm::Calm;
use super::chores::Ordered;
use super::quarantine::quarantine;
use super::rows::{append, set_applied, transaction};
use super::schema::{self, Open};
use super::{BATCH_EFFECTS, Rebuild, RebuildJob, Shared, StoreError, rebuild};
use crate::machine::Effect;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An index that moved without effects is written down this often.
const IDLE_INDEX_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What the writer does next.
enum Work {
    Write {
        entries: Vec<(u64, Vec<Effect>)>,
        flush: bool,
        /// Nobody waits for it.
        calm: bool,
    },
    Rebuild(RebuildJob),
    Chore(Ordered),
    Close,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) open: Option<Open>,
    last_commit: Instant,
}

pub(super) fn spawn(writer: Writer) -> Result<JoinHandle<()>, StoreError> {
    let path = writer.shared.path.clone();
    let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run());
    thread.map_err(|e| StoreError::io("start the writer thread for", &path, e))
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, open: Option<Open>) -> Self {
        Writer { shared, open, last_commit: Instant::now() }
    }

    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let calm_thread = Calm::start();
        loop {
            match self.next_work() {
                Work::Write { entries, flush, calm } => match &calm_thread {
                    Some(thread) if calm => match thread.write(self, entries) {
                        Some(back) => self = back,
                        None => return shared.end(),
                    },
                    _ => self.write(entries, flush),
                },
                Work::Rebuild(job) => self.rebuild(job),
                Work::Chore(chore) => self.do_chore(chore),
                Work::Close => break,
            }
            shared.progress.notify_all();
        }
        self.write_index();
        if let Some(open) = self.open.take() {
            *self.shared.reader.lock() = None;
            // The next open would replay the write-ahead log; either way nothing is lost.
            let _ = open.connection.execute_batch("CHECKPOINT");
        }
        shared.end();
    }

    /// Waits for work; lets small batches grow while nobody is in a hurry.
    fn next_work(&self) -> Work {
        let shared = &self.shared;
        let mut backlog = shared.backlog.lock();
        loop {
            if let Some(job) = backlog.rebuild.take() {
                return Work::Rebuild(job);
            }
            if let Some(chore) = backlog.chores.pop_front() {
                return Work::Chore(chore);
            }
            if backlog.held && !backlog.closing {
                shared.work.wait(&mut backlog);
                continue;
            }
            let flush = backlog.flush_wanted;
            if !backlog.entries.is_empty() || flush {
                let due = self.last_commit + shared.options.linger;
                let hurry =
                    backlog.urgent > 0 || backlog.closing || flush || backlog.effects >= BATCH_EFFECTS;
                if hurry || Instant::now() >= due {
                    let entries = take_batch(&mut backlog);
                    let flush = flush && backlog.entries.is_empty();
                    backlog.flush_wanted &= !flush;
                    return Work::Write { entries, flush, calm: !hurry };
                }
                shared.work.wait_until(&mut backlog, due);
                continue;
            }
            if backlog.closing {
                return Work::Close;
            }
            let behind = shared.durable.load(Ordering::Acquire) < shared.applied.load(Ordering::Acquire);
            if behind {
                if shared.work.wait_for(&mut backlog, IDLE_INDEX_INTERVAL).timed_out() {
                    return Work::Write { entries: Vec::new(), flush: true, calm: false };
                }
            } else {
                shared.work.wait(&mut backlog);
            }
        }
    }

    /// Writes the entries, as often as it takes, until it is done, closed or rebuilt.
    pub(super) fn write(&mut self, entries: Vec<(u64, Vec<Effect>)>, flush: bool) {
        let applied = self.shared.applied.load(Ordering::Acquire);
        let last = entries.last().map_or(applied, |(index, _)| (*index).max(applied));
        let effects: usize = entries.iter().map(|(_, effects)| effects.len()).sum();
        if effects == 0 {
            self.shared.applied.store(last, Ordering::Release);
            if flush || self.last_commit.elapsed() >= IDLE_INDEX_INTERVAL {
                self.write_index();
            }
            return;
        }
        let mut pause = RETRY_FIRST;
        loop {
            let begun = Instant::now();
            match self.try_write(&entries, last) {
                Ok(()) => {
                    self.committed(last, effects, begun.elapsed());
                    return;
                }
                Err(error) => self.failed(&error),
            }
            if !self.pause(pause) {
                self.give_back(entries);
                return;
            }
            pause = (pause * 2).min(RETRY_LAST);
            self.reopen();
        }
    }

    fn try_write(&mut self, entries: &[(u64, Vec<Effect>)], last: u64) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else {
            return Err(StoreError::Absent { why: "the file is not open".into() });
        };
        // A commit whose answer got lost may have gone through before the reopening.
        let first = entries.partition_point(|(index, _)| *index <= open.applied_index);
        let added = transaction(&open.connection, |connection| {
            let added = append(connection, &entries[first..], "")?;
            set_applied(connection, last)?;
            Ok(added)
        })?;
        open.applied_index = last;
        let mut status = self.shared.status.lock();
        for (table, count) in added {
            *status.rows.entry(table).or_default() += count;
        }
        Ok(())
    }

    fn committed(&mut self, index: u64, effects: usize, took: Duration) {
        self.last_commit = Instant::now();
        self.shared.applied.store(index, Ordering::Release);
        self.shared.durable.store(index, Ordering::Release);
        let mut status = self.shared.status.lock();
        status.transactions += 1;
        status.fault = None;
        (status.damaged, status.not_ours, status.unusable) = (false, false, false);
        drop(status);
        if let Some(tell) = &self.shared.options.on_batch {
            tell(effects, took);
        }
        if let Some(tell) = &self.shared.options.on_written {
            tell(index);
        }
    }

    /// Writes down an index that moved without effects.
    fn write_index(&mut self) {
        let index = self.shared.applied.load(Ordering::Acquire);
        if index <= self.shared.durable.load(Ordering::Acquire) {
            return;
        }
        let Some(open) = &mut self.open else { return };
        self.last_commit = Instant::now();
        match set_applied(&open.connection, index) {
            Ok(()) => {
                open.applied_index = index;
                self.shared.durable.store(index, Ordering::Release);
            }
            Err(error) => self.failed(&error),
        }
    }

    pub(super) fn failed(&self, error: &StoreError) {
        tracing::error!(path = %self.shared.path.display(), %error, "database write failed");
        let mut status = self.shared.status.lock();
        status.fault = Some(error.to_string());
        status.damaged = matches!(error, StoreError::Corrupt { .. });
        status.not_ours = error.is_not_ours();
        status.unusable = error.blames_the_content();
        status.last_error = Some(error.to_string());
    }

    /// False where the store is closing or a rebuild makes the work at hand needless.
    fn pause(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut backlog = self.shared.backlog.lock();
        loop {
            if backlog.closing || backlog.rebuild.is_some() {
                return false;
            }
            if self.shared.work.wait_until(&mut backlog, deadline).timed_out() {
                return true;
            }
        }
    }

    /// What a rebuild will not bring is queued again, in its place.
    fn give_back(&self, entries: Vec<(u64, Vec<Effect>)>) {
        let mut backlog = self.shared.backlog.lock();
        let Some(rebuilt) = backlog.rebuild.as_ref().map(|job| job.index) else { return };
        for (index, effects) in entries.into_iter().rev().filter(|(index, _)| *index > rebuilt) {
            backlog.effects += effects.len();
            backlog.entries.push_front((index, effects));
        }
    }

    /// A fatal error leaves DuckDB's instance unusable: both connections go, the file is opened anew.
    fn reopen(&mut self) {
        let shared = Arc::clone(&self.shared);
        let _alone = shared.exports.write();
        *self.shared.reader.lock() = None;
        self.open = None;
        match schema::open(&self.shared.path, &self.shared.options) {
            Ok(open) => self.adopt(open),
            Err(error) => self.failed(&error),
        }
    }

    fn adopt(&mut self, open: Open) {
        match open.reader() {
            Ok(reader) => *self.shared.reader.lock() = Some(reader),
            Err(error) => self.failed(&error),
        }
        self.shared.status.lock().rows.clone_from(&open.rows);
        self.open = Some(open);
    }

    fn rebuild(&mut self, job: RebuildJob) {
        let begun = Instant::now();
        match self.try_rebuild(&job) {
            Ok(()) => {
                self.committed(job.index, job.effects.len(), begun.elapsed());
                tracing::info!(index = job.index, effects = job.effects.len(), "database rebuilt");
            }
            Err(error) => {
                self.failed(&error);
                // What waits behind a rebuild that failed would leave a hole.
                let mut backlog = self.shared.backlog.lock();
                let last = backlog.entries.back().map_or(job.index, |(index, _)| *index);
                backlog.dropped_through = backlog.dropped_through.max(last).max(job.index).max(1);
                backlog.dropped_effects += (job.effects.len() + backlog.effects) as u64;
                backlog.entries.clear();
                backlog.effects = 0;
            }
        }
    }

    fn try_rebuild(&mut self, job: &RebuildJob) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        if let Rebuild::Fresh { why } = &job.mode {
            let _alone = shared.exports.write();
            *shared.reader.lock() = None;
            self.open = None;
            if shared.path.exists() {
                schema::owned_and_free(&shared.path)?;
                let moved = quarantine(&shared.path, shared.options.quarantine.as_deref(), why)?;
                shared.status.lock().quarantined = Some(moved);
            }
        }
        if self.open.is_none() {
            let (open, quarantined) = schema::open_or_quarantine(&shared.path, &shared.options)?;
            if quarantined.is_some() {
                shared.status.lock().quarantined = quarantined;
            }
            self.adopt(open);
        }
        let Some(open) = &mut self.open else {
            return Err(StoreError::Absent { why: "the file is not open".into() });
        };
        // What has left memory is not in it: that is fetched from a peer.
        schema::want_history(&shared.path);
        let rows = rebuild::merge(open, job)?;
        open.applied_index = open.applied_index.max(job.index);
        shared.status.lock().rows = rows;
        Ok(())
    }
}

/// Whole entries, about [`BATCH_EFFECTS`] effects of them.
fn take_batch(backlog: &mut super::Backlog) -> Vec<(u64, Vec<Effect>)> {
    let mut entries = Vec::new();
    let mut effects = 0;
    while effects < BATCH_EFFECTS
        && let Some((index, of_entry)) = backlog.entries.pop_front()
    {
        effects += of_entry.len();
        entries.push((index, of_entry));
    }
    backlog.effects -= effects;
    entries
}
