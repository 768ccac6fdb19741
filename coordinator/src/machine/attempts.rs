//! Attempts: assignment, delivery, result, expiry, and what follows.
//!
//! An attempt is a lease. It begins with a fresh token, and only that token, from that worker,
//! ends it with a result; a worker that was given up and reports after all is refused, whatever
//! it found. Work may thus be done twice, but is believed once.

use super::effect::Effect;
use super::tasks::{Attempt, backoff_ms, expired_as, seconds};
use super::{Machine, refused, unknown_task};
use crate::command::{Command, ExpireReason, Reply, Stamp};
use api::ErrorCode;
use api::task::{AttemptOutcome, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How an attempt ends.
pub(super) struct AttemptEnd {
    outcome: AttemptOutcome,
    error: Option<Arc<str>>,
    result: Option<Arc<str>>,
    started_wall_ms: Option<i64>,
    finished_wall_ms: i64,
    used: BTreeMap<String, u64>,
}

impl AttemptEnd {
    /// An end that no worker reported.
    pub(super) fn silent(outcome: AttemptOutcome, error: Option<String>, at: Stamp) -> Self {
        AttemptEnd {
            outcome,
            error: error.map(Arc::from),
            result: None,
            started_wall_ms: None,
            finished_wall_ms: at.wall_ms,
            used: BTreeMap::new(),
        }
    }
}

impl Machine {
    pub(super) fn assign(
        &mut self,
        pairs: &[(String, String)],
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if self.maintenance {
            return Reply::Count(0);
        }
        let taken = pairs.iter().filter(|(task, worker)| self.lease_out(task, worker, at, effects));
        Reply::Count(taken.count())
    }

    /// Leases the task to the worker; false where they no longer fit.
    fn lease_out(&mut self, task_id: &str, worker_id: &str, at: Stamp, effects: &mut Vec<Effect>) -> bool {
        let Some(task) = self.tasks.by_id(task_id) else { return false };
        let Some(worker) = self.workers.get(worker_id) else { return false };
        let ready = task.state == TaskState::Pending && task.ready_at_ms <= at.log_ms;
        if !ready || !worker.can_take(&task.spec.demand) {
            return false;
        }
        let (spec, ready_at_ms) = (Arc::clone(&task.spec), task.ready_at_ms);
        let worker_id = Arc::clone(&worker.id);
        let token = self.next_token();
        let keep = self.limits.attempts_per_task.max(1) as usize;
        let error_bytes = self.limits.superseded_error_bytes as usize;

        self.queue.remove(&spec.demand, spec.priority, spec.seq, ready_at_ms);
        self.leases.insert(token, spec.seq);
        if let Some(worker) = self.workers.get_mut(&worker_id) {
            worker.take(token, spec.seq, &spec.demand);
        }
        let attempt_worker = Arc::clone(&worker_id);
        self.change_task(spec.seq, |task| {
            task.state = TaskState::Assigned;
            task.attempt += 1;
            if let Some(last) = task.attempts.last_mut() {
                last.error = last.error.take().map(|error| shortened(error, error_bytes));
            }
            if task.attempts.len() >= keep {
                task.attempts.drain(..=task.attempts.len() - keep);
            }
            task.attempts.push(Attempt {
                attempt: task.attempt,
                worker_id: attempt_worker,
                token,
                assigned_log_ms: at.log_ms,
                assigned_wall_ms: at.wall_ms,
                delivered: false,
                started_wall_ms: None,
                finished_wall_ms: None,
                outcome: None,
                led_to: None,
                error: None,
                used: BTreeMap::new(),
            });
        });
        let waited_ms = at.log_ms.saturating_sub(ready_at_ms);
        effects.push(Effect::Assigned { spec, worker_id, token, waited_ms });
        true
    }

    pub(super) fn delivered(&mut self, tokens: &[u64]) -> Reply {
        let mut count = 0;
        for token in tokens {
            let Some(&seq) = self.leases.get(token) else { continue };
            if self.tasks.get(seq).is_some_and(|task| task.state == TaskState::Assigned) {
                self.change_task(seq, |task| {
                    task.state = TaskState::Running;
                    if let Some(attempt) = task.attempts.last_mut() {
                        attempt.delivered = true;
                    }
                });
                count += 1;
            }
        }
        Reply::Count(count)
    }

    pub(super) fn complete(&mut self, report: &Command, at: Stamp, effects: &mut Vec<Effect>) -> Reply {
        let Command::Complete {
            task_id,
            worker_id,
            token,
            success,
            result,
            error,
            started_ms,
            finished_ms,
            resources,
        } = report
        else {
            return refused(ErrorCode::Internal, "not a result");
        };
        let Some(task) = self.tasks.by_id(task_id) else { return unknown_task(task_id) };
        let outcome = if *success { AttemptOutcome::Completed } else { AttemptOutcome::Failed };
        let present = task.present().map(|attempt| (attempt.token, Arc::clone(&attempt.worker_id)));
        if !present.as_ref().is_some_and(|(t, w)| t == token && **w == **worker_id) {
            let same =
                |a: &&Attempt| a.token == *token && *a.worker_id == **worker_id && a.outcome == Some(outcome);
            if let Some(state) = task.attempts.iter().find(same).and_then(|a| a.led_to) {
                return Reply::Task { state };
            }
            let present = match present {
                Some((token, worker)) => format!("its lease is {token}, held by `{worker}`"),
                None => format!("it is {} and nobody holds it", task.state),
            };
            let detail = format!("token {token} of `{worker_id}` does not lease task `{task_id}`: {present}");
            return refused(ErrorCode::StaleToken, detail);
        }
        let end = AttemptEnd {
            outcome,
            error: error.as_deref().map(Arc::from),
            result: result.as_deref().map(Arc::from),
            started_wall_ms: Some(*started_ms),
            finished_wall_ms: *finished_ms,
            used: resources.clone(),
        };
        let state = self.end_attempt(task.spec.seq, end, at, effects);
        Reply::Task { state }
    }

    pub(super) fn expire(
        &mut self,
        leases: &[(String, u64, ExpireReason)],
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let mut count = 0;
        for (task_id, token, reason) in leases {
            let Some(task) = self.tasks.by_id(task_id) else { continue };
            let present = task.present().is_some_and(|attempt| attempt.token == *token);
            if present {
                self.expire_lease(task.spec.seq, *reason, at, effects);
                count += 1;
            }
        }
        Reply::Count(count)
    }

    /// Ends the live lease of a task, whose worker did not.
    pub(super) fn expire_lease(
        &mut self,
        seq: u64,
        reason: ExpireReason,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = self.tasks.get(seq) else { return };
        let Some(attempt) = task.present() else { return };
        let error = match reason {
            ExpireReason::Silent => format!("worker `{}` fell silent", attempt.worker_id),
            ExpireReason::TimedOut => {
                format!("ran beyond its limit of {} s", seconds(task.spec.timeout_ms))
            }
        };
        self.end_attempt(seq, AttemptEnd::silent(expired_as(reason), Some(error), at), at, effects);
    }

    /// Ends the live attempt of a task and decides what follows. Gives the task's new state.
    pub(super) fn end_attempt(
        &mut self,
        seq: u64,
        end: AttemptEnd,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> TaskState {
        let Some(task) = self.tasks.get(seq) else { return TaskState::Cancelled };
        let Some(present) = task.present() else { return task.state };
        let spec = Arc::clone(&task.spec);
        let (token, worker_id) = (present.token, Arc::clone(&present.worker_id));
        let run_ms = at.log_ms.saturating_sub(present.assigned_log_ms);
        let (made, attempt) = (task.attempt - task.budget_base, task.attempt);
        let state = match end.outcome {
            AttemptOutcome::Completed => TaskState::Completed,
            AttemptOutcome::Cancelled => TaskState::Cancelled,
            _ if made <= spec.max_retries => TaskState::Pending,
            _ => TaskState::Failed,
        };
        self.leases.remove(&token);
        if let Some(worker) = self.workers.get_mut(&worker_id) {
            worker.give_back(token, seq, &spec.demand);
        }
        let delay_ms = backoff_ms(spec.retry_backoff_ms, made, self.limits.backoff_cap_ms, &spec.id, attempt);
        let ready_at_ms = at.log_ms.saturating_add(delay_ms);
        let mut ended = None;
        self.change_task(seq, |task| {
            if let Some(attempt) = task.attempts.last_mut() {
                attempt.started_wall_ms = end.started_wall_ms;
                attempt.finished_wall_ms = Some(end.finished_wall_ms);
                attempt.outcome = Some(end.outcome);
                attempt.led_to = Some(state);
                attempt.error = end.error;
                attempt.used = end.used;
                ended = Some(Box::new(attempt.clone()));
            }
            if state == TaskState::Pending {
                task.state = state;
                task.ready_at_ms = ready_at_ms;
            }
        });
        let retried = state == TaskState::Pending;
        let (kept, passed_on) = if retried { (None, end.result) } else { (end.result, None) };
        if let Some(attempt) = ended {
            let spec = Arc::clone(&spec);
            effects.push(Effect::AttemptEnded { spec, attempt, retried, run_ms, result: passed_on });
        }
        if retried {
            self.queue.push(&spec.demand, spec.priority, seq, ready_at_ms, at.log_ms);
        } else {
            self.finish(seq, state, kept, at, effects);
        }
        state
    }

    /// Brings a task that has no lease to its final state.
    pub(super) fn finish(
        &mut self,
        seq: u64,
        state: TaskState,
        result: Option<Arc<str>>,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) {
        let mut finished = None;
        self.change_task(seq, |task| {
            task.state = state;
            task.ended_log_ms = at.log_ms;
            task.ended_wall_ms = Some(at.wall_ms);
            task.set_result(result);
            finished = Some(Effect::TaskFinished {
                spec: Arc::clone(&task.spec),
                state,
                attempt: task.attempt,
                worker_id: task.attempts.last().map(|a| Arc::clone(&a.worker_id)),
                finished_wall_ms: at.wall_ms,
                error: task.error().cloned(),
                result: task.result.clone(),
            });
        });
        effects.extend(finished);
        self.evict_surplus();
    }
}

/// At most `limit` bytes of it, cut between characters.
fn shortened(error: Arc<str>, limit: usize) -> Arc<str> {
    if error.len() <= limit {
        return error;
    }
    let end = (0..=limit).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
    Arc::from(&error[..end])
}
