//! Sending the tasks, in batches that may be repeated.
//!
//! Every task has its id before the first one is sent, and a coordinator takes the same task under
//! the same id once. So whatever happens to an answer, the batch is sent again until one says that
//! it was taken, or until nobody has answered for the limit.

use api::client::Repeat;
use api::task::{BatchSubmitted, NewTask};
use api::{Client, ClientError, ErrorCode};
use serde::Serialize;
use std::time::{Duration, Instant};

/// The most tasks of one batch.
const MAX_BATCH_TASKS: usize = 500;
/// A batch is cut when it reaches this size, well below what a coordinator takes.
const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;
/// One try.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// Between tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A task to send: its line and its body.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its id.
    pub task_id: String,
    /// The line of the input it was made of.
    pub line: String,
    /// What is sent.
    pub body: NewTask,
}

/// What sending came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Tasks that the cluster has.
    pub taken: usize,
    /// Those among them that it had before.
    pub known_before: usize,
}

/// Why sending ended early.
#[derive(Debug, thiserror::Error)]
#[error("{} of {total} tasks are submitted: {source}", .sent.taken)]
pub struct SendError {
    /// What is certain to be there. The next batch may be there as well.
    pub sent: Sent,
    /// How many there were to send.
    pub total: usize,
    /// What went wrong.
    pub source: ClientError,
}

#[derive(Serialize)]
struct Batch<'a> {
    tasks: Vec<&'a NewTask>,
}

/// Sends every job.
pub async fn send(
    client: &Client,
    jobs: &[Job],
    give_up: Duration,
    remark: impl Fn(&str),
) -> Result<Sent, SendError> {
    let mut sent = Sent::default();
    let client = client.with_deadline(TRY_LIMIT.min(give_up.max(Duration::from_millis(100))));
    for part in batches(jobs) {
        let batch = Batch { tasks: part.iter().map(|job| &job.body).collect() };
        let answer = until_taken(&client, &batch, give_up, &remark).await;
        let answer = answer.map_err(|source| SendError { sent, total: jobs.len(), source })?;
        sent.taken += part.len();
        sent.known_before += part.len().saturating_sub(answer.accepted);
    }
    Ok(sent)
}

async fn until_taken(
    client: &Client,
    batch: &Batch<'_>,
    give_up: Duration,
    remark: &impl Fn(&str),
) -> Result<BatchSubmitted, ClientError> {
    let started = Instant::now();
    let mut said = false;
    loop {
        let error = match client.post("/api/tasks/batch", batch, Repeat::Idempotent).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let worth_a_try = match error.code() {
            Some(code) => code.retryable() || matches!(code, ErrorCode::UnknownOutcome | ErrorCode::Internal),
            None => !matches!(error, ClientError::NoAddress),
        };
        if !worth_a_try || started.elapsed() + PAUSE >= give_up {
            return Err(error);
        }
        if !said {
            remark(&format!("not taken yet, trying on for {} s: {error}", give_up.as_secs()));
            said = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Cuts the jobs into batches of bounded count and size.
fn batches(jobs: &[Job]) -> Vec<&[Job]> {
    let mut cuts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, job) in jobs.iter().enumerate() {
        let size = job.body.config.as_ref().map_or(0, |config| config.get().len()) + job.task_id.len() + 512;
        if at > start && (at - start >= MAX_BATCH_TASKS || bytes + size > MAX_BATCH_BYTES) {
            cuts.push(&jobs[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    if start < jobs.len() {
        cuts.push(&jobs[start..]);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn job(number: usize, bytes: usize) -> Job {
        let config = RawValue::from_string(format!("{:?}", "x".repeat(bytes))).unwrap();
        let body: NewTask =
            serde_json::from_value(serde_json::json!({ "type": "command", "config": config })).unwrap();
        Job { task_id: format!("r-{number}"), line: String::new(), body }
    }

    #[test]
    fn batches_hold_every_job_once_within_both_bounds() {
        let many: Vec<Job> = (0..1201).map(|n| job(n, 10)).collect();
        assert_eq!(batches(&many).iter().map(|b| b.len()).collect::<Vec<_>>(), [500, 500, 201]);
        let large: Vec<Job> = (0..5).map(|n| job(n, 900_000)).collect();
        assert_eq!(batches(&large).iter().map(|b| b.len()).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(batches(&[]).is_empty());
    }
}
