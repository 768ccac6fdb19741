//! The machine: tasks, workers and leases, as the log has made them.
//!
//! Every replica applies the same commands in the same order and so holds the same state. What
//! `apply` may look at is the state and the command with its stamp, nothing else: no clock, no
//! config, no random source, no map whose order differs between processes. What the world has to
//! learn of it comes back as a [`Reply`] and as [`Effect`]s.
//!
//! Invariants:
//! - A token is given out once, ever: tasks' leases and named leases draw from one counter.
//! - A task has at most one live lease, and its result is accepted from that lease only.
//! - The checksum is the sum over the records; whoever changes a record goes through
//!   `Machine::change_task` or updates the sum beside it.
//! - Memory does not grow with history: finished tasks beyond [`Limits::finished_tasks`] leave,
//!   oldest first, into a running hash.
//!
//! If one of them is broken, replicas part silently, or a test is run twice and believed once.

mod attempts;
pub(crate) mod checksum;
mod cut;
mod effect;
mod evict;
mod keys;
mod leases;
mod limits;
pub mod members;
mod queue;
mod records;
mod restore;
pub mod settings;
pub(crate) mod snapshot;
mod submit;
mod tasks;
pub mod version;
mod view;
mod workers;

pub use checksum::Checkpoint;
pub use cut::{Cut, CutSum, CutTasks};
pub use effect::{Effect, EventKind};
pub use leases::LeaseView;
pub use limits::Limits;
pub use queue::{Demand, ReadyClass};
pub use settings::{SETTINGS, Setting};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotEncoder, SnapshotError};
pub use tasks::{Attempt, Spec};
pub use view::{Pending, TaskFilter};
pub use workers::{Standing, Worker};

use crate::command::{Command, Reply, Stamp};
use api::ErrorCode;
use checksum::Canon;
use evict::Evicted;
use keys::Keys;
use leases::NamedLease;
use members::Membership;
use queue::Queue;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tasks::{Task, Tasks};

/// Unix milliseconds as a timestamp; what lies beyond the calendar is drawn to its end.
pub fn wall(ms: i64) -> jiff::Timestamp {
    let end = if ms < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    jiff::Timestamp::from_millisecond(ms).unwrap_or(end)
}

/// The replicated state.
#[derive(Debug)]
pub struct Machine {
    limits: Limits,
    applied_index: u64,
    applied_term: u64,
    log_ms: u64,
    log_chain: u128,
    /// Sum of the hashes of tasks, workers, named leases and idempotency keys.
    records: u128,
    checkpoints: VecDeque<Checkpoint>,
    checkpoint_wanted: bool,
    /// The last seq given out.
    last_seq: u64,
    /// The last token or epoch given out.
    last_token: u64,
    tasks: Tasks,
    queue: Queue,
    workers: BTreeMap<Arc<str>, Worker>,
    /// Token -> task of the live leases.
    leases: BTreeMap<u64, u64>,
    named: BTreeMap<String, NamedLease>,
    keys: Keys,
    maintenance: bool,
    /// When maintenance was turned on, Unix milliseconds.
    maintenance_since: Option<i64>,
    /// Who turned it on.
    maintenance_by: Option<String>,
    evicted: Evicted,
    members: Membership,
    /// The behaviour that the log may count on; see [`version`].
    version: u32,
}

impl Default for Machine {
    fn default() -> Self {
        Machine::with_limits(Limits::default())
    }
}

impl Machine {
    /// The state before the first entry.
    pub fn new() -> Self {
        Machine::default()
    }

    /// As [`Machine::new`] with other bounds; every replica must be given the same ones.
    pub fn with_limits(limits: Limits) -> Self {
        Machine {
            limits,
            applied_index: 0,
            applied_term: 0,
            log_ms: 0,
            log_chain: 0,
            records: 0,
            checkpoints: VecDeque::new(),
            checkpoint_wanted: false,
            last_seq: 0,
            last_token: 0,
            tasks: Tasks::default(),
            queue: Queue::default(),
            workers: BTreeMap::new(),
            leases: BTreeMap::new(),
            named: BTreeMap::new(),
            keys: Keys::default(),
            maintenance: false,
            maintenance_since: None,
            maintenance_by: None,
            evicted: Evicted::default(),
            members: Membership::default(),
            version: 1,
        }
    }

