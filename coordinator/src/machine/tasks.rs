//! Tasks: what was submitted, what became of it, and the table that finds them.
//!
//! A task is what its [`Spec`] says, which never changes and is shared with the effects that go
//! to the store, and the little that moves: state, attempts, result. Tasks are found by their
//! number (`seq`, order of submission) and by id; every state and the order of finishing have an
//! index of their own, so that a list of failed tasks or an eviction does not scan the rest.
//!
//! Invariant: a task in state assigned or running has a last attempt without an outcome, and its
//! token is in the leases; every other task has none.

use super::checksum::Canon;
use super::cut::TaskCut;
use super::queue::Demand;
use super::wall;
use crate::command::{ExpireReason, TaskSpec};
use api::task::{AttemptOutcome, Requirements, TaskRecord, TaskState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

/// What was submitted. Never changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// Order of submission, from 1; never used again.
    pub seq: u64,
    /// The task's id.
    pub id: Arc<str>,
    /// Type, labels and resources.
    pub demand: Arc<Demand>,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Its config as JSON text, as submitted.
    pub config: Box<str>,
    /// Milliseconds one attempt may run.
    pub timeout_ms: u64,
    /// How many more attempts may follow a failed one.
    pub max_retries: u32,
    /// Milliseconds before the first retry.
    pub retry_backoff_ms: u64,
    /// Submission, log time.
    pub created_log_ms: u64,
    /// Submission, Unix milliseconds.
    pub created_wall_ms: i64,
}

impl Spec {
    /// True where a submission under the same id asks for the same.
    ///
    /// Configs are compared as JSON: white space and the order of keys don't matter.
    pub(crate) fn same_body(&self, other: &TaskSpec) -> bool {
        self.demand.kind == other.kind
            && self.priority == other.priority
            && self.demand.labels == other.labels
            && self.demand.resources == other.resources
            && self.demand.any_of == other.any_of
            && self.timeout_ms == other.timeout_ms
            && self.max_retries == other.max_retries
            && self.retry_backoff_ms == other.retry_backoff_ms
            && same_json(&self.config, &other.config)
    }

    pub(crate) fn compute_hash(&self) -> u128 {
        let mut canon = Canon::new(0);
        canon.u64(self.seq).text(&self.id).text(&self.demand.kind);
        canon.texts(&self.demand.labels).amounts(&self.demand.resources);
        canon.u8(self.priority).text(&self.config).u64(self.timeout_ms);
        canon.u64(u64::from(self.max_retries)).u64(self.retry_backoff_ms);
        canon.u64(self.created_log_ms).i64(self.created_wall_ms);
        canon.u64(self.demand.any_of.len() as u64);
        for set in &self.demand.any_of {
            canon.texts(set);
        }
        canon.hash()
    }
}

/// True where both texts are the same JSON value.
pub(crate) fn same_json(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let parse = |text| serde_json::from_str::<serde_json::Value>(text);
    matches!((parse(a), parse(b)), (Ok(a), Ok(b)) if a == b)
}

/// One attempt: one lease, from assignment to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts from 1.
    pub attempt: u32,
    /// Who has it or had it.
    #[serde(with = "super::snapshot::shared_text")]
    pub worker_id: Arc<str>,
    /// The lease's fencing token.
    pub token: u64,
    /// Assignment, log time.
    pub assigned_log_ms: u64,
    /// Assignment, Unix milliseconds.
    pub assigned_wall_ms: i64,
    /// True once the worker confirmed that it has it.
    pub delivered: bool,
    /// Start by the worker's clock, Unix milliseconds.
    pub started_wall_ms: Option<i64>,
    /// End, by the worker's clock where it reported it, Unix milliseconds.
    pub finished_wall_ms: Option<i64>,
    /// How it ended; none while it goes on.
    pub outcome: Option<AttemptOutcome>,
    /// The task's state after it; a repeated report is answered with it.
    pub led_to: Option<TaskState>,
    /// What went wrong.
    #[serde(with = "super::snapshot::maybe_shared_text")]
    pub error: Option<Arc<str>>,
    /// What it used, as its worker reported.
    pub used: BTreeMap<String, u64>,
}

