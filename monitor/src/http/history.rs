//! Routes of history: charts' figures, the list of them, events, findings, and Parquet files.

use super::problem;
use crate::history::{Asked, Export, HistoryError, MAX_ENTRIES, Query, metric, query};
use crate::service::Shared;
use api::{ErrorCode, Problem};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query as UrlQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio_util::io::ReaderStream;

/// The routes.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/history", get(history))
        .route("/api/history/metrics", get(metrics))
        .route("/api/history/events", get(events))
        .route("/api/history/findings", get(findings))
        .route("/api/history/export", get(export))
}

fn wrong(why: impl Into<String>) -> Response {
    problem(Problem::new(ErrorCode::Validation, why.into()))
}

fn failed(error: &HistoryError) -> Response {
    let code = match error {
        HistoryError::TooLong { .. } | HistoryError::Unsupported(_) => ErrorCode::Validation,
        HistoryError::Busy | HistoryError::Slow { .. } => ErrorCode::Overloaded,
        _ => ErrorCode::Unavailable,
    };
    let mut response = problem(Problem::new(code, error.to_string()));
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

/// Figures of the past.
async fn history(
    State(shared): State<Arc<Shared>>,
    asked: Result<UrlQuery<Asked>, QueryRejection>,
) -> Response {
    let asked = match asked {
        Ok(UrlQuery(asked)) => asked,
        Err(rejection) => return wrong(rejection.body_text()),
    };
    let query = match Query::read(&asked, Timestamp::now()) {
        Ok(query) => query,
        Err(why) => return wrong(why),
    };
    match shared.history.query(query).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => failed(&error),
    }
}

/// What there is to ask for, and how history stands.
async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let standing = shared.history.standing();
    Json(serde_json::json!({ "metrics": metric::ALL, "history": standing })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpanAsked {
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
}

impl SpanAsked {
    fn read(&self) -> Result<(Timestamp, Timestamp, usize), String> {
        // So that what happens while this is answered is not cut off by our own clock.
        let (from, to) = query::span(self.from.as_deref(), self.to.as_deref(), Timestamp::now())?;
        let limit = self.limit.unwrap_or(100);
        match (1..=MAX_ENTRIES).contains(&limit) {
            true => Ok((from, to, limit)),
            false => Err(format!("`limit` is {limit}; must be 1 to {MAX_ENTRIES}")),
        }
    }
}

async fn events(
    State(shared): State<Arc<Shared>>,
    asked: Result<UrlQuery<SpanAsked>, QueryRejection>,
) -> Response {
    listed("events", asked, |from, to, limit| async move { shared.history.events(from, to, limit).await })
        .await
}

async fn findings(
    State(shared): State<Arc<Shared>>,
    asked: Result<UrlQuery<SpanAsked>, QueryRejection>,
) -> Response {
    listed("findings", asked, |from, to, limit| async move { shared.history.findings(from, to, limit).await })
        .await
}

/// The answer that lists, under `key`, what `ask` finds in the time asked for.
async fn listed<T: Serialize, F>(
    key: &str,
    asked: Result<UrlQuery<SpanAsked>, QueryRejection>,
    ask: impl FnOnce(Timestamp, Timestamp, usize) -> F,
) -> Response
where
    F: Future<Output = Result<Vec<T>, HistoryError>>,
{
    let (from, to, limit) = match asked.map_err(|e| e.body_text()).and_then(|asked| asked.read()) {
        Ok(asked) => asked,
        Err(why) => return wrong(why),
    };
    match ask(from, to, limit).await {
        Ok(found) => Json(serde_json::json!({ "from": from, "to": to, key: found })).into_response(),
        Err(error) => failed(&error),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportAsked {
    #[serde(default = "samples")]
    what: Export,
    from: Option<String>,
    to: Option<String>,
}

const fn samples() -> Export {
    Export::Samples
}

/// A Parquet file, written whole before the answer begins, and gone when it ends.
async fn export(
    State(shared): State<Arc<Shared>>,
    asked: Result<UrlQuery<ExportAsked>, QueryRejection>,
) -> Response {
    let asked = match asked {
        Ok(UrlQuery(asked)) => asked,
        Err(rejection) => return wrong(rejection.body_text()),
    };
    let (from, to) = match query::span(asked.from.as_deref(), asked.to.as_deref(), Timestamp::now()) {
        Ok(span) => span,
        Err(why) => return wrong(why),
    };
    let io = |error: std::io::Error| {
        problem(Problem::new(ErrorCode::Unavailable, format!("the Parquet file can't be made: {error}")))
    };
    let folder = match tempfile::Builder::new().prefix("holdfast-export-").tempdir() {
        Ok(folder) => folder,
        Err(error) => return io(error),
    };
    let path = folder.path().join("history.parquet");
    if let Err(error) = shared.history.export(asked.what, from, to, path.clone()).await {
        return failed(&error);
    }
    // An open file outlives its name.
    let file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(error) => return io(error),
    };
    drop(folder);
    let name = match asked.what {
        Export::Samples => "attachment; filename=\"history-samples.parquet\"",
        Export::Events => "attachment; filename=\"history-events.parquet\"",
        Export::Findings => "attachment; filename=\"history-findings.parquet\"",
    };
    let headers =
        [(header::CONTENT_TYPE, "application/vnd.apache.parquet"), (header::CONTENT_DISPOSITION, name)];
    (headers, Body::from_stream(ReaderStream::new(file))).into_response()
}
