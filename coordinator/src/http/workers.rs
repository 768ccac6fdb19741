//! The worker protocol: register, heartbeat, lease, drain; and the list of workers.

use super::extract::{Id, JsonBody, OptionalJson, Params};
use super::problem::{self, ApiError, ApiResult};
use super::read::Freshness;
use super::tasks::{Nothing, invalid, unexpected};
use super::{App, validate};
use crate::access::Caller;
use crate::command::{Command, Reply};
use crate::dispatch::DispatchError;
use crate::node::Applied;
use api::ErrorCode;
use api::task::ReportedStatus;
use api::worker::{
    FinishedAttempt, Heartbeat, HeartbeatAnswer, LeaseAnswer, LeaseRequest, MAX_LEASE_WAIT_MS, MAX_RESULTS,
    MAX_SLOTS, Register, Registered, ResultBatch, ResultVerdict, ResultVerdicts, WorkerList,
};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

/// Tokens a worker may name in one call.
const MAX_TOKENS: usize = 4 * MAX_SLOTS as usize;

/// What only the leader answers.
pub fn calls() -> Router<App> {
    Router::new()
        .route("/api/workers/register", post(register))
        .route("/api/workers/{id}/heartbeat", post(heartbeat))
        .route("/api/workers/{id}/lease", post(lease))
        .route("/api/workers/{id}/results", post(results))
        .route("/api/workers/{id}/drain", post(drain))
}

/// What every node answers.
pub fn reads() -> Router<App> {
    Router::new().route("/api/workers", get(list))
}

async fn register(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<Register>,
) -> ApiResult<Json<Registered>> {
    caller.speaks_for(&body.worker_id)?;
    let worker = validate::worker(body).map_err(invalid)?;
    let worker_id = worker.worker_id.clone();
    app.propose(Command::RegisterWorker { worker }).await?;
    app.dispatch.heard(&worker_id);
    let machine = app.node.machine();
    let limits = machine.limits();
    Ok(Json(Registered {
        worker_id,
        heartbeat_interval_ms: limits.heartbeat_interval_ms,
        lease_ttl_ms: limits.lease_ttl_ms,
        lost_after_ms: limits.worker_lost_ms,
    }))
}

async fn heartbeat(
    State(app): State<App>,
    Id(worker_id): Id,
    OptionalJson(body): OptionalJson<Heartbeat>,
) -> ApiResult<Json<HeartbeatAnswer>> {
    check_tokens(&body.tokens)?;
    app.dispatch.heartbeat(&worker_id, &body).await.map(Json).map_err(|e| of_dispatch(&app, e))
}

async fn lease(
    State(app): State<App>,
    Id(worker_id): Id,
    JsonBody(body): JsonBody<LeaseRequest>,
) -> ApiResult<Json<LeaseAnswer>> {
    check_tokens(&body.tokens)?;
    check_tokens(&body.reporting)?;
    let mut faults = validate::Faults::default();
    if body.slots > MAX_SLOTS {
        faults.add("slots", format!("is {}; must be 0 to {MAX_SLOTS}", body.slots));
    }
    if body.wait_ms > MAX_LEASE_WAIT_MS {
        faults.add("wait_ms", format!("is {}; must be at most {MAX_LEASE_WAIT_MS}", body.wait_ms));
    }
    faults.or(()).map_err(invalid)?;
    let mut answer = app.dispatch.lease(&worker_id, &body).await.map_err(|e| of_dispatch(&app, e))?;
    app.telemetry.traces().leased(&mut answer.tasks, &worker_id);
    Ok(Json(answer))
}

