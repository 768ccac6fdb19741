//! The repair calls on a live node.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_node_verifies_and_says_when() {
    let live = Live::leading().await;
    for number in 0..20 {
        live.noop(&format!("t{number}")).await;
    }
    let answer = live.act("/api/admin/verify").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["sound"], true, "{}", answer.body);
    let parts: Vec<_> = answer.body["parts"].as_array().unwrap().iter().map(|p| p["part"].clone()).collect();
    assert_eq!(parts, ["log", "machine", "db"]);
    assert_eq!(answer.body["parts"][1]["checked"], 20);
    for (path, place) in [
        ("/api/health/db", "/details/integrity"),
        ("/api/health/log", "/details/integrity"),
        ("/api/health/state_checksum", "/integrity"),
    ] {
        let body = live.get(path).await.body;
        assert_eq!(body.pointer(place).unwrap()["sound"], true, "{path}: {body}");
    }
    let text = live.app.telemetry.render().unwrap();
    assert!(text.contains("holdfast_integrity_checks_total{outcome=\"sound\",part=\"db\"} 1"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_database_is_found_and_rebuilt_while_serving() {
    let live = Live::leading().await;
    for number in 0..20 {
        live.noop(&format!("t{number}")).await;
    }
    let path = live.app.config.db_path();
    live.act("/api/admin/verify").await;
    std::fs::remove_file(&path).unwrap();
    let found = live.act("/api/admin/verify").await.body;
    assert_eq!(found["sound"], false, "{found}");
    let health = live.get("/api/health/db").await.body;
    assert_eq!(health["healthy"], false);
    assert!(health["details"]["integrity"]["detail"].as_str().unwrap().contains("rebuild_db"), "{health}");
    assert_eq!(live.get("/api/health").await.body["status"], "degraded");

    assert_eq!(live.act("/api/admin/rebuild_db").await.body["code"], "validation");
    live.noop("meanwhile").await;
    let rebuilt = live.post("/api/admin/rebuild_db", json!({"by_hand": true, "why": "a test"})).await;
    assert_eq!(rebuilt.status, 200, "{}", rebuilt.body);
    assert_eq!(rebuilt.body["tasks"], 21);
    live.noop("after").await;
    let verified = live.act("/api/admin/verify").await.body;
    assert_eq!(verified["sound"], true, "{verified}");
    assert_eq!(live.get("/api/health/db").await.body["healthy"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairs_are_fenced_by_the_lease() {
    let live = Live::leading().await;
    let lease = |holder: &str, ttl_ms: u64| json!({"holder": holder, "ttl_ms": ttl_ms});
    let first = live.post("/api/leases/recovery", lease("a", 60_000)).await.body["epoch"].as_u64().unwrap();
    let call = |epoch: u64| json!({"epoch": epoch});
    assert_eq!(live.post("/api/admin/rebuild_db", call(first)).await.status, 200);
    live.post("/api/leases/recovery", lease("a", 0)).await;
    let second = live.post("/api/leases/recovery", lease("b", 60_000)).await.body["epoch"].as_u64().unwrap();
    assert!(second > first);
    for action in ["rebuild_db", "verify", "snapshot", "cleanup_resources", "cancel_operations", "step_down"]
    {
        let answer = live.post(&format!("/api/admin/{action}"), call(first)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["code"].as_str()),
            (409, Some("stale_epoch")),
            "{action}"
        );
    }
    assert_eq!(live.post("/api/admin/rebuild_db", call(second + 1)).await.body["code"], "validation");
    let other = json!({"epoch": second, "cluster_id": "another"});
    assert_eq!(live.post("/api/admin/rebuild_db", other).await.body["code"], "invalid_state");
    assert_eq!(live.post("/api/admin/rebuild_db", json!({"epoc": 1})).await.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_and_resources_are_cleaned_up_on_demand() {
    let live = Live::leading().await;
    live.noop("a").await;
    let taken = live.act("/api/admin/snapshot").await;
    assert_eq!(taken.status, 200, "{}", taken.body);
    assert!(taken.body["index"].as_u64().unwrap() > 0 && taken.body["bytes"].as_u64().unwrap() > 0);
    let cleaned = live.act("/api/admin/cleanup_resources").await;
    assert_eq!(cleaned.status, 200, "{}", cleaned.body);
    assert!(cleaned.body["steps"][0].as_str().unwrap().starts_with("snapshot of index"), "{}", cleaned.body);
    let none = live.act("/api/admin/cancel_operations").await.body;
    assert_eq!(none["cancelled"], json!([]));
    let unknown = live.post("/api/admin/cancel_operations", json!({"id": "verify-99"})).await;
    assert_eq!(unknown.body["code"], "invalid_state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_started_answers_repairs_by_name() {
    let live = Live::idle();
    assert_eq!(live.act("/api/admin/snapshot").await.body["code"], "unavailable");
    assert_eq!(
        live.post("/api/admin/rebuild_db", json!({"by_hand": true})).await.body["code"],
        "invalid_state"
    );
    assert_eq!(live.act("/api/admin/verify").await.status, 200);
    assert_eq!(live.act("/api/admin/step_down").await.body["code"], "invalid_state");
}
