//! Named leases with fencing epochs: locks for those outside that must not act twice.

use super::extract::{Id, JsonBody};
use super::problem::{ApiError, ApiResult};
use super::tasks::{invalid, unexpected};
use super::{App, validate};
use crate::command::{Command, Reply};
use api::ErrorCode;
use api::cluster::{NamedLease, NamedLeaseRequest};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};

/// The longest a named lease may last.
pub const MAX_TTL_MS: u64 = 24 * 3600 * 1000;

/// What only the leader does.
pub fn writes() -> Router<App> {
    Router::new().route("/api/leases/{name}", post(take))
}

async fn take(
    State(app): State<App>,
    Id(name): Id,
    JsonBody(body): JsonBody<NamedLeaseRequest>,
) -> ApiResult<Json<NamedLease>> {
    validate::named("name", &name).map_err(invalid)?;
    validate::named("holder", &body.holder).map_err(invalid)?;
    if body.ttl_ms > MAX_TTL_MS {
        let why = format!("`ttl_ms` is {}; must be at most {MAX_TTL_MS}", body.ttl_ms);
        return Err(ApiError::new(ErrorCode::Validation, why));
    }
    let NamedLeaseRequest { holder, ttl_ms } = body;
    let command = Command::NamedLease { name: name.clone(), holder: holder.clone(), ttl_ms };
    let epoch = match app.propose(command).await?.reply {
        Reply::Lease { epoch } => epoch,
        // Given back, but it was not held: nothing has an epoch.
        Reply::Done => 0,
        other => return Err(unexpected(&other)),
    };
    let cluster_id = app.node.cluster_id().unwrap_or_default();
    Ok(Json(NamedLease { name, holder, epoch, ttl_ms, cluster_id }))
}