/// Results of several attempts. Each is a command of its own; they share a log entry.
async fn results(
    State(app): State<App>,
    Id(worker_id): Id,
    JsonBody(body): JsonBody<ResultBatch>,
) -> ApiResult<Json<ResultVerdicts>> {
    if body.results.is_empty() || body.results.len() > MAX_RESULTS {
        let why = format!("`results` has {} entries; must have 1 to {MAX_RESULTS}", body.results.len());
        return Err(ApiError::new(ErrorCode::Validation, why));
    }
    for (place, done) in body.results.iter().enumerate() {
        let result = done.result.as_deref().map(serde_json::value::RawValue::get);
        let checked = validate::attempt_end(result, done.error.as_deref(), done.resources.as_ref());
        checked
            .map_err(|faults| ApiError::new(ErrorCode::Validation, format!("results[{place}]: {faults}")))?;
    }
    app.dispatch.heard(&worker_id);
    let names: Vec<(String, u64)> = body.results.iter().map(|r| (r.task_id.clone(), r.token)).collect();
    let proposals = body.results.into_iter().map(|done| accept(&app, &worker_id, done));
    let outcomes = futures_util::future::join_all(proposals).await;
    let mut accepted = Vec::with_capacity(names.len());
    let mut verdicts = Vec::with_capacity(names.len());
    for ((task_id, token), outcome) in names.into_iter().zip(outcomes) {
        let (state, problem) = match outcome {
            Ok(Applied { reply: Reply::Task { state }, .. }) => (Some(state), None),
            Ok(applied) => (None, Some(unexpected(&applied.reply).0)),
            Err(ApiError(problem)) => (None, Some(problem)),
        };
        accepted.extend(state.map(|_| token));
        verdicts.push(ResultVerdict { task_id, token, state, problem });
    }
    app.dispatch.reported(&worker_id, &accepted);
    Ok(Json(ResultVerdicts { results: verdicts }))
}

/// Proposes a result, in the trace of its task where that is sampled.
async fn accept(app: &App, worker_id: &str, done: FinishedAttempt) -> ApiResult<Applied> {
    match app.telemetry.traces().result(&done) {
        None => app.propose(complete(worker_id, done)).await,
        Some(span) => otlp::context::within(&span, app.propose(complete(worker_id, done))).await,
    }
}

fn complete(worker_id: &str, done: FinishedAttempt) -> Command {
    Command::Complete {
        task_id: done.task_id,
        worker_id: worker_id.to_owned(),
        token: done.token,
        success: done.status == ReportedStatus::Completed,
        result: done.result.map(|raw| raw.get().to_owned()),
        error: done.error,
        started_ms: done.started_at.as_millisecond(),
        finished_ms: done.finished_at.as_millisecond(),
        resources: done.resources.unwrap_or_default(),
    }
}

/// Answer to a drain.
#[derive(Debug, serde::Serialize)]
struct Draining {
    worker_id: String,
    draining: bool,
    index: u64,
}

async fn drain(
    State(app): State<App>,
    Id(worker_id): Id,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> ApiResult<Json<Draining>> {
    let applied = app.propose(Command::DrainWorker { worker_id: worker_id.clone() }).await?;
    app.dispatch.worker_changed(&worker_id);
    Ok(Json(Draining { worker_id, draining: true, index: applied.index }))
}

async fn list(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Json<WorkerList>> {
    app.catch_up(query.consistency, query.min_index).await?;
    let mut workers = app.node.machine().workers();
    for worker in &mut workers {
        worker.last_seen_ms = app.dispatch.last_seen_ms(&worker.worker_id);
    }
    Ok(Json(WorkerList { workers }))
}

fn check_tokens(tokens: &[u64]) -> ApiResult<()> {
    if tokens.len() <= MAX_TOKENS {
        return Ok(());
    }
    let why = format!("`tokens` has {} entries; at most {MAX_TOKENS} are allowed", tokens.len());
    Err(ApiError::new(ErrorCode::Validation, why))
}

/// What a failed worker call means. Nothing was changed by it, so it is answered as a read is.
fn of_dispatch(app: &App, error: DispatchError) -> ApiError {
    let leader = app.leader_address();
    match error {
        DispatchError::Node(error) => problem::of_read(&error, leader),
        DispatchError::UnknownWorker { .. } => ApiError::new(ErrorCode::UnknownWorker, error.to_string()),
        DispatchError::TooManyCalls => {
            ApiError::new(ErrorCode::Overloaded, error.to_string()).with_leader(leader)
        }
    }
}
