//! What the leader does by the clock: deliveries, expiry, checkpoints, eviction.

use super::Dispatch;
use super::ledger::Overdue;
use crate::command::Command;
use crate::machine::LeaseView;
use api::worker::WorkerState;
use std::time::{Duration, Instant};

/// Between two bundles of deliveries.
const DELIVERY_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks at what has run out.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Between two checkpoints, while something changes.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at what may leave memory.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);
/// Deliveries in one proposal at most.
const MAX_DELIVERIES: usize = 10_000;
/// Tasks that one command evicts at most: it is applied in one go, and everybody waits for it.
const MAX_EVICTED: u32 = 5_000;
/// Proposals of one kind in flight at once.
const MAX_IN_FLIGHT: usize = 32;

/// When something was done last.
struct Every {
    interval: Duration,
    last: Instant,
}

impl Every {
    fn new(interval: Duration) -> Self {
        Every { interval, last: Instant::now() }
    }

    /// True once an interval.
    fn due(&mut self) -> bool {
        let due = self.last.elapsed() >= self.interval;
        if due {
            self.last = Instant::now();
        }
        due
    }
}

impl Dispatch {
    /// Does all of it for as long as this node leads.
    pub(super) async fn upkeep(&self) {
        let mut ticks = tokio::time::interval(DELIVERY_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut expiry = Every::new(EXPIRY_INTERVAL);
        let mut eviction = Every::new(EVICTION_INTERVAL);
        let mut checkpoint = Every::new(CHECKPOINT_INTERVAL);
        let mut checkpointed_index = 0;
        self.expire().await;
        loop {
            ticks.tick().await;
            self.log_deliveries().await;
            if expiry.due() {
                self.expire().await;
            }
            if eviction.due() {
                self.evict().await;
            }
            if checkpoint.due() && self.node().applied_index() > checkpointed_index {
                checkpointed_index = self.log(Command::Checkpoint).await.unwrap_or(checkpointed_index);
            }
        }
    }

    /// Logs which leases have arrived at their workers.
    async fn log_deliveries(&self) {
        let tokens =
            self.with_ledger(|ledger, _| ledger.take_undelivered(MAX_DELIVERIES)).unwrap_or_default();
        if tokens.is_empty() {
            return;
        }
        // Most short tasks are over by now, and need no entry of their own.
        let tokens: Vec<u64> = {
            let machine = self.node().machine();
            let waits = |token: &u64| machine.lease(*token).is_some_and(|lease| !lease.delivered);
            tokens.into_iter().filter(waits).collect()
        };
        if !tokens.is_empty() {
            self.log(Command::Delivered { tokens }).await;
        }
    }

    /// Ends what has run out.
    async fn expire(&self) {
        let (leases, workers, log_ms) = self.held();
        let now_log_ms = self.now_log_ms(log_ms);
        let timing = self.timing();
        let overdue = self
            .with_ledger(|ledger, now_ms| {
                ledger.set_timing(timing);
                ledger.overdue(&leases, &workers, now_ms, now_log_ms)
            })
            .unwrap_or_default();
        let Overdue { leases, workers } = overdue;
        if !leases.is_empty() {
            tracing::info!(leases = leases.len(), "leases have run out");
            self.log(Command::Expire { leases }).await;
        }
        for bundle in workers.chunks(MAX_IN_FLIGHT) {
            let lost = bundle.iter().map(|worker_id| {
                tracing::warn!(%worker_id, "the worker fell silent and is given up");
                self.log(Command::WorkerLost { worker_id: worker_id.clone() })
            });
            futures_util::future::join_all(lost).await;
        }
    }

    /// Every live lease, every worker that is not lost, and the log's time.
    fn held(&self) -> (Vec<LeaseView>, Vec<String>, u64) {
        let machine = self.node().machine();
        let present = |worker: &api::worker::WorkerRecord| worker.state != WorkerState::Lost;
        let workers = machine.workers().into_iter().filter(present).map(|w| w.worker_id).collect();
        (machine.all_leases(), workers, machine.log_ms())
    }

    async fn evict(&self) {
        let (log_ms, retention_ms) = {
            let machine = self.node().machine();
            (machine.log_ms(), machine.limits().finished_retention_ms)
        };
        let before_log_ms = self.now_log_ms(log_ms).saturating_sub(retention_ms);
        // As long as it finds as much as one command takes, there is more.
        while self.node().machine().evictable(before_log_ms) {
            let evict = Command::Evict { before_log_ms, limit: MAX_EVICTED };
            if self.log(evict).await.is_none() {
                return;
            }
        }
    }

    /// Proposes a command of our own. Gives its index; a failure is tried again by the next round.
    async fn log(&self, command: Command) -> Option<u64> {
        let name = command.name();
        match self.node().propose(command).await {
            Ok(applied) => Some(applied.index),
            Err(error) => {
                tracing::debug!(command = name, %error, "a command of the dispatcher was not logged");
                None
            }
        }
    }
}
