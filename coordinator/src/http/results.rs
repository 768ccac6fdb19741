//! Finished tasks, from DuckDB: everything this node's history still holds.

use super::App;
use super::extract::Params;
use super::problem::{ApiError, ApiResult};
use super::read::Consistency;
use super::tasks::page_limit;
use crate::raft::history::Scratch;
use crate::store::ResultFilter;
use api::ErrorCode;
use api::task::TaskState;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;

/// The routes.
pub fn reads() -> Router<App> {
    Router::new().route("/api/results", get(list))
}

/// Query of `results`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ResultQuery {
    #[serde(rename = "type")]
    kind: Option<String>,
    status: Option<TaskState>,
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    limit: Option<usize>,
    after: Option<u64>,
    #[serde(default)]
    consistency: Consistency,
    min_index: Option<u64>,
    #[serde(default)]
    format: Format,
}

/// What a list of results is given as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A page.
    #[default]
    Json,
    /// All that fit, as one Parquet file.
    Parquet,
}

async fn list(State(app): State<App>, Params(query): Params<ResultQuery>) -> ApiResult<Response> {
    let limit = page_limit(query.limit)?;
    if let Some(state) = query.status.filter(|state| !state.is_final()) {
        let why = format!(
            "`status` is {state}; results have completed, failed or cancelled. Live tasks: /api/tasks"
        );
        return Err(ApiError::new(ErrorCode::Validation, why));
    }
    let index = app.catch_up(query.consistency, query.min_index).await?;
    if query.consistency == Consistency::Linearizable || query.min_index.is_some() {
        app.store_caught_up(index).await?;
    }
    let filter = ResultFilter {
        kind: query.kind,
        status: query.status,
        from: query.from,
        to: query.to,
        limit,
        after: query.after,
    };
    match query.format {
        Format::Json => Ok(Json(app.ask_store(move |store| store.results(&filter)).await?).into_response()),
        Format::Parquet if query.limit.is_some() => {
            let why = "a Parquet file holds everything that fits: leave `limit` out, and use `from`, `to` or `after` for less";
            Err(ApiError::new(ErrorCode::Validation, why))
        }
        Format::Parquet => parquet(&app, filter).await,
    }
}

/// The file is made first, then sent; it goes when it was read or the client has gone.
async fn parquet(app: &App, filter: ResultFilter) -> ApiResult<Response> {
    let folder = app.config.data_dir.join("tmp");
    let scratch = Scratch::new(&folder).map_err(|why| ApiError::new(ErrorCode::Unavailable, why))?;
    let scratch =
        app.ask_store(move |store| store.export_results(&filter, &scratch.path).map(|_| scratch)).await?;
    let failed =
        |e: std::io::Error| ApiError::new(ErrorCode::Unavailable, format!("the export can't be read: {e}"));
    let file = tokio::fs::File::open(&scratch.path).await.map_err(failed)?;
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, 256 * 1024);
    let body = Body::from_stream(pieces.inspect(move |_| {
        let _kept = &scratch;
    }));
    let kind = [
        (header::CONTENT_TYPE, "application/vnd.apache.parquet"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"results.parquet\""),
    ];
    Ok((kind, body).into_response())
}
