//! Finished tasks, from DuckDB: everything this node's history still holds.

use super::App;
use super::extract::Params;
use super::problem::{ApiError, ApiResult};
use super::read::Consistency;
use super::tasks::page_limit;
use crate::store::ResultFilter;
use api::ErrorCode;
use api::task::{TaskPage, TaskState};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
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
}

async fn list(State(app): State<App>, Params(query): Params<ResultQuery>) -> ApiResult<Json<TaskPage>> {
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
    app.ask_store(move |store| store.results(&filter)).await.map(Json)
}