impl Attempt {
    /// As the wire shows it.
    pub fn record(&self) -> api::task::Attempt {
        api::task::Attempt {
            attempt: self.attempt,
            worker_id: self.worker_id.to_string(),
            token: self.token,
            assigned_at: wall(self.assigned_wall_ms),
            started_at: self.started_wall_ms.map(wall),
            finished_at: self.finished_wall_ms.map(wall),
            outcome: self.outcome,
            error: self.error.as_deref().map(str::to_owned),
        }
    }

    fn write(&self, canon: &mut Canon) {
        canon.u64(u64::from(self.attempt)).text(&self.worker_id).u64(self.token);
        canon.u64(self.assigned_log_ms).i64(self.assigned_wall_ms).u8(u8::from(self.delivered));
        canon.maybe_i64(self.started_wall_ms).maybe_i64(self.finished_wall_ms);
        canon.u8(self.outcome.map_or(0, outcome_byte));
        canon.u8(self.led_to.map_or(0, |state| state_index(state) as u8 + 1));
        canon.maybe_text(self.error.as_deref()).amounts(&self.used);
    }
}

fn outcome_byte(outcome: AttemptOutcome) -> u8 {
    match outcome {
        AttemptOutcome::Completed => 1,
        AttemptOutcome::Failed => 2,
        AttemptOutcome::TimedOut => 3,
        AttemptOutcome::LeaseExpired => 4,
        AttemptOutcome::Cancelled => 5,
    }
}

/// The outcome of a lease that was ended for this reason.
pub(crate) const fn expired_as(reason: ExpireReason) -> AttemptOutcome {
    match reason {
        ExpireReason::Silent => AttemptOutcome::LeaseExpired,
        ExpireReason::TimedOut => AttemptOutcome::TimedOut,
    }
}

/// A task in memory.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) spec: Arc<Spec>,
    pub(crate) spec_hash: u128,
    pub(crate) state: TaskState,
    /// Attempts made so far.
    pub(crate) attempt: u32,
    /// Attempts that were made before the last retry by hand; the budget counts from here.
    pub(crate) budget_base: u32,
    /// While pending: log time from which it may be assigned.
    pub(crate) ready_at_ms: u64,
    /// The last attempts, oldest first.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) result: Option<Arc<str>>,
    /// Hash of `result`, 0 without one.
    pub(crate) result_hash: u128,
    pub(crate) ended_log_ms: u64,
    pub(crate) ended_wall_ms: Option<i64>,
    /// Of the whole record.
    pub(crate) hash: u128,
}

impl Task {
    pub(crate) fn new(spec: Spec) -> Self {
        let mut task = Task {
            spec_hash: spec.compute_hash(),
            state: TaskState::Pending,
            attempt: 0,
            budget_base: 0,
            ready_at_ms: spec.created_log_ms,
            attempts: Vec::new(),
            result: None,
            result_hash: 0,
            ended_log_ms: 0,
            ended_wall_ms: None,
            hash: 0,
            spec: Arc::new(spec),
        };
        task.hash = task.compute_hash();
        task
    }

