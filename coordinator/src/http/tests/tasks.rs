//! Tasks from submission to result, and writes that are repeated.

use super::*;

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
