//! IO: the pages. What they show is decided in [`pages`]; here is which address wants what, and
//! whom the monitor asks for it.
//!
//! Invariant: a page is answered whatever the coordinators do. What could not be had is said on it.

mod ask;

pub use ask::Asker;

use crate::history;
use crate::http::problem;
use crate::pages::logs::{self, LogQuery, NodeLines};
use crate::pages::tasks::{self, TaskQuery};
use crate::pages::{self, Past, Range, Seen, daemon, escape_path, findings, workers};
use crate::report::shorten;
use crate::service::Shared;
use crate::snapshot::NodeView;
use api::cluster::LogLines;
use api::task::TaskState;
use api::worker::WorkerState;
use api::{ErrorCode, Problem};
use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use serde::Deserialize;
use std::sync::Arc;

/// Bytes of a list, of a task with its output, of a node's log lines.
const LIST_BYTES: usize = 8 << 20;
const TASK_BYTES: usize = 32 << 20;
const LINES_BYTES: usize = 8 << 20;
/// Lines asked of each node where they are searched through: all it keeps.
const SEARCHED_LINES: usize = 2_000;
/// The longest text that is searched for, characters.
const TEXT_CHARS: usize = 200;

/// The pages' routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(cluster_page))
        .route("/nodes/{id}", get(node_page))
        .route("/tasks", get(tasks_page))
        .route("/tasks/find", get(find_task))
        .route("/tasks/{id}", get(task_page))
        .route("/workers", get(workers_page))
        .route("/anomalies", get(findings_page))
        .route("/anomalies/{id}", get(finding_page))
        .route("/recovery", get(recovery_page))
        .route("/recovery/{id}", get(case_page))
        .route("/logs", get(logs_page))
}

fn page(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => problem(Problem::new(ErrorCode::Internal, format!("the page can't be drawn: {error}"))),
    }
}

/// A page that has only a message.
pub(crate) fn message(shared: &Shared, status: StatusCode, heading: &str, text: &str) -> Response {
    let seen = shared.seen();
    page(status, &pages::message_page(seen.as_deref(), shared.interval, heading, text))
}

/// What was seen last, or the page that says that there was nothing yet.
fn seen(shared: &Shared) -> Result<Arc<Seen>, Box<Response>> {
    shared.seen().ok_or_else(|| {
        Box::new(message(
            shared,
            StatusCode::SERVICE_UNAVAILABLE,
            "The first round is not over yet",
            "The nodes are being asked. This page has something to show in a moment.",
        ))
    })
}

fn not_found(shared: &Shared, heading: &str, text: &str) -> Response {
    message(shared, StatusCode::NOT_FOUND, heading, text)
}

fn bad_address(shared: &Shared, text: &str) -> Response {
    message(shared, StatusCode::BAD_REQUEST, "That address asks for something that is not there", text)
}

/// The page, or the message in its place.
macro_rules! or_answer {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(answer) => return *answer,
        }
    };
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RangeAddress {
    range: String,
}

impl RangeAddress {
    fn read(&self, shared: &Shared) -> Result<Range, Box<Response>> {
        Range::named(&self.range).ok_or_else(|| {
            Box::new(bad_address(
                shared,
                &format!("No range of time is called {}.", shorten(&self.range, 60)),
            ))
        })
    }
}

/// What history says of a range.
async fn past(shared: &Shared, of_node: Option<&str>, range: Range, seen: &Seen) -> Past {
    let metrics = pages::charts::metrics(of_node.is_some());
    let mut query = history::Query::last(metrics, range.seconds(), pages::charts::POINTS, seen.snapshot.at)?;
    query.node = of_node.map(str::to_owned);
    shared.history.query(query).await.map_err(|error| error.to_string())
}

async fn cluster_page(State(shared): State<Arc<Shared>>, Query(address): Query<RangeAddress>) -> Response {
    let seen = or_answer!(seen(&shared));
    let range = or_answer!(address.read(&shared));
    let past = past(&shared, None, range, &seen).await;
    page(StatusCode::OK, &pages::cluster_page(&seen, range, Some(&past)))
}

