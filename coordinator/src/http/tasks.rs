//! Tasks: submit, list, look, cancel, retry, and the result of an attempt.

use super::extract::{Id, JsonBody, OptionalJson, Params};
use super::keyed::{self, Keyed, KeyedOptional};
use super::problem::{ApiError, ApiResult};
use super::read::{Consistency, Freshness};
use super::{App, validate};
use crate::access::Caller;
use crate::command::{Command, KeyedWrite, Reply};
use crate::machine::TaskFilter;
use crate::node::Applied;
use api::ErrorCode;
use api::task::{
    BatchSubmitted, NewBatch, NewTask, PAGE_DEFAULT, PAGE_MAX, ReportedStatus, ResultReport, Retried,
    RetryMany, Submitted, TaskPage, TaskRecord, TaskStanding, TaskState,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

/// What only the leader does.
pub fn writes() -> Router<App> {
    Router::new()
        .route("/api/tasks", post(submit))
        .route("/api/tasks/batch", post(submit_batch))
        .route("/api/tasks/retry", post(retry_many))
        .route("/api/tasks/{id}/cancel", post(cancel))
        .route("/api/tasks/{id}/retry", post(retry))
        .route("/api/tasks/{id}/result", post(report))
}

/// What every node answers.
pub fn reads() -> Router<App> {
    Router::new().route("/api/tasks", get(list)).route("/api/tasks/{id}", get(show))
}

async fn submit(State(app): State<App>, Keyed { key, body }: Keyed<NewTask>) -> ApiResult<Response> {
    let named = body.task_id.clone();
    let salt = key.as_ref().map(|key| key.salt);
    let limits = app.node.settings();
    let spec = validate::new_task(body, &limits, keyed::ids(salt)).map_err(invalid)?;
    let mut task_id = spec.task_id.clone();
    let written = app.write(key, KeyedWrite::Submit { tasks: vec![spec] }).await?;
    if let (None, Some(_)) = (named, written.replayed) {
        task_id = keyed::ids(written.replayed)();
    }
    let index = written.applied.index;
    let answer = match written.applied.reply {
        Reply::Submitted { created: 1 } => {
            (StatusCode::CREATED, Json(Submitted { task_id, index })).into_response()
        }
        // The same task id with the same body: it was there, this is its record.
        Reply::Submitted { .. } => {
            let record = app.node.machine().task(&task_id);
            let submitted = Submitted { task_id, index };
            (StatusCode::OK, Json(Repeated { submitted, task: record })).into_response()
        }
        ref other => return Err(unexpected(other)),
    };
    Ok(written.mark(answer))
}

/// Answer to a repeated submission.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub struct Repeated {
    #[serde(flatten)]
    submitted: Submitted,
    /// The first one's record; none in the moment in which it leaves memory.
    task: Option<TaskRecord>,
}

async fn submit_batch(State(app): State<App>, Keyed { key, body }: Keyed<NewBatch>) -> ApiResult<Response> {
    let named: Vec<Option<String>> = body.tasks.iter().map(|task| task.task_id.clone()).collect();
    let salt = key.as_ref().map(|key| key.salt);
    let limits = app.node.settings();
    let specs = validate::new_batch(body.tasks, &limits, keyed::ids(salt)).map_err(invalid)?;
    let mut task_ids: Vec<String> = specs.iter().map(|spec| spec.task_id.clone()).collect();
    let written = app.write(key, KeyedWrite::Submit { tasks: specs }).await?;
    if written.replayed.is_some() {
        let mut made = keyed::ids(written.replayed);
        task_ids = named.into_iter().map(|name| name.unwrap_or_else(&mut made)).collect();
    }
    let Applied { index, reply } = &written.applied;
    let Reply::Submitted { created } = reply else { return Err(unexpected(reply)) };
    let answer = BatchSubmitted { accepted: *created, task_ids, index: *index };
    Ok(written.mark((StatusCode::CREATED, Json(answer)).into_response()))
}

/// Body of a request that has nothing to say.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

