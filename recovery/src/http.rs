//! The daemon's API: the webhook, the audit, the plans, the brake.
//!
//! An alert is a hint to look, never an order: the webhook wakes the loop and is done. A POST
//! needs the JSON content type, and a browser's request must come from a page of this host.

use crate::driver::{Command, Shared};
use crate::record::Record;
use api::{ErrorCode, Problem};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Bytes of a request's body at most.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Records of one answer: unless told, and at most.
const DEFAULT_LIMIT: usize = 100;
/// Alerts whose repetition is known, at most.
const MAX_KNOWN_ALERTS: usize = 4_096;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    token: Option<Arc<str>>,
    own_host: Arc<str>,
    known_alerts: Arc<Mutex<VecDeque<String>>>,
}

impl Api {
    /// An API over what the driver publishes. `listen` is the address it is reached at; with a
    /// `token` the webhook asks for it.
    pub fn new(
        shared: Arc<Shared>,
        commands: mpsc::Sender<Command>,
        token: Option<String>,
        listen: &str,
    ) -> Self {
        let own_host = host_of(listen).to_owned().into();
        Api { shared, commands, token: token.map(Into::into), own_host, known_alerts: Arc::default() }
    }

    /// Its routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(front))
            .route("/alertmanager", post(alertmanager))
            .route("/api/audit", get(audit))
            .route("/api/audit/{id}", get(audit_of))
            .route("/api/plans", get(plans))
            .route("/api/brake", get(brake_position).post(brake))
            .route("/api/ack/{id}", post(acknowledge))
            .route("/api/retry/{id}", post(retry))
            .route("/api/health", get(health))
            .route("/metrics", get(metrics))
            .fallback(|| async { refuse(ErrorCode::UnknownEndpoint, "GET / names the endpoints") })
            .method_not_allowed_fallback(|method: Method| async move {
                refuse(ErrorCode::MethodNotAllowed, format!("this endpoint does not take {method}"))
            })
            .layer(axum::middleware::from_fn_with_state(self.clone(), check_source))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self)
    }
}

/// A refusal, as the middleware and the handlers return it.
type Refusal = Box<Response>;

fn refuse(code: ErrorCode, detail: impl Into<String>) -> Response {
    let problem = Problem::new(code, detail);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = serde_json::to_string(&problem).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], text).into_response()
}

fn host_of(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Host and Origin keep pages of other sites out: a name that only DNS made ours is refused.
async fn check_source(State(api): State<Api>, request: Request, next: Next) -> Response {
    match foreign_source(request.headers(), &api.own_host) {
        Some(why) => refuse(ErrorCode::ForbiddenOrigin, why),
        None => next.run(request).await,
    }
}

fn foreign_source(headers: &HeaderMap, own_host: &str) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let name = host_of(host);
    let known = name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || name == own_host;
    if !known {
        return Some(format!("host `{host}` is not this daemon's"));
    }
    let origin = text(header::ORIGIN)?;
    (origin.strip_prefix("http://") != Some(host)).then(|| format!("origin `{origin}` is not this daemon's"))
}

fn body<T: DeserializeOwned>(headers: &HeaderMap, bytes: &Bytes) -> Result<T, Refusal> {
    require_json(headers)?;
    let value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|e| Box::new(refuse(ErrorCode::MalformedJson, e.to_string())))?;
    serde_json::from_value(value).map_err(|e| Box::new(refuse(ErrorCode::Validation, e.to_string())))
}

fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    Err(Box::new(refuse(ErrorCode::UnsupportedMediaType, format!("the content type is `{kind}`"))))
}

async fn front() -> &'static str {
    "Holdfast recovery daemon: GET /api/audit, /api/audit/{id}, /api/plans, /api/brake, /api/health, /metrics; POST /alertmanager, /api/brake, /api/ack/{id}, /api/retry/{id}\n"
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    limit: Option<usize>,
}

async fn audit(
    State(api): State<Api>,
    query: Result<Query<AuditQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let limit = match query {
        Ok(Query(query)) => query.limit.unwrap_or(DEFAULT_LIMIT),
        Err(e) => return refuse(ErrorCode::Validation, e.body_text()),
    };
    if !(1..=crate::driver::MAX_PUBLISHED).contains(&limit) {
        let most = crate::driver::MAX_PUBLISHED;
        return refuse(ErrorCode::Validation, format!("limit: {limit} must be 1 to {most}"));
    }
    let published = api.shared.published.read();
    let surplus = published.records.len().saturating_sub(limit);
    let records: Vec<&Record> = published.records.iter().skip(surplus).collect();
    Json(json!({ "records": records })).into_response()
}

async fn audit_of(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let published = api.shared.published.read();
    let records: Vec<&Record> = published.records.iter().filter(|record| record.id == id).collect();
    if records.is_empty() {
        return refuse(ErrorCode::UnknownFault, format!("no record of `{id}` is kept in memory"));
    }
    Json(json!({ "records": records })).into_response()
}

async fn plans(State(api): State<Api>) -> Response {
    let published = api.shared.published.read();
    Json(json!({ "plans": published.plans, "generation": published.generation })).into_response()
}

