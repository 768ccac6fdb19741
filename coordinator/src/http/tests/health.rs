//! Health, figures, and reads that wait.

use super::*;

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
