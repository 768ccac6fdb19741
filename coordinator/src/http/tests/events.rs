//! The stream of events over a live node: what it tells, where it goes on, and how it ends.

use super::*;
use crate::events::{MAX_LISTENERS, Occurrence, watch};
use axum::body::BodyDataStream;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

/// A stream that was opened.
struct Stream {
    body: BodyDataStream,
    text: String,
}

impl Stream {
    async fn open(live: &Live, path: &str, last_id: Option<&str>) -> Stream {
        let mut request = axum::http::Request::get(path).header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = live.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Stream { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// Reads until `text` has come.
    async fn until(&mut self, text: &str) {
        while !self.text.contains(text) {
            let next = tokio::time::timeout(DEADLINE, self.body.next()).await;
            let Ok(Some(Ok(bytes))) = next else { panic!("`{text}` did not come, only:\n{}", self.text) };
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// Reads to the end.
    async fn rest(mut self) -> String {
        while let Some(bytes) = tokio::time::timeout(DEADLINE, self.body.next()).await.expect("an end") {
            self.text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        }
        self.text
    }
}

fn last_id(text: &str) -> &str {
    text.lines().rev().find_map(|line| line.strip_prefix("id: ")).expect("an id")
}

async fn kinds(live: &Live, path: &str) -> (Vec<String>, Value) {
    let request = axum::http::Request::get(path).header(header::ACCEPT, "application/json");
    let answer = live.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let events = answer.body["events"].as_array().unwrap().iter();
    (events.map(|event| event["kind"].as_str().unwrap().to_owned()).collect(), answer.body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_as_they_happen_and_a_client_goes_on_where_it_was_cut_off() {
    let live = Live::leading().await;
    let mut stream = Stream::open(&live, "/api/events", None).await;
    stream.until("retry: 2000").await;
    live.act("/api/maintenance/enable").await;
    stream.until("event: maintenance_enabled").await;
    stream.until("\n\n").await;
    let seen = last_id(&stream.text).to_owned();
    drop(stream);
    live.act("/api/maintenance/disable").await;
    let mut again = Stream::open(&live, "/api/events", Some(&seen)).await;
    again.until("event: maintenance_disabled").await;
    assert!(!again.text.contains("maintenance_enabled"), "it had that:\n{}", again.text);
    assert!(!again.text.contains("event: gap"), "{}", again.text);

    let mut other = Stream::open(&live, "/api/events", Some("0123456789abcdef-7")).await;
    other.until("event: maintenance_disabled").await;
    assert!(other.text.contains("event: gap"), "another run's id:\n{}", other.text);
    assert!(other.text.contains("event: maintenance_enabled"));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_document_and_what_followed_it() {
    let live = Live::leading().await;
    live.register("w", 1).await;
    let (told, body) = kinds(&live, "/api/events").await;
    assert_eq!(told, ["worker_registered"]);
    let event = &body["events"][0];
    assert_eq!((&event["subject"], &event["node_id"]), (&json!("w"), &json!("n1")));
    assert!(event["index"].as_u64().is_some_and(|index| index > 0), "{event}");
    let next = body["next"].as_str().unwrap();
    assert_eq!((event["id"].as_str(), &body["gap"]), (Some(next), &json!(false)));
    live.act("/api/workers/w/drain").await;
    let (told, _) = kinds(&live, &format!("/api/events?since={next}")).await;
    assert_eq!(told, ["worker_draining"]);
    let (told, body) = kinds(&live, "/api/events?limit=1").await;
    assert_eq!((told, body["next"].as_str()), (vec!["worker_registered".to_owned()], Some(next)));
    assert!(kinds(&live, "/api/events?since=now").await.0.is_empty());
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_notices_by_itself_is_told() {
    let live = Live::idle();
    let stop = CancellationToken::new();
    let watching = watch::spawn(live.app.clone(), stop.clone());
    let live = live.lead().await;
    live.act("/api/admin/snapshot").await;
    let mut stream = Stream::open(&live, "/api/events", None).await;
    for kind in ["node_started", "role_changed", "leader_changed", "snapshot_written"] {
        stream.until(&format!("event: {kind}\n")).await;
    }
    live.app.node.fail("its log is damaged".into());
    stream.until("event: node_failed").await;
    stream.until("its log is damaged").await;
    stop.cancel();
    watching.await.unwrap();
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_and_end_when_the_node_stops() {
    let live = Live::idle();
    let mut open = Vec::new();
    for _ in 0..MAX_LISTENERS {
        open.push(Stream::open(&live, "/api/events", None).await);
    }
    let refused = live.get("/api/events").await;
    assert_eq!((refused.status.as_u16(), code(&refused)), (503, "overloaded"));
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    assert!(kinds(&live, "/api/events").await.0.is_empty(), "one document takes no place");
    open.pop();
    open.push(Stream::open(&live, "/api/events", None).await);

    // What was told before the end still arrives.
    live.app.node.events().noticed(1, Occurrence::new("leader_lost", "n1", "it stops"));
    live.app.node.events().close();
    for stream in open {
        assert!(stream.rest().await.contains("leader_lost"));
    }
    live.end().await;
}
