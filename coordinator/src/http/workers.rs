//! The worker protocol: register, heartbeat, lease, drain; and the list of workers.

use super::extract::{Id, JsonBody, OptionalJson, Params};
use super::problem::{self, ApiError, ApiResult};
use super::read::Freshness;
use super::tasks::{Nothing, invalid};
use super::{App, validate};
use crate::access::Caller;
use crate::command::Command;
use crate::dispatch::DispatchError;
use api::ErrorCode;
use api::worker::{
    HEARTBEAT_INTERVAL_MS, Heartbeat, HeartbeatAnswer, LEASE_TTL_MS, LeaseAnswer, LeaseRequest,
    MAX_LEASE_WAIT_MS, MAX_SLOTS, Register, Registered, WORKER_LOST_MS, WorkerList,
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
    Ok(Json(Registered {
        worker_id,
        heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
        lease_ttl_ms: LEASE_TTL_MS,
        lost_after_ms: WORKER_LOST_MS,
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
    let mut faults = validate::Faults::default();
    if body.slots == 0 || body.slots > MAX_SLOTS {
        faults.add("slots", format!("is {}; must be 1 to {MAX_SLOTS}", body.slots));
    }
    if body.wait_ms > MAX_LEASE_WAIT_MS {
        faults.add("wait_ms", format!("is {}; must be at most {MAX_LEASE_WAIT_MS}", body.wait_ms));
    }
    faults.or(()).map_err(invalid)?;
    app.dispatch.lease(&worker_id, &body).await.map(Json).map_err(|e| of_dispatch(&app, e))
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