    /// The attempt that goes on.
    pub(crate) fn present(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|a| a.outcome.is_none())
    }

    /// The error that the last attempt left.
    pub(crate) fn error(&self) -> Option<&Arc<str>> {
        self.attempts.last().and_then(|a| a.error.as_ref())
    }

    pub(crate) fn set_result(&mut self, result: Option<Arc<str>>) {
        self.result_hash = result.as_deref().map_or(0, |text| xxh3_128(text.as_bytes()));
        self.result = result;
    }

    pub(crate) fn compute_hash(&self) -> u128 {
        self.hash_with(self.spec_hash, self.result_hash)
    }

    /// From the whole record, nothing that was remembered.
    pub(crate) fn recompute_hash(&self) -> u128 {
        let result_hash = self.result.as_deref().map_or(0, |text| xxh3_128(text.as_bytes()));
        self.hash_with(self.spec.compute_hash(), result_hash)
    }

    fn hash_with(&self, spec_hash: u128, result_hash: u128) -> u128 {
        let mut canon = Canon::new(1);
        canon.u128(spec_hash).u8(state_index(self.state) as u8);
        canon.u64(u64::from(self.attempt)).u64(u64::from(self.budget_base)).u64(self.ready_at_ms);
        canon.u8(u8::from(self.result.is_some())).u128(result_hash);
        canon.u64(self.ended_log_ms).maybe_i64(self.ended_wall_ms);
        canon.u64(self.attempts.len() as u64);
        for attempt in &self.attempts {
            attempt.write(&mut canon);
        }
        canon.hash()
    }

    /// As the wire shows it; lists leave attempts and result out.
    pub(crate) fn record(&self, whole: bool) -> TaskRecord {
        let spec = &self.spec;
        TaskRecord {
            task_id: spec.id.to_string(),
            kind: spec.demand.kind.clone(),
            priority: spec.priority,
            state: self.state,
            config: raw_json(&spec.config),
            requirements: Requirements {
                labels: spec.demand.labels.clone(),
                resources: spec.demand.resources.clone(),
                any_of: spec.demand.any_of.clone(),
            },
            timeout_seconds: seconds(spec.timeout_ms),
            max_retries: spec.max_retries,
            retry_backoff_seconds: seconds(spec.retry_backoff_ms),
            created_at: wall(spec.created_wall_ms),
            finished_at: self.ended_wall_ms.map(wall),
            attempt: self.attempt,
            worker_id: self.attempts.last().map(|a| a.worker_id.to_string()),
            token: self.present().map(|a| a.token),
            error: self.error().map(|e| e.to_string()),
            attempts: if whole { self.attempts.iter().map(Attempt::record).collect() } else { Vec::new() },
            result: self.result.as_deref().filter(|_| whole).map(raw_json),
        }
    }
}

/// Milliseconds as the wire's seconds.
pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// The text as JSON; text that is no JSON, which HTTP never lets in, as a JSON string.
pub(crate) fn raw_json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned())
        .or_else(|_| serde_json::value::to_raw_value(text))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Milliseconds from the end of attempt number `made` of the budget to the next.
///
/// Doubled for each attempt, moved by up to a fifth in either direction, at most `cap_ms`. The
/// move comes from the task's id and its attempt, so that every replica finds the same one.
pub(crate) fn backoff_ms(base_ms: u64, made: u32, cap_ms: u64, id: &str, attempt: u32) -> u64 {
    let factor = 1u64.checked_shl(made.saturating_sub(1)).unwrap_or(u64::MAX);
    let plain = base_ms.saturating_mul(factor).min(cap_ms);
    let mut bytes = id.as_bytes().to_vec();
    bytes.extend_from_slice(&attempt.to_le_bytes());
    let per_mille = 800 + xxh3_64(&bytes) % 401;
    let moved = u128::from(plain) * u128::from(per_mille) / 1000;
    u64::try_from(moved).unwrap_or(u64::MAX).min(cap_ms)
}

/// Place of a state in [`TaskState::ALL`].
pub(crate) const fn state_index(state: TaskState) -> usize {
    match state {
        TaskState::Pending => 0,
        TaskState::Assigned => 1,
        TaskState::Running => 2,
        TaskState::Completed => 3,
        TaskState::Failed => 4,
        TaskState::Cancelled => 5,
    }
}

/// A hasher without a random seed.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
}

