//! Endpoints of the contract that this version does not have: they say so by name, so that a
//! caller can tell "not in this version" from "misspelt".

use super::App;
use super::problem::ApiError;
use api::ErrorCode;
use axum::Router;
use axum::extract::Request;
use axum::routing::get;

/// The routes.
pub fn routes() -> Router<App> {
    Router::new().route("/api/events", get(refuse))
}

async fn refuse(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(
        ErrorCode::NotImplemented,
        format!("{method} {path} is not available in version {}", api::VERSION),
    )
}
