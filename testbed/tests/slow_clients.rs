//! Clients and would-be peers that send a byte now and then, as many as there are places; and one that
//! repeats what it overheard of a peer's proof. Real sockets, real processes.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::load::Writers;
use testbed::{Cluster, judge, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(120);
const PACE: Duration = Duration::from_millis(20);
/// What a node takes, and what it takes beyond for peers alone.
const PLACES: usize = 40;
const RESERVE: usize = 64;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// What a slow client begins with; it never comes to an end.
const BEGINNINGS: [(&str, &str); 4] = [
    ("a head", "GET /api/status HTTP/1.1\r\nhost: n\r\nx-slow: "),
    (
        "a body",
        "POST /api/tasks HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n{\"",
    ),
    (
        "a peer's head",
        "GET /raft/connect HTTP/1.1\r\nhost: n\r\nupgrade: holdfast-raft-1\r\nx-holdfast-handshake: {",
    ),
    (
        "a peer's body",
        "POST /raft/found HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n{\"",
    ),
];

/// One that sends a byte now and then, until it is cut off; gives what it was told.
async fn dawdle(address: String, beginning: &'static str) -> String {
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return String::new() };
    let _ = stream.write_all(beginning.as_bytes()).await;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        tokio::select! {
            read = stream.read(&mut chunk) => match read {
                Ok(read @ 1..) => answer.extend(&chunk[..read]),
                _ => return String::from_utf8_lossy(&answer).into_owned(),
            },
            () = tokio::time::sleep(Duration::from_millis(700)) => {
                let _ = stream.write_all(b"a").await;
            }
        }
    }
}

/// One after the other, until it is time to end; gives what the last was told.
async fn dawdle_on(address: String, beginning: &'static str, end: Arc<AtomicBool>) -> String {
    loop {
        let told = dawdle(address.clone(), beginning).await;
        if end.load(Ordering::Relaxed) {
            return told;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// What a new client hears; empty where it is closed unread.
async fn ask(address: &str) -> String {
    let mut answer = Vec::new();
    if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
        let request = b"GET /api/status HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn slow_clients_are_cut_off_by_name_and_the_leader_leads_on() {
    runtime().block_on(async {
        let mut cluster = Cluster::prepare(3, Binaries::find().unwrap(), "coordinator").unwrap();
        // Long timers: what is looked for is a node that is kept from its work, not a busy machine.
        let settings = json!({"max_concurrent_connections": PLACES, "heartbeat_interval": 100,
            "election_timeout_min": 3000, "election_timeout_max": 5000});
        for index in 0..3 {
            cluster.configure(index, &settings).unwrap();
        }
        cluster.start_all().await.unwrap();
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let witness = (leader + 1) % 3;
        let address = cluster.place(leader).address();
        let writers = Writers::start(&cluster.addresses(), 3, PACE, judge::task).unwrap();
        let goal = writers.acknowledged() + 50;
        wait::until("writes before", LIMIT, || async {
            let now = writers.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await
        .unwrap();
        let term = cluster.status(witness).await.unwrap().term;

        // Whoever is cut off comes again, so that the places stay taken for as long as we look.
        let end = Arc::new(AtomicBool::new(false));
        let slow = |count: usize| {
            let one = |at: usize| {
                let (what, beginning) = BEGINNINGS[at % BEGINNINGS.len()];
                let told = tokio::spawn(dawdle_on(address.clone(), beginning, Arc::clone(&end)));
                (what, told)
            };
            (0..count).map(one).collect::<Vec<_>>()
        };
        let mut all = slow(PLACES);
        wait::until("a new client to be told to come again", LIMIT, || async {
            let told = ask(&address).await.to_lowercase();
            let named = told.starts_with("http/1.1 503") && told.contains("overloaded");
            if named && told.contains("retry-after") { Ok(()) } else { Err(told) }
        })
        .await
        .unwrap();
        let before = writers.acknowledged();
        all.extend(slow(PLACES + RESERVE));
        wait::until("a new client to be closed unread", LIMIT, || async {
            let told = ask(&address).await;
            if told.is_empty() { Ok(()) } else { Err(told) }
        })
        .await
        .unwrap();

        // All of them end without a word from us, each by its limit.
        end.store(true, Ordering::Relaxed);
        for (what, told) in all {
            let told = tokio::time::timeout(LIMIT, told).await;
            let told = told.unwrap_or_else(|_| panic!("{what} is waited for without end")).unwrap();
            let lower = told.to_lowercase();
            let named = ["request_timeout", "overloaded", "invalid_state", "unauthorized"];
            assert!(told.is_empty() || named.iter().any(|code| lower.contains(code)), "{what}: {told}");
            if what == "a head" && lower.starts_with("http/1.1 408") {
                assert!(lower.contains("the head of the request was not complete"), "{told}");
            }
        }
        wait::until("a new client to be served again", LIMIT, || async {
            let told = ask(&address).await;
            if told.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(told) }
        })
        .await
        .unwrap();
        let status = cluster.status(leader).await.unwrap();
        assert_eq!((status.role, status.term), (api::cluster::Role::Leader, term), "it led all the time");
        let during = writers.acknowledged() - before;
        assert!(during > 50, "{during} writes meanwhile");
        let told = writers.finish().await;
        cluster.start_worker("", 4).await.unwrap();
        let verdict = judge::all(&cluster, &told).await.unwrap();
        assert!(verdict.is_clean(), "{verdict:#?}");
    });
}

/// Everything that went through from the side that asked, a connection each.
type Overheard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Stands between two nodes and notes what the one says to the other.
async fn overhear(to: String) -> (u16, Overheard) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let overheard = Overheard::default();
    let all = Arc::clone(&overheard);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = tokio::net::TcpStream::connect(&to).await else { continue };
            let at = {
                let mut all = all.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                    (near.into_split(), far.into_split());
                let there = async {
                    let mut chunk = [0; 4096];
                    while let Ok(read @ 1..) = near_in.read(&mut chunk).await {
                        all.lock().unwrap()[at].extend(&chunk[..read]);
                        if far_out.write_all(&chunk[..read]).await.is_err() {
                            break;
                        }
                    }
                };
                let back = tokio::io::copy(&mut far_in, &mut near_out);
                tokio::select! { () = there => {}, _ = back => {} }
            });
        }
    });
    (port, overheard)
}

