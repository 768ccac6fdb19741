//! The repair calls: about the node asked, never forwarded, answered in every role.
//!
//! What takes long goes on as an operation of its own, whatever becomes of the connection. The call
//! waits for it, at most 300 s; then it answers that the operation goes on, and where its
//! outcome will stand.

use super::App;
use super::extract::OptionalJson;
use super::fence::{Knowledge, LEASE};
use super::problem::{ApiError, ApiResult};
use crate::operations::Operation;
use crate::raft::force_sync::{Request, sync_state};
use crate::store::Rebuild;
use api::ErrorCode;
use api::admin::{AdminCall, Cancelled, CleanedUp, ForceSyncStarted, Rebuilt, SnapshotTaken, Verified};
use api::cluster::{Leadership, Role};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a call waits for what it began.
const WAIT_LIMIT: Duration = Duration::from_secs(300);
/// How long a snapshot may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);

/// The routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/admin/verify", post(verify))
        .route("/api/admin/snapshot", post(snapshot))
        .route("/api/admin/rebuild_db", post(rebuild_db))
        .route("/api/admin/force_sync", post(force_sync))
        .route("/api/admin/cleanup_resources", post(cleanup_resources))
        .route("/api/admin/cancel_operations", post(cancel_operations))
        .route("/api/admin/step_down", post(step_down))
}

impl App {
    /// Lets an admin call pass the fence, or refuses it.
    pub(super) async fn admit(&self, call: &AdminCall, destructive: bool) -> ApiResult<()> {
        let serves = matches!(self.node.view().role, Role::Leader | Role::Follower | Role::Learner);
        let current = || {
            let (lease_epoch, last) = self.node.machine().lease_epoch(LEASE);
            Knowledge { cluster_id: self.node.cluster_id(), lease_epoch, last_epoch: serves.then_some(last) }
        };
        let mut known = current();
        // The lease may be newer than what this node has applied.
        if call.epoch.is_some_and(|epoch| known.last_epoch.is_some_and(|last| epoch > last)) {
            match self.node.read_barrier().await {
                Ok(_) => known = current(),
                Err(_) => known.last_epoch = None,
            }
        }
        self.fence.admit(call, &known, destructive).map_err(|(code, why)| ApiError::new(code, why))
    }
}

/// One of a kind at a time.
fn begun(begun: Result<Operation, String>) -> ApiResult<Operation> {
    begun.map_err(|goes_on| {
        let why = format!("`{goes_on}` goes on already; /api/health/operations shows it");
        ApiError::new(ErrorCode::InvalidState, why)
    })
}

