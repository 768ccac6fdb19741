//! The applier thread: committed entries into the machine, replies to their waiters, effects to
//! the store.
//!
//! Invariant: entries are applied in order, each once. An entry that can't be decoded, or one
//! of a kind this version does not know, stops the node instead of letting it diverge.

use crate::command::{Batch, Reply};
use crate::events::{Events, Occurrence};
use crate::machine::members::{MemberChange, Membership};
use crate::machine::{Cut, Machine};
use crate::node::settings::Settings;
use crate::node::{Applied, NodeError};
use crate::operations::OperationBook;
use crate::raft::driver::{Inbox, Input};
use crate::raft::limits::RaftLimits;
use crate::raft::snapshots::{SnapshotName, Snapshots};
use crate::replica::ConfOutcome;
use crate::store::{Rebuild, Store};
use crate::telemetry::{Telemetry, trail};
use crossbeam_channel::Receiver;
use parking_lot::{Mutex, RwLock};
use raft::eraftpb::{Entry, EntryType};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Whoever waits for a command.
pub type Waiter = oneshot::Sender<Result<Applied, NodeError>>;

/// What the applier is given, in order.
pub enum Work {
    /// Apply these.
    Apply(Vec<ToApply>),
    /// Replace the machine by this snapshot, which lies verified in the folder.
    Install(SnapshotName),
    /// Take a snapshot now, whatever the policy says: somebody asked for it, or a new member needs
    /// one that names it.
    Snapshot(Option<SnapshotWaiter>),
}