/// The newest upgrade with a proof that went by.
fn newest_proof(overheard: &Overheard) -> Option<String> {
    let all = overheard.lock().unwrap();
    all.iter().rev().find_map(|bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let asked = text.split_inclusive("\r\n\r\n").find(|head| head.contains("x-holdfast-proof: "))?;
        asked.starts_with("GET /raft/connect").then(|| asked.to_owned())
    })
}

/// Sends bytes and reads one answer.
fn say(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(bytes).unwrap();
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut chunk).unwrap();
        answer.extend(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
            if read == 0 || body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        assert!(read > 0, "closed: {text}");
    }
}

/// A proof that was overheard opens nothing: not again, not at another node, not over a fresh challenge.
#[test]
fn a_replayed_handshake_is_refused() {
    runtime().block_on(async {
        let mut cluster = Cluster::prepare(3, Binaries::find().unwrap(), "coordinator").unwrap();
        let secret = cluster.folder().join("secret");
        std::fs::write(&secret, "what only the three nodes know").unwrap();
        let (asked, asking, other) = (0, 1, 2);
        let (port, overheard) = overhear(cluster.place(asked).address()).await;
        for index in 0..3 {
            cluster.configure(index, &json!({"cluster_secret_file": secret})).unwrap();
        }
        let peers = json!([
            {"id": cluster.place(asked).id, "host": "127.0.0.1", "port": port},
            {"id": cluster.place(other).id, "host": "127.0.0.1", "port": cluster.place(other).port},
        ]);
        cluster.configure(asking, &json!({"peers": peers})).unwrap();
        cluster.start_all().await.unwrap();
        wait::until("a proof to go by", LIMIT, || async {
            newest_proof(&overheard).map(drop).ok_or_else(|| "none did".to_owned())
        })
        .await
        .unwrap();
        // A fresh one: the node that asks begins anew.
        overheard.lock().unwrap().clear();
        cluster.kill9(asking);
        overheard.lock().unwrap().clear();
        cluster.start_node(asking).unwrap();
        let proof = wait::until("another proof to go by", LIMIT, || async {
            let proof = newest_proof(&overheard).ok_or("none did")?;
            let status = cluster.status(asked).await?;
            let peer = status.peers.iter().find(|p| p.node_id == cluster.place(asking).id);
            if peer.is_some_and(|p| p.reachable) { Ok(proof) } else { Err(format!("{:?}", status.peers)) }
        })
        .await
        .unwrap();
        let since = Instant::now();
        let again = say(&cluster.place(asked).address(), proof.as_bytes());
        assert!(again.starts_with("HTTP/1.1 401"), "{again}");
        let used = again.contains("the proof was used before");
        assert!(used || since.elapsed() > Duration::from_secs(20) && again.contains("too old"), "{again}");
        let elsewhere = say(&cluster.place(other).address(), proof.as_bytes());
        assert!(elsewhere.starts_with("HTTP/1.1 401"), "{elsewhere}");
        assert!(elsewhere.contains("not one of this process"), "{elsewhere}");
        // The answer carries a fresh challenge; the old proof is none over it.
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|l| l.to_lowercase().starts_with(name)).map(str::to_owned);
            line.and_then(|l| l.split_once(": ").map(|(_, value)| value.trim().to_owned()))
                .unwrap_or_default()
        };
        let (fresh, old) = (field(&again, "x-holdfast-challenge"), field(&proof, "x-holdfast-proof"));
        let spliced = format!("{fresh} {}", old.split_once(' ').unwrap().1);
        let mixed = say(&cluster.place(asked).address(), proof.replace(&old, &spliced).as_bytes());
        assert!(mixed.starts_with("HTTP/1.1 401") && mixed.contains("the proof is wrong"), "{mixed}");
        // Nor does the proof open another of the peers' paths.
        let path = proof.replace("/raft/connect", "/raft/identity");
        let moved = say(&cluster.place(asked).address(), path.as_bytes());
        assert!(moved.starts_with("HTTP/1.1 401"), "{moved}");
        // The real ones were not disturbed.
        let status: Value = wait::get(&wait::http(), &cluster.place(asked).url("/api/status")).await.unwrap();
        let peers = status["peers"].as_array().unwrap();
        assert!(peers.iter().all(|p| p["reachable"] == true), "{status}");
        let task = json!({"task_id": "after", "type": "noop"});
        let client = cluster.client().unwrap();
        let _: Value = client.post("/api/tasks", &task, api::client::Repeat::Idempotent).await.unwrap();
    });
}
