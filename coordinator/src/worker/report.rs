//! Delivery of results: again and again until it is settled.
//!
//! Settled means: the coordinator accepted the result (also when it had it already), or said that
//! the lease is not ours any more. Anything else (nobody there, no leader, an unknown outcome) is
//! no answer, and a result is idempotent by its token, so it is sent again.

use super::path_segment;
use super::session::Session;
use api::ErrorCode;
use api::client::Repeat;
use api::task::{ResultReport, TaskStanding};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One try. Short, because a leader that hangs takes all of it.
const TRY_LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Delivers `report`; ends early when the lease is taken back or the worker is killed.
pub async fn deliver(session: &Session, task_id: &str, report: ResultReport, taken_back: &CancellationToken) {
    tokio::select! {
        () = until_settled(session, task_id, report) => {}
        () = taken_back.cancelled() => tracing::debug!(task = task_id, "the lease is over; nothing more to deliver"),
        () = session.shutdown.kill.cancelled() => {}
    }
}

async fn until_settled(session: &Session, task_id: &str, mut report: ResultReport) {
    let path = format!("/api/tasks/{}/result", path_segment(task_id));
    let client = session.client.with_deadline(TRY_LIMIT);
    let mut pause = FIRST_PAUSE;
    let mut said = false;
    loop {
        let registration = session.registration();
        let error = match client.post::<_, TaskStanding>(&path, &report, Repeat::Idempotent).await {
            Ok(_) => return,
            Err(error) => error,
        };
        match error.code() {
            Some(ErrorCode::StaleToken | ErrorCode::UnknownTask) => {
                tracing::warn!(task = task_id, token = report.token, %error, "the result is not wanted any more");
                return;
            }
            Some(ErrorCode::UnknownWorker) => session.register_again(registration).await,
            Some(ErrorCode::Validation | ErrorCode::MalformedJson | ErrorCode::BodyTooLarge)
                if report.result.is_some() =>
            {
                tracing::error!(task = task_id, %error, "the result was refused; reporting without its output");
                report.result = None;
                report.status = api::task::ReportedStatus::Failed;
                report.error = Some(format!("the coordinator refused the result: {error}"));
                continue;
            }
            _ => {}
        }
        if !said {
            tracing::warn!(task = task_id, %error, "the result can't be delivered yet; keeping it");
            said = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
