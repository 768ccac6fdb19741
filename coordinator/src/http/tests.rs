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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_from_submission_to_result() {
    let live = Live::leading().await;
    live.register("w1", 2).await;
    let submitted =
        live.post("/api/tasks", json!({"task_id": "a/b::c", "type": "noop", "priority": 7})).await;
    assert_eq!(submitted.status, 201);
    assert_eq!(submitted.headers[api::SERVED_BY], "127.0.0.1:8080");
    assert_eq!(live.state("a%2Fb::c").await, "pending");

    let leased = live.lease("w1", 2, 10_000, &[]).await;
    assert_eq!(leased.body["tasks"][0]["task_id"], "a/b::c", "{}", leased.body);
    let token = tokens(&leased)[0];
    assert_eq!(live.state("a%2Fb::c").await, "assigned");

    let beat = live.post("/api/workers/w1/heartbeat", json!({"tokens": [token]})).await;
    assert_eq!(beat.body, json!({"cancel": [], "draining": false}));
    until("the delivery is logged", async || live.state("a%2Fb::c").await == "running").await;

    let stale = live.post("/api/tasks/a%2Fb::c/result", report(token + 1, "w1")).await;
    assert_eq!((stale.status.as_u16(), code(&stale)), (409, "stale_token"));
    let done = live.post("/api/tasks/a%2Fb::c/result", report(token, "w1")).await;
    assert_eq!((done.status.as_u16(), &done.body["state"]), (200, &json!("completed")));
    let again = live.post("/api/tasks/a%2Fb::c/result", report(token, "w1")).await;
    assert_eq!(
        (again.status.as_u16(), &again.body["state"]),
        (200, &json!("completed")),
        "a result is idempotent"
    );

    let record = live.get("/api/tasks/a%2Fb::c").await.body;
    assert_eq!(record["attempts"][0]["outcome"], "completed");
    assert_eq!(record["result"]["exit_code"], 0);
    let results = live.get("/api/results?status=completed&type=noop").await;
    assert_eq!(results.body["tasks"][0]["task_id"], "a/b::c", "{}", results.body);
    let beat = live.post("/api/workers/w1/heartbeat", json!({"tokens": [token]})).await;
    assert_eq!(beat.body["cancel"], json!([token]));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_call_is_served_when_work_comes_and_a_lost_answer_again() {
    let live = Live::leading().await;
    live.register("w1", 4).await;
    let waiting = live.lease("w1", 4, 20_000, &[]);
    let submit = async {
        until("the call waits", async || live.app.dispatch.waiting_calls() == 1).await;
        live.noop("late").await;
    };
    let (leased, ()) = tokio::join!(waiting, submit);
    let token = tokens(&leased)[0];
    // As if that answer had been lost: the next call does not name the token.
    assert_eq!(tokens(&live.lease("w1", 4, 10_000, &[]).await), [token]);
    let quiet = live.lease("w1", 3, 100, &[token]).await;
    assert_eq!(quiet.body, json!({"tasks": [], "cancel": [], "draining": false}));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_work_is_cancelled_at_its_worker_and_can_be_retried() {
    let live = Live::leading().await;
    live.register("w1", 1).await;
    live.noop("t").await;
    let token = tokens(&live.lease("w1", 1, 10_000, &[]).await)[0];
    assert_eq!(live.act("/api/tasks/t/cancel").await.body["state"], "cancelled");
    let twice = live.act("/api/tasks/t/cancel").await;
    assert_eq!((twice.status.as_u16(), code(&twice)), (409, "invalid_state"));
    let told = live.lease("w1", 1, 20_000, &[token]).await;
    assert_eq!(told.body["cancel"], json!([token]), "it does not wait with bad news");
    assert_eq!(live.act("/api/tasks/t/retry").await.body["state"], "pending");
    assert_ne!(tokens(&live.lease("w1", 1, 10_000, &[]).await), [token]);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_worker_gets_nothing_new() {
    let live = Live::leading().await;
    live.register("w1", 1).await;
    let waiting = live.lease("w1", 1, 20_000, &[]);
    let drain = async {
        until("the call waits", async || live.app.dispatch.waiting_calls() == 1).await;
        assert_eq!(live.act("/api/workers/w1/drain").await.status, 200);
    };
    let (told, ()) = tokio::join!(waiting, drain);
    assert_eq!(told.body, json!({"tasks": [], "cancel": [], "draining": true}));
    live.noop("t").await;
    assert_eq!(tokens(&live.lease("w1", 1, 500, &[]).await), [0u64; 0]);
    assert_eq!(live.get("/api/workers").await.body["workers"][0]["state"], "draining");
    assert_eq!(live.state("t").await, "pending");
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_told_to_register() {
    let live = Live::leading().await;
    for answer in [
        live.lease("nobody", 1, 100, &[]).await,
        live.post("/api/workers/nobody/heartbeat", json!({})).await,
        live.act("/api/workers/nobody/drain").await,
    ] {
        assert_eq!((answer.status.as_u16(), code(&answer)), (404, "unknown_worker"));
    }
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_are_idempotent_by_id_and_checked_as_a_whole() {
    let live = Live::leading().await;
    live.noop("a").await;
    let same = live.post("/api/tasks", json!({"task_id": "a", "type": "noop"})).await;
    assert_eq!((same.status.as_u16(), &same.body["task"]["state"]), (200, &json!("pending")));
    let other = live.post("/api/tasks", json!({"task_id": "a", "type": "noop", "priority": 1})).await;
    assert_eq!((other.status.as_u16(), code(&other)), (409, "task_id_taken"));
    let fresh = live.post("/api/tasks", json!({"type": "noop"})).await;
    assert_eq!(fresh.body["task_id"].as_str().map(str::len), Some(26), "a ULID");

    let batch = live
        .post(
            "/api/tasks/batch",
            json!({"tasks": [{"task_id": "b", "type": "noop"}, {"task_id": "a", "type": "noop"}]}),
        )
        .await;
    assert_eq!((batch.status.as_u16(), &batch.body["accepted"]), (201, &json!(1)));
    assert_eq!(batch.body["task_ids"], json!(["b", "a"]));
    let bad = live
        .post(
            "/api/tasks/batch",
            json!({"tasks": [{"task_id": "c", "type": "noop"}, {"type": "noop", "priority": 10}]}),
        )
        .await;
    assert_eq!(bad.status, 422);
    assert!(bad.body["detail"].as_str().unwrap().contains("`tasks[1].priority`"), "{}", bad.body);
    assert_eq!(live.get("/api/tasks/c").await.status, 404, "all or none");

    let page = live.get("/api/tasks?limit=2&status=pending").await.body;
    assert_eq!(page["tasks"].as_array().map(Vec::len), Some(2));
    let rest = live.get(&format!("/api/tasks?after={}", page["next"].as_str().unwrap())).await.body;
    assert_eq!(rest["tasks"].as_array().map(Vec::len), Some(1));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_refuses_new_tasks_and_assigns_none() {
    let live = Live::leading().await;
    live.register("w1", 1).await;
    live.noop("before").await;
    assert_eq!(live.act("/api/maintenance/enable").await.body["enabled"], true);
    let refused = live.post("/api/tasks", json!({"type": "noop"})).await;
    assert_eq!((refused.status.as_u16(), code(&refused)), (503, "maintenance"));
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    assert_eq!(tokens(&live.lease("w1", 1, 300, &[]).await), [0u64; 0]);
    assert_eq!(live.get("/api/maintenance").await.body["enabled"], true);
    assert_eq!(live.act("/api/maintenance/disable").await.body["enabled"], false);
    assert_eq!(tokens(&live.lease("w1", 1, 10_000, &[]).await).len(), 1);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_is_fenced() {
    let live = Live::leading().await;
    let take = |holder: &'static str, ttl_ms: u64| {
        live.post("/api/leases/recovery", json!({"holder": holder, "ttl_ms": ttl_ms}))
    };
    let first = take("a", 60_000).await.body;
    assert_eq!(take("a", 60_000).await.body["epoch"], first["epoch"], "a renewal keeps its epoch");
    let held = take("b", 60_000).await;
    assert_eq!((held.status.as_u16(), code(&held)), (409, "lease_held"));
    take("a", 0).await;
    let second = take("b", 60_000).await.body;
    assert!(second["epoch"].as_u64() > first["epoch"].as_u64(), "{first} {second}");
    assert_eq!(second["cluster_id"].as_str(), live.app.node.cluster_id().as_deref());
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_health_endpoint_is_served() {
    let live = Live::leading().await;
    for path in ["", "/live", "/ready", "/db", "/log", "/state_checksum", "/resources", "/operations"] {
        let answer = live.get(&format!("/api/health{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let status = live.get("/api/status").await.body;
    assert_eq!((&status["role"], &status["current_leader"]), (&json!("leader"), &json!("n1")));
    assert_eq!(status["leader_address"], "127.0.0.1:8080");
    let report: api::cluster::Report = serde_json::from_value(live.get("/api/report").await.body).unwrap();
    assert!(
        report.config_differs.is_empty() && report.db.healthy && report.resources.threads > 3,
        "{report:?}"
    );

    let checksum = live.get("/api/health/state_checksum").await.body;
    let at = checksum["applied_index"].as_u64().unwrap();
    let there = live.get(&format!("/api/health/state_checksum?index={at}")).await;
    assert_eq!(there.status, 200);
    let unknown = live.get("/api/health/state_checksum?index=999999").await;
    assert_eq!((unknown.status.as_u16(), code(&unknown)), (422, "validation"));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cluster_answers_health_and_refuses_the_rest() {
    let live = Live::idle();
    assert_eq!(live.get("/api/status").await.body["role"], "uninitialised");
    assert_eq!(live.get("/api/report").await.status, 200);
    assert_eq!(live.get("/api/health/live").await.status, 200, "it lives, though nobody leads");
    for path in ["/api/health", "/api/health/ready"] {
        let answer = live.get(path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    }
    let refused = live.post("/api/tasks", json!({"type": "noop"})).await;
    assert_eq!((refused.status.as_u16(), code(&refused)), (503, "unavailable"));
    assert!(refused.body["detail"].as_str().unwrap().contains("uninitialised"));
    assert_eq!(live.get("/api/tasks").await.status, 503);
    assert_eq!(live.get("/api/tasks?consistency=local").await.status, 200);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_wait_for_the_index_they_name() {
    let live = Live::leading().await;
    live.noop("a").await;
    let index = live.app.node.applied_index();
    let read = live.get(&format!("/api/tasks/a?consistency=local&min_index={index}")).await;
    assert_eq!(read.status, 200);
    let far = live.get("/api/tasks/a?min_index=1000000").await;
    assert_eq!((far.status.as_u16(), code(&far)), (503, "unavailable"));
    let unknown = live.get("/api/tasks/never").await;
    assert_eq!((unknown.status.as_u16(), code(&unknown)), (404, "unknown_task"));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_named() {
    let live = Live::leading().await;
    let json = "application/json";
    for (answer, status, expected, detail) in [
        (live.get("/api/nowhere").await, 404, "unknown_endpoint", "/api/nowhere"),
        (live.get("/api/tasks/batch/deeper").await, 404, "unknown_endpoint", ""),
        (live.act("/api/status").await, 405, "method_not_allowed", "/api/status"),
        (
            live.post_text("/api/tasks", json, "{\"type\": }").await,
            400,
            "malformed_json",
            "line 1, column 10",
        ),
        (live.post_text("/api/tasks", json, "").await, 400, "malformed_json", "empty"),
        (live.post_text("/api/tasks", json, r#"{"type": 5}"#).await, 422, "validation", "`type`"),
        (live.post_text("/api/tasks", json, r#"{"typ": "x"}"#).await, 422, "validation", "typ"),
        (live.post_text("/api/tasks", "text/plain", "{}").await, 415, "unsupported_media_type", "text/plain"),
        (
            live.post_text("/api/maintenance/enable", "application/x-www-form-urlencoded", "").await,
            415,
            "unsupported_media_type",
            "",
        ),
        (
            live.post_text("/api/tasks", json, &" ".repeat(extract::MAX_BODY_BYTES + 1)).await,
            413,
            "body_too_large",
            "",
        ),
        (live.get("/api/tasks?limit=0").await, 422, "validation", "limit"),
        (live.get("/api/tasks?limit=many").await, 422, "validation", "limit"),
        (live.get("/api/tasks?state=pending").await, 422, "validation", "state"),
        (live.get("/api/tasks?status=nowhere").await, 422, "validation", "nowhere"),
        (live.get("/api/results?status=running").await, 422, "validation", "/api/tasks"),
        (live.get("/api/tasks/%FF").await, 422, "validation", ""),
        (live.act("/api/tasks/never/cancel").await, 404, "unknown_task", "never"),
        (live.get("/api/events").await, 501, "not_implemented", "/api/events"),
        (live.post("/api/cluster/transfer", json!({"to": "n9"})).await, 404, "unknown_member", "n9"),
        (live.get("/api/cluster/can_lose?node=n9").await, 404, "unknown_member", "n9"),
        (live.get("/api/logs?level=loud").await, 422, "validation", "loud"),
        (live.lease("w", 2000, 0, &[]).await, 422, "validation", "slots"),
    ] {
        assert_eq!((answer.status.as_u16(), code(&answer)), (status, expected), "{}", answer.body);
        let said = answer.body["detail"].as_str().unwrap();
        assert!(said.contains(detail), "`{detail}` is not in `{said}`");
    }
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_method_is_told_the_right_ones() {
    let live = Live::idle();
    let allowed = |answer: Answer| answer.headers[header::ALLOW].to_str().unwrap().to_owned();
    assert_eq!(allowed(live.act("/api/status").await), "GET,HEAD");
    let put = axum::http::Request::put("/api/tasks").body(Body::empty()).unwrap();
    let named = allowed(live.send(put).await);
    assert!(named.contains("GET") && named.contains("POST"), "{named}");
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_page_may_not_call() {
    let live = Live::idle();
    let from = |origin: &str| {
        axum::http::Request::post("/api/tasks")
            .header(header::HOST, "127.0.0.1:8080")
            .header(header::ORIGIN, origin)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from("{}"))
            .unwrap()
    };
    let refused = live.send(from("http://evil.example")).await;
    assert_eq!((refused.status.as_u16(), code(&refused)), (403, "forbidden_origin"));
    assert_ne!(live.send(from("http://127.0.0.1:8080")).await.status, 403);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_can_be_looked_at() {
    let live = Live::leading().await;
    live.noop("seen").await;
    let page = live.get("/api/debug/raft_log?limit=1000").await.body;
    let entries = page["entries"].as_array().unwrap();
    let submit = entries.iter().find(|e| e["commands"][0]["command"] == "submit");
    assert!(submit.is_some_and(|e| e.to_string().contains("seen")), "{page}");
    assert_eq!(live.get("/api/debug/raft_log?limit=0").await.status, 422);
    let members = live.get("/api/cluster/members").await.body;
    assert_eq!(members["members"][0]["node_id"], "n1");
    assert_eq!(members["members"][0]["leader"], true);
    let verdict = live.get("/api/cluster/can_lose?node=n1").await.body;
    assert_eq!(verdict["can_lose"], false);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_come_while_something_changes_and_stop_when_nothing_does() {
    let live = Live::leading().await;
    live.noop("a").await;
    until("a checkpoint", async || live.app.node.machine().checkpoints().next().is_some()).await;
    let index = live.app.node.applied_index();
    let quiet = Instant::now();
    until("two more intervals", async || quiet.elapsed() > Duration::from_secs(11)).await;
    assert_eq!(live.app.node.applied_index(), index, "an idle cluster writes nothing");
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_declared_metric_of_the_node_is_scraped() {
    let live = Live::leading().await;
    live.noop("a").await;
    live.get("/api/tasks/a").await;
    live.act("/api/admin/snapshot").await;
    let text = live.app.telemetry.render().unwrap();
    for expected in [
        "holdfast_raft_role{state=\"leader\"} 1",
        "holdfast_tasks{state=\"pending\"} 1",
        "holdfast_store_healthy 1",
        "holdfast_tasks_submitted_total 1",
        "http_route=\"/api/tasks/{id}\"",
        "raft_engine",
    ] {
        assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
    }
    // What a lone node that has finished nothing can't have.
    let not_here = [
        "holdfast_peer_",
        "holdfast_monitor_",
        "holdfast_recovery_",
        "holdfast_task_",
        "holdfast_store_batch",
        "holdfast_store_write",
        "holdfast_tls_",
    ];
    for metric in api::metrics::ALL {
        let name = metric.prometheus_name();
        if !not_here.iter().any(|prefix| name.starts_with(prefix)) {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} is declared but not scraped");
        }
    }
    live.end().await;
}

/// A program that is older than what the log has reached must not go on by guessing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_machine_version_in_the_log_stops_the_node() {
    let live = Live::leading().await;
    live.noop("before").await;
    let newer = crate::machine::version::MACHINE_VERSION + 1;
    let told = live.app.node.propose(Command::RaiseVersion { to: newer }).await;
    assert_eq!(told.unwrap_err(), crate::node::NodeError::UnknownOutcome);
    until("role failed", async || live.app.node.view().role == api::cluster::Role::Failed).await;
    let why = live.app.node.view().role_detail.unwrap();
    assert!(why.contains("update the program"), "{why}");
    let status = live.get("/api/status").await.body;
    assert_eq!(status["role"], "failed", "it stays up to be seen");
    assert_eq!(live.get("/api/tasks/before").await.status, 503);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_is_done_once_and_answered_alike() {
    let live = Live::leading().await;
    let keyed = |path: &str, key: &str, body: Value| {
        let request = axum::http::Request::post(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(api::IDEMPOTENCY_KEY, key);
        request.body(Body::from(body.to_string())).unwrap()
    };
    let batch = json!({"tasks": [{"type": "noop"}, {"type": "noop", "task_id": "mine"}, {"type": "noop"}]});
    let first = live.send(keyed("/api/tasks/batch", "k1", batch.clone())).await;
    assert_eq!((first.status.as_u16(), &first.body["accepted"]), (201, &json!(3)), "{}", first.body);
    let again = live.send(keyed("/api/tasks/batch", "k1", batch)).await;
    assert_eq!((again.status.as_u16(), &again.body), (201, &first.body), "the same ids, the same index");
    assert_eq!(again.headers[api::IDEMPOTENCY_REPLAYED], "true");
    assert!(!first.headers.contains_key(api::IDEMPOTENCY_REPLAYED));
    assert_eq!(live.get("/api/tasks").await.body["tasks"].as_array().unwrap().len(), 3);
    let id = first.body["task_ids"][2].as_str().unwrap();
    assert_eq!(live.state(id).await, "pending");

    let other = live.send(keyed("/api/tasks/batch", "k1", json!({"tasks": [{"type": "noop"}]}))).await;
    assert_eq!((other.status.as_u16(), code(&other)), (422, "idempotency_key_reused"));
    let empty = live.send(keyed("/api/tasks/batch", " ", json!({"tasks": [{"type": "noop"}]}))).await;
    assert_eq!((empty.status.as_u16(), code(&empty)), (422, "validation"));

    let single = live.send(keyed("/api/tasks", "k2", json!({"type": "noop"}))).await;
    let again = live.send(keyed("/api/tasks", "k2", json!({"type": "noop"}))).await;
    assert_eq!((again.status.as_u16(), &again.body["task_id"]), (201, &single.body["task_id"]));

    live.act("/api/tasks/mine/cancel").await;
    for _ in 0..2 {
        let retried = live.send(keyed("/api/tasks/mine/retry", "k3", json!({}))).await;
        assert_eq!((retried.status.as_u16(), &retried.body["state"]), (200, &json!("pending")));
    }
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_tasks_are_retried_together() {
    let live = Live::leading().await;
    live.register("w", 3).await;
    for id in ["a", "b", "c"] {
        let task = json!({"task_id": id, "type": "noop", "max_retries": 0});
        assert_eq!(live.post("/api/tasks", task).await.status, 201);
    }
    let leased = live.lease("w", 3, 5_000, &[]).await;
    let results: Vec<Value> = (leased.body["tasks"].as_array().unwrap().iter())
        .map(|task| {
            json!({"task_id": task["task_id"], "token": task["token"], "status": "failed", "error": "no",
                "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"})
        })
        .collect();
    let stale = json!({"task_id": "a", "token": 999, "status": "completed",
        "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"});
    let all: Vec<Value> = results.iter().cloned().chain([stale]).collect();
    let judged = live.post("/api/workers/w/results", json!({"results": all})).await;
    let verdicts = judged.body["results"].as_array().unwrap();
    assert_eq!(verdicts.len(), 4, "{}", judged.body);
    assert!(verdicts[..3].iter().all(|v| v["state"] == "failed" && v.get("problem").is_none()));
    assert_eq!(verdicts[3]["problem"]["code"], "stale_token");

    let wrong = live.post("/api/tasks/retry", json!({"status": "completed"})).await;
    assert_eq!((wrong.status.as_u16(), code(&wrong)), (422, "validation"));
    let some = live.post("/api/tasks/retry", json!({"status": "failed", "type": "noop", "limit": 2})).await;
    assert_eq!((&some.body["retried"], &some.body["more"]), (&json!(2), &json!(true)), "{}", some.body);
    let rest = live.post("/api/tasks/retry", json!({"status": "failed"})).await;
    assert_eq!((&rest.body["retried"], &rest.body["more"]), (&json!(1), &json!(false)));
    assert_eq!(live.state("a").await, "pending");
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_and_changed_by_name() {
    let live = Live::leading().await;
    let find = |answer: &Answer, name: &str| {
        let all = answer.body["settings"].as_array().unwrap().clone();
        all.into_iter().find(|setting| setting["name"] == name).unwrap()
    };
    let before = live.get("/api/settings").await;
    assert_eq!(find(&before, "lease_ttl_ms")["value"], 15_000);
    let after = live.post("/api/settings", json!({"lease_ttl_ms": 20_000, "default_max_retries": 0})).await;
    assert_eq!(after.status, 200, "{}", after.body);
    assert_eq!(find(&after, "lease_ttl_ms")["value"], 20_000);
    assert_eq!(find(&after, "lease_ttl_ms")["default"], 15_000);
    for (body, named) in [
        (json!({"lease_ttl": 1}), "no setting `lease_ttl`"),
        (json!({"lease_ttl_ms": 1}), "must be 1000 to"),
        (json!({}), "no setting is named"),
        (json!({"lease_ttl_ms": "x"}), "lease_ttl_ms"),
    ] {
        let refused = live.post("/api/settings", body).await;
        assert_eq!((refused.status.as_u16(), code(&refused)), (422, "validation"));
        assert!(refused.body["detail"].as_str().unwrap().contains(named), "{}", refused.body);
    }
    let registered = live.post("/api/workers/register", json!({"worker_id": "w", "slots": 1})).await;
    assert_eq!(registered.body["lease_ttl_ms"], 20_000);
    live.noop("plain").await;
    assert_eq!(live.get("/api/tasks/plain").await.body["max_retries"], 0);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_reaches_a_waiting_call_at_once() {
    let live = Live::leading().await;
    live.register("w", 1).await;
    live.noop("long").await;
    let leased = live.lease("w", 1, 5_000, &[]).await;
    let token = leased.body["tasks"][0]["token"].as_u64().unwrap();
    // Every slot is taken: the call waits for news only. It would wait half a minute.
    let asked = Instant::now();
    let held = [token];
    let call = live.lease("w", 0, 30_000, &held);
    let cancel = async {
        until("the call waits", || async { live.app.dispatch.waiting_calls() == 1 }).await;
        live.act("/api/tasks/long/cancel").await
    };
    let (told, cancelled) = tokio::join!(call, cancel);
    assert_eq!(cancelled.status, 200);
    assert_eq!(told.body["cancel"], json!([token]), "{}", told.body);
    assert!(asked.elapsed() < DEADLINE);
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_accepted_while_the_call_waits_makes_room_in_it() {
    let live = Live::leading().await;
    live.register("w", 1).await;
    live.noop("first").await;
    live.noop("second").await;
    let leased = live.lease("w", 1, 5_000, &[]).await;
    let token = leased.body["tasks"][0]["token"].as_u64().unwrap();
    let held = [token];
    let call = live.lease("w", 0, 30_000, &held);
    let report = async {
        until("the call waits", || async { live.app.dispatch.waiting_calls() == 1 }).await;
        let result = json!({"results": [{"task_id": "first", "token": token, "status": "completed",
            "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"}]});
        live.post("/api/workers/w/results", result).await
    };
    let (next, _) = tokio::join!(call, report);
    assert_eq!(next.body["tasks"][0]["task_id"], "second", "{}", next.body);
    assert_eq!(next.body["cancel"], json!([]));
    live.end().await;
}

/// Reads the log decoded: how many commands each entry has.
async fn commands_by_entry(live: &Live) -> Vec<usize> {
    let page = live.get("/api/debug/raft_log?limit=1000").await.body;
    let entries = page["entries"].as_array().unwrap().iter();
    entries.map(|entry| entry["commands"].as_array().unwrap().len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_has_no_more_commands_than_max_batch_size() {
    let live = Live::leading().await;
    live.app.node.take_config(&Config { max_batch_size: 2, ..(*live.app.live.config()).clone() });
    let ids: Vec<String> = (0..60).map(|n| format!("t{n}")).collect();
    futures_util::future::join_all(ids.iter().map(|id| live.noop(id))).await;
    let counts = commands_by_entry(&live).await;
    assert_eq!(counts.iter().max(), Some(&2), "{counts:?}");
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_max_memory_new_tasks_are_refused_and_the_rest_goes_on() {
    let live = Live::leading().await;
    live.noop("before").await;
    let config = live.app.live.config();
    live.app.node.take_config(&Config { max_memory_mb: 1, ..(*config).clone() });
    until("the memory is measured", || async { live.app.node.room().memory_over() }).await;
    let refused = live.post("/api/tasks", json!({"type": "noop"})).await;
    assert_eq!((refused.status.as_u16(), code(&refused)), (503, "overloaded"));
    assert!(refused.body["detail"].as_str().unwrap().contains("max_memory_mb"), "{}", refused.body);
    assert_eq!(refused.body["retryable"], true);
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(live.act("/api/tasks/before/cancel").await.status, 200);
    live.app.node.take_config(&config);
    until("it is below again", || async { !live.app.node.room().memory_over() }).await;
    live.noop("after").await;
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_at_its_floor_refuses_writes_and_comes_back() {
    use crate::room::DiskLevel;
    let live = Live::leading().await;
    live.noop("before").await;
    let config = live.app.live.config();
    live.app.node.take_config(&Config {
        disk_floor_percent: 0,
        disk_reserve_mb: 1 << 40,
        ..(*config).clone()
    });
    until("the disk is measured", || async { live.app.node.room().disk() != DiskLevel::Open }).await;
    let refused = live.post("/api/tasks", json!({"type": "noop"})).await;
    assert_eq!((refused.status.as_u16(), code(&refused)), (503, "disk_full"));
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(live.state("before").await, "pending", "reads go on");
    let lease = live.post("/api/leases/l", json!({"holder": "h", "ttl_ms": 1000})).await;
    assert_eq!(lease.status, 200, "{}", lease.body);
    let health = live.get("/api/health").await;
    assert_eq!(health.body["status"], "failing");
    live.app.node.take_config(&config);
    until("writes to be taken again", || async {
        live.post("/api/tasks", json!({"type": "noop"})).await.status == 201
    })
    .await;
    live.end().await;
}
