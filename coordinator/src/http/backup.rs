//! `GET /api/backup`: a consistent archive, put together and then streamed, while the cluster
//! serves.

use super::App;
use super::extract::Params;
use super::problem::{ApiError, ApiResult};
use super::read::Freshness;
use crate::backup::{Stage, stream};
use api::ErrorCode;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use axum::routing::get;

/// The routes.
pub fn reads() -> Router<App> {
    Router::new().route("/api/backup", get(backup))
}

/// Linearizable unless asked otherwise: everything that was answered before is in it.
async fn backup(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Response<Body>> {
    app.catch_up(query.consistency, query.min_index).await?;
    if app.node.operation_book().goes_on("backup") {
        let why = "another backup is being put together on this node; ask again later, or another node";
        return Err(ApiError::new(ErrorCode::Overloaded, why));
    }
    let operation = app.node.operation_book().begin_cancellable("backup", "putting the archive together");
    let scratch = app.config.data_dir.join("tmp");
    let (node, store) = (app.node.clone(), std::sync::Arc::clone(&app.store));
    let made = tokio::task::spawn_blocking(move || {
        let stage = Stage::make(&node, &store, &scratch, operation.token());
        drop(operation);
        stage
    });
    let stage = made
        .await
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("the backup broke off: {e}")))?
        .map_err(|e| ApiError::new(ErrorCode::Unavailable, e.to_string()))?;
    let name = format!("holdfast-{}.tar", stage.manifest().index);
    tracing::info!(index = stage.manifest().index, files = stage.manifest().files.len(), "a backup is sent");
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(stream(stage)));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
