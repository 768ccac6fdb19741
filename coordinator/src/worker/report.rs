//! Delivery of results: again and again until it is settled, many in one call.
//!
//! Settled means: the coordinator accepted the result (also when it had it already), or said that
//! the lease is not ours any more. Anything else (nobody there, no leader, an unknown outcome) is
//! no answer, and a result is idempotent by its token, so it is sent again.
//!
//! While one call is on its way, results gather for the next. So a worker of many short tasks
//! makes few calls, and one with a long task waits for nobody.

use super::path_segment;
use super::session::Session;
use api::client::Repeat;
use api::task::ReportedStatus;
use api::worker::{FinishedAttempt, ResultBatch, ResultVerdict, ResultVerdicts};
use api::{ClientError, ErrorCode};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// One try. Short, because a leader that hangs takes all of it.
const TRY_LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Results in one call.
const MAX_RESULTS: usize = 256;
/// Bytes of results in one call, unless one alone has more; a coordinator takes 8 MiB.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// A result that waits to be delivered.
#[derive(Debug)]
struct Waiting {
    report: FinishedAttempt,
    /// Told whether it was accepted. Closed when nobody waits any more.
    settled: oneshot::Sender<bool>,
    said: bool,
    /// The call it went with was refused: the next one has only this.
    alone: bool,
}

impl Waiting {
    fn bytes(&self) -> usize {
        256 + self.report.result.as_ref().map_or(0, |json| json.get().len())
            + self.report.error.as_ref().map_or(0, String::len)
    }
}

/// The results that wait.
#[derive(Debug, Default)]
pub struct Reporter {
    queue: parking_lot::Mutex<VecDeque<Waiting>>,
    more: Notify,
}

impl Reporter {
    fn push(&self, report: FinishedAttempt) -> oneshot::Receiver<bool> {
        let (settled, outcome) = oneshot::channel();
        self.queue.lock().push_back(Waiting { report, settled, said: false, alone: false });
        self.more.notify_one();
        outcome
    }

    /// The next results for one call; those that nobody waits for any more are dropped.
    fn next(&self) -> Vec<Waiting> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let mut taken = Vec::new();
        while let Some(first) = queue.front() {
            bytes += first.bytes();
            let full = taken.len() >= MAX_RESULTS || bytes > MAX_BYTES || first.alone;
            if full && !taken.is_empty() {
                break;
            }
            let waiting = queue.pop_front().filter(|waiting| !waiting.settled.is_closed());
            let alone = waiting.as_ref().is_some_and(|waiting| waiting.alone);
            taken.extend(waiting);
            if alone {
                break;
            }
        }
        taken
    }

    fn put_back(&self, waiting: Vec<Waiting>) {
        let mut queue = self.queue.lock();
        for waiting in waiting.into_iter().rev() {
            queue.push_front(waiting);
        }
    }
}

/// Delivers `report`; ends early when the lease is taken back or the worker is killed. True where
/// it was accepted.
pub async fn deliver(
    session: &Session,
    task_id: &str,
    report: FinishedAttempt,
    taken_back: &CancellationToken,
) -> bool {
    let outcome = session.reporter.push(report);
    tokio::select! {
        accepted = outcome => accepted.unwrap_or(false),
        () = taken_back.cancelled() => {
            tracing::debug!(task_id, "the lease is over; nothing more to deliver");
            false
        }
        () = session.shutdown.kill.cancelled() => false,
    }
}

/// Delivers what there is until `end`.
pub async fn deliver_all(session: Arc<Session>, end: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let batch = session.reporter.next();
        if batch.is_empty() {
            tokio::select! {
                () = session.reporter.more.notified() => continue,
                () = end.cancelled() => return,
            }
        }
        let left = tokio::select! {
            left = send(&session, batch) => left,
            () = end.cancelled() => return,
        };
        if left.is_empty() {
            pause = FIRST_PAUSE;
            continue;
        }
        session.reporter.put_back(left);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One call. Gives back what has to be sent again.
async fn send(session: &Session, batch: Vec<Waiting>) -> Vec<Waiting> {
    let path = format!("/api/workers/{}/results", path_segment(&session.config.worker_id));
    let client = session.client.with_deadline(TRY_LIMIT);
    let registration = session.registration();
    let body = ResultBatch { results: batch.iter().map(|waiting| waiting.report.clone()).collect() };
    let answer = client.post::<_, ResultVerdicts>(&path, &body, Repeat::Idempotent).await;
    drop(body);
    let verdicts = match answer {
        Ok(answer) if answer.results.len() == batch.len() => answer.results,
        Ok(answer) => {
            tracing::error!(sent = batch.len(), judged = answer.results.len(), "results were not all judged");
            return batch;
        }
        Err(error) => return refused(session, registration, batch, &error).await,
    };
    let mut again = Vec::new();
    for (mut waiting, verdict) in batch.into_iter().zip(verdicts) {
        match judge(&mut waiting, verdict) {
            Some(accepted) => drop(waiting.settled.send(accepted)),
            None => again.push(waiting),
        }
    }
    again
}

/// True where it was accepted, false where it is not wanted any more; none where it is to be sent
/// again, perhaps without what was refused.
fn judge(waiting: &mut Waiting, verdict: ResultVerdict) -> Option<bool> {
    let Some(problem) = verdict.problem else { return Some(true) };
    let (task_id, token) = (&waiting.report.task_id, waiting.report.token);
    match problem.code {
        ErrorCode::StaleToken | ErrorCode::UnknownTask => {
            tracing::warn!(task_id, token, %problem, "the result is not wanted any more");
            Some(false)
        }
        _ => {
            if !std::mem::replace(&mut waiting.said, true) {
                tracing::warn!(task_id, token, %problem, "the result can't be delivered yet; keeping it");
            }
            None
        }
    }
}

/// The whole call was refused or lost.
async fn refused(
    session: &Session,
    registration: u64,
    mut batch: Vec<Waiting>,
    error: &ClientError,
) -> Vec<Waiting> {
    match error.code() {
        Some(ErrorCode::UnknownWorker) => session.register_again(registration).await,
        Some(ErrorCode::Validation | ErrorCode::MalformedJson | ErrorCode::BodyTooLarge)
            if batch.len() > 1 =>
        {
            batch.iter_mut().for_each(|waiting| waiting.alone = true);
            return batch;
        }
        Some(ErrorCode::Validation | ErrorCode::MalformedJson | ErrorCode::BodyTooLarge) => {
            for waiting in batch.iter_mut().filter(|waiting| waiting.report.result.is_some()) {
                tracing::error!(task_id = %waiting.report.task_id, %error, "the result was refused; reporting without its output");
                waiting.report.result = None;
                waiting.report.status = ReportedStatus::Failed;
                waiting.report.error = Some(format!("the coordinator refused the result: {error}"));
            }
        }
        _ => {}
    }
    for waiting in batch.iter_mut().filter(|waiting| !waiting.said) {
        waiting.said = true;
        tracing::warn!(task_id = %waiting.report.task_id, %error, "the result can't be delivered yet; keeping it");
    }
    batch
}
