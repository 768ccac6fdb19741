//! Looking at the machine: records, lists, counts, leases, and the queue as the scheduler sees it.

use super::checksum::{Checkpoint, hex};
use super::effect::Effect;
use super::leases::LeaseView;
use super::queue::ReadyClass;
use super::tasks::{Task, raw_json, seconds, state_index};
use super::workers::Worker;
use super::{Cut, CutTasks, Limits, Machine, wall};
use api::cluster::{CheckpointRecord, Maintenance, StateChecksum};
use api::task::{PAGE_MAX, TaskPage, TaskRecord, TaskState};
use api::worker::{LeasedTask, WorkerRecord, WorkerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which tasks a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only those in this state.
    pub state: Option<TaskState>,
    /// Only those of this type.
    pub kind: Option<String>,
    /// Only those that this worker has, or had last.
    pub worker: Option<String>,
    /// Only those submitted after this one: the `next` of the page before.
    pub after: Option<u64>,
    /// At most so many; between 1 and [`PAGE_MAX`].
    pub limit: usize,
}

impl TaskFilter {
    fn takes(&self, task: &Task) -> bool {
        self.state.is_none_or(|state| state == task.state)
            && self.kind.as_ref().is_none_or(|kind| *kind == task.spec.demand.kind)
            && self
                .worker
                .as_ref()
                .is_none_or(|worker| task.attempts.last().is_some_and(|a| *a.worker_id == **worker))
    }
}

/// The queue as the scheduler sees it.
pub struct Pending<'a> {
    machine: &'a Machine,
}

impl<'a> Pending<'a> {
    /// Classes of equal demand with something ready at `now_log_ms`; each gives (priority, seq),
    /// highest priority first, then in order of submission.
    pub fn classes(&self, now_log_ms: u64) -> Vec<ReadyClass<'a>> {
        self.machine.queue.ready(now_log_ms)
    }

    /// The id of a task.
    pub fn task_id(&self, seq: u64) -> Option<&'a str> {
        self.machine.tasks.get(seq).map(|task| &*task.spec.id)
    }
}

impl Machine {
    /// Index of the last entry that was applied.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// Term of that entry.
    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// The log's time.
    pub fn log_ms(&self) -> u64 {
        self.log_ms
    }

    /// The hash chain over the applied log.
    pub fn log_chain(&self) -> u128 {
        self.log_chain
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The remembered checkpoints, oldest first.
    pub fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.checkpoints.iter()
    }

    /// As `/api/health/state_checksum` shows it.
    pub fn state_checksum(&self) -> StateChecksum {
        StateChecksum {
            checksum: hex(self.checksum()),
            applied_index: self.applied_index,
            term: self.applied_term,
            log_chain: hex(self.log_chain),
            integrity: None,
            checkpoints: self
                .checkpoints
                .iter()
                .map(|c| CheckpointRecord {
                    index: c.index,
                    checksum: hex(c.checksum),
                    log_chain: hex(c.log_chain),
                })
                .collect(),
        }
    }

    /// A task with its attempts and result.
    pub fn task(&self, id: &str) -> Option<TaskRecord> {
        Some(self.tasks.by_id(id)?.record(true))
    }

    /// Where a task stands.
    pub fn task_state(&self, id: &str) -> Option<TaskState> {
        Some(self.tasks.by_id(id)?.state)
    }

    /// Who has the task, or had it last.
    pub fn last_worker(&self, id: &str) -> Option<String> {
        Some(self.tasks.by_id(id)?.attempts.last()?.worker_id.to_string())
    }

    /// How many tasks are in memory.
    pub fn tasks_in_memory(&self) -> usize {
        self.tasks.len()
    }

    /// How many tasks have left memory so far.
    pub fn tasks_evicted(&self) -> u64 {
        self.evicted.tasks
    }

