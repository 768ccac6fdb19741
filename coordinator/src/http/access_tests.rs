//! The table of routes and roles against the router that serves: every row, every role.

use super::table::{Allowed, Endpoint, table};
use super::tests::{Answer, Live};
use crate::access::peers::{ANSWER_PROOF, CHALLENGE, PROOF, PeerSecret};
use crate::access::token::{self, Tokens};
use crate::access::{Caller, login};
use api::access::Role;
use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::{Value, json};
use std::time::Duration;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn guarded() -> Live {
    let users = json!([
        {"username": "ann", "password_hash": login::hash("right").unwrap(), "role": "operator"},
        {"username": "viewer", "password_hash": login::hash("looks").unwrap()},
    ]);
    Live::with_config(json!({"enable_auth": true, "jwt_secret": SECRET, "auth_users": users}))
}

fn token(role: Role, worker_id: Option<&str>) -> String {
    let caller = Caller { subject: "test".into(), role, worker_id: worker_id.map(str::to_owned) };
    let life = Duration::from_secs(600);
    Tokens::new(SECRET.as_bytes()).issue(&caller, life, token::now_s(), "1".into()).unwrap().0
}

fn request(method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    match body {
        Some(body) => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap(),
        None => request.body(Body::empty()).unwrap(),
    }
}

/// A request that reaches the row's handler; its body may be refused there.
fn request_to(row: &Endpoint, token: Option<&str>) -> Request<Body> {
    let path = row
        .path
        .replace("{id}", "x")
        .replace("{name}", "x")
        .replace("{node_id}", "n1")
        .replace("{file}", "x")
        .replace("{table}", "tasks");
    request(row.method, &path, token, row.body.map(|_| json!({})))
}

fn code(answer: &Answer) -> &str {
    answer.body["code"].as_str().unwrap_or("")
}

/// True where the check let the request through to a handler.
fn was_let_through(answer: &Answer) -> bool {
    !matches!(answer.status.as_u16(), 401 | 403 | 405 | 500) && code(answer) != "unknown_endpoint"
}

#[tokio::test]
async fn every_row_is_served_and_every_role_is_tried_on_it() {
    let live = guarded();
    for row in table().endpoints() {
        let name = format!("{} {}", row.method, row.path);
        let peers_only = row.allowed == Allowed::Peers;
        let bare = live.send(request_to(row, None)).await;
        match row.allowed {
            Allowed::Roles(_) => {
                assert_eq!(
                    (bare.status.as_u16(), code(&bare)),
                    (401, "unauthorized"),
                    "{name} without a token"
                );
                assert!(bare.headers.contains_key(header::WWW_AUTHENTICATE), "{name}");
            }
            Allowed::Peers => {
                assert_eq!(
                    (bare.status.as_u16(), code(&bare)),
                    (401, "unauthorized"),
                    "{name} without a proof"
                );
                assert!(bare.headers.contains_key(CHALLENGE), "{name}");
            }
            Allowed::Anybody => assert_ne!(bare.status, 403, "{name}"),
        }
        for role in [Role::Admin, Role::Operator, Role::Worker, Role::Viewer] {
            // The stream of events and the login answer by themselves.
            if row.path == "/api/auth/login" || row.path == "/api/events" && row.allowed.allows(role) {
                continue;
            }
            let answer = live.send(request_to(row, Some(&token(role, None)))).await;
            if peers_only {
                assert_eq!(answer.status, 401, "{name} as {role}: no token makes a node");
            } else if row.allowed.allows(role) {
                assert!(was_let_through(&answer), "{name} as {role}: {} {}", answer.status, answer.body);
            } else {
                assert_eq!((answer.status.as_u16(), code(&answer)), (403, "forbidden"), "{name} as {role}");
            }
        }
    }
    live.end().await;
}

