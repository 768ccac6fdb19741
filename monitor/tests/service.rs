//! The running monitor over staged nodes, through its own HTTP.

mod support;

use futures_util::StreamExt;
use monitor::detectors::Limits;
use monitor::{MonitorConfig, Service, ServiceError};
use std::path::PathBuf;
use std::time::Duration;
use support::reports::{after, healthy};
use support::{Answer, StagedNode, wait_for};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Running {
    url: String,
    http: reqwest::Client,
    end: CancellationToken,
    task: JoinHandle<Result<(), ServiceError>>,
    _guard: DropGuard,
}

fn config(nodes: &[StagedNode]) -> MonitorConfig {
    MonitorConfig {
        secure: false,
        nodes_file: None,
        dns: None,
        follow_members: false,
        token_file: None,
        ca: None,
        nodes: nodes.iter().map(|n| n.address.clone()).collect(),
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(1),
        output_dir: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        recovery: None,
        prometheus: None,
        access: monitor::access::AccessConfig::default(),
        limits: Limits::default(),
        history: monitor::history::Settings::default(),
    }
}

impl Running {
    async fn start(config: MonitorConfig) -> Self {
        let service = Service::bind(config).await.unwrap();
        let url = format!("http://{}", service.address().unwrap());
        let end = CancellationToken::new();
        let task = tokio::spawn(service.run(end.clone()));
        let http = api::http::builder().no_proxy().build().unwrap();
        Running { url, http, _guard: end.clone().drop_guard(), end, task }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    /// Waits until the text at `path` contains `part`.
    async fn wait_for_text(&self, path: &str, part: &str) -> String {
        wait_for(&format!("{part:?} at {path}"), || async {
            Some(self.text(path).await).filter(|text| text.contains(part))
        })
        .await
    }

    async fn stop(self) -> Result<(), ServiceError> {
        self.end.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        ended.expect("the monitor did not end within 5 s").unwrap()
    }
}

/// Three healthy nodes that know each other's real addresses.
async fn cluster() -> Vec<StagedNode> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(StagedNode::start(Answer::Hang).await);
    }
    stage(&nodes, |_, _| {});
    nodes
}

fn stage(nodes: &[StagedNode], bend: impl Fn(usize, &mut api::cluster::Report)) {
    for (i, node) in nodes.iter().enumerate() {
        let mut report = healthy(i + 1, 3, 2, 7, after(60.0));
        for peer in &mut report.status.peers {
            let p: usize = peer.node_id[5..].parse().unwrap();
            peer.address = nodes[p - 1].address.clone();
        }
        bend(i + 1, &mut report);
        node.set(Answer::Report(Box::new(report)));
    }
}

