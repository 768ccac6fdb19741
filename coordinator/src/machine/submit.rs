//! Taking tasks, cancelling them, putting them back.
//!
//! A submission is all or nothing. A task id that is known with the same body is no new task, so
//! that a client which never heard the answer may ask again; with another body it is refused.

use super::attempts::AttemptEnd;
use super::effect::{Effect, EventKind};
use super::queue::Demand;
use super::tasks::{Spec, Task, same_json};
use super::{Machine, event, refused, unknown_task};
use crate::command::{Reply, RetryFilter, Stamp, TaskSpec};
use api::ErrorCode;
use api::task::{AttemptOutcome, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Machine {
    pub(super) fn submit(&mut self, tasks: &[TaskSpec], at: Stamp, effects: &mut Vec<Effect>) -> Reply {
        let fresh = match self.fresh_of(tasks) {
            Ok(fresh) => fresh,
            Err(refusal) => return refusal,
        };
        if !fresh.is_empty() && self.maintenance {
            return refused(ErrorCode::Maintenance, "maintenance mode is on: no new tasks are accepted");
        }
        let room = self.limits.unfinished_tasks.saturating_sub(self.tasks.unfinished_len());
        if fresh.len() as u64 > room {
            return refused(
                ErrorCode::Overloaded,
                format!(
                    "{} tasks have not ended, {} more would be above the limit of {}; wait until some have",
                    self.tasks.unfinished_len(),
                    fresh.len(),
                    self.limits.unfinished_tasks
                ),
            );
        }
        let created = fresh.len();
        for task in fresh {
            self.take(task, at, effects);
        }
        Reply::Submitted { created }
    }

    /// The tasks of a submission that are not there yet, each once, or why none may be taken.
    fn fresh_of<'a>(&self, tasks: &'a [TaskSpec]) -> Result<Vec<&'a TaskSpec>, Reply> {
        let mut seen: BTreeMap<&str, &TaskSpec> = BTreeMap::new();
        let mut fresh = Vec::new();
        for task in tasks {
            let known = self.tasks.by_id(&task.task_id).map(|known| known.spec.same_body(task));
            let twin = seen.get(task.task_id.as_str()).map(|twin| same_task(twin, task));
            match (known, twin) {
                (Some(false), _) => {
                    let detail = format!("task id `{}` is taken by a task with another body", task.task_id);
                    return Err(refused(ErrorCode::TaskIdTaken, detail));
                }
                (_, Some(false)) => {
                    let detail =
                        format!("task id `{}` is in the batch twice, with different bodies", task.task_id);
                    return Err(refused(ErrorCode::TaskIdTaken, detail));
                }
                (Some(true), _) | (_, Some(true)) => {}
                (None, None) => {
                    seen.insert(&task.task_id, task);
                    fresh.push(task);
                }
            }
        }
        Ok(fresh)
    }

    fn take(&mut self, task: &TaskSpec, at: Stamp, effects: &mut Vec<Effect>) {
        self.last_seq += 1;
        let demand = self.queue.intern(Demand {
            kind: task.kind.clone(),
            labels: task.labels.clone(),
            resources: task.resources.clone(),
            any_of: task.any_of.clone(),
        });
        self.queue.push(&demand, task.priority, self.last_seq, at.log_ms, at.log_ms);
        let task = Task::new(Spec {
            seq: self.last_seq,
            id: Arc::from(task.task_id.as_str()),
            demand,
            priority: task.priority,
            config: Box::from(task.config.as_str()),
            timeout_ms: task.timeout_ms,
            max_retries: task.max_retries,
            retry_backoff_ms: task.retry_backoff_ms,
            created_log_ms: at.log_ms,
            created_wall_ms: at.wall_ms,
        });
        self.records = self.records.wrapping_add(task.hash);
        effects.push(Effect::TaskSubmitted { spec: Arc::clone(&task.spec) });
        self.tasks.insert(task);
    }

    pub(super) fn cancel(&mut self, id: &str, at: Stamp, effects: &mut Vec<Effect>) -> Reply {
        let Some(task) = self.tasks.by_id(id) else { return unknown_task(id) };
        let (seq, spec, ready_at_ms) = (task.spec.seq, Arc::clone(&task.spec), task.ready_at_ms);
        match task.state {
            TaskState::Pending => {
                self.queue.remove(&spec.demand, spec.priority, seq, ready_at_ms);
                self.finish(seq, TaskState::Cancelled, None, at, effects);
            }
            TaskState::Assigned | TaskState::Running => {
                self.end_attempt(seq, AttemptEnd::silent(AttemptOutcome::Cancelled, None, at), at, effects);
            }
            TaskState::Completed | TaskState::Failed | TaskState::Cancelled => {
                return refused(ErrorCode::InvalidState, format!("task `{id}` is {} already", task.state));
            }
        }
        Reply::Task { state: TaskState::Cancelled }
    }

    pub(super) fn retry(&mut self, id: &str, at: Stamp, effects: &mut Vec<Effect>) -> Reply {
        let Some(task) = self.tasks.by_id(id) else { return unknown_task(id) };
        if !matches!(task.state, TaskState::Failed | TaskState::Cancelled) {
            let detail = format!("task `{id}` is {}; only a failed or cancelled one is retried", task.state);
            return refused(ErrorCode::InvalidState, detail);
        }
        if self.tasks.unfinished_len() >= self.limits.unfinished_tasks {
            let detail = format!("{} tasks have not ended, which is the limit", self.limits.unfinished_tasks);
            return refused(ErrorCode::Overloaded, detail);
        }
        self.reopen(task.spec.seq, at, effects);
        Reply::Task { state: TaskState::Pending }
    }

    /// Puts the finished tasks that fit back into the queue, in order of submission.
    pub(super) fn retry_many(&mut self, filter: &RetryFilter, at: Stamp, effects: &mut Vec<Effect>) -> Reply {
        if !matches!(filter.state, TaskState::Failed | TaskState::Cancelled) {
            let detail = format!("{} tasks can't be retried; only failed or cancelled ones", filter.state);
            return refused(ErrorCode::InvalidState, detail);
        }
        let room = self.limits.unfinished_tasks.saturating_sub(self.tasks.unfinished_len());
        let limit = (filter.limit as usize).min(usize::try_from(room).unwrap_or(usize::MAX));
        let fits = |task: &&Task| {
            let last = task.attempts.last();
            filter.kind.as_ref().is_none_or(|kind| *kind == task.spec.demand.kind)
                && filter.worker.as_ref().is_none_or(|id| last.is_some_and(|a| *a.worker_id == **id))
        };
        let in_state = self.tasks.in_state(filter.state).iter();
        let mut fitting = in_state.filter_map(|seq| self.tasks.get(*seq)).filter(fits).map(|t| t.spec.seq);
        let seqs: Vec<u64> = fitting.by_ref().take(limit).collect();
        let more = fitting.next().is_some();
        if seqs.is_empty() && more && filter.limit > 0 {
            let detail = format!("{} tasks have not ended, which is the limit", self.limits.unfinished_tasks);
            return refused(ErrorCode::Overloaded, detail);
        }
        for seq in &seqs {
            self.reopen(*seq, at, effects);
        }
        Reply::Retried { count: seqs.len(), more }
    }

    fn reopen(&mut self, seq: u64, at: Stamp, effects: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(seq) else { return };
        let (spec, was) = (Arc::clone(&task.spec), task.state);
        self.change_task(seq, |task| {
            task.state = TaskState::Pending;
            task.budget_base = task.attempt;
            task.ready_at_ms = at.log_ms;
            task.ended_log_ms = 0;
            task.ended_wall_ms = None;
            task.set_result(None);
        });
        self.queue.push(&spec.demand, spec.priority, seq, at.log_ms, at.log_ms);
        let id = Arc::clone(&spec.id);
        effects.push(Effect::TaskReopened { spec, wall_ms: at.wall_ms });
        effects.push(event(EventKind::TaskReopened, &id, format!("was {was}"), at));
    }
}

fn same_task(a: &TaskSpec, b: &TaskSpec) -> bool {
    a.kind == b.kind
        && a.priority == b.priority
        && a.labels == b.labels
        && a.resources == b.resources
        && a.any_of == b.any_of
        && a.timeout_ms == b.timeout_ms
        && a.max_retries == b.max_retries
        && a.retry_backoff_ms == b.retry_backoff_ms
        && same_json(&a.config, &b.config)
}
