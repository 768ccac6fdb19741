//! The applier thread: committed entries into the machine, replies to their waiters, effects to
//! the store.
//!
//! Invariant: entries are applied in order, each once. An entry that can't be decoded, or one
//! of a kind this version does not know, stops the node instead of letting it diverge.

use crate::command::Batch;
use crate::machine::{Effect, Machine};
use crate::node::{Applied, NodeError};
use crate::raft::driver::{Inbox, Input};
use crate::telemetry::Telemetry;
use crossbeam_channel::Receiver;
use parking_lot::{Mutex, RwLock};
use raft::eraftpb::{Entry, EntryType};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// Whoever waits for a command.
pub type Waiter = oneshot::Sender<Result<Applied, NodeError>>;

/// A committed entry with the waiters of its commands, in their order.
pub struct ToApply {
    /// The entry.
    pub entry: Entry,
    /// Empty where another node proposed it.
    pub waiters: Vec<Waiter>,
}

/// Counters of the applier, read by health and metrics.
#[derive(Debug, Default)]
pub struct ApplierProgress {
    /// Entries applied.
    pub entries: AtomicU64,
    /// Since when the present batch goes on.
    pub busy_since: Mutex<Option<Instant>>,
}

/// Takes the effects of the entry at an index.
pub type EffectSink = Box<dyn Fn(u64, Vec<Effect>) + Send>;

/// What the applier works on.
pub struct Applier {
    /// The machine.
    pub machine: Arc<RwLock<Machine>>,
    /// Takes what the store must record, in order; never blocks.
    pub effects: EffectSink,
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
    /// Told why the node has to stop taking part.
    pub fail: Arc<dyn Fn(String) + Send + Sync>,
}

impl Applier {
    /// Works until the queue closes or an entry can't be applied.
    pub fn run(self, queue: &Receiver<Vec<ToApply>>) {
        while let Ok(mut batch) = queue.recv() {
            while batch.len() < 1024 {
                match queue.try_recv() {
                    Ok(more) => batch.extend(more),
                    Err(_) => break,
                }
            }
            *self.progress.busy_since.lock() = Some(Instant::now());
            let result = self.apply(batch);
            *self.progress.busy_since.lock() = None;
            if let Err(why) = result {
                tracing::error!(why, "an entry can't be applied; the node stops taking part");
                (self.fail)(why);
                return;
            }
        }
    }

    fn apply(&self, batch: Vec<ToApply>) -> Result<(), String> {
        let started = Instant::now();
        let count = batch.len();
        let mut answers = Vec::new();
        let mut index = 0;
        {
            let mut machine = self.machine.write();
            for item in batch {
                index = item.entry.index;
                let replies = self.apply_entry(&mut machine, &item.entry)?;
                answers.extend(
                    item.waiters
                        .into_iter()
                        .zip(replies)
                        .map(|(waiter, reply)| (waiter, Applied { index, reply })),
                );
            }
        }
        self.progress.entries.fetch_add(count as u64, Ordering::Relaxed);
        self.telemetry.applied(started.elapsed());
        self.applied.send_replace(index);
        for (waiter, applied) in answers {
            // Whoever waited may have given up; the command is applied all the same.
            let _ = waiter.send(Ok(applied));
        }
        self.inbox.tell(Input::Applied(index));
        Ok(())
    }

    fn apply_entry(
        &self,
        machine: &mut Machine,
        entry: &Entry,
    ) -> Result<Vec<crate::command::Reply>, String> {
        let (index, term) = (entry.index, entry.term);
        let mut effects = Vec::new();
        let mut replies = Vec::new();
        if entry.get_entry_type() != EntryType::EntryNormal {
            return Err(format!(
                "entry {index} changes the membership, which this version does not do: update the program"
            ));
        }
        if !entry.data.is_empty() {
            let batch = Batch::decode(&entry.data).map_err(|e| format!("entry {index}: {e}"))?;
            replies.reserve(batch.commands.len());
            for command in &batch.commands {
                replies.push(machine.apply(index, term, batch.stamp, command, &mut effects));
            }
        }
        machine.finish_entry(index, term, &entry.data);
        if index > self.replay_until {
            self.telemetry.effects(&effects);
        }
        (self.effects)(index, effects);
        Ok(replies)
    }
}