#[tokio::test]
async fn a_route_without_a_row_is_not_served() {
    let live = guarded();
    let checked = axum::middleware::from_fn_with_state(live.app.access.clone(), super::access::check);
    let stray =
        axum::Router::new().route("/api/stray", axum::routing::get(|| async { "served" })).layer(checked);
    let response = tower::ServiceExt::oneshot(stray, request("GET", "/api/stray", None, None)).await.unwrap();
    assert_eq!(response.status(), 500);
    live.end().await;
}

#[tokio::test]
async fn a_method_without_a_row_names_those_that_have_one() {
    let live = Live::with_config(json!({}));
    for method in [Method::PUT, Method::PATCH, Method::OPTIONS, Method::DELETE] {
        let answer = live.send(request(method.as_str(), "/api/tasks", None, None)).await;
        assert_eq!((answer.status.as_u16(), code(&answer)), (405, "method_not_allowed"), "{method}");
        assert_eq!(answer.headers[header::ALLOW], "POST,GET,HEAD");
    }
    live.end().await;
}

#[tokio::test]
async fn a_login_gives_a_token_of_the_users_role() {
    let live = guarded().lead().await;
    let login = |name: &str, password: &str| {
        request("POST", "/api/auth/login", None, Some(json!({"username": name, "password": password})))
    };
    let answer = live.send(login("ann", "right")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["role"], "operator");
    let token = answer.body["token"].as_str().unwrap();
    let task = || Some(json!({"type": "noop"}));
    assert_eq!(live.send(request("POST", "/api/tasks", Some(token), task())).await.status, 201);
    let viewer = live.send(login("viewer", "looks")).await;
    assert_eq!(viewer.body["role"], "viewer", "a user without a role that is called after one");
    let token = viewer.body["token"].as_str().unwrap();
    assert_eq!(live.send(request("POST", "/api/tasks", Some(token), task())).await.status, 403);
    assert_eq!(live.send(request("GET", "/api/status", Some(token), None)).await.status, 200);
    live.end().await;
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_then_rationed() {
    let live = guarded();
    let wrong =
        || request("POST", "/api/auth/login", None, Some(json!({"username": "ann", "password": "wrong"})));
    for _ in 0..login::FREE_FAILURES {
        let answer = live.send(wrong()).await;
        assert_eq!((answer.status.as_u16(), code(&answer)), (401, "unauthorized"));
        assert!(!answer.body.to_string().contains("argon2"), "{}", answer.body);
    }
    let answer = live.send(wrong()).await;
    assert_eq!((answer.status.as_u16(), code(&answer)), (429, "rate_limited"));
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    live.end().await;
}

#[tokio::test]
async fn without_auth_a_login_says_that_there_is_none() {
    let live = Live::with_config(json!({}));
    let body = Some(json!({"username": "ann", "password": "right"}));
    let answer = live.send(request("POST", "/api/auth/login", None, body)).await;
    assert_eq!((answer.status.as_u16(), code(&answer)), (409, "invalid_state"));
    live.end().await;
}

#[tokio::test]
async fn a_workers_token_is_good_for_its_own_worker() {
    let live = guarded().lead().await;
    let own = token(Role::Worker, Some("w1"));
    let register = |id: &str| Some(json!({"worker_id": id, "slots": 1}));
    let post = |path: &str, body: Option<Value>| request("POST", path, Some(&own), body);
    assert_eq!(live.send(post("/api/workers/register", register("w1"))).await.status, 200);
    let other = live.send(post("/api/workers/register", register("w2"))).await;
    assert_eq!((other.status.as_u16(), code(&other)), (403, "forbidden"));
    assert_eq!(live.send(post("/api/workers/w1/heartbeat", None)).await.status, 200);
    for path in ["/api/workers/w2/heartbeat", "/api/workers/w2/lease", "/api/workers/%77%32/drain"] {
        let answer = live.send(post(path, Some(json!({"slots": 1})))).await;
        assert_eq!((answer.status.as_u16(), code(&answer)), (403, "forbidden"), "{path}");
    }
    // Escaped, it is the same worker.
    assert_eq!(live.send(post("/api/workers/%77%31/heartbeat", None)).await.status, 200);
    let result = json!({
        "worker_id": "w2", "token": 1, "status": "completed",
        "started_at": "2026-01-02T03:04:05Z", "finished_at": "2026-01-02T03:04:06Z",
    });
    assert_eq!(live.send(post("/api/tasks/t/result", Some(result))).await.status, 403);
    live.end().await;
}

#[tokio::test]
async fn a_bad_authorization_header_says_what_is_wrong_with_it() {
    let live = guarded();
    let good = token(Role::Viewer, None);
    for (value, part) in [
        (String::new(), "is not `Bearer"),
        ("Basic YTpi".into(), "is not `Bearer"),
        (format!("Bearer {good}x"), "not signed"),
        ("Bearer x".into(), "can't be read"),
    ] {
        let request =
            Request::get("/api/status").header(header::AUTHORIZATION, &value).body(Body::empty()).unwrap();
        let answer = live.send(request).await;
        assert_eq!(answer.status, 401, "{value}");
        assert!(answer.body["detail"].as_str().unwrap().contains(part), "{value}: {}", answer.body);
    }
    let request = Request::get("/api/status")
        .header(header::AUTHORIZATION, format!("bearer {good}"))
        .body(Body::empty());
    assert_eq!(live.send(request.unwrap()).await.status, 200, "the scheme's case does not matter");
    live.end().await;
}

#[tokio::test]
async fn a_peer_is_let_in_by_its_proof_and_sees_ours() {
    let live = guarded();
    let challenge = live.send(request("GET", "/raft/identity", None, None)).await.headers[CHALLENGE]
        .to_str()
        .unwrap()
        .to_owned();
    let send = async |secret: &str, path: &str| {
        let peer = PeerSecret::new(secret).unwrap();
        let (proof, number) = peer.prove(&challenge, "GET", path, &[b"", b""]).unwrap();
        let request = Request::get(path).header(PROOF, proof).body(Body::empty()).unwrap();
        let answer = live.send(request).await;
        let ours = answer.headers.get(ANSWER_PROOF).map(|v| v.to_str().unwrap().to_owned());
        (answer, ours.is_some_and(|ours| peer.is_answer(&challenge, &number, &ours)))
    };
    let (answer, proved) = send(SECRET, "/raft/identity").await;
    assert_eq!((answer.status.as_u16(), proved), (200, true), "{}", answer.body);
    assert_eq!(send(SECRET, "/api/status").await.0.status, 200, "a node may look");
    assert_eq!(send(SECRET, "/api/logs").await.0.status, 200);
    let (answer, _) = send(SECRET, "/api/debug/raft_log").await;
    assert_eq!((answer.status.as_u16(), code(&answer)), (403, "forbidden"));
    let (answer, proved) = send("another secret altogether", "/raft/identity").await;
    assert_eq!((answer.status.as_u16(), proved), (401, false));
    live.end().await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused_where_one_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["n1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let live = Live::with_config(json!({
        "enable_tls": true, "cert_path": cert, "key_path": key, "ca_path": cert,
    }));
    let answer = live.send(request("GET", "/raft/identity", None, None)).await;
    assert_eq!(answer.status, 401);
    assert!(answer.body["detail"].as_str().unwrap().contains("certificate"), "{}", answer.body);
    let mut certified = request("GET", "/raft/identity", None, None);
    certified.extensions_mut().insert(super::access::CertifiedPeer);
    assert_eq!(live.send(certified).await.status, 200);
    live.end().await;
}

#[tokio::test]
async fn the_description_is_served_to_anybody() {
    let live = guarded();
    let answer = live.send(request("GET", "/api/openapi.json", None, None)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body["paths"]["/api/tasks"]["post"]["responses"]["201"].is_object());
    live.end().await;
}