/// Does work that may take long, and waits for it within the limit. Whoever asked may go away: the
/// work goes on. `outcome` says where it is found later.
async fn wait_or_go_on<T: Send + 'static>(
    id: String,
    outcome: &str,
    work: impl Future<Output = ApiResult<T>> + Send + 'static,
) -> ApiResult<T> {
    match tokio::time::timeout(WAIT_LIMIT, tokio::spawn(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(e)) => Err(ApiError::new(ErrorCode::Internal, format!("the work broke off: {e}"))),
        Err(_) => {
            let waited_s = WAIT_LIMIT.as_secs();
            let why = format!("`{id}` goes on after {waited_s} s, see /api/health/operations; {outcome}");
            Err(ApiError::new(ErrorCode::Unavailable, why))
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> ApiResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ApiError::new(ErrorCode::Internal, format!("the work broke off: {e}")))
}

async fn verify(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<Json<Verified>> {
    app.admit(&call, false).await?;
    let book = app.node.operation_book();
    let operation = begun(book.begin_alone_cancellable("verify", "waiting for its turn"))?;
    let id = operation.id();
    if app.node.view().role == Role::Leader {
        // Gives everybody one more index at which checksums can be compared. Verifying does not
        // depend on it.
        let _ = app.node.propose(crate::command::Command::Checkpoint).await;
    }
    let integrity = app.integrity.clone();
    let work = async move {
        let checked = blocking(move || (integrity.verify(&operation), operation.token().is_cancelled()));
        let (parts, cancelled) = checked.await?;
        if cancelled {
            return Err(ApiError::new(ErrorCode::InvalidState, "the verification was cancelled"));
        }
        Ok(Json(Verified { sound: parts.iter().all(|part| part.sound), parts }))
    };
    let outcome =
        "what it finds will stand in /api/health/log, /api/health/state_checksum and /api/health/db";
    wait_or_go_on(id, outcome, work).await
}

async fn snapshot(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<Json<SnapshotTaken>> {
    app.admit(&call, false).await?;
    let name = app.node.snapshot_now(SNAPSHOT_LIMIT).await;
    let name = name.map_err(|why| ApiError::new(ErrorCode::Unavailable, why))?;
    Ok(Json(SnapshotTaken { index: name.index, term: name.term, bytes: name.bytes, hash: name.hash }))
}

async fn rebuild_db(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<Json<Rebuilt>> {
    app.admit(&call, true).await?;
    if app.node.applied_index() == 0 {
        let why = "this node's machine holds nothing to rebuild the database from";
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    }
    let operation = begun(app.mender.begin_rebuild())?;
    let why = call.why.unwrap_or_else(|| "asked to rebuild it".into());
    let (id, mender) = (operation.id(), app.mender.clone());
    let work = async move {
        let rebuilt = blocking(move || mender.rebuild(Rebuild::Fresh { why }, &operation)).await?;
        rebuilt.map(Json).map_err(|why| ApiError::new(ErrorCode::Unavailable, why))
    };
    wait_or_go_on(id, "how it went will stand in /api/health/db", work).await
}

/// Goes on behind the answer: the state of the majority is fetched and verified, then the process
/// begins anew with it.
async fn force_sync(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<(StatusCode, Json<ForceSyncStarted>)> {
    app.admit(&call, true).await?;
    if !app.config.enable_redundancy {
        let why = "this node is alone in its cluster (`enable_redundancy` is false): there is no majority to take a state from";
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    }
    let why = call.why.unwrap_or_else(|| "asked to".into());
    let operation = begun(app.node.operation_book().begin_alone_cancellable("force_sync", "beginning"))?;
    let started = ForceSyncStarted { operation: operation.id() };
    let request = Request { why, keep_database: false };
    let (node, config) = (app.node.clone(), Arc::clone(&app.config));
    tokio::spawn(async move { drop(sync_state(&node, &config, &request, operation).await) });
    Ok((StatusCode::ACCEPTED, Json(started)))
}

async fn cleanup_resources(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<Json<CleanedUp>> {
    app.admit(&call, false).await?;
    let operation = begun(app.node.operation_book().begin_alone("cleanup_resources", "taking a snapshot"))?;
    let id = operation.id();
    wait_or_go_on(id, "the node's log will say what was done", clean_up(app, operation)).await
}

async fn clean_up(app: App, operation: Operation) -> ApiResult<Json<CleanedUp>> {
    let data_dir = app.config.data_dir.clone();
    let measured = data_dir.clone();
    let bytes_before = blocking(move || crate::quarantine::bytes_in(&measured)).await?;
    let mut steps = Vec::new();
    match app.node.snapshot_now(SNAPSHOT_LIMIT).await {
        Ok(name) => steps.push(format!("snapshot of index {}: the log before it is purged", name.index)),
        Err(why) => steps.push(format!("no snapshot: {why}")),
    }
    operation.says("letting old history and superseded files go");
    let worker = app.clone();
    let (more, bytes_after) = blocking(move || {
        let mut steps = Vec::new();
        let rows = worker.integrity.prune(worker.config.db_retention_rows, &CancellationToken::new());
        steps.push(format!("history beyond its retention: {rows} rows"));
        match worker.store.reopen(SNAPSHOT_LIMIT) {
            Ok(_) => steps.push("the database was written out and its caches dropped".into()),
            Err(error) => steps.push(format!("the database could not be written out: {error}")),
        }
        match crate::quarantine::prune(&worker.config.data_dir.join("quarantine")) {
            Ok(0) => {}
            Ok(gone) => steps.push(format!("quarantine: the {gone} oldest folders beyond its bounds")),
            Err(error) => steps.push(format!("quarantine: {error}")),
        }
        (steps, crate::quarantine::bytes_in(&data_dir))
    })
    .await?;
    steps.extend(more);
    tracing::info!(?steps, bytes_before, bytes_after, "resources were cleaned up");
    Ok(Json(CleanedUp { steps, bytes_before, bytes_after }))
}

async fn cancel_operations(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<Json<Cancelled>> {
    app.admit(&call, false).await?;
    let (cancelled, left) = app.node.operation_book().cancel(call.id.as_deref());
    if let Some(id) = call.id.filter(|_| cancelled.is_empty() && left.is_empty()) {
        let why = format!("no operation `{id}` goes on; /api/health/operations lists them");
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    }
    Ok(Json(Cancelled { cancelled, left }))
}

/// Another leader has done nothing to deserve it: this is about the node asked.
async fn step_down(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<Json<Leadership>> {
    app.admit(&call, false).await?;
    let view = app.node.view();
    if view.role != Role::Leader {
        let why = format!("{} is {} and has no leadership to give up", app.node.node_id(), view.role);
        return Err(ApiError::new(ErrorCode::InvalidState, why).with_leader(app.leader_address()));
    }
    super::cluster::give_up(&app, None).await
}
