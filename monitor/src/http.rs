//! Routes. Everything but the door (`login`) is a GET, and everything here is answered from the
//! last round or from history; only pages of tasks, workers and log lines (`view`) make the monitor
//! ask a node, within bounds.

mod history;
mod login;

use crate::access::session_of;
use crate::own::OwnState;
use crate::pages::{self, Seen};
use crate::service::Shared;
use crate::snapshot::ClusterSnapshot;
use crate::stream::Watched;
use crate::view;
use api::{ErrorCode, Problem};
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Nothing but our own files, and nobody may put us in a frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .merge(view::routes())
        .route("/api/cluster", get(cluster))
        .route("/api/anomalies", get(anomalies))
        .route("/api/stream", get(stream))
        .merge(history::routes())
        .merge(login::routes())
        .route("/metrics", get(metrics))
        .route("/static/{name}", get(asset))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(shared.clone(), login::check))
        .layer(axum::middleware::map_response(secure))
        .with_state(shared)
}

/// Headers that go with every answer.
async fn secure(mut response: Response) -> Response {
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn problem(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, content_type, serde_json::to_string(&problem).unwrap_or_default()).into_response()
}

/// Before the first round there is nothing to show.
fn not_yet() -> Problem {
    Problem::new(ErrorCode::Unavailable, "the first round is not over yet")
}

/// The cluster, and how the one who says so stands himself.
#[derive(Serialize)]
struct ClusterAnswer<'a> {
    #[serde(flatten)]
    snapshot: &'a ClusterSnapshot,
    monitor: &'a OwnState,
}

async fn cluster(State(shared): State<Arc<Shared>>) -> Response {
    match shared.seen() {
        Some(seen) => Json(ClusterAnswer { snapshot: &seen.snapshot, monitor: &seen.own }).into_response(),
        None => problem(not_yet()),
    }
}

async fn anomalies(State(shared): State<Arc<Shared>>) -> Response {
    let Some(seen) = shared.seen() else { return problem(not_yet()) };
    let Seen { snapshot, findings, .. } = seen.as_ref();
    let answer = serde_json::json!({ "round": snapshot.round, "at": snapshot.at, "anomalies": findings });
    Json(answer).into_response()
}

#[derive(Debug, Deserialize)]
struct StreamQuery {
    node: Option<String>,
    page: Option<String>,
    last: Option<String>,
}

async fn stream(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Response {
    let Some(place) = shared.hub.enter() else {
        let full = Problem::new(ErrorCode::Overloaded, "too many open event streams");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], problem(full))
            .into_response();
    };
    // The browser's own header is newer than the address it first asked for.
    let from_header = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let last_id = from_header.or(query.last.as_deref());
    let watched = match (query.node, query.page.as_deref()) {
        (Some(node), _) => Watched::Node(node),
        (None, Some("plain")) => Watched::Plain,
        (None, _) => Watched::Cluster,
    };
    let session = headers.get(header::COOKIE).and_then(|value| value.to_str().ok()).and_then(session_of);
    let (over, stopping) = (shared.gate.session_over(session), shared.end.clone());
    let end = async move {
        tokio::select! {
            () = over => {}
            () = stopping.cancelled() => {}
        }
    };
    if let (Watched::Node(name), Some(seen)) = (&watched, shared.seen()) {
        shared.hub.offer_node(name, || pages::draw_node(&seen, name));
    }
    let events = shared.hub.watch(place, watched, last_id, end);
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(10));
    Sse::new(events).keep_alive(keep_alive).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    match shared.metrics.text() {
        Ok(text) => {
            let (content_type, body) = api::openmetrics::answer(accept, text);
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(error) => problem(Problem::new(ErrorCode::Internal, error.to_string())),
    }
}

async fn asset(State(shared): State<Arc<Shared>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = web::asset(&name) else {
        return view::message(
            &shared,
            StatusCode::NOT_FOUND,
            "No such file",
            "There is no file of that name.",
        );
    };
    let etag = asset.etag();
    let caching = [(header::CACHE_CONTROL, "no-cache".to_owned()), (header::ETAG, etag.clone())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, asset.content_type)], asset.text).into_response()
}

async fn unknown(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = crate::report::shorten(request.uri().path(), 120);
    if path.starts_with("/api/") {
        return problem(Problem::new(ErrorCode::UnknownEndpoint, path));
    }
    let text = format!("There is nothing at {path}.");
    view::message(&shared, StatusCode::NOT_FOUND, "No such page", &text)
}

async fn wrong_method(request: Request) -> Response {
    let detail = format!("{} {}: everything here is a GET", request.method(), request.uri().path());
    problem(Problem::new(ErrorCode::MethodNotAllowed, crate::report::shorten(&detail, 160)))
}
