//! The machine's records as a snapshot holds them.
//!
//! Layouts are postcard's: the order of fields and of [`Item`]'s variants is the format. A change
//! is a new [`super::snapshot::SNAPSHOT_VERSION`].

use super::Machine;
use super::checksum::Checkpoint;
use super::evict::Evicted;
use super::keys::{DoneRequest, Keys};
use super::leases::NamedLease;
use super::limits::Limits;
use super::members::Membership;
use super::queue::Demand;
use super::snapshot::{SnapshotError, maybe_shared_text};
use super::tasks::{Attempt, Spec, Task};
use super::workers::{Standing, Worker};
use crate::command::WorkerSpec;
use api::task::TaskState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Counters stay below this, so that they can't overflow in the life of a cluster.
const COUNTER_BOUND: u64 = 1 << 62;
const ATTEMPT_BOUND: u32 = 1 << 31;

/// Everything that is one of a kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) checksum: u128,
    pub(crate) limits: Limits,
    pub(crate) applied_index: u64,
    pub(crate) applied_term: u64,
    pub(crate) log_ms: u64,
    pub(crate) log_chain: u128,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) checkpoint_wanted: bool,
    pub(crate) last_seq: u64,
    pub(crate) last_token: u64,
    pub(crate) maintenance: bool,
    pub(crate) maintenance_since: Option<i64>,
    pub(crate) maintenance_by: Option<String>,
    pub(crate) evicted: Evicted,
    pub(crate) named: BTreeMap<String, NamedLease>,
    pub(crate) keys: BTreeMap<String, DoneRequest>,
    pub(crate) version: u32,
    pub(crate) members: Membership,
    /// The part of the checksum that is made by what is one of a kind; of use only in the process
    /// that took it.
    #[serde(skip)]
    pub(crate) standing_hash: u128,
}

impl Head {
    pub(crate) fn of(machine: &Machine) -> Head {
        Head {
            checksum: machine.checksum(),
            limits: machine.limits.clone(),
            applied_index: machine.applied_index,
            applied_term: machine.applied_term,
            log_ms: machine.log_ms,
            log_chain: machine.log_chain,
            checkpoints: machine.checkpoints.iter().copied().collect(),
            checkpoint_wanted: machine.checkpoint_wanted,
            last_seq: machine.last_seq,
            last_token: machine.last_token,
            maintenance: machine.maintenance,
            maintenance_since: machine.maintenance_since,
            maintenance_by: machine.maintenance_by.clone(),
            evicted: machine.evicted,
            named: machine.named.clone(),
            keys: machine.keys.to_body(),
            version: machine.version,
            members: machine.members.clone(),
            standing_hash: machine.counters_hash().wrapping_add(machine.standing_hash()),
        }
    }
}