#[tokio::test]
async fn the_cluster_view_shows_a_crash_and_a_return() {
    let mut nodes = cluster().await;
    let monitor = Running::start(config(&nodes)).await;
    monitor.wait_for_text("/", "3 of 3 healthy, leader node-2, can lose 1").await;
    let page = monitor.text("/").await;
    for part in
        ["node-1", "10,377", "= equal at", "Who hears whom", "no recovery daemon was named", "<noscript>"]
    {
        assert!(page.contains(part), "{part} is missing");
    }
    stage(&nodes, |n, report| {
        if n != 3 {
            report
                .status
                .peers
                .iter_mut()
                .filter(|p| p.node_id == "node-3")
                .for_each(|p| p.reachable = false);
        }
    });
    let gone = nodes.remove(2);
    gone.stop();
    let page = monitor.wait_for_text("/", "Process crash").await;
    assert!(page.contains("2 of 3 healthy, leader node-2, can lose 0; node-3 down"), "{page}");
    assert!(page.contains("stale for"));
    let found: serde_json::Value = serde_json::from_str(&monitor.text("/api/anomalies").await).unwrap();
    assert_eq!(found["anomalies"][0]["kind"], "process_crash");
    assert_eq!(found["anomalies"][0]["nodes"][0], "node-3");
    let metrics = monitor.text("/metrics").await;
    let series = r#"holdfast_monitor_anomalies{kind="process_crash",node="node-3",severity="warning"} 1"#;
    assert!(metrics.contains(series), "{metrics}");
    assert!(metrics.contains(r#"holdfast_monitor_nodes{state="down"} 1"#), "{metrics}");
    let back = StagedNode::start_at(&gone.address, Answer::Hang).await;
    nodes.push(back);
    stage(&nodes, |_, _| {});
    monitor.wait_for_text("/", "finding ended").await;
    assert!(!monitor.text("/metrics").await.contains("holdfast_monitor_anomalies{"));
    monitor.stop().await.unwrap();
}

#[tokio::test]
async fn the_snapshot_is_served_as_it_was_taken() {
    let nodes = cluster().await;
    let monitor = Running::start(config(&nodes)).await;
    monitor.wait_for_text("/api/cluster", "\"leader\":\"node-2\"").await;
    let snapshot: monitor::ClusterSnapshot =
        serde_json::from_str(&monitor.text("/api/cluster").await).unwrap();
    assert_eq!(snapshot.nodes.len(), 3);
    assert_eq!(snapshot.work.unwrap().tasks[&api::task::TaskState::Completed], 10_377);
    monitor.stop().await.unwrap();
}

#[tokio::test]
async fn hostile_words_stay_words() {
    let nodes = cluster().await;
    let hostile = "<script>alert(1)</script>\"'&\r\ndata: x\r\n\r\nevent: verdict";
    stage(&nodes, |n, report| {
        if n == 3 {
            report.status.node_id = hostile.into();
            report.status.version = hostile.into();
            report.status.cluster_id = Some(hostile.into());
            report.status.role_detail = Some(hostile.into());
            report.health.checks[0].detail = hostile.into();
            report.db.healthy = false;
            report.db.details.insert(hostile.into(), hostile.into());
            report.state_checksum.checksum = hostile.into();
            report.state_checksum.checkpoints.iter_mut().for_each(|c| c.log_chain = hostile.into());
            report.totals.insert(hostile.into(), 3);
            report.resources.cpu_usage = f64::MAX;
            report.status.uptime_seconds = f64::MAX;
        }
    });
    let monitor = Running::start(config(&nodes)).await;
    monitor.wait_for_text("/api/anomalies", "database_corruption").await;
    let path = format!("/nodes/{}", hostile.bytes().map(|b| format!("%{b:02X}")).collect::<String>());
    for path in ["/", &path] {
        let page = monitor.text(path).await;
        assert!(page.contains("&#60;script&#62;"), "{path}: the name is not there");
        assert!(!page.contains("<script>alert"), "{path}: the name is markup");
    }
    // In the stream it can neither end an event nor begin one.
    let mut stream = Watch::open(&monitor, "/api/stream", None).await;
    let batch = stream.batch().await;
    assert_eq!(batch.iter().filter(|e| e.name == "verdict").count(), 1);
    assert!(batch.iter().all(|e| !e.data.contains("<script>alert")), "{batch:#?}");
    drop(stream);
    monitor.stop().await.unwrap();
}

#[tokio::test]
async fn every_answer_is_guarded() {
    let nodes = cluster().await;
    let monitor = Running::start(config(&nodes)).await;
    monitor.wait_for_text("/", "node-2").await;
    for path in ["/", "/api/cluster", "/static/live.js", "/no-such-page", "/metrics", "/nodes/none"] {
        let answer = monitor.get(path).await;
        let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let policy = header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("x-frame-options").as_deref(), Some("DENY"), "{path}");
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
    }
    let page = monitor.text("/").await;
    assert!(!page.contains(" style=") && !page.contains("onclick"), "the policy forbids both");
    assert!(!page.contains("//cdn") && !page.contains("https://"), "nothing comes from elsewhere");
    for (path, status) in
        [("/no-such-page", 404), ("/nodes/none", 404), ("/static/none", 404), ("/api/none", 404)]
    {
        assert_eq!(monitor.get(path).await.status(), status, "{path}");
    }
    let problem: api::Problem = serde_json::from_str(&monitor.text("/api/none").await).unwrap();
    assert_eq!(problem.code, api::ErrorCode::UnknownEndpoint);
    let posted = monitor.http.post(format!("{}/api/cluster", monitor.url)).send().await.unwrap();
    assert_eq!(posted.status(), 405);
    let script = monitor.get("/static/live.js").await;
    let etag = script.headers()["etag"].clone();
    let again = monitor.http.get(format!("{}/static/live.js", monitor.url)).header("if-none-match", etag);
    assert_eq!(again.send().await.unwrap().status(), 304);
    monitor.stop().await.unwrap();
}

/// One event of a stream.
#[derive(Debug, Default, Clone)]
struct Got {
    name: String,
    id: Option<String>,
    data: String,
}

/// A reader of an event stream.
struct Watch {
    bytes: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Watch {
    async fn open(monitor: &Running, path: &str, last_id: Option<&str>) -> Self {
        let mut request = monitor.http.get(format!("{}{path}", monitor.url));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Watch { bytes: Box::pin(answer.bytes_stream()), text: String::new() }
    }

    /// The next event; none at the end of the stream.
    async fn event(&mut self) -> Option<Got> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let mut got = Got::default();
                for line in event.lines() {
                    match line.split_once(": ") {
                        Some(("event", name)) => got.name = name.to_owned(),
                        Some(("id", id)) => got.id = Some(id.to_owned()),
                        Some(("data", data)) => got.data.push_str(data),
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                if got.name.is_empty() {
                    continue;
                }
                return Some(got);
            }
            let next = tokio::time::timeout(Duration::from_secs(10), self.bytes.next());
            match next.await.expect("waited 10 s for an event") {
                Some(Ok(bytes)) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                _ => return None,
            }
        }
    }

    /// Events up to and with the next `round`.
    async fn batch(&mut self) -> Vec<Got> {
        let mut batch = Vec::new();
        while let Some(event) = self.event().await {
            batch.push(event);
            if batch.last().is_some_and(|e| e.name == "round") {
                return batch;
            }
        }
        panic!("the stream ended after {batch:?}");
    }
}

fn names(batch: &[Got]) -> Vec<&str> {
    batch.iter().map(|e| e.name.as_str()).collect()
}

#[tokio::test]
async fn the_stream_sends_what_changed_and_nothing_else() {
    let nodes = cluster().await;
    let monitor = Running::start(config(&nodes)).await;
    let page = monitor.wait_for_text("/", "3 of 3 healthy").await;
    let mut stream = Watch::open(&monitor, "/api/stream", None).await;
    let all = stream.batch().await;
    assert_eq!(names(&all), ["events", "findings", "links", "nodes", "recovery", "verdict", "work", "round"]);
    for event in all.iter().filter(|e| e.name != "round") {
        assert!(page.contains(&format!("id=\"{}\"", event.name)), "the page has no place for {}", event.name);
    }
    assert!(all.iter().all(|e| e.id.is_some() == (e.name == "round")), "only the last carries an id");
    // Answer times differ from round to round, so the table does; the verdict does not.
    let began = std::time::Instant::now();
    let next = stream.batch().await;
    assert!(!names(&next).contains(&"verdict") && !names(&next).contains(&"work"), "{:?}", names(&next));
    assert!(began.elapsed() > Duration::from_millis(700), "ten rounds a second, one batch a second");
    drop(stream);

    stage(&nodes, |_, report| report.status.maintenance.enabled = true);
    monitor.wait_for_text("/", "maintenance is on").await;
    let last = next.last().unwrap().id.clone().unwrap();
    let mut stream = Watch::open(&monitor, "/api/stream", Some(&last)).await;
    let missed = stream.batch().await;
    assert!(names(&missed).contains(&"verdict") && names(&missed).contains(&"work"), "{:?}", names(&missed));
    assert!(
        !names(&missed).contains(&"recovery") && !names(&missed).contains(&"resync"),
        "{:?}",
        names(&missed)
    );

    let mut stream = Watch::open(&monitor, "/api/stream", Some("another-run-5")).await;
    let everything = stream.batch().await;
    assert_eq!((names(&everything)[0], everything.len()), ("resync", 9));
    let mut stream = Watch::open(&monitor, "/api/stream?page=plain", None).await;
    assert_eq!(names(&stream.batch().await), ["verdict", "round"]);

    let mut stream = Watch::open(&monitor, "/api/stream?node=node-2", None).await;
    assert_eq!(names(&stream.batch().await), ["verdict", "node", "round"]);
    monitor.stop().await.unwrap();
}

#[tokio::test]
async fn open_streams_end_with_the_monitor() {
    let nodes = cluster().await;
    let monitor = Running::start(config(&nodes)).await;
    let mut stream = Watch::open(&monitor, "/api/stream", None).await;
    stream.batch().await;
    let began = std::time::Instant::now();
    monitor.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    while stream.event().await.is_some() {}
}

#[tokio::test]
async fn there_is_a_bound_on_open_streams() {
    let nodes = cluster().await;
    let monitor = Running::start(config(&nodes)).await;
    monitor.wait_for_text("/", "node-2").await;
    let mut open = Vec::new();
    for _ in 0..monitor::stream::MAX_STREAMS {
        open.push(Watch::open(&monitor, "/api/stream", None).await);
    }
    let refused = monitor.get("/api/stream").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    open.clear();
    wait_for("a place among the streams", || async {
        monitor.get("/api/stream").await.status().is_success().then_some(())
    })
    .await;
    monitor.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let nodes = cluster().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&nodes);
    config.listen = taken.local_addr().unwrap();
    let error = Service::bind(config).await.unwrap_err().to_string();
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
    assert!(error.contains("another process has the port"), "{error}");
}