    /// A page of tasks in order of submission, without attempts and results.
    ///
    /// The cursor is the last row's number, so a page stays where it is while tasks come and go.
    pub fn list_tasks(&self, filter: &TaskFilter) -> TaskPage {
        let after = filter.after.unwrap_or(0);
        let from = after.saturating_add(1);
        let limit = filter.limit.clamp(1, PAGE_MAX);
        let get = |seq: &u64| self.tasks.get(*seq);
        let held = filter.worker.as_ref().and_then(|id| self.workers.get(id.as_str()));
        let live = matches!(filter.state, Some(TaskState::Assigned | TaskState::Running));
        match (filter.state, held) {
            (_, Some(worker)) if live => {
                let seqs: BTreeSet<u64> = worker.leases.iter().map(|(_, seq)| *seq).collect();
                page(seqs.range(from..).filter_map(get), filter, limit)
            }
            (Some(state), _) => page(self.tasks.in_state(state).range(from..).filter_map(get), filter, limit),
            (None, _) => page(self.tasks.after(after), filter, limit),
        }
    }

    /// Tasks in memory by state; every state is there.
    pub fn task_counts(&self) -> BTreeMap<TaskState, u64> {
        TaskState::ALL.into_iter().map(|s| (s, self.tasks.in_state(s).len() as u64)).collect()
    }

    /// Workers by state; every state is there.
    pub fn worker_counts(&self) -> BTreeMap<WorkerState, u64> {
        let mut counts: BTreeMap<_, _> = WorkerState::ALL.into_iter().map(|s| (s, 0)).collect();
        for worker in self.workers.values() {
            *counts.entry(worker.state()).or_default() += 1;
        }
        counts
    }

    /// Every worker, by id.
    pub fn workers(&self) -> Vec<WorkerRecord> {
        self.workers.values().map(Worker::record).collect()
    }

    /// A worker.
    pub fn worker(&self, id: &str) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// Maintenance mode.
    pub fn maintenance(&self) -> Maintenance {
        Maintenance {
            enabled: self.maintenance,
            since: self.maintenance_since.map(wall),
            by: self.maintenance_by.clone(),
        }
    }

    /// The live leases of a worker, oldest first.
    pub fn leases_of(&self, worker_id: &str) -> Vec<LeaseView> {
        let Some(worker) = self.workers.get(worker_id) else { return Vec::new() };
        worker.leases.iter().filter_map(|(_, seq)| LeaseView::of(self.tasks.get(*seq)?)).collect()
    }

    /// The live lease of this token.
    pub fn lease(&self, token: u64) -> Option<LeaseView> {
        LeaseView::of(self.tasks.get(*self.leases.get(&token)?)?)
    }

    /// Every live lease, oldest first.
    pub fn all_leases(&self) -> Vec<LeaseView> {
        self.leases.values().filter_map(|seq| LeaseView::of(self.tasks.get(*seq)?)).collect()
    }

    /// The task of a live lease, as its worker is told.
    pub fn leased_task(&self, token: u64, lease_expires_at: jiff::Timestamp) -> Option<LeasedTask> {
        let task = self.tasks.get(*self.leases.get(&token)?)?;
        let attempt = task.present()?;
        Some(LeasedTask {
            task_id: task.spec.id.to_string(),
            kind: task.spec.demand.kind.clone(),
            config: raw_json(&task.spec.config),
            priority: task.spec.priority,
            attempt: attempt.attempt,
            token,
            timeout_seconds: seconds(task.spec.timeout_ms),
            lease_expires_at,
            traceparent: None,
        })
    }

    /// True while any task waits, be it for a worker or for its retry time.
    pub fn has_pending(&self) -> bool {
        !self.tasks.in_state(TaskState::Pending).is_empty()
    }

    /// The earliest retry time, log time, among tasks that wait for theirs.
    pub fn next_ready_at_ms(&self) -> Option<u64> {
        self.queue.next_ready_at_ms()
    }

