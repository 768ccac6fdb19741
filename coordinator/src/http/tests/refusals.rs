//! Bad requests, each refused by name.

use super::*;

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
        (live.get("/api/events?since=yesterday").await, 422, "validation", "since"),
        (live.get("/api/events?limit=0").await, 422, "validation", "limit"),
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
