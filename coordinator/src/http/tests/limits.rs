//! Bounds: batches, memory, disk.

use super::*;

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