    /// The queue as the scheduler sees it.
    pub fn pending(&self) -> Pending<'_> {
        Pending { machine: self }
    }

    /// What a store needs to hold all that this machine still knows.
    ///
    /// Tasks that have left memory, and results of attempts that were followed by another, are
    /// not in it: they come from a peer's store.
    pub fn effects_for_rebuild(&self) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(self.tasks.len() * 2 + self.workers.len());
        effects.extend(self.workers.values().map(worker_effect));
        self.tasks.all().for_each(|task| effects_of(task, &mut effects));
        effects
    }
}

impl Machine {
    /// Compares records with their hashes: tasks behind number `after`, at most `max`, and with
    /// the first of them the workers. Gives the last one's number (none at the end), how many
    /// there were, and the id of one that is damaged.
    pub fn check_records(&self, after: u64, max: usize) -> (Option<u64>, u64, Option<String>) {
        let mut damaged = None;
        if after == 0 {
            let worker = self.workers.values().find(|worker| worker.hash != worker.compute_hash());
            damaged = worker.map(|worker| worker.id().to_owned());
        }
        let (mut last, mut count) = (None, 0);
        for task in self.tasks.after(after).take(max) {
            (last, count) = (Some(task.spec.seq), count + 1);
            if damaged.is_none() && task.hash != task.recompute_hash() {
                damaged = Some(task.spec.id.to_string());
            }
        }
        (last, count, damaged)
    }

    /// At most `max` tasks behind number `after` as they are now, and the last one's number.
    pub fn tasks_after(&self, after: u64, max: usize) -> (CutTasks, Option<u64>) {
        let tasks: Vec<Task> = self.tasks.after(after).take(max).cloned().collect();
        let last = tasks.last().map(|task| task.spec.seq);
        (CutTasks(tasks), last)
    }

    /// Epoch of a named lease, whether it has run out or not; and the last token given out.
    pub fn lease_epoch(&self, name: &str) -> (Option<u64>, u64) {
        (self.named.get(name).map(|lease| lease.epoch), self.last_token)
    }
}

impl CutTasks {
    /// Adds what a store needs to hold these tasks, as [`Machine::effects_for_rebuild`] does.
    pub fn effects(&self, effects: &mut Vec<Effect>) {
        self.0.iter().for_each(|task| effects_of(task, effects));
    }
}

impl Cut {
    /// What a store needs to hold of the workers; the tasks follow.
    pub fn effects(&self) -> Vec<Effect> {
        self.workers.iter().map(worker_effect).collect()
    }
}

fn worker_effect(worker: &Worker) -> Effect {
    let wall_ms = worker.registered_wall_ms;
    Effect::WorkerChanged { worker: Box::new(worker.clone()), wall_ms }
}

fn effects_of(task: &Task, effects: &mut Vec<Effect>) {
    let spec = &task.spec;
    effects.push(Effect::TaskSubmitted { spec: Arc::clone(spec) });
    for attempt in task.attempts.iter().filter(|a| a.outcome.is_some()) {
        effects.push(Effect::AttemptEnded {
            spec: Arc::clone(spec),
            attempt: Box::new(attempt.clone()),
            retried: attempt.led_to.map(state_index) == Some(0),
            run_ms: 0,
            result: None,
        });
    }
    if let (true, Some(finished_wall_ms)) = (task.state.is_final(), task.ended_wall_ms) {
        effects.push(Effect::TaskFinished {
            spec: Arc::clone(spec),
            state: task.state,
            attempt: task.attempt,
            worker_id: task.attempts.last().map(|a| Arc::clone(&a.worker_id)),
            finished_wall_ms,
            error: task.error().cloned(),
            result: task.result.clone(),
        });
    }
}

fn page<'a>(tasks: impl Iterator<Item = &'a Task>, filter: &TaskFilter, limit: usize) -> TaskPage {
    let mut fitting = tasks.filter(|task| filter.takes(task)).peekable();
    let mut rows = Vec::new();
    let mut last = None;
    while rows.len() < limit
        && let Some(task) = fitting.next()
    {
        last = Some(task.spec.seq);
        rows.push(task.record(false));
    }
    let next = fitting.peek().and(last).map(|seq| seq.to_string());
    TaskPage { tasks: rows, next }
}