/// Whoever asked for a snapshot. Busy while another is written: asking again helps.
pub type SnapshotWaiter = oneshot::Sender<Result<SnapshotName, SnapshotRefused>>;

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefused {
    /// One is being written.
    #[error("another snapshot is being written")]
    Busy,
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// Between two snapshots that are only wished for.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(10);
/// Tasks that are copied out of the machine under one lock.
const TASKS_AT_ONCE: usize = 256;

/// Who was put off because another snapshot is being written asks again within this time.
const ASKS_AGAIN: Duration = Duration::from_millis(500);

/// What the applier remembers of snapshots.
struct LastSnapshot {
    index: u64,
    at: Instant,
    log_bytes: u64,
    writing: Arc<AtomicBool>,
    /// Bytes of the newest one; 0 before any.
    state_bytes: Arc<AtomicU64>,
    /// When somebody was told to ask again last.
    put_off: Option<Instant>,
}

/// A committed entry with the waiters of its commands, in their order.
pub struct ToApply {
    /// The entry.
    pub entry: Entry,
    /// Empty where another node proposed it.
    pub waiters: Vec<Waiter>,
    /// When the first of its commands was proposed, if it was here.
    pub since: Option<Instant>,
    /// What a change of the membership made of Raft's sets.
    pub conf: Option<ConfOutcome>,
}

/// Counters of the applier, read by health and metrics.
#[derive(Debug, Default)]
pub struct ApplierProgress {
    /// Entries applied.
    pub entries: AtomicU64,
    /// Since when the present batch goes on.
    pub busy_since: Mutex<Option<Instant>>,
}

/// What the applier works on.
pub struct Applier {
    /// The machine.
    pub machine: Arc<RwLock<Machine>>,
    /// Told the machine's settings.
    pub settings: Arc<Settings>,
    /// Takes what is to be recorded, in order; never blocks.
    pub store: Arc<Store>,
    /// Where snapshots lie.
    pub snapshots: Snapshots,
    /// When one is due.
    pub limits: Arc<RaftLimits>,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Index of the snapshot that the log engine names durably; older files may go.
    pub named_index: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What takes longer than a moment is listed here.
    pub operations: OperationBook,
    /// What happens is told here.
    pub events: Events,
    /// What is at or below this index was counted before the restart.
    pub replay_until: u64,
    /// Whom to tell what is applied.
    pub inbox: Inbox,
    /// Wakes those who wait for an index.
    pub applied: Arc<watch::Sender<u64>>,
    /// Its counters.
    pub progress: Arc<ApplierProgress>,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Told when the members have changed.
    pub members_changed: Arc<dyn Fn(&Membership) + Send + Sync>,
    /// Told why the node has to stop taking part.
    pub fail: Arc<dyn Fn(String) + Send + Sync>,
}

impl Applier {
    /// Works until the queue closes or an entry can't be applied.
    pub fn run(self, queue: &Receiver<Work>) {
        let mut last = self.nothing_yet();
        while let Ok(work) = queue.recv() {
            *self.progress.busy_since.lock() = Some(Instant::now());
            let result = match work {
                Work::Apply(batch) => {
                    last.log_bytes += batch.iter().map(|item| item.entry.data.len() as u64).sum::<u64>();
                    self.apply(batch).and_then(|()| self.snapshot_if_due(&mut last))
                }
                Work::Install(name) => self.install(&name).map(|()| {
                    last.index = name.index;
                    last.log_bytes = 0;
                    last.state_bytes.store(name.bytes, Ordering::Relaxed);
                }),
                Work::Snapshot(waiter) => self.snapshot(&mut last, waiter),
            };
            *self.progress.busy_since.lock() = None;
            if let Err(why) = result {
                tracing::error!(why, "an entry can't be applied; the node stops taking part");
                (self.fail)(why);
                return;
            }
        }
    }

    /// What is known of snapshots at the start.
    fn nothing_yet(&self) -> LastSnapshot {
        LastSnapshot {
            index: self.snapshot_index,
            at: Instant::now(),
            log_bytes: 0,
            writing: Arc::default(),
            state_bytes: Arc::new(AtomicU64::new(self.snapshots.newest().map_or(0, |name| name.bytes))),
            put_off: None,
        }
    }

    /// Who was put off asks again within moments and goes first: where much is written, one snapshot
    /// is due as soon as the one before it is done.
    fn snapshot_if_due(&self, last: &mut LastSnapshot) -> Result<(), String> {
        if last.put_off.is_some_and(|at| at.elapsed() < ASKS_AGAIN) {
            return Ok(());
        }
        let since = self.machine.read().applied_index().saturating_sub(last.index);
        let limits = (self.limits.snapshot_threshold_entries(), self.limits.max_log_entries());
        let state_bytes = last.state_bytes.load(Ordering::Relaxed);
        match due(since, limits, last.at.elapsed(), last.log_bytes, state_bytes) {
            true => self.snapshot(last, None),
            false => Ok(()),
        }
    }

    /// Cuts the machine here, between two batches; a thread of its own reads the cut and writes
    /// it, while this one goes on applying.
    fn snapshot(&self, last: &mut LastSnapshot, waiter: Option<SnapshotWaiter>) -> Result<(), String> {
        if last.writing.swap(true, Ordering::AcqRel) {
            if let Some(waiter) = waiter {
                last.put_off = Some(Instant::now());
                let _ = waiter.send(Err(SnapshotRefused::Busy));
            }
            return Ok(());
        }
        if waiter.is_some() {
            last.put_off = None;
        }
        let cut = self.machine.write().begin_cut();
        (last.index, last.at, last.log_bytes) = (cut.index(), Instant::now(), 0);
        let writer = SnapshotThread {
            machine: self.machine.clone(),
            snapshots: self.snapshots.clone(),
            inbox: self.inbox.clone(),
            named_index: self.named_index.clone(),
            operations: self.operations.clone(),
            events: self.events.clone(),
            telemetry: self.telemetry.clone(),
            writing: last.writing.clone(),
            state_bytes: last.state_bytes.clone(),
        };
        let thread =
            std::thread::Builder::new().name("snapshot".into()).spawn(move || writer.run(cut, waiter));
        thread.map(drop).map_err(|e| format!("a thread can't be started: {e}"))
    }

    fn install(&self, name: &SnapshotName) -> Result<(), String> {
        let machine = self.snapshots.read(name).map_err(|e| e.to_string())?;
        let (effects, log_ms) = (machine.effects_for_rebuild(), machine.log_ms());
        let members = machine.members().clone();
        failpoint!("install_before_swap");
        self.settings.publish(machine.limits());
        *self.machine.write() = machine;
        self.snapshots.note(name);
        (self.members_changed)(&members);
        self.store.rebuild(name.index, effects, Rebuild::Merge);
        self.applied.send_replace(name.index);
        failpoint!("install_after_swap");
        self.inbox.tell(Input::Installed(name.index, log_ms));
        tracing::info!(index = name.index, bytes = name.bytes, "installed a snapshot of the leader");
        let detail = format!("index {}, {} bytes, of the leader", name.index, name.bytes);
        self.events.noticed(name.term, Occurrence::new("snapshot_installed", self.events.node_id(), detail));
        Ok(())
    }

    fn apply(&self, batch: Vec<ToApply>) -> Result<(), String> {
        failpoint!("apply_before");
        let started = Instant::now();
        let count = batch.len();
        let mut answers = Vec::new();
        let mut proposed = Vec::new();
        let mut index = 0;
        let mut members = None;
        {
            let mut machine = self.machine.write();
            for item in batch {
                index = item.entry.index;
                let replies = match item.entry.get_entry_type() {
                    EntryType::EntryNormal => {
                        self.apply_entry(&mut machine, &item.entry, item.since.is_some())?
                    }
                    _ => {
                        let reply = self.apply_change(&mut machine, &item.entry, item.conf.as_ref())?;
                        members = Some(machine.members().clone());
                        vec![reply]
                    }
                };
                proposed.extend(item.since.map(|since| (since, item.waiters.len())));
                answers.extend(
                    item.waiters
                        .into_iter()
                        .zip(replies)
                        .map(|(waiter, reply)| (waiter, Applied { index, reply })),
                );
            }
            self.settings.publish(machine.limits());
        }
        self.progress.entries.fetch_add(count as u64, Ordering::Relaxed);
        self.telemetry.applied(started.elapsed());
        if let Some(members) = members {
            (self.members_changed)(&members);
        }
        self.applied.send_replace(index);
        failpoint!("apply_before_answer");
        for (waiter, applied) in answers {
            // Whoever waited may have given up; the command is applied all the same.
            let _ = waiter.send(Ok(applied));
        }
        for (since, commands) in proposed {
            self.telemetry.answered(commands, since.elapsed());
        }
        failpoint!("apply_after_answer");
        self.inbox.tell(Input::Applied(index));
        Ok(())
    }

    /// `own`: this node proposed it.
    fn apply_entry(&self, machine: &mut Machine, entry: &Entry, own: bool) -> Result<Vec<Reply>, String> {
        let (index, term) = (entry.index, entry.term);
        let traces = self.telemetry.traces();
        let mut applying = traces.applying(entry);
        let mut effects = Vec::new();
        let mut replies = Vec::new();
        if !entry.data.is_empty() {
            let batch = Batch::decode(&entry.data).map_err(|e| format!("entry {index}: {e}"))?;
            replies.reserve(batch.commands.len());
            for (position, command) in batch.commands.iter().enumerate() {
                machine.admit(command).map_err(|why| format!("entry {index}: {why}"))?;
                let (span, first) = (traces.begin(&applying, position), effects.len());
                replies.push(machine.apply(index, term, batch.stamp, command, &mut effects));
                if let Some(span) = span {
                    applying.applied(span, first..effects.len());
                }
            }
        }
        machine.finish_entry(index, term, &entry.data);
        if index > self.replay_until {
            self.telemetry.effects(&effects);
            traces.tell(index, term, &effects, applying, own);
            self.events.applied(index, term, &effects);
        } else {
            traces.remember(&effects, applying);
        }
        self.store.append(index, effects);
        Ok(replies)
    }

    /// Takes over what Raft made of a change of the membership, with the new members' records.
    fn apply_change(
        &self,
        machine: &mut Machine,
        entry: &Entry,
        conf: Option<&ConfOutcome>,
    ) -> Result<Reply, String> {
        let index = entry.index;
        let unread = |why: String| format!("entry {index} changes the membership and can't be read: {why}");
        let conf = conf.ok_or_else(|| unread("Raft does not know its form".into()))?;
        let change = MemberChange::decode(&entry.data).map_err(unread)?;
        let mut effects = Vec::new();
        let reply = match &conf.refused {
            None => machine.change_members(index, &change, &conf.state, &mut effects),
            Some(why) => Reply::Refused {
                code: api::ErrorCode::InvalidState,
                detail: format!("Raft refused it: {why}"),
            },
        };
        machine.finish_entry(index, entry.term, &entry.data);
        if index > self.replay_until {
            trail::applied(index, entry.term, &effects);
            self.events.applied(index, entry.term, &effects);
        }
        self.store.append(index, effects);
        Ok(reply)
    }
}

/// Is a snapshot due, so many entries and bytes of log after the last one? Not before the threshold, not
/// more often than once in a while, and not before the log has grown by a quarter of what would be
/// written; but in any case where the log is as long as it may be.
fn due(
    entries: u64,
    (threshold, most): (u64, u64),
    since_last: Duration,
    log_bytes: u64,
    state_bytes: u64,
) -> bool {
    let worth_it = since_last >= SNAPSHOT_PAUSE && log_bytes * 4 >= state_bytes;
    entries >= threshold && worth_it || entries >= most
}

/// What writes a cut to a file.
struct SnapshotThread {
    machine: Arc<RwLock<Machine>>,
    snapshots: Snapshots,
    inbox: Inbox,
    named_index: Arc<dyn Fn() -> u64 + Send + Sync>,
    operations: OperationBook,
    events: Events,
    telemetry: Telemetry,
    writing: Arc<AtomicBool>,
    state_bytes: Arc<AtomicU64>,
}

impl SnapshotThread {
    fn tell(&self, term: u64, kind: &'static str, detail: String) {
        self.events.noticed(term, Occurrence::new(kind, self.events.node_id(), detail));
    }

    fn run(self, cut: Cut, waiter: Option<SnapshotWaiter>) {
        crate::operations::yield_to_others();
        let (began, index) = (Instant::now(), cut.index());
        let operation = self.operations.begin("snapshot", format!("writing the state at index {index}"));
        let next = || self.machine.write().read_cut(&cut, TASKS_AT_ONCE);
        let written = self.snapshots.write(&cut, next);
        self.machine.write().end_cut(&cut);
        drop(operation);
        let outcome = match written {
            Ok(name) => {
                tracing::debug!(
                    index,
                    bytes = name.bytes,
                    took_ms = began.elapsed().as_millis(),
                    "wrote a snapshot"
                );
                self.telemetry.snapshot_written(began.elapsed(), name.bytes);
                self.tell(cut.term(), "snapshot_written", format!("index {index}, {} bytes", name.bytes));
                self.state_bytes.store(name.bytes, Ordering::Relaxed);
                self.inbox.tell(Input::SnapshotWritten(name.clone(), cut.conf_state()));
                if let Err(error) = self.snapshots.sweep((self.named_index)()) {
                    tracing::warn!(%error, "superseded snapshots could not be removed; tried again with the next");
                }
                Ok(name)
            }
            Err(error) => {
                // The log stays as long as it is; the next one is tried in its time.
                tracing::error!(%error, "a snapshot could not be written");
                self.telemetry.snapshot_failed();
                self.tell(cut.term(), "snapshot_failed", error.to_string());
                Err(SnapshotRefused::Failed(error.to_string()))
            }
        };
        self.writing.store(false, Ordering::Release);
        waiter.map(|waiter| waiter.send(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::raft::driver::inbox;
    use crate::store::StoreOptions;
    use std::path::Path;

    /// An applier for which a snapshot is due with every second entry.
    fn applier(folder: &Path) -> Applier {
        let env = |key: &str| match key {
            "NODE_ID" => Some("n1".to_owned()),
            "DATA_DIR" => Some(folder.display().to_string()),
            "HOST" => Some("127.0.0.1".to_owned()),
            "ENABLE_REDUNDANCY" => Some("false".to_owned()),
            "SNAPSHOT_THRESHOLD" => Some("1".to_owned()),
            "MAX_LOG_SIZE" => Some("2".to_owned()),
            _ => None,
        };
        let (config, _) = Config::load(None, env).unwrap();
        Applier {
            machine: Arc::new(RwLock::new(Machine::new())),
            settings: Arc::default(),
            store: Store::open(folder.join("database"), StoreOptions::default()).unwrap().0.into(),
            snapshots: Snapshots::new(folder),
            limits: Arc::new(RaftLimits::new(&config)),
            snapshot_index: 0,
            named_index: Arc::new(|| 0),
            operations: OperationBook::default(),
            events: Events::new("n1", "boot"),
            replay_until: 0,
            inbox: inbox().0,
            applied: Arc::new(watch::channel(0).0),
            progress: Arc::default(),
            telemetry: Telemetry::new("n1").unwrap(),
            members_changed: Arc::new(|_| ()),
            fail: Arc::new(|why| panic!("{why}")),
        }
    }

    /// Where much is written, one snapshot is due as soon as the one before it is done: who asks would
    /// find another under way each time.
    #[test]
    fn a_snapshot_that_somebody_asks_for_goes_before_the_next_that_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(folder.path());
        let mut last = applier.nothing_yet();
        let written = |last: &LastSnapshot| {
            while last.writing.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        };
        let entries = |upto| applier.machine.write().finish_entry(upto, 1, &[]);

        entries(2);
        applier.snapshot_if_due(&mut last).unwrap();
        assert_eq!(last.index, 2, "one is due");
        // It is still being written when somebody asks.
        written(&last);
        last.writing.store(true, Ordering::Release);
        let ask = |last: &mut LastSnapshot| {
            let (waiter, answer) = oneshot::channel();
            applier.snapshot(last, Some(waiter)).unwrap();
            answer
        };
        assert_eq!(ask(&mut last).blocking_recv().unwrap(), Err(SnapshotRefused::Busy));
        last.writing.store(false, Ordering::Release);

        entries(5);
        applier.snapshot_if_due(&mut last).unwrap();
        assert_eq!(last.index, 2, "the next that is due waits for who was put off");
        let name = ask(&mut last).blocking_recv().unwrap().unwrap();
        assert_eq!((name.index, last.index), (5, 5));
        written(&last);

        entries(8);
        applier.snapshot_if_due(&mut last).unwrap();
        assert_eq!(last.index, 8, "nobody waits any more");
        written(&last);

        // Who was put off and does not come again holds nothing up for long.
        entries(11);
        last.put_off = Instant::now().checked_sub(ASKS_AGAIN);
        applier.snapshot_if_due(&mut last).unwrap();
        assert_eq!(last.index, 11);
        written(&last);
        applier.store.close();
    }

    #[test]
    fn a_snapshot_is_due_when_it_is_worth_its_bytes_or_the_log_is_full() {
        let limits = (1_000, 10_000);
        let after =
            |entries, log_bytes, state_bytes| due(entries, limits, SNAPSHOT_PAUSE, log_bytes, state_bytes);
        assert!(!after(999, 1 << 20, 0), "below the threshold");
        assert!(after(1_000, 0, 0), "an empty state costs nothing");
        assert!(!after(9_999, 249, 1_000), "too little was written for so large a state");
        assert!(after(1_000, 250, 1_000));
        assert!(!due(9_999, limits, SNAPSHOT_PAUSE - Duration::from_millis(1), 1 << 20, 0), "too soon");
        assert!(due(10_000, limits, Duration::ZERO, 0, 1 << 40), "the log is as long as it may be");
    }
}
