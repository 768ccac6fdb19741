//! What clients and workers may rely on, also while leadership goes from one node to another: own
//! writes are read anywhere, a request with a key is done once, a lease whose answer got lost comes
//! again. Real processes, and one that dies.

use serde_json::{Value, json};
use std::time::Duration;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, judge, wait};

const LIMIT: Duration = Duration::from_secs(90);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn http() -> reqwest::Client {
    api::http::builder().timeout(Duration::from_secs(30)).build().unwrap()
}

/// The leader ends for good; gives another node and waits until that sees another leader.
async fn next_leader(cluster: &mut Cluster) -> usize {
    let leader = cluster.leader(READY_LIMIT).await.unwrap();
    cluster.kill9(leader);
    let other = (leader + 1) % cluster.len();
    wait::until("another leader", LIMIT, || async {
        let status = cluster.status(other).await?;
        let gone = &cluster.place(leader).id;
        match status.current_leader {
            Some(now) if now != *gone => Ok(()),
            now => Err(format!("{now:?}")),
        }
    })
    .await
    .unwrap();
    other
}

#[test]
fn own_writes_are_read_on_every_node_by_their_index() {
    runtime().block_on(async {
        let cluster = Cluster::start(3).await.unwrap();
        let http = http();
        for number in 0..30 {
            let id = format!("task-{number}");
            let url = cluster.place(number % 3).url("/api/tasks");
            let sent = http.post(url).json(&json!({"task_id": id, "type": "noop"})).send().await.unwrap();
            assert_eq!(sent.status(), 201);
            let index = sent.json::<Value>().await.unwrap()["index"].as_u64().unwrap();
            // Local reads answer with what the node has; with the index, not before it has that.
            for node in 0..3 {
                let path = format!("/api/tasks/{id}?consistency=local&min_index={index}");
                let read = http.get(cluster.place(node).url(&path)).send().await.unwrap();
                assert_eq!(read.status(), 200, "{id} on node {node}: {}", read.text().await.unwrap());
            }
        }
        // A node that does not get there says so, and that it may be asked again.
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let far = cluster.place((leader + 1) % 3).url("/api/tasks?consistency=local&min_index=1000000000");
        let refused = http.get(far).send().await.unwrap();
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        let problem: Value = refused.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["retryable"]), (&json!("unavailable"), &json!(true)));
        for wrong in ["-1", "x", "99999999999999999999999"] {
            let url = cluster.place(leader).url(&format!("/api/tasks?min_index={wrong}"));
            assert_eq!(http.get(url).send().await.unwrap().status(), 422, "{wrong}");
        }
    });
}

#[test]
fn a_key_counts_with_the_next_leader_too() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let http = http();
        let send = |node: usize, key: &str, body: &Value| {
            let request = http.post(cluster.place(node).url("/api/tasks/batch"));
            let sent = request.header("idempotency-key", key).json(body).send();
            async move {
                let answer = sent.await.unwrap();
                let again = answer.headers().get("idempotency-replayed").is_some();
                (answer.status().as_u16(), again, answer.json::<Value>().await.unwrap())
            }
        };
        let body = json!({"tasks": [{"type": "noop"}, {"type": "noop"}]});
        let (status, again, first) = send(0, "one", &body).await;
        assert_eq!((status, again), (201, false), "{first}");
        // The same request to all nodes at once is one.
        let together = futures_util::future::join_all((0..9).map(|n| send(n % 3, "many", &body))).await;
        let made = together.iter().filter(|(status, again, _)| *status == 201 && !again).count();
        assert_eq!(made, 1, "{together:?}");
        assert!(together.iter().all(|(_, _, told)| told["task_ids"] == together[0].2["task_ids"]));

        let other = next_leader(&mut cluster).await;
        let send = |key: &'static str, body: Value| {
            let request = http.post(cluster.place(other).url("/api/tasks/batch"));
            request.header("idempotency-key", key).json(&body).send()
        };
        let repeated = send("one", body.clone()).await.unwrap();
        assert_eq!(repeated.status(), 201);
        assert_eq!(repeated.headers()["idempotency-replayed"], "true");
        assert_eq!(repeated.json::<Value>().await.unwrap(), first, "the same ids, the same index");
        let reused = send("one", json!({"tasks": [{"type": "noop", "priority": 9}]})).await.unwrap();
        assert_eq!(reused.status(), 422);
        assert_eq!(reused.json::<Value>().await.unwrap()["code"], "idempotency_key_reused");
        let url = cluster.place(other).url("/api/tasks?limit=1000");
        let all: Value = wait::get(&wait::http(), &url).await.unwrap();
        assert_eq!(all["tasks"].as_array().unwrap().len(), 4);
    });
}

/// The worker's side by hand: its answers get lost, and its leader dies.
#[test]
fn a_lease_whose_answer_got_lost_comes_again_from_the_next_leader() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let http = http();
        let post = |url: String, body: Value| {
            let sent = http.post(url).json(&body).send();
            async move {
                let answer = sent.await.map_err(|e| e.to_string())?;
                let status = answer.status().as_u16();
                let told = answer.json::<Value>().await.map_err(|e| e.to_string())?;
                if status == 200 || status == 201 { Ok(told) } else { Err(format!("{status} {told}")) }
            }
        };
        let lease = json!({"slots": 1, "wait_ms": 20_000, "tokens": []});
        let first = cluster.place(0);
        let worker = json!({"worker_id": "w", "slots": 1});
        post(first.url("/api/workers/register"), worker).await.unwrap();
        post(first.url("/api/tasks"), json!({"task_id": "t", "type": "noop"})).await.unwrap();
        let given = post(first.url("/api/workers/w/lease"), lease.clone()).await.unwrap();
        let token = given["tasks"][0]["token"].clone();
        assert!(token.is_u64(), "{given}");
        // The answer never came: the worker asks again and names no token.
        let again = post(cluster.place(1).url("/api/workers/w/lease"), lease.clone()).await.unwrap();
        assert_eq!(again["tasks"][0]["token"], token, "{again}");

        let other = next_leader(&mut cluster).await;
        let url = cluster.place(other).url("/api/workers/w/lease");
        let third = wait::until("the lease from the next leader", LIMIT, || async {
            let told = post(url.clone(), lease.clone()).await?;
            if told["tasks"][0].is_object() { Ok(told) } else { Err(told.to_string()) }
        })
        .await
        .unwrap();
        assert_eq!(third["tasks"][0]["token"], token, "the same lease, and no second one: {third}");
        // Its result is the task's, once; sent again it is the same answer.
        let result = json!({"worker_id": "w", "token": token, "status": "completed", "result": 1,
            "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"});
        for _ in 0..2 {
            let url = cluster.place(other).url("/api/tasks/t/result");
            let told = post(url, result.clone()).await.unwrap();
            assert_eq!(told["state"], "completed", "{told}");
        }
        let task: Value = wait::get(&wait::http(), &cluster.place(other).url("/api/tasks/t")).await.unwrap();
        assert_eq!(task["attempts"].as_array().unwrap().len(), 1, "{task}");
        for index in 0..3 {
            cluster.start_node(index).unwrap();
        }
        cluster.wait_all_ready(READY_LIMIT).await.unwrap();
        judge::await_all_equal(&cluster).await.unwrap();
    });
}
