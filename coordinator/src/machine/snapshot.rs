//! The machine as bytes, and back.
//!
//! Layout: magic (8 bytes), version (u16), length of the body (u64), xxh3-128 of the body (16
//! bytes), the body in postcard. Equal machines write equal bytes.
//!
//! Reading trusts nothing: magic, version, length and hash first, then every number in the body
//! against its bounds, and at last the checksum that the writer named against the one that the
//! records give. Hostile bytes end in a [`SnapshotError`], never in a panic.

use super::Machine;
use super::checksum::Checkpoint;
use super::evict::Evicted;
use super::leases::NamedLease;
use super::limits::Limits;
use super::members::Membership;
use super::queue::Demand;
use super::tasks::{Attempt, Spec, Task};
use super::version::MACHINE_VERSION;
use super::workers::{Standing, Worker};
use crate::command::WorkerSpec;
use api::task::TaskState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8; 8] = b"HOLDFAST";
/// The version this program writes and the newest it reads.
pub const SNAPSHOT_VERSION: u16 = 1;
const HEAD_BYTES: usize = 8 + 2 + 8 + 16;
/// Counters stay below this, so that they can't overflow in the life of a cluster.
const COUNTER_BOUND: u64 = 1 << 62;
const ATTEMPT_BOUND: u32 = 1 << 31;

/// Why bytes make no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes don't begin as a snapshot does.
    #[error("the bytes are no snapshot of a machine")]
    Foreign,
    /// A newer program wrote it.
    #[error("the snapshot has version {found}, this program reads up to {SNAPSHOT_VERSION}: update it")]
    Version {
        /// Its version.
        found: u16,
    },
    /// Its machine has a version that this program does not know.
    #[error(
        "the snapshot is of machine version {found}, this program knows up to {MACHINE_VERSION}: update it"
    )]
    Machine {
        /// The machine's version.
        found: u32,
    },
    /// It is cut short, or something stands behind it.
    #[error("the snapshot should have {expected} bytes and has {found}")]
    Length {
        /// What its head says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A bit is wrong.
    #[error("the snapshot is damaged: its hash does not match")]
    Damaged,
    /// The body can't be read.
    #[error("the snapshot can't be decoded: {0}")]
    Malformed(String),
    /// The records contradict each other.
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(String),
}

#[derive(Serialize, Deserialize)]
struct Body {
    checksum: u128,
    limits: Limits,
    applied_index: u64,
    applied_term: u64,
    log_ms: u64,
    log_chain: u128,
    checkpoints: Vec<Checkpoint>,
    checkpoint_wanted: bool,
    last_seq: u64,
    last_token: u64,
    maintenance: bool,
    maintenance_since: Option<i64>,
    evicted: Evicted,
    named: BTreeMap<String, NamedLease>,
    workers: Vec<WorkerBody>,
    demands: Vec<Demand>,
    tasks: Vec<TaskBody>,
}

/// Stands behind the body where there is anything to tell; a snapshot without it is read as one
/// of a cluster of version 1 that never changed its members.
#[derive(Serialize, Deserialize)]
struct Annex {
    version: u32,
    members: Membership,
}