async fn cancel(
    State(app): State<App>,
    Id(task_id): Id,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> ApiResult<Json<TaskStanding>> {
    let applied = app.propose(Command::Cancel { task_id: task_id.clone() }).await?;
    app.dispatch.task_cancelled(&task_id);
    standing(task_id, applied)
}

async fn retry(
    State(app): State<App>,
    Id(task_id): Id,
    KeyedOptional { key, body: Nothing {} }: KeyedOptional<Nothing>,
) -> ApiResult<Response> {
    let written = app.write(key, KeyedWrite::Retry { task_id: task_id.clone() }).await?;
    let answer = standing(task_id, written.applied.clone())?;
    Ok(written.mark(answer.into_response()))
}

async fn retry_many(State(app): State<App>, Keyed { key, body }: Keyed<RetryMany>) -> ApiResult<Response> {
    let filter = validate::retry_filter(body).map_err(invalid)?;
    let written = app.write(key, KeyedWrite::RetryMany { filter }).await?;
    let Applied { index, reply } = &written.applied;
    let Reply::Retried { count, more } = reply else { return Err(unexpected(reply)) };
    let answer = Retried { retried: *count, more: *more, index: *index };
    Ok(written.mark(Json(answer).into_response()))
}

async fn report(
    State(app): State<App>,
    caller: Caller,
    Id(task_id): Id,
    JsonBody(report): JsonBody<ResultReport>,
) -> ApiResult<Json<TaskStanding>> {
    caller.speaks_for(&report.worker_id)?;
    validate::named("worker_id", &report.worker_id).map_err(invalid)?;
    let result = report.result.as_deref().map(serde_json::value::RawValue::get);
    validate::attempt_end(result, report.error.as_deref(), report.resources.as_ref()).map_err(invalid)?;
    app.dispatch.heard(&report.worker_id);
    let (worker_id, token) = (report.worker_id.clone(), report.token);
    let complete = Command::Complete {
        task_id: task_id.clone(),
        worker_id: report.worker_id,
        token: report.token,
        success: report.status == ReportedStatus::Completed,
        result: report.result.map(|raw| raw.get().to_owned()),
        error: report.error,
        started_ms: report.started_at.as_millisecond(),
        finished_ms: report.finished_at.as_millisecond(),
        resources: report.resources.unwrap_or_default(),
    };
    let applied = app.propose(complete).await?;
    app.dispatch.reported(&worker_id, &[token]);
    standing(task_id, applied)
}

fn standing(task_id: String, applied: Applied) -> ApiResult<Json<TaskStanding>> {
    match applied.reply {
        Reply::Task { state } => Ok(Json(TaskStanding { task_id, state, index: applied.index })),
        other => Err(unexpected(&other)),
    }
}

/// `GET /api/tasks`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    status: Option<TaskState>,
    #[serde(rename = "type")]
    kind: Option<String>,
    worker: Option<String>,
    limit: Option<usize>,
    after: Option<u64>,
    #[serde(default)]
    consistency: Consistency,
    min_index: Option<u64>,
}

async fn list(State(app): State<App>, Params(query): Params<ListQuery>) -> ApiResult<Json<TaskPage>> {
    let limit = page_limit(query.limit)?;
    app.catch_up(query.consistency, query.min_index).await?;
    let filter =
        TaskFilter { state: query.status, kind: query.kind, worker: query.worker, after: query.after, limit };
    Ok(Json(app.node.machine().list_tasks(&filter)))
}

async fn show(
    State(app): State<App>,
    Id(task_id): Id,
    Params(query): Params<Freshness>,
) -> ApiResult<Json<TaskRecord>> {
    let index = app.catch_up(query.consistency, query.min_index).await?;
    if let Some(record) = app.node.machine().task(&task_id) {
        return Ok(Json(record));
    }
    // It never was, or it left memory; the store may be a little behind the machine.
    if let Some(record) = stored(&app, &task_id).await? {
        return Ok(Json(record));
    }
    if app.store.applied_index() < index {
        app.store_caught_up(index).await?;
        if let Some(record) = stored(&app, &task_id).await? {
            return Ok(Json(record));
        }
    }
    Err(ApiError::new(ErrorCode::UnknownTask, format!("there is no task `{task_id}`")))
}

async fn stored(app: &App, task_id: &str) -> ApiResult<Option<TaskRecord>> {
    let id = task_id.to_owned();
    app.ask_store(move |store| store.task(&id)).await
}

/// The page size asked for, or why it can't be had.
pub(super) fn page_limit(asked: Option<usize>) -> ApiResult<usize> {
    match asked.unwrap_or(PAGE_DEFAULT) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        other => {
            Err(ApiError::new(ErrorCode::Validation, format!("`limit` is {other}; must be 1 to {PAGE_MAX}")))
        }
    }
}

/// Faults of a body as an answer.
pub(super) fn invalid(faults: validate::Faults) -> ApiError {
    ApiError::new(ErrorCode::Validation, faults.to_string())
}

/// The machine gave a reply that its command never has.
pub(super) fn unexpected(reply: &Reply) -> ApiError {
    tracing::error!(?reply, "the machine gave a reply that does not fit its command");
    ApiError::new(ErrorCode::Internal, "the state machine gave an answer that does not fit the request")
}
