//! `GET /api/backup`: a consistent archive, put together and then streamed, while the cluster
//! serves.

use super::App;
use super::extract::Params;
use super::problem::{ApiError, ApiResult};
use super::read::Freshness;
use crate::backup::{Stage, last, stream};
use api::ErrorCode;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use axum::routing::get;

/// Archives that lie on this node's disk at once while they are sent.
const MAX_BACKUPS: usize = 2;

/// The routes.
pub fn reads() -> Router<App> {
    Router::new().route("/api/backup", get(backup))
}

/// Linearizable unless asked otherwise: everything that was answered before is in it.
async fn backup(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Response<Body>> {
    app.catch_up(query.consistency, query.min_index).await?;
    if app.node.operation_book().count("backup") >= MAX_BACKUPS {
        let why = "other backups of this node are being sent already; ask again later, or another node";
        return Err(ApiError::new(ErrorCode::Overloaded, why));
    }
    let operation = app.node.operation_book().begin_cancellable("backup", "putting the archive together");
    let scratch = app.config.data_dir.join("tmp");
    let (node, store) = (app.node.clone(), std::sync::Arc::clone(&app.store));
    let made = tokio::task::spawn_blocking(move || {
        let stage = Stage::make(&node, &store, &scratch, operation.token());
        operation.says("sending the archive");
        (stage, operation)
    });
    let failed = |code, why: String| {
        app.telemetry.backup_failed();
        ApiError::new(code, why)
    };
    let (stage, operation) =
        made.await.map_err(|e| failed(ErrorCode::Internal, format!("the backup broke off: {e}")))?;
    let stage = stage.map_err(|e| failed(ErrorCode::Unavailable, e.to_string()))?;
    let (telemetry, data_dir) = (app.telemetry.clone(), app.config.data_dir.clone());
    let created_at = stage.manifest().created_at;
    let ended = move |whole: bool| {
        drop(operation);
        match whole {
            true => last::note(&data_dir, created_at, &telemetry),
            false => telemetry.backup_failed(),
        }
    };
    let name = format!("holdfast-{}.tar", stage.manifest().index);
    tracing::info!(index = stage.manifest().index, files = stage.manifest().files.len(), "a backup is sent");
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(stream(stage, ended)));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