    /// Applies one command of the entry at `index`, `term`.
    ///
    /// A refused command changes nothing but the log's time. After the entry's last command comes
    /// [`Machine::finish_entry`].
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        stamp: Stamp,
        command: &Command,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        debug_assert!(index > self.applied_index, "{index} (term {term}) is applied already");
        // A leader's clock may not take the log's time back, whatever it stamps.
        self.log_ms = self.log_ms.max(stamp.log_ms);
        let at = Stamp { log_ms: self.log_ms, wall_ms: stamp.wall_ms };
        self.queue.promote(at.log_ms);
        match command {
            Command::Submit { tasks } => self.submit(tasks, at, effects),
            Command::Cancel { task_id } => self.cancel(task_id, at, effects),
            Command::Retry { task_id } => self.retry(task_id, at, effects),
            Command::RegisterWorker { worker } => self.register_worker(worker, at, effects),
            Command::DrainWorker { worker_id } => self.drain_worker(worker_id, at, effects),
            Command::Assign { pairs } => self.assign(pairs, at, effects),
            Command::Delivered { tokens } => self.delivered(tokens),
            Command::Complete { .. } => self.complete(command, at, effects),
            Command::Expire { leases } => self.expire(leases, at, effects),
            Command::WorkerLost { worker_id } => self.worker_lost(worker_id, at, effects),
            Command::Maintenance { enabled, by } => {
                self.set_maintenance(*enabled, by.as_deref(), at, effects)
            }
            Command::Checkpoint => {
                self.checkpoint_wanted = true;
                Reply::Done
            }
            Command::Evict { before_log_ms, limit } => self.evict(*before_log_ms, *limit, at, effects),
            Command::NamedLease { name, holder, ttl_ms } => {
                self.named_lease(name, holder, *ttl_ms, at, effects)
            }
            Command::RaiseVersion { to } => self.raise_version(*to),
            Command::ChangeSettings { changes } => self.change_settings(changes, at, effects),
            Command::RetryMany { filter } => self.retry_many(filter, at, effects),
            Command::Keyed { key, write } => self.keyed(index, key, write, at, effects),
        }
    }

    /// Closes the entry at `index`, `term`, also one without commands.
    ///
    /// Advances applied index, term and log chain, and remembers a checkpoint where one is due.
    pub fn finish_entry(&mut self, index: u64, term: u64, data: &[u8]) {
        self.log_chain = checksum::chain(self.log_chain, index, term, data);
        self.applied_index = index;
        self.applied_term = term;
        let wanted = std::mem::take(&mut self.checkpoint_wanted);
        if wanted || index.is_multiple_of(self.limits.checkpoint_interval) {
            let checkpoint = Checkpoint { index, checksum: self.checksum(), log_chain: self.log_chain };
            self.checkpoints.push_back(checkpoint);
            while self.checkpoints.len() > self.limits.checkpoints as usize {
                self.checkpoints.pop_front();
            }
        }
    }

    /// The state's checksum at the applied index.
    pub fn checksum(&self) -> u128 {
        self.records.wrapping_add(self.counters_hash()).wrapping_add(self.standing_hash())
    }

    /// The checksum from the records themselves, nothing remembered; for the scrub.
    pub fn recompute_checksum(&self) -> u128 {
        self.sum_of_records().wrapping_add(self.counters_hash()).wrapping_add(self.standing_hash())
    }

    fn sum_of_records(&self) -> u128 {
        let tasks = self.tasks.all().map(Task::recompute_hash);
        let workers = self.workers.values().map(Worker::compute_hash);
        let named = self.named.iter().map(|(name, lease)| lease.compute_hash(name));
        let sum = tasks.chain(workers).chain(named).fold(0u128, u128::wrapping_add);
        sum.wrapping_add(self.keys.sum())
    }

    /// Members and version; 0 where a log has neither.
    fn standing_hash(&self) -> u128 {
        let version = match self.version {
            0 | 1 => 0,
            later => Canon::new(6).u64(u64::from(later)).hash(),
        };
        self.members.hash().wrapping_add(version)
    }

    /// Everything that is one of a kind, as one record.
    fn counters_hash(&self) -> u128 {
        let mut canon = Canon::new(4);
        canon.u64(self.log_ms).u64(self.last_seq).u64(self.last_token);
        canon.u8(u8::from(self.maintenance)).maybe_i64(self.maintenance_since);
        // Everything else here has a fixed length, so leaving it out is as distinct as writing it.
        if let Some(by) = &self.maintenance_by {
            canon.text(by);
        }
        canon.u64(self.evicted.tasks).u128(self.evicted.hash);
        self.limits.write(&mut canon);
        canon.hash()
    }

    /// Changes a task, its place in the indexes and the checksum.
    fn change_task(&mut self, seq: u64, change: impl FnOnce(&mut Task)) {
        if let Some((old, new)) = self.tasks.change(seq, change) {
            self.replace_hash(old, new);
        }
    }

    fn replace_hash(&mut self, old: u128, new: u128) {
        self.records = self.records.wrapping_sub(old).wrapping_add(new);
    }

    /// A token or epoch that was never given out.
    fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Gives out no token of the next `count`: another log may have given them out already.
    pub fn skip_tokens(&mut self, count: u64) {
        self.last_token += count;
    }

    fn set_maintenance(
        &mut self,
        enabled: bool,
        by: Option<&str>,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if enabled != self.maintenance {
            self.maintenance = enabled;
            self.maintenance_since = enabled.then_some(at.wall_ms);
            self.maintenance_by = by.filter(|_| enabled).map(str::to_owned);
            let kind = if enabled { EventKind::MaintenanceEnabled } else { EventKind::MaintenanceDisabled };
            effects.push(event(kind, "", by.map(|by| format!("by {by}")).unwrap_or_default(), at));
        }
        Reply::Done
    }
}

fn event(kind: EventKind, subject: &str, detail: String, at: Stamp) -> Effect {
    Effect::Event { kind, subject: Arc::from(subject), detail, wall_ms: at.wall_ms }
}

fn refused(code: ErrorCode, detail: impl Into<String>) -> Reply {
    Reply::Refused { code, detail: detail.into() }
}

fn unknown_task(id: &str) -> Reply {
    refused(ErrorCode::UnknownTask, format!("no task `{id}` in memory"))
}

fn unknown_worker(id: &str) -> Reply {
    refused(ErrorCode::UnknownWorker, format!("no worker `{id}` is registered"))
}
