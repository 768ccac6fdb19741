//! The repair calls: about the node asked, never forwarded, answered in every role.

use super::App;
use super::extract::OptionalJson;
use super::fence::{Knowledge, LEASE};
use super::problem::{ApiError, ApiResult};
use crate::config::Config;
use crate::integrity::Part;
use crate::machine::Machine;
use crate::node::Node;
use crate::operations::Operation;
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

/// How long a snapshot may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a rebuild may take.
const REBUILD_LIMIT: Duration = Duration::from_secs(1800);
/// Tasks copied out of the machine under one lock.
const TASKS_AT_ONCE: usize = 256;

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

    fn only_one(&self, kind: &str) -> ApiResult<()> {
        match self.node.operation_book().goes_on(kind) {
            true => {
                let why = format!("`{kind}` goes on already; /api/health/operations shows it");
                Err(ApiError::new(ErrorCode::InvalidState, why))
            }
            false => Ok(()),
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
    app.only_one("verify")?;
    let operation = app.node.operation_book().begin_cancellable("verify", "waiting for its turn");
    if app.node.view().role == Role::Leader {
        // Gives everybody one more index at which checksums can be compared. Verifying does not
        // depend on it.
        let _ = app.node.propose(crate::command::Command::Checkpoint).await;
    }
    let integrity = app.integrity.clone();
    let (parts, cancelled) =
        blocking(move || (integrity.verify(&operation), operation.token().is_cancelled())).await?;
    if cancelled {
        return Err(ApiError::new(ErrorCode::InvalidState, "the verification was cancelled"));
    }
    Ok(Json(Verified { sound: parts.iter().all(|part| part.sound), parts }))
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
    app.only_one("rebuild_db")?;
    if app.node.applied_index() == 0 {
        let why = "this node's machine holds nothing to rebuild the database from";
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    }
    let operation = app.node.operation_book().begin("rebuild_db", "gathering the machine's records");
    let why = call.why.unwrap_or_else(|| "asked to rebuild it".into());
    let worker = app.clone();
    let rebuilt = blocking(move || {
        let outcome = rebuild(&worker, why);
        drop(operation);
        outcome
    });
    rebuilt.await?.map(Json)
}

/// Everything the machine holds, at one index, goes into a fresh file; what is applied meanwhile
/// waits and follows.
fn rebuild(app: &App, why: String) -> ApiResult<Rebuilt> {
    let failed = |why: String| ApiError::new(ErrorCode::Unavailable, why);
    let hold = app.store.hold();
    let cut = app.node.with_machine_mut(Machine::begin_cut);
    let mut effects = cut.effects();
    let mut tasks = 0;
    loop {
        let piece = app.node.with_machine_mut(|machine| machine.read_cut(&cut, TASKS_AT_ONCE));
        let piece = piece.ok_or_else(|| {
            failed("a snapshot was begun while the records were gathered; ask again".into())
        })?;
        if piece.is_empty() {
            break;
        }
        tasks += piece.len() as u64;
        piece.effects(&mut effects);
    }
    app.node.with_machine_mut(|machine| machine.end_cut(&cut));
    let index = cut.index();
    app.store.rebuild(index, effects, Rebuild::Fresh { why });
    drop(hold);
    // The rebuilt index may be one that the old file had reached: wait for the job itself.
    let waited = app.store.reopen(REBUILD_LIMIT).and_then(|_| app.store.wait_for(index, REBUILD_LIMIT));
    let health = app.store.health();
    waited.map_err(|e| failed(format!("the database was not rebuilt: {e}")))?;
    if !health.healthy {
        return Err(failed(format!("the database was not rebuilt: {}", health.detail)));
    }
    app.integrity.forget(Part::Db);
    tracing::info!(index, tasks, "the database was rebuilt from memory");
    let history_follows = app.node.members().0.len() > 1 && app.store.history_wanted();
    Ok(Rebuilt { index, tasks, quarantined: health.quarantined, history_follows })
}

/// Goes on behind the answer: the state of the majority is fetched and verified, then the process
/// begins anew with it.
async fn force_sync(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<(StatusCode, Json<ForceSyncStarted>)> {
    app.admit(&call, true).await?;
    app.only_one("force_sync")?;
    if !app.config.enable_redundancy {
        let why = "this node is alone in its cluster (`enable_redundancy` is false): there is no majority to take a state from";
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    }
    let why = call.why.unwrap_or_else(|| "asked to".into());
    let operation = app.node.operation_book().begin_cancellable("force_sync", "beginning");
    let started = ForceSyncStarted { operation: operation.id() };
    tokio::spawn(sync_state(app.node.clone(), Arc::clone(&app.config), why, operation));
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// Fetches the majority's state and has the process begin anew with it; a failure is told and
/// leaves everything as it was.
pub async fn sync_state(node: Node, config: Arc<Config>, why: String, operation: Operation) {
    tracing::warn!(why, "this node's state is to be replaced by that of the majority; it leaves reads");
    node.leave_reads(Some("its state is being replaced by that of the majority (force_sync)".into()));
    if node.view().role == Role::Leader {
        // A state that may be wrong must not lead. Without another leader there is no majority.
        let _ = node.transfer(None).await;
    }
    match crate::raft::force_sync::prepare(&node, &config, &why, &operation).await {
        Ok(()) => {
            operation.says("the process begins anew with the fetched state");
            node.restart().cancel();
        }
        Err(why) => {
            tracing::error!(why, "the state was not replaced; everything is as it was");
            node.leave_reads(None);
        }
    }
}

async fn cleanup_resources(
    State(app): State<App>,
    OptionalJson(call): OptionalJson<AdminCall>,
) -> ApiResult<Json<CleanedUp>> {
    app.admit(&call, false).await?;
    app.only_one("cleanup_resources")?;
    let operation = app.node.operation_book().begin("cleanup_resources", "taking a snapshot");
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
