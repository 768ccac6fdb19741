//! The whole router over a live cluster of one: real Raft, real log, real DuckDB, no socket.

use super::*;
use crate::raft::identity::Identity;
use crate::store::StoreOptions;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;
use tower::ServiceExt;

mod admin;
mod backup;
mod cluster;
mod events;
mod health;
mod limits;
mod refusals;
mod tasks;
mod workers;

/// What any single condition may take on a slow machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A node of its own, ended with the test.
pub(super) struct Live {
    pub(super) app: App,
    pub(super) router: Router,
    dispatch: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Live {
    /// A node that has not been started: role uninitialised.
    fn idle() -> Live {
        Live::with_config(json!({}))
    }

    /// The same with other keys in its config.
    pub(super) fn with_config(more: Value) -> Live {
        Live::configured(tempfile::tempdir().unwrap(), more)
    }

    fn in_folder(folder: tempfile::TempDir) -> Live {
        Live::configured(folder, json!({}))
    }

    fn configured(folder: tempfile::TempDir, more: Value) -> Live {
        let mut config = json!({
            "node_id": "n1", "host": "127.0.0.1", "port": 8080, "data_dir": folder.path(),
            "enable_redundancy": false,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config: Config = serde_json::from_value(config).unwrap();
        let config = Arc::new(config);
        let identity = Identity::open(folder.path(), "n1").unwrap();
        let node = Node::new(identity, &config);
        let (store, _) = Store::open(config.db_path(), StoreOptions::default()).unwrap();
        let dispatch = Dispatch::new(node.clone(), config.election_timeout_max);
        let telemetry = Telemetry::new("n1").unwrap();
        let sampler = Sampler::start(node.clone(), folder.path().to_owned()).unwrap();
        let running = dispatch.spawn();
        let app = App::new(
            node,
            Arc::new(store),
            dispatch,
            telemetry,
            LogRing::default(),
            sampler,
            crate::live::Live::fixed(config.as_ref().clone()),
        )
        .unwrap();
        Live { router: served(app.clone()), app, dispatch: running, _folder: folder }
    }

    /// A node that leads its cluster of one.
    async fn leading() -> Live {
        Live::idle().started().await
    }

    /// Founds its cluster of one and leads it.
    pub(super) async fn lead(self) -> Live {
        self.started().await
    }

    async fn started(self) -> Live {
        let live = self;
        let store = Arc::clone(&live.app.store);
        let (config, telemetry) = (Arc::clone(&live.app.config), live.app.telemetry.clone());
        live.app.node.start(&config, store, telemetry).await.unwrap();
        let mut view = live.app.node.watch();
        let ready = view.wait_for(|view| view.role == api::cluster::Role::Leader && view.leader_ready);
        tokio::time::timeout(DEADLINE, ready).await.expect("a leader within the deadline").unwrap();
        live
    }

    pub(super) async fn send(&self, request: axum::http::Request<Body>) -> Answer {
        let response = tokio::time::timeout(DEADLINE, self.router.clone().oneshot(request))
            .await
            .expect("an answer within the deadline")
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        if answer.status.is_client_error() || answer.status.is_server_error() {
            let is_health = answer.body.get("checks").is_some();
            assert!(
                is_health || answer.headers[header::CONTENT_TYPE] == problem::PROBLEM_JSON,
                "an error that is no problem document: {} {:?}",
                answer.status,
                String::from_utf8_lossy(&bytes)
            );
        }
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(axum::http::Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_text(path, "application/json", &body.to_string()).await
    }

    async fn post_text(&self, path: &str, content_type: &str, body: &str) -> Answer {
        let request = axum::http::Request::post(path).header(header::CONTENT_TYPE, content_type);
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// A POST with nothing to say.
    async fn act(&self, path: &str) -> Answer {
        self.send(axum::http::Request::post(path).body(Body::empty()).unwrap()).await
    }

    async fn register(&self, worker: &str, slots: u32) {
        let answer = self.post("/api/workers/register", json!({"worker_id": worker, "slots": slots})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    async fn lease(&self, worker: &str, slots: u32, wait_ms: u64, tokens: &[u64]) -> Answer {
        let body = json!({"slots": slots, "wait_ms": wait_ms, "tokens": tokens});
        self.post(&format!("/api/workers/{worker}/lease"), body).await
    }

    async fn noop(&self, id: &str) {
        let answer = self.post("/api/tasks", json!({"task_id": id, "type": "noop"})).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    async fn state(&self, id: &str) -> String {
        self.get(&format!("/api/tasks/{id}")).await.body["state"].as_str().unwrap_or("none").to_owned()
    }

    pub(super) async fn end(self) {
        self.dispatch.abort();
        self.app.node.stop().await;
    }
}

/// Waits for a condition, and says what was awaited when it does not come.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn code(answer: &Answer) -> &str {
    answer.body["code"].as_str().unwrap_or("no code")
}

fn tokens(answer: &Answer) -> Vec<u64> {
    let tasks = answer.body["tasks"].as_array().expect("tasks");
    tasks.iter().map(|task| task["token"].as_u64().unwrap()).collect()
}

fn report(token: u64, worker: &str) -> Value {
    json!({
        "worker_id": worker, "token": token, "status": "completed", "result": {"exit_code": 0},
        "started_at": "2026-01-02T03:04:05Z", "finished_at": "2026-01-02T03:04:06Z",
    })
}
