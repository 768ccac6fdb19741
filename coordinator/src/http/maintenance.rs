//! Maintenance mode: no new tasks are accepted or assigned; running ones finish.

use super::App;
use super::extract::{OptionalJson, Params};
use super::problem::{ApiError, ApiResult};
use super::read::Freshness;
use crate::command::Command;
use crate::name;
use api::ErrorCode;
use api::cluster::{Maintenance, SwitchMaintenance};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::routing::{get, post};
use axum::{Json, Router};

/// Bytes of a name.
const MAX_AUTHOR_BYTES: usize = 128;

/// What only the leader does.
pub fn writes() -> Router<App> {
    Router::new()
        .route("/api/maintenance/enable", post(enable))
        .route("/api/maintenance/disable", post(disable))
}

/// What every node answers.
pub fn reads() -> Router<App> {
    Router::new().route("/api/maintenance", get(show))
}

async fn enable(
    State(app): State<App>,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<SwitchMaintenance>,
) -> ApiResult<Json<Maintenance>> {
    set(&app, true, author(&headers, body)?).await
}

async fn disable(
    State(app): State<App>,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<SwitchMaintenance>,
) -> ApiResult<Json<Maintenance>> {
    set(&app, false, author(&headers, body)?).await
}

/// Who switches: as the request says, else the program that sent it.
fn author(headers: &HeaderMap, body: SwitchMaintenance) -> ApiResult<Option<String>> {
    if let Some(by) = body.by {
        if let Some(why) = name::fault(&by, MAX_AUTHOR_BYTES) {
            let why = format!("`by` {why}");
            return Err(ApiError::new(ErrorCode::Validation, why));
        }
        return Ok(Some(by));
    }
    let program = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    Ok(program.map(|name| name.chars().take(MAX_AUTHOR_BYTES).collect()))
}

async fn set(app: &App, enabled: bool, by: Option<String>) -> ApiResult<Json<Maintenance>> {
    app.propose(Command::Maintenance { enabled, by }).await?;
    Ok(Json(app.node.machine().maintenance()))
}

async fn show(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Json<Maintenance>> {
    app.catch_up(query.consistency, query.min_index).await?;
    Ok(Json(app.node.machine().maintenance()))
}
