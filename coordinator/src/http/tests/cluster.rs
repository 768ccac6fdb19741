//! What concerns all nodes: maintenance, named leases, settings, the log and its versions.

use super::*;

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
    // Who held it before may order nothing any more.
    let order = |epoch: &Value| live.post("/api/admin/verify", json!({"epoch": epoch, "why": "a test"}));
    assert_eq!(order(&second["epoch"]).await.status, 200);
    let late = order(&first["epoch"]).await;
    assert_eq!((late.status.as_u16(), code(&late)), (409, "stale_epoch"));
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
async fn a_member_can_not_be_told_to_take_its_own_place() {
    let live = Live::leading().await;
    let request = crate::members::join::JoinRequest::of(&live.app.node.identity_card());
    let terms = crate::members::join::Terms { replaces: Some("n1".into()), learner: false };
    let refused = live.app.node.take_in(&request, &terms).await.unwrap_err().to_string();
    assert!(refused.contains("its own place"), "{refused}");
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
