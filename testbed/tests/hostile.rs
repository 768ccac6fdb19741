//! Hostile input over real sockets: whatever comes, it gets a named refusal or a closed
//! connection, and the node lives on and serves.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use testbed::Cluster;
use testbed::cluster::READY_LIMIT;

/// How long an answer may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What came back: status, the problem's code, and everything as text. Status 0: closed without an
/// answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    code: String,
    text: String,
}

/// Sends bytes as they are; with `half_closed`, says that no more follow.
fn send(address: &str, bytes: &[u8], half_closed: bool) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The node may refuse, and close, before it has read everything.
    let _ = stream.write_all(bytes);
    if half_closed {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend(&chunk[..read]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("no end within {LIMIT:?} ({e}): {}", String::from_utf8_lossy(&answer)),
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = text.split("\r\n\r\n").nth(1).unwrap_or("");
    let body = body.lines().find(|line| line.starts_with('{')).unwrap_or("{}");
    let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    Reply { status, code: body["code"].as_str().unwrap_or("").to_owned(), text }
}

/// A whole request whose connection ends with it.
fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    request("POST", path, "content-type: application/json\r\n", body.as_ref())
}

/// What is wrong with a document, and how the node calls it.
fn documents() -> Vec<(&'static str, String, u16, &'static str)> {
    let task = |field: &str| format!(r#"{{"type":"noop",{field}}}"#);
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let id = |id: &str| task(&format!(r#""task_id":"{id}""#));
    vec![
        (
            "arrays without end",
            format!(r#"{{"type":"noop","config":{}"#, "[".repeat(1_000_000)),
            400,
            "malformed_json",
        ),
        ("a deep document", deep(100_000), 422, "validation"),
        ("a deep config", task(&format!(r#""config":{{"a":{}}}"#, deep(100_000))), 422, "validation"),
        (
            "a deep label",
            task(&format!(r#""requirements":{{"labels":{{"a":{}}}}}"#, deep(500))),
            422,
            "validation",
        ),
        ("a number beyond any", task(r#""priority":1e999"#), 400, "malformed_json"),
        ("a priority beyond its type", task(r#""priority":99999999999999999999"#), 422, "validation"),
        ("a negative priority", task(r#""priority":-1"#), 422, "validation"),
        ("a time beyond its range", task(r#""timeout_seconds":1e300"#), 422, "validation"),
        ("a number with a thousand digits", task(&format!(r#""max_retries":{}"#, "9".repeat(1000))), 400, ""),
        ("a wrong type", task(r#""priority":"high""#), 422, "validation"),
        ("a list for an object", r#"["id","noop"]"#.into(), 422, "validation"),
        ("nothing", "null".into(), 422, "validation"),
        ("a key twice", task(r#""priority":1,"priority":9"#), 422, "validation"),
        ("a label twice", task(r#""requirements":{"labels":{"os":"a","\u006fs":"b"}}"#), 422, "validation"),
        ("an unknown key", task(r#""prioritty":1"#), 422, "validation"),
        ("a zero byte in an id", id(r"a\u0000b"), 422, "validation"),
        ("a line break in an id", id(r"a\nb"), 422, "validation"),
        ("an escape in an id", id(r"a\u001b[2Jb"), 422, "validation"),
        ("an id that reads backwards", id("a\u{202e}b"), 422, "validation"),
        ("an id with what nobody sees", id("a\u{200b}b"), 422, "validation"),
        ("an id that is a path", id(".."), 422, "validation"),
        ("half a surrogate pair", id(r"a\ud800b"), 400, "malformed_json"),
        ("an id that is too long", id(&"x".repeat(257)), 422, "validation"),
        ("a type that is too long", format!(r#"{{"type":"{}"}}"#, "x".repeat(65)), 422, "validation"),
        ("a type that reads backwards", "{\"type\":\"a\u{2066}b\"}".into(), 422, "validation"),
        (
            "a label that reads backwards",
            task("\"requirements\":{\"labels\":{\"a\":\"\u{202e}b\"}}"),
            422,
            "validation",
        ),
        (
            "a key that is too long",
            task(&format!(r#""requirements":{{"labels":{{"{}":"b"}}}}"#, "k".repeat(257))),
            422,
            "validation",
        ),
        (
            "a command with a zero byte",
            r#"{"type":"command","config":{"command":"a\u0000b"}}"#.into(),
            422,
            "validation",
        ),
        ("a raw control character", "{\"type\":\"no\u{1}op\"}".into(), 400, "malformed_json"),
    ]
}

/// What is wrong with a request as such.
fn requests() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let long = "a".repeat(2_000);
    vec![
        ("an id in a path that reads backwards", request("GET", "/api/tasks/a%E2%80%AEb", "", b""), 422, "validation"),
        ("a zero byte in a path", request("GET", "/api/tasks/a%00b", "", b""), 422, "validation"),
        ("no UTF-8 in a path", request("GET", "/api/tasks/%FF%FE", "", b""), 422, "validation"),
        ("a long id in a path", request("GET", &format!("/api/tasks/{long}"), "", b""), 422, "validation"),
        ("a way out of the path", request("GET", "/api/tasks/..%2f..%2fetc%2fpasswd", "", b""), 404, "unknown_task"),
        ("a query that is none", request("GET", "/api/tasks?limit=%00&&==&limit=1", "", b""), 422, "validation"),
        ("no UTF-8 in a query", request("GET", "/api/tasks?type=%FF", "", b""), 200, ""),
        ("no UTF-8 in a body", post("/api/tasks", b"{\"type\":\"\xff\xfe\"}"), 400, "malformed_json"),
        ("another content type", request("POST", "/api/tasks", "content-type: text/plain\r\n", b"{}"), 415, "unsupported_media_type"),
        ("no content type", request("POST", "/api/tasks", "", b"{}"), 415, "unsupported_media_type"),
        ("a length beyond the bound", b"POST /api/tasks HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n{}".to_vec(), 413, "body_too_large"),
        ("a length that is no number", b"POST /api/tasks HTTP/1.1\r\nhost: n\r\ncontent-length: -5\r\n\r\n{}".to_vec(), 400, ""),
        ("two lengths", b"POST /api/tasks HTTP/1.1\r\nhost: n\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}".to_vec(), 400, ""),
        ("a header that is too long", request("GET", "/api/status", &format!("x-a: {}\r\n", "a".repeat(1_000_000)), b""), 431, ""),
        ("a path that is too long", request("GET", &format!("/{}", "a".repeat(100_000)), "", b""), 414, ""),
        ("headers without end", request("GET", "/api/status", &"x: y\r\n".repeat(1_000), b""), 431, ""),
        ("no request at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello\r\n\r\n".to_vec(), 400, ""),
        ("a page of another origin", request("POST", "/api/tasks", "origin: http://evil.example\r\ncontent-type: application/json\r\n", b"{}"), 403, "forbidden_origin"),
        ("an address as the target", request("GET", "http://evil.example/api/status", "", b""), 200, ""),
    ]
}

/// Handshakes of a peer that this cluster does not take.
fn handshakes(cluster_id: &str, incarnation: &str) -> Vec<(&'static str, Vec<u8>, u16)> {
    let connect = |headers: &str| {
        format!("GET /raft/connect HTTP/1.1\r\nhost: n\r\nconnection: upgrade, close\r\n{headers}\r\n")
            .into_bytes()
    };
    let hello = |change: &dyn Fn(&mut Value)| {
        let mut hello = json!({"cluster_id": cluster_id, "node_id": "node-1", "incarnation": incarnation,
            "boot_counter": 1, "boot_nonce": 1, "now_ms": 0});
        change(&mut hello);
        connect(&format!("upgrade: holdfast-raft-1\r\nx-holdfast-handshake: {hello}\r\n"))
    };
    vec![
        ("no upgrade", connect(""), 426),
        ("an upgrade to something else", connect("upgrade: websocket\r\n"), 426),
        ("an upgrade to another version", connect("upgrade: holdfast-raft-2\r\n"), 426),
        ("no handshake", connect("upgrade: holdfast-raft-1\r\n"), 409),
        (
            "a handshake that is none",
            connect("upgrade: holdfast-raft-1\r\nx-holdfast-handshake: \\x00{\r\n"),
            409,
        ),
        ("another cluster", hello(&|h| h["cluster_id"] = json!("01ANOTHER")), 409),
        ("an unknown node", hello(&|h| h["node_id"] = json!("node-9")), 409),
        ("another incarnation", hello(&|h| h["incarnation"] = json!("00")), 409),
        ("a start number that is none", hello(&|h| h["boot_counter"] = json!("many")), 409),
    ]
}

#[test]
fn whatever_comes_is_refused_by_name_and_the_node_serves_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(1).await.unwrap();
        cluster.wait_ready(0, READY_LIMIT).await.unwrap();
        let (address, pid) = (cluster.place(0).address(), cluster.pid(0));
        let check = |what: &str, bytes: &[u8], half_closed: bool, status: u16, code: &str| {
            let reply = send(&address, bytes, half_closed);
            assert_eq!(reply.status, status, "{what}: {}", reply.text);
            assert!(code.is_empty() || reply.code == code, "{what}: {}", reply.text);
        };
        for (what, body, status, code) in documents() {
            check(what, &post("/api/tasks", body), false, status, code);
        }
        for (what, bytes, status, code) in requests() {
            check(what, &bytes, false, status, code);
        }
        // A body that breaks off has nobody left to answer: nothing must come of it.
        for bytes in [
            &b"POST /api/tasks HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{\"type\":\"noop\",\"task_id\":\"half\"}"[..],
            b"POST /api/tasks HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{\"type\":\"noop\",\"task_id\":\"half\"}",
            b"POST /api/tasks HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n{}",
        ] {
            let reply = send(&address, bytes, true);
            assert!(matches!(reply.status, 0 | 400), "{}", reply.text);
        }
        // What is pipelined behind a sound request is refused by itself.
        let sound = &b"GET /api/health/live HTTP/1.1\r\nhost: n\r\n\r\n"[..];
        let reply = send(&address, &[sound, sound, b"\x00\x01garbage\r\n\r\n"].concat(), false);
        assert_eq!(reply.text.matches("HTTP/1.1 200").count(), 2, "{}", reply.text);
        assert_eq!(reply.text.matches("HTTP/1.1 400").count(), 1, "{}", reply.text);

        let card = reqwest_json(&cluster.place(0).url("/raft/identity")).await;
        let cluster_id = cluster.status(0).await.unwrap().cluster_id.unwrap();
        for (what, bytes, status) in handshakes(&cluster_id, card["incarnation"].as_str().unwrap()) {
            check(what, &bytes, false, status, "invalid_state");
        }

        let client = cluster.client().unwrap();
        let made: Value = client
            .post("/api/tasks", &json!({"type": "noop", "task_id": "after"}), api::client::Repeat::Never)
            .await
            .unwrap();
        assert_eq!(made["task_id"], "after");
        let all: Value = client.get("/api/tasks").await.unwrap();
        assert_eq!(all["tasks"].as_array().unwrap().len(), 1, "only what was sound came in: {all}");
        assert!(cluster.is_running(0) && cluster.pid(0) == pid);
        let log = std::fs::read_to_string(&cluster.place(0).log_file).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    });
}

async fn reqwest_json(url: &str) -> Value {
    testbed::wait::get(&testbed::wait::http(), url).await.unwrap()
}
