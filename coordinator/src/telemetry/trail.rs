//! The trail of a task: log lines by which a person follows it through every node's log.
//!
//! Every node applies the same entries, so every node writes the same lines, each with the ids
//! that connect them: `task_id` through the task's whole life, `worker_id` and `token` for one
//! attempt, `index` and `term` for the entry in Raft's log. The node that took the request says
//! which `request_id` became which entry.
//!
//! The steps of ordinary work are DEBUG lines: there are many. What went otherwise than planned
//! (a lease that ran out, a worker that fell silent, a task that somebody took up again) and what
//! concerns the whole cluster are INFO.

use crate::command::Command;
use crate::machine::Effect;
use api::task::AttemptOutcome;
use tracing::{Level, debug, info};

/// Writes the lines of one applied entry.
pub fn applied(index: u64, term: u64, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::TaskSubmitted { spec } => {
                debug!(task_id = %spec.id, kind = %spec.demand.kind, priority = spec.priority, index, term, "task submitted");
            }
            Effect::Assigned { spec, worker_id, token, waited_ms } => {
                debug!(task_id = %spec.id, %worker_id, token, waited_ms, index, term, "task assigned");
            }
            Effect::AttemptEnded { spec, attempt, retried, run_ms, .. } => {
                let (task_id, worker_id, token) = (&spec.id, &attempt.worker_id, attempt.token);
                let outcome = attempt.outcome.map_or("unknown", AttemptOutcome::as_str);
                let attempt_no = attempt.attempt;
                if matches!(attempt.outcome, Some(AttemptOutcome::LeaseExpired | AttemptOutcome::TimedOut)) {
                    info!(%task_id, %worker_id, token, attempt = attempt_no, outcome, retried, run_ms, index, term, "attempt ended without a result");
                } else {
                    debug!(%task_id, %worker_id, token, attempt = attempt_no, outcome, retried, run_ms, index, term, "attempt ended");
                }
            }
            Effect::TaskFinished { spec, state, attempt, worker_id, .. } => {
                let worker_id = worker_id.as_deref().unwrap_or("none");
                debug!(task_id = %spec.id, state = state.as_str(), attempts = attempt, worker_id, index, term, "task finished");
            }
            Effect::TaskReopened { spec, .. } => {
                info!(task_id = %spec.id, index, term, "task put back into the queue");
            }
            Effect::Event { kind, subject, detail, .. } => {
                info!(kind = kind.as_str(), %subject, %detail, index, term, "cluster event");
            }
            // An event says what changed about the worker.
            Effect::WorkerChanged { .. } => {}
        }
    }
}

/// Says which entry a request's command became.
pub fn proposed(request_id: Option<&str>, command: &Ids, index: u64) {
    if !tracing::enabled!(Level::DEBUG) {
        return;
    }
    let request_id = request_id.unwrap_or("none");
    let (name, tasks) = (command.name, command.tasks);
    match (&command.task_id, &command.worker_id) {
        (Some(task_id), Some(worker_id)) => {
            debug!(request_id, command = name, %task_id, %worker_id, token = command.token, index, "command applied");
        }
        (Some(task_id), None) => {
            debug!(request_id, command = name, %task_id, tasks, index, "command applied");
        }
        (None, Some(worker_id)) => debug!(request_id, command = name, %worker_id, index, "command applied"),
        (None, None) => debug!(request_id, command = name, index, "command applied"),
    }
}

/// What a command is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ids {
    name: &'static str,
    task_id: Option<String>,
    /// How many tasks; `task_id` is the first.
    tasks: usize,
    worker_id: Option<String>,
    token: u64,
}

impl Ids {
    /// The ids in a command; none where nobody would read them.
    pub fn of(command: &Command) -> Ids {
        if !tracing::enabled!(Level::DEBUG) {
            return Ids::default();
        }
        let ids = Ids { name: command.name(), ..Ids::default() };
        match command {
            Command::Submit { tasks } => {
                Ids { task_id: tasks.first().map(|t| t.task_id.clone()), tasks: tasks.len(), ..ids }
            }
            Command::Cancel { task_id } | Command::Retry { task_id } => {
                Ids { task_id: Some(task_id.clone()), tasks: 1, ..ids }
            }
            Command::Complete { task_id, worker_id, token, .. } => Ids {
                task_id: Some(task_id.clone()),
                tasks: 1,
                worker_id: Some(worker_id.clone()),
                token: *token,
                ..ids
            },
            Command::RegisterWorker { worker } => Ids { worker_id: Some(worker.worker_id.clone()), ..ids },
            Command::DrainWorker { worker_id } | Command::WorkerLost { worker_id } => {
                Ids { worker_id: Some(worker_id.clone()), ..ids }
            }
            _ => ids,
        }
    }
}