async fn node_page(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(address): Query<RangeAddress>,
) -> Response {
    let seen = or_answer!(seen(&shared));
    let range = or_answer!(address.read(&shared));
    let Some(node) = seen.snapshot.node(&id) else {
        let text = format!("This monitor watches no node named {}.", shorten(&id, 80));
        return not_found(&shared, "No such node", &text);
    };
    let past = past(&shared, Some(node.name()), range, &seen).await;
    match pages::node_page(&seen, &id, range, &past) {
        Some(found) => page(StatusCode::OK, &found),
        None => not_found(&shared, "No such node", "This monitor watches no node of that name."),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TasksAddress {
    status: String,
    #[serde(rename = "type")]
    kind: String,
    worker: String,
    limit: String,
    after: String,
    from: String,
}

async fn tasks_page(State(shared): State<Arc<Shared>>, Query(address): Query<TasksAddress>) -> Response {
    let seen = or_answer!(seen(&shared));
    let state = match address.status.as_str() {
        "" => None,
        name => match TaskState::parse(name) {
            Some(state) => Some(state),
            None => {
                return bad_address(&shared, &format!("No state of a task is called {}.", shorten(name, 60)));
            }
        },
    };
    let limit = address.limit.parse().ok().filter(|limit| tasks::LIMITS.contains(limit));
    let wanted = TaskQuery {
        state,
        kind: address.kind.trim().to_owned(),
        worker: address.worker.trim().to_owned(),
        after: address.after,
        limit: limit.unwrap_or(tasks::DEFAULT_LIMIT),
        record: address.from == "record",
    };
    let asked = shared.asker.ask_any(&seen, &wanted.path(), LIST_BYTES).await;
    page(StatusCode::OK, &tasks::tasks_page(&seen, &wanted, &asked))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FindAddress {
    id: String,
}

/// Where the search leads: scripts are not needed for it.
async fn find_task(Query(address): Query<FindAddress>) -> Redirect {
    match address.id.trim() {
        "" => Redirect::to("/tasks"),
        id => Redirect::to(&format!("/tasks/{}", escape_path(id))),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TaskAddress {
    output: String,
}

async fn task_page(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(address): Query<TaskAddress>,
) -> Response {
    let seen = or_answer!(seen(&shared));
    let path = format!("/api/tasks/{}?consistency=local", escape_path(&id));
    let asked = shared.asker.ask_any(&seen, &path, TASK_BYTES).await;
    match tasks::task_page(&seen, &id, &asked, address.output == "all") {
        Ok(found) => page(StatusCode::OK, &found),
        Err(why) => not_found(&shared, "No such task", &why),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WorkersAddress {
    state: String,
}

async fn workers_page(State(shared): State<Arc<Shared>>, Query(address): Query<WorkersAddress>) -> Response {
    let seen = or_answer!(seen(&shared));
    let state = match address.state.as_str() {
        "" => None,
        name => match WorkerState::ALL.into_iter().find(|state| state.as_str() == name) {
            Some(state) => Some(state),
            None => {
                return bad_address(
                    &shared,
                    &format!("No state of a worker is called {}.", shorten(name, 60)),
                );
            }
        },
    };
    let asked = shared.asker.ask_any(&seen, "/api/workers?consistency=local", LIST_BYTES).await;
    page(StatusCode::OK, &workers::workers_page(&seen, state, &asked))
}

async fn findings_page(State(shared): State<Arc<Shared>>) -> Response {
    let seen = or_answer!(seen(&shared));
    page(StatusCode::OK, &findings::findings_page(&seen))
}

async fn finding_page(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let seen = or_answer!(seen(&shared));
    match findings::finding_page(&seen, &id) {
        Some(found) => page(StatusCode::OK, &found),
        None => not_found(
            &shared,
            "No such finding",
            "This monitor keeps no finding of that name: it was before this monitor started, or too many came after it.",
        ),
    }
}

async fn recovery_page(State(shared): State<Arc<Shared>>) -> Response {
    let seen = or_answer!(seen(&shared));
    page(StatusCode::OK, &daemon::recovery_page(&seen))
}

async fn case_page(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let seen = or_answer!(seen(&shared));
    match daemon::case_page(&seen, &id) {
        Some(found) => page(StatusCode::OK, &found),
        None => not_found(
            &shared,
            "No such record",
            "Among the recovery daemon's last records there is none of that fault, or the daemon does not answer; its audit file has them all.",
        ),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogsAddress {
    level: String,
    node: String,
    q: String,
    limit: String,
    follow: String,
}

async fn logs_page(State(shared): State<Arc<Shared>>, Query(address): Query<LogsAddress>) -> Response {
    let seen = or_answer!(seen(&shared));
    let level = match address.level.to_ascii_uppercase().as_str() {
        "" => logs::DEFAULT_LEVEL.to_owned(),
        level if logs::LEVELS.contains(&level) => level.to_owned(),
        other => {
            return bad_address(&shared, &format!("No level of lines is called {}.", shorten(other, 60)));
        }
    };
    if !address.node.is_empty() && seen.snapshot.node(&address.node).is_none() {
        let text = format!("This monitor watches no node named {}.", shorten(&address.node, 80));
        return bad_address(&shared, &text);
    }
    let limit = address.limit.parse().ok().filter(|limit| logs::LIMITS.contains(limit));
    let wanted = LogQuery {
        level,
        node: address.node,
        text: address.q.trim().chars().take(TEXT_CHARS).collect(),
        limit: limit.unwrap_or(logs::DEFAULT_LIMIT),
        follow: address.follow != "off",
    };
    let from = lines(&shared, &seen, &wanted).await;
    page(StatusCode::OK, &logs::logs_page(&seen, &wanted, &from))
}

/// Asks every wanted node at once, also those that gave no report: their lines may say why.
async fn lines(shared: &Shared, seen: &Seen, wanted: &LogQuery) -> Vec<NodeLines> {
    let limit = if wanted.text.is_empty() { wanted.limit } else { SEARCHED_LINES };
    let path = format!("/api/logs?level={}&limit={limit}", wanted.level);
    let nodes = seen.snapshot.nodes.iter().filter(|n| wanted.node.is_empty() || n.name() == wanted.node);
    let ask = |node: &NodeView| {
        let (node, path) = (node.clone(), path.clone());
        async move {
            let answer = shared.asker.ask::<LogLines>(&node, &path, LINES_BYTES).await;
            let node = node.name().to_owned();
            match answer {
                Ok((lines, _)) => NodeLines { node, lost_lines: lines.lost_lines, outcome: Ok(lines.lines) },
                Err(error) => NodeLines { node, lost_lines: 0, outcome: Err(error.to_string()) },
            }
        }
    };
    futures_util::future::join_all(nodes.map(ask)).await
}
