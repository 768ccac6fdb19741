//! The worker protocol: leases, cancellations, drains.

use super::*;

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
