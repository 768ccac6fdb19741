//! The node's config as it counts now, its secrets removed.

use super::App;
use crate::config::effective::effective;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value};

/// The routes.
pub fn routes() -> Router<App> {
    Router::new().route("/api/config", get(show))
}

async fn show(State(app): State<App>) -> Json<Map<String, Value>> {
    Json(effective(&app.live.config()))
}