async fn brake_position(State(api): State<Api>) -> Response {
    let published = api.shared.published.read();
    Json(json!({ "on": published.brake.is_some(), "why": published.brake })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrakeRequest {
    on: bool,
    #[serde(default)]
    why: Option<String>,
}

async fn brake(State(api): State<Api>, headers: HeaderMap, bytes: Bytes) -> Response {
    let request: BrakeRequest = match body(&headers, &bytes) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    let why = request.why.unwrap_or_else(|| "a person asked for it".into());
    let on = request.on;
    let (reply, answer) = oneshot::channel();
    match send(&api, Command::Brake { on, why, reply }, answer).await {
        Ok(()) => Json(json!({ "on": on })).into_response(),
        Err(refusal) => *refusal,
    }
}

async fn acknowledge(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Err(refusal) = require_json(&headers) {
        return *refusal;
    }
    let (reply, answer) = oneshot::channel();
    let sent = send(&api, Command::Acknowledge { id: id.clone(), reply }, answer).await;
    found(sent, &id, "acknowledged")
}

async fn retry(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Err(refusal) = require_json(&headers) {
        return *refusal;
    }
    let (reply, answer) = oneshot::channel();
    let sent = send(&api, Command::Retry { id: id.clone(), reply }, answer).await;
    api.shared.wake.notify_one();
    found(sent, &id, "retried")
}

fn found(sent: Result<bool, Refusal>, id: &str, what: &str) -> Response {
    match sent {
        Ok(true) => Json(json!({ "id": id, "result": what })).into_response(),
        Ok(false) => refuse(ErrorCode::UnknownFault, format!("no open fault has the id `{id}`")),
        Err(refusal) => *refusal,
    }
}

async fn send<T>(
    api: &Api,
    command: Command,
    answer: oneshot::Receiver<Result<T, String>>,
) -> Result<T, Refusal> {
    if api.commands.try_send(command).is_err() {
        return Err(Box::new(refuse(ErrorCode::Overloaded, "the daemon is busy; try again")));
    }
    match answer.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(why)) => Err(Box::new(refuse(ErrorCode::Internal, why))),
        Err(_) => Err(Box::new(refuse(ErrorCode::Unavailable, "the daemon is ending"))),
    }
}

async fn health(State(api): State<Api>) -> Response {
    let published = api.shared.published.read();
    let status = match (&published.halted, published.blind) {
        (Some(_), _) => "failing",
        (None, true) => "degraded",
        (None, false) => "ok",
    };
    let code = if published.halted.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({
        "status": status,
        "halted": published.halted,
        "brake": published.brake,
        "blind": published.blind,
        "last_round_at": published.last_round_at,
        "generation": published.generation,
        "nodes": published.nodes,
        "nodes_reporting": published.nodes_reporting,
        "version": api::VERSION,
    });
    (code, Json(body)).into_response()
}

async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    match api.shared.metrics.text() {
        Ok(text) => {
            let (content_type, body) = api::openmetrics::answer(accept, text);
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(e) => refuse(ErrorCode::Internal, e.to_string()),
    }
}

/// What is read of Alertmanager's webhook, version 4. Fields of later versions are let pass.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    version: String,
    #[serde(default)]
    truncated_alerts: u64,
    #[serde(default)]
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: String,
    fingerprint: String,
    starts_at: String,
}

async fn alertmanager(State(api): State<Api>, headers: HeaderMap, bytes: Bytes) -> Response {
    if let Some(token) = &api.token {
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !same(given.strip_prefix("Bearer ").unwrap_or_default(), token) {
            return refuse(ErrorCode::Unauthorized, "the webhook's bearer token is missing or wrong");
        }
    }
    let webhook: Webhook = match body(&headers, &bytes) {
        Ok(webhook) => webhook,
        Err(refusal) => return *refusal,
    };
    if webhook.version != "4" {
        let why = format!("webhook version `{}`; only 4 is understood", webhook.version);
        return refuse(ErrorCode::Validation, why);
    }
    if webhook.truncated_alerts > 0 {
        let why = format!("{} alerts were cut off; raise max_alerts", webhook.truncated_alerts);
        return refuse(ErrorCode::Validation, why);
    }
    let fresh = api.count_new_alerts(&webhook.alerts);
    if fresh > 0 {
        api.shared.wake.notify_one();
    }
    Json(json!({ "accepted": webhook.alerts.len(), "new": fresh })).into_response()
}

impl Api {
    /// How many firing alerts were not heard of before. Delivery is at least once.
    fn count_new_alerts(&self, alerts: &[Alert]) -> usize {
        let mut known = self.known_alerts.lock();
        let mut fresh = 0;
        for alert in alerts.iter().filter(|alert| alert.status == "firing") {
            let name = format!("{}@{}", alert.fingerprint, alert.starts_at);
            if known.contains(&name) {
                continue;
            }
            if known.len() >= MAX_KNOWN_ALERTS {
                known.pop_front();
            }
            known.push_back(name);
            fresh += 1;
        }
        fresh
    }
}

/// Compares without telling by its duration how much was right.
fn same(given: &str, expected: &str) -> bool {
    let differences = given.bytes().zip(expected.bytes()).fold(0u8, |sum, (a, b)| sum | (a ^ b));
    differences == 0 && given.len() == expected.len()
}