/// The tasks in memory.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    by_seq: BTreeMap<u64, Box<Task>>,
    /// Never iterated.
    ids: HashMap<Arc<str>, u64, BuildHasherDefault<IdHasher>>,
    by_state: [BTreeSet<u64>; 6],
    /// (end in log time, seq) of the finished ones.
    finished: BTreeSet<(u64, u64)>,
    /// Read piece by piece while tasks go on changing.
    cut: Option<TaskCut>,
}

impl Tasks {
    pub(crate) fn insert(&mut self, task: Task) {
        let seq = task.spec.seq;
        self.ids.insert(Arc::clone(&task.spec.id), seq);
        self.by_state[state_index(task.state)].insert(seq);
        if task.state.is_final() {
            self.finished.insert((task.ended_log_ms, seq));
        }
        self.by_seq.insert(seq, Box::new(task));
    }

    pub(crate) fn seq_of(&self, id: &str) -> Option<u64> {
        self.ids.get(id).copied()
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Task> {
        self.by_seq.get(&seq).map(|task| &**task)
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<&Task> {
        self.get(self.seq_of(id)?)
    }

    /// Changes a task and its place in the indexes. Gives its old and new hash.
    pub(crate) fn change(&mut self, seq: u64, change: impl FnOnce(&mut Task)) -> Option<(u128, u128)> {
        let task = self.by_seq.get_mut(&seq)?;
        if let Some(cut) = &mut self.cut {
            cut.keep(seq, task);
        }
        let (state, ended, hash) = (task.state, task.ended_log_ms, task.hash);
        change(task);
        task.hash = task.compute_hash();
        if state != task.state {
            self.by_state[state_index(state)].remove(&seq);
            self.by_state[state_index(task.state)].insert(seq);
            if state.is_final() {
                self.finished.remove(&(ended, seq));
            }
            if task.state.is_final() {
                self.finished.insert((task.ended_log_ms, seq));
            }
        }
        Some((hash, task.hash))
    }

    /// The finished task that ended first: its end in log time and its seq.
    pub(crate) fn first_finished(&self) -> Option<(u64, u64)> {
        self.finished.first().copied()
    }

    pub(crate) fn finished_len(&self) -> u64 {
        self.finished.len() as u64
    }

    pub(crate) fn unfinished_len(&self) -> u64 {
        (self.by_seq.len() - self.finished.len()) as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.by_seq.len()
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Box<Task>> {
        let task = self.by_seq.remove(&seq)?;
        if let Some(cut) = &mut self.cut {
            cut.keep(seq, &task);
        }
        self.ids.remove(&task.spec.id);
        self.by_state[state_index(task.state)].remove(&seq);
        self.finished.remove(&(task.ended_log_ms, seq));
        Some(task)
    }

    pub(crate) fn in_state(&self, state: TaskState) -> &BTreeSet<u64> {
        &self.by_state[state_index(state)]
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Task> {
        self.by_seq.values().map(|task| &**task)
    }

    /// Begins a cut, up to and with the task `last_seq`; one that went on before is given up.
    pub(crate) fn begin_cut(&mut self, id: u64, last_seq: u64) {
        self.cut = Some(TaskCut::new(id, last_seq));
    }

    /// The next tasks of the cut as they were when it began; none of them at its end, and none at
    /// all where another cut was begun since.
    pub(crate) fn read_cut(&mut self, id: u64, max: usize) -> Option<Vec<Task>> {
        let cut = self.cut.as_mut().filter(|cut| cut.id() == id)?;
        Some(cut.read(&self.by_seq, max))
    }

    pub(crate) fn end_cut(&mut self, id: u64) {
        if self.cut.as_ref().is_some_and(|cut| cut.id() == id) {
            self.cut = None;
        }
    }

    pub(crate) fn after(&self, seq: u64) -> impl Iterator<Item = &Task> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_seq.range((Excluded(seq), Unbounded)).map(|(_, task)| &**task)
    }
}