#[derive(Serialize, Deserialize)]
struct WorkerBody {
    spec: WorkerSpec,
    standing: Standing,
    registered_wall_ms: i64,
    changed_log_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct TaskBody {
    seq: u64,
    id: String,
    demand: u32,
    priority: u8,
    config: String,
    timeout_ms: u64,
    max_retries: u32,
    retry_backoff_ms: u64,
    created_log_ms: u64,
    created_wall_ms: i64,
    state: TaskState,
    attempt: u32,
    budget_base: u32,
    ready_at_ms: u64,
    attempts: Vec<Attempt>,
    #[serde(with = "maybe_shared_text")]
    result: Option<Arc<str>>,
    ended_log_ms: u64,
    ended_wall_ms: Option<i64>,
}

impl Machine {
    /// The machine as bytes.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let demands: Vec<&Arc<Demand>> = self.queue.demands().collect();
        let places: BTreeMap<&Demand, u32> =
            demands.iter().enumerate().map(|(at, demand)| (&***demand, at as u32)).collect();
        let body = Body {
            checksum: self.checksum(),
            limits: self.limits.clone(),
            applied_index: self.applied_index,
            applied_term: self.applied_term,
            log_ms: self.log_ms,
            log_chain: self.log_chain,
            checkpoints: self.checkpoints.iter().copied().collect(),
            checkpoint_wanted: self.checkpoint_wanted,
            last_seq: self.last_seq,
            last_token: self.last_token,
            maintenance: self.maintenance,
            maintenance_since: self.maintenance_since,
            evicted: self.evicted,
            named: self.named.clone(),
            workers: self.workers.values().map(WorkerBody::of).collect(),
            demands: demands.iter().map(|demand| Demand::clone(demand)).collect(),
            tasks: self.tasks.all().map(|task| TaskBody::of(task, &places)).collect(),
        };
        // Serialising plain structs into memory has no failure.
        let mut body = postcard::to_stdvec(&body).unwrap_or_default();
        if self.version > 1 || self.members != Membership::default() {
            let annex = Annex { version: self.version, members: self.members.clone() };
            body.extend(postcard::to_stdvec(&annex).unwrap_or_default());
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&xxh3_128(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The machine that [`Machine::encode_snapshot`] wrote.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Machine, SnapshotError> {
        let body = checked_body(bytes)?;
        let (body, rest) = postcard::take_from_bytes::<Body>(body)
            .map_err(|error| SnapshotError::Malformed(error.to_string()))?;
        let annex = match rest {
            [] => Annex { version: 1, members: Membership::default() },
            rest => {
                let (annex, rest) = postcard::take_from_bytes::<Annex>(rest)
                    .map_err(|error| SnapshotError::Malformed(error.to_string()))?;
                if !rest.is_empty() {
                    return Err(SnapshotError::Malformed(format!("{} bytes behind its end", rest.len())));
                }
                annex
            }
        };
        if annex.version > MACHINE_VERSION {
            return Err(SnapshotError::Machine { found: annex.version });
        }
        body.into_machine(annex).map_err(SnapshotError::Inconsistent)
    }
}

fn checked_body(bytes: &[u8]) -> Result<&[u8], SnapshotError> {
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else { return Err(SnapshotError::Foreign) };
    if magic != MAGIC {
        return Err(SnapshotError::Foreign);
    }
    let short = || SnapshotError::Length { expected: HEAD_BYTES as u64, found: bytes.len() as u64 };
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let found = u16::from_le_bytes(*version);
    if found != SNAPSHOT_VERSION {
        return Err(SnapshotError::Version { found });
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (hash, body) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    let length = u64::from_le_bytes(*length);
    if length != body.len() as u64 {
        let expected = length.saturating_add(HEAD_BYTES as u64);
        return Err(SnapshotError::Length { expected, found: bytes.len() as u64 });
    }
    if xxh3_128(body) != u128::from_le_bytes(*hash) {
        return Err(SnapshotError::Damaged);
    }
    Ok(body)
}

impl WorkerBody {
    fn of(worker: &Worker) -> Self {
        WorkerBody {
            spec: worker.spec.clone(),
            standing: worker.standing,
            registered_wall_ms: worker.registered_wall_ms,
            changed_log_ms: worker.changed_log_ms,
        }
    }

    fn into_worker(self) -> Worker {
        let mut worker = Worker::new(self.spec, self.registered_wall_ms, self.changed_log_ms);
        worker.standing = self.standing;
        worker.hash = worker.compute_hash();
        worker
    }
}

impl TaskBody {
    fn of(task: &Task, places: &BTreeMap<&Demand, u32>) -> Self {
        let spec = &task.spec;
        TaskBody {
            seq: spec.seq,
            id: spec.id.to_string(),
            demand: places.get(&*spec.demand).copied().unwrap_or(u32::MAX),
            priority: spec.priority,
            config: spec.config.to_string(),
            timeout_ms: spec.timeout_ms,
            max_retries: spec.max_retries,
            retry_backoff_ms: spec.retry_backoff_ms,
            created_log_ms: spec.created_log_ms,
            created_wall_ms: spec.created_wall_ms,
            state: task.state,
            attempt: task.attempt,
            budget_base: task.budget_base,
            ready_at_ms: task.ready_at_ms,
            attempts: task.attempts.clone(),
            result: task.result.clone(),
            ended_log_ms: task.ended_log_ms,
            ended_wall_ms: task.ended_wall_ms,
        }
    }

    /// The task, its worker ids shared through `texts`.
    fn into_task(mut self, demand: Arc<Demand>, texts: &mut BTreeSet<Arc<str>>) -> Task {
        for attempt in &mut self.attempts {
            match texts.get(&attempt.worker_id) {
                Some(shared) => attempt.worker_id = Arc::clone(shared),
                None => drop(texts.insert(Arc::clone(&attempt.worker_id))),
            }
        }
        self.attempts.shrink_to_fit();
        let mut task = Task::new(Spec {
            seq: self.seq,
            id: Arc::from(self.id),
            demand,
            priority: self.priority,
            config: Box::from(self.config),
            timeout_ms: self.timeout_ms,
            max_retries: self.max_retries,
            retry_backoff_ms: self.retry_backoff_ms,
            created_log_ms: self.created_log_ms,
            created_wall_ms: self.created_wall_ms,
        });
        task.state = self.state;
        task.attempt = self.attempt;
        task.budget_base = self.budget_base;
        task.ready_at_ms = self.ready_at_ms;
        task.attempts = self.attempts;
        task.set_result(self.result);
        task.ended_log_ms = self.ended_log_ms;
        task.ended_wall_ms = self.ended_wall_ms;
        task.hash = task.compute_hash();
        task
    }

    /// What contradicts itself in it.
    fn fault(&self, body: &Bounds) -> Option<String> {
        let live = matches!(self.state, TaskState::Assigned | TaskState::Running);
        let (last, before) = match self.attempts.split_last() {
            Some((last, before)) => (Some(last), before),
            None => (None, [].as_slice()),
        };
        let open = last.is_some_and(|attempt| attempt.outcome.is_none());
        let delivered = last.is_some_and(|attempt| attempt.delivered);
        let counted = last.map_or(0, |attempt| attempt.attempt);
        let rising = self.attempts.windows(2).all(|pair| {
            pair[0].attempt.checked_add(1) == Some(pair[1].attempt) && pair[0].token < pair[1].token
        });
        let fault = if self.seq == 0 || self.seq > body.last_seq {
            "its number was never given out"
        } else if self.demand as usize >= body.demands {
            "its demand is missing"
        } else if live != open {
            "its state does not fit its last attempt"
        } else if live && (self.state == TaskState::Running) != delivered {
            "its state does not fit its delivery"
        } else if before.iter().any(|attempt| attempt.outcome.is_none()) {
            "an attempt before the last one has no outcome"
        } else if counted != self.attempt || !rising {
            "its attempts are out of order"
        } else if self.attempt >= ATTEMPT_BOUND {
            "it has more attempts than a task can have"
        } else if self.budget_base > self.attempt {
            "its retry budget begins after its last attempt"
        } else if self.attempts.iter().any(|a| a.token == 0 || a.token > body.last_token) {
            "a token was never given out"
        } else if self.state.is_final() != self.ended_wall_ms.is_some() {
            "its end does not fit its state"
        } else {
            return None;
        };
        Some(format!("task `{}`: {fault}", self.id))
    }
}

/// What a task's numbers are checked against.
struct Bounds {
    last_seq: u64,
    last_token: u64,
    demands: usize,
}

impl Body {
    fn into_machine(self, annex: Annex) -> Result<Machine, String> {
        let bounds =
            Bounds { last_seq: self.last_seq, last_token: self.last_token, demands: self.demands.len() };
        if self.last_seq.max(self.last_token).max(self.applied_index) >= COUNTER_BOUND {
            return Err("a counter is beyond its bound".into());
        }
        if self.evicted.tasks >= COUNTER_BOUND || self.limits.checkpoint_interval == 0 {
            return Err("a limit is beyond its bound".into());
        }
        if self.named.values().any(|lease| lease.epoch == 0 || lease.epoch > self.last_token) {
            return Err("the epoch of a named lease was never given out".into());
        }
        let mut machine = Machine::with_limits(self.limits);
        machine.applied_index = self.applied_index;
        machine.applied_term = self.applied_term;
        machine.log_ms = self.log_ms;
        machine.log_chain = self.log_chain;
        machine.checkpoints = VecDeque::from(self.checkpoints);
        machine.checkpoint_wanted = self.checkpoint_wanted;
        machine.last_seq = self.last_seq;
        machine.last_token = self.last_token;
        machine.maintenance = self.maintenance;
        machine.maintenance_since = self.maintenance_since;
        machine.evicted = self.evicted;
        machine.named = self.named;
        machine.version = annex.version;
        machine.members = annex.members;
        for worker in self.workers {
            let worker = worker.into_worker();
            if let Some(twin) = machine.workers.insert(Arc::clone(&worker.id), worker) {
                return Err(format!("worker `{}` is there twice", twin.id));
            }
        }
        let mut texts: BTreeSet<Arc<str>> = machine.workers.keys().cloned().collect();
        for task in self.tasks {
            if let Some(fault) = task.fault(&bounds) {
                return Err(fault);
            }
            let demand = self.demands[task.demand as usize].clone();
            machine.restore(task, demand, &mut texts)?;
        }
        machine.records = machine.sum_of_records();
        if machine.checksum() != self.checksum {
            return Err("its records do not give the checksum it names".into());
        }
        Ok(machine)
    }
}

impl Machine {
    /// Puts a task of a snapshot back, with its lease or its place in the queue.
    fn restore(
        &mut self,
        task: TaskBody,
        demand: Demand,
        texts: &mut BTreeSet<Arc<str>>,
    ) -> Result<(), String> {
        if self.tasks.get(task.seq).is_some() || self.tasks.seq_of(&task.id).is_some() {
            return Err(format!("task `{}` is there twice", task.id));
        }
        let demand = self.queue.intern(demand);
        let task = task.into_task(Arc::clone(&demand), texts);
        let seq = task.spec.seq;
        if task.state == TaskState::Pending {
            self.queue.push(&demand, task.spec.priority, seq, task.ready_at_ms, self.log_ms);
        }
        if let Some(attempt) = task.present() {
            let holder = self.workers.get_mut(&attempt.worker_id);
            let Some(worker) = holder.filter(|worker| worker.standing != Standing::Lost) else {
                return Err(format!("task `{}` is leased to nobody", task.spec.id));
            };
            worker.take(attempt.token, seq, &demand);
            if self.leases.insert(attempt.token, seq).is_some() {
                return Err(format!("token {} is there twice", attempt.token));
            }
        }
        self.tasks.insert(task);
        Ok(())
    }
}

/// `Arc<str>` as text.
pub(crate) mod shared_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(crate) fn serialize<S: Serializer>(text: &Arc<str>, out: S) -> Result<S::Ok, S::Error> {
        (**text).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Arc<str>, D::Error> {
        Ok(Arc::from(<&str>::deserialize(input)?))
    }
}

/// `Option<Arc<str>>` as optional text.
pub(crate) mod maybe_shared_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(crate) fn serialize<S: Serializer>(text: &Option<Arc<str>>, out: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<&str>::deserialize(input)?.map(Arc::from))
    }
}