#[tokio::test]
async fn the_output_directory_holds_what_happened() {
    let nodes = cluster().await;
    let directory = tempfile::tempdir().unwrap();
    let output_dir: PathBuf = directory.path().join("out");
    let monitor =
        Running::start(MonitorConfig { output_dir: Some(output_dir.clone()), ..config(&nodes) }).await;
    stage(&nodes, |n, report| {
        if n == 1 {
            report.resources.disk_usage = 97.0;
        }
    });
    monitor.wait_for_text("/api/anomalies", "resource_exhaustion").await;
    monitor.stop().await.unwrap();
    let read = |name: &str| std::fs::read_to_string(output_dir.join(name)).unwrap();
    let events: Vec<monitor::events::Event> =
        read("events.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        events.iter().any(|e| e.text.starts_with("resource exhaustion on node-1: disk 97.0 %")),
        "{events:?}"
    );
    let snapshots: Vec<monitor::ClusterSnapshot> =
        read("snapshots.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(snapshots.len() >= 2);
    let report = read("report.html");
    assert!(report.contains("<style>") && report.contains("Resource exhaustion"));
    assert!(!report.contains("<script"), "the report needs nothing else");
}

#[tokio::test]
async fn the_recovery_daemon_is_shown_when_it_answers_and_may_be_absent() {
    let nodes = cluster().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let records: Vec<serde_json::Value> = (0..9)
        .map(|n| {
            serde_json::json!({"at": format!("2026-11-22T10:00:0{n}Z"), "id": "p", "kind": "process_crash",
                "phase": "verified", "nodes": ["node-3"], "detail": {"step": format!("<b>restart {n}</b>")}})
        })
        .collect();
    let answer = serde_json::json!({ "records": records });
    let app = axum::Router::new()
        .route("/api/audit", axum::routing::get(move || async move { axum::Json(answer.clone()) }));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let recovery = Some(format!("http://{address}"));
    let monitor = Running::start(MonitorConfig { recovery, ..config(&nodes) }).await;
    let page = monitor.wait_for_text("/", "restart 8").await;
    assert!(page.contains("10:00:08") && page.contains("&#60;b&#62;restart 4"), "{page}");
    assert!(!page.contains("restart 3"), "only the last five are shown");
    server.abort();
    monitor.wait_for_text("/", "does not answer").await;
    monitor.stop().await.unwrap();
}

#[tokio::test]
async fn before_the_first_round_there_is_nothing_and_it_says_so() {
    let nodes = vec![StagedNode::start(Answer::Hang).await];
    let monitor = Running::start(config(&nodes)).await;
    let answer = monitor.get("/api/cluster").await;
    assert_eq!(answer.status(), 503);
    assert!(monitor.text("/").await.contains("The first round is not over yet"));
    assert!(monitor.text("/metrics").await.contains("holdfast_build_info"));
    monitor.stop().await.unwrap();
}

#[tokio::test]
async fn metrics_carry_the_declared_names() {
    let mut nodes = cluster().await;
    nodes[2].stop();
    let monitor = Running::start(config(&nodes)).await;
    monitor.wait_for_text("/api/anomalies", "network_partition").await;
    let text = monitor.text("/metrics").await;
    for metric in api::metrics::ALL.iter().filter(|m| m.name.starts_with("holdfast.monitor.")) {
        let name = metric.prometheus_name();
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing in {text}");
    }
    let allowed = |name: &str| {
        api::metrics::ALL.iter().any(|m| {
            let declared = m.prometheus_name();
            name.strip_prefix(&declared)
                .is_some_and(|rest| matches!(rest, "" | "_bucket" | "_sum" | "_count"))
        })
    };
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(allowed(name), "{name} is not declared");
        assert!(!line.contains("127.0.0.1"), "an address is no label: {line}");
    }
    assert!(
        text.contains(r#"holdfast_monitor_scrape_failures_total{kind="refused",node="node-3"}"#),
        "{text}"
    );
    nodes.clear();
    monitor.stop().await.unwrap();
}
