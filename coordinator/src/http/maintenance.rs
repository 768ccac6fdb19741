//! Maintenance mode: no new tasks are accepted or assigned; running ones finish.

use super::App;
use super::extract::{OptionalJson, Params};
use super::problem::ApiResult;
use super::read::Freshness;
use super::tasks::Nothing;
use crate::command::Command;
use api::cluster::Maintenance;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

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
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> ApiResult<Json<Maintenance>> {
    set(&app, true).await
}

async fn disable(
    State(app): State<App>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> ApiResult<Json<Maintenance>> {
    set(&app, false).await
}

async fn set(app: &App, enabled: bool) -> ApiResult<Json<Maintenance>> {
    app.propose(Command::Maintenance { enabled }).await?;
    Ok(Json(app.node.machine().maintenance()))
}

async fn show(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Json<Maintenance>> {
    app.catch_up(query.consistency, query.min_index).await?;
    Ok(Json(app.node.machine().maintenance()))
}