/// A record as it is written. The variants are those of [`Item`].
#[derive(Serialize)]
pub(crate) enum ItemRef<'a> {
    Head(&'a Head),
    Worker(WorkerBody),
    Demand(&'a Demand),
    Task(TaskRef<'a>),
    End { tasks: u64 },
}

/// A record as it is read.
#[derive(Deserialize)]
pub(crate) enum Item {
    /// The first one.
    Head(Box<Head>),
    /// Workers come before the tasks that are leased to them.
    Worker(WorkerBody),
    /// A demand comes before the first task that has it; they are counted from 0.
    Demand(Demand),
    Task(TaskBody),
    /// The last one.
    End {
        tasks: u64,
    },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WorkerBody {
    spec: WorkerSpec,
    standing: Standing,
    registered_wall_ms: i64,
    changed_log_ms: u64,
}

#[derive(Serialize)]
pub(crate) struct TaskRef<'a> {
    seq: u64,
    id: &'a str,
    demand: u32,
    priority: u8,
    config: &'a str,
    timeout_ms: u64,
    max_retries: u32,
    retry_backoff_ms: u64,
    created_log_ms: u64,
    created_wall_ms: i64,
    state: TaskState,
    attempt: u32,
    budget_base: u32,
    ready_at_ms: u64,
    attempts: &'a [Attempt],
    result: Option<&'a str>,
    ended_log_ms: u64,
    ended_wall_ms: Option<i64>,
}

#[derive(Deserialize)]
pub(crate) struct TaskBody {
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

impl WorkerBody {
    pub(crate) fn of(worker: &Worker) -> Self {
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

impl<'a> TaskRef<'a> {
    pub(crate) fn of(task: &'a Task, demand: u32) -> Self {
        let spec = &task.spec;
        TaskRef {
            seq: spec.seq,
            id: &spec.id,
            demand,
            priority: spec.priority,
            config: &spec.config,
            timeout_ms: spec.timeout_ms,
            max_retries: spec.max_retries,
            retry_backoff_ms: spec.retry_backoff_ms,
            created_log_ms: spec.created_log_ms,
            created_wall_ms: spec.created_wall_ms,
            state: task.state,
            attempt: task.attempt,
            budget_base: task.budget_base,
            ready_at_ms: task.ready_at_ms,
            attempts: &task.attempts,
            result: task.result.as_deref(),
            ended_log_ms: task.ended_log_ms,
            ended_wall_ms: task.ended_wall_ms,
        }
    }
}

impl TaskBody {
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
    fn fault(&self, bounds: &Bounds) -> Option<String> {
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
        let fault = if self.seq == 0 || self.seq > bounds.last_seq {
            "its number was never given out"
        } else if self.demand as usize >= bounds.demands {
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
        } else if self.attempts.iter().any(|a| a.token == 0 || a.token > bounds.last_token) {
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

/// Puts a machine together from the records of a snapshot.
pub(crate) struct Builder {
    machine: Machine,
    checksum: u128,
    demands: Vec<Demand>,
    texts: BTreeSet<Arc<str>>,
    tasks: u64,
}

impl Builder {
    /// Begins with the head.
    pub(crate) fn new(head: Head) -> Result<Builder, String> {
        if head.last_seq.max(head.last_token).max(head.applied_index) >= COUNTER_BOUND {
            return Err("a counter is beyond its bound".into());
        }
        if head.evicted.tasks >= COUNTER_BOUND || head.limits.checkpoint_interval == 0 {
            return Err("a limit is beyond its bound".into());
        }
        if head.named.values().any(|lease| lease.epoch == 0 || lease.epoch > head.last_token) {
            return Err("the epoch of a named lease was never given out".into());
        }
        let mut machine = Machine::with_limits(head.limits);
        machine.applied_index = head.applied_index;
        machine.applied_term = head.applied_term;
        machine.log_ms = head.log_ms;
        machine.log_chain = head.log_chain;
        machine.checkpoints = VecDeque::from(head.checkpoints);
        machine.checkpoint_wanted = head.checkpoint_wanted;
        machine.last_seq = head.last_seq;
        machine.last_token = head.last_token;
        machine.maintenance = head.maintenance;
        machine.maintenance_since = head.maintenance_since;
        machine.maintenance_by = head.maintenance_by;
        machine.evicted = head.evicted;
        machine.named = head.named;
        machine.keys = Keys::from_body(head.keys);
        machine.version = head.version.max(1);
        machine.members = head.members;
        let (checksum, demands, texts) = (head.checksum, Vec::new(), BTreeSet::new());
        Ok(Builder { machine, checksum, demands, texts, tasks: 0 })
    }

    pub(crate) fn worker(&mut self, worker: WorkerBody) -> Result<(), String> {
        let worker = worker.into_worker();
        self.texts.insert(Arc::clone(&worker.id));
        match self.machine.workers.insert(Arc::clone(&worker.id), worker) {
            Some(twin) => Err(format!("worker `{}` is there twice", twin.id)),
            None => Ok(()),
        }
    }

    pub(crate) fn demand(&mut self, demand: Demand) {
        self.demands.push(demand);
    }

    pub(crate) fn task(&mut self, task: TaskBody) -> Result<(), String> {
        let bounds = Bounds {
            last_seq: self.machine.last_seq,
            last_token: self.machine.last_token,
            demands: self.demands.len(),
        };
        if let Some(fault) = task.fault(&bounds) {
            return Err(fault);
        }
        let demand = self.demands[task.demand as usize].clone();
        self.tasks += 1;
        self.machine.restore(task, demand, &mut self.texts)
    }

    /// The machine, if it is whole.
    pub(crate) fn finish(mut self, tasks: u64) -> Result<Machine, SnapshotError> {
        let inconsistent = |why: String| Err(SnapshotError::Inconsistent(why));
        if tasks != self.tasks {
            return inconsistent(format!("it holds {} tasks and should hold {tasks}", self.tasks));
        }
        self.machine.records = self.machine.sum_of_records();
        if self.machine.checksum() != self.checksum {
            return inconsistent("its records do not give the checksum it names".into());
        }
        Ok(self.machine)
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
