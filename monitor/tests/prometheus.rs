//! History read from real servers: Prometheus, and VictoriaMetrics by the same API.

mod support;

use axum::Router;
use axum::routing::get;
use jiff::Timestamp;
use monitor::history::prometheus::Server;
use monitor::history::{Answer, History, Query, Settings, metric};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use support::wait_for;

/// The program on the path, or where `./dev test` unpacked its package.
fn program(name: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/usr/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain([tools]).collect();
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name} is missing (Debian package {name})");
        println!("SKIPPED: {name} is not here (Debian package {name})");
    }
    found
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A coordinator's figures: 50 writes of 2 ms a second, a peer 3 ms away, a term.
fn figures(n: usize, seconds: f64) -> String {
    let writes = (seconds * 50.0) as u64;
    let peer = 3 - n;
    format!(
        "# TYPE holdfast_raft_proposals counter\n\
         holdfast_raft_proposals_total{{outcome=\"applied\"}} {writes}\n\
         holdfast_raft_proposals_total{{outcome=\"dropped\"}} 0\n\
         # TYPE holdfast_raft_proposal_duration_seconds histogram\n\
         holdfast_raft_proposal_duration_seconds_bucket{{le=\"0.001\"}} 0\n\
         holdfast_raft_proposal_duration_seconds_bucket{{le=\"0.0025\"}} {writes}\n\
         holdfast_raft_proposal_duration_seconds_bucket{{le=\"+Inf\"}} {writes}\n\
         holdfast_raft_term 7\n\
         holdfast_raft_commit_index {commit}\nholdfast_raft_applied_index {applied}\n\
         holdfast_peer_rtt_seconds{{peer=\"node-{peer}\"}} 0.003\n\
         target_info{{service_instance_id=\"node-{n}\"}} 1\n",
        commit = 1_000,
        applied = 1_000 - n,
    )
}

async fn exporter(n: usize) -> String {
    let began = Instant::now();
    let app = Router::new()
        .route("/metrics", get(move || async move { figures(n, 100.0 + began.elapsed().as_secs_f64()) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A scrape config of two exporters in `folder`.
async fn scrape_config(folder: &Path) -> PathBuf {
    let targets = [exporter(1).await, exporter(2).await];
    let path = folder.join("scrape.yml");
    let text = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: coordinator\n    static_configs:\n      - targets: ['{}', '{}']\n",
        targets[0], targets[1]
    );
    std::fs::write(&path, text).unwrap();
    path
}

async fn ask(history: &History, names: &[&str]) -> Option<Answer> {
    let metrics = names.iter().map(|name| metric::named(name).unwrap()).collect();
    let query = Query::last(metrics, 30, 30, Timestamp::now()).unwrap();
    history.query(query).await.ok()
}

/// What every server must answer.
async fn check(url: &str) {
    let server = Server::new(url, "job=~\".*coordinator.*\"", api::http::Access::default()).unwrap();
    let history = History::open(None, &Settings::default()).unwrap().with_server(server);
    let names = ["writes", "commit_p99", "rtt", "term", "lag", "leader"];
    let answer = wait_for("rates and quantiles of both nodes", || async {
        let answer = ask(&history, &names).await?;
        let count = |name: &str| answer.series.iter().filter(|s| s.metric.name == name).count();
        let whole = ["writes", "commit_p99", "rtt", "term", "lag"].iter().all(|name| count(name) == 2);
        whole.then(|| answer.clone())
    })
    .await;
    assert_eq!(answer.source, url);
    let last = |name: &str, node: &str| {
        let of = |s: &&monitor::history::Series| s.metric.name == name && s.node.as_deref() == Some(node);
        answer.series.iter().find(of).and_then(|s| s.points.last()).map(|p| p.mean).unwrap()
    };
    for node in ["node-1", "node-2"] {
        // The window of a rate is longer than these series: the server counts what it saw of it.
        let writes = last("writes", node);
        assert!(writes > 0.0 && writes < 100.0, "{answer:?}");
        assert!((1.0..=2.5).contains(&last("commit_p99", node)), "{answer:?}");
        assert_eq!((last("term", node), last("rtt", node)), (7.0, 3.0));
    }
    assert_eq!((last("lag", "node-1"), last("lag", "node-2")), (1.0, 2.0));
    let rtt = answer.series.iter().find(|s| s.metric.name == "rtt").unwrap();
    assert_eq!((rtt.node.as_deref(), rtt.peer.as_deref()), (Some("node-1"), Some("node-2")));
    // Every query is one that the server understands, whether there is something or not.
    for metric in metric::ALL.iter().filter(|metric| metric.promql.is_some()) {
        let query = Query::last(vec![metric], 30, 30, Timestamp::now()).unwrap();
        if let Err(error) = history.query(query).await {
            panic!("{}: {error}", metric.name);
        }
    }
    history.close();
}

#[tokio::test]
async fn prometheus_answers_as_the_embedded_history_does() {
    let Some(program) = program("prometheus") else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = scrape_config(folder.path()).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let child = Command::new(program)
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()))
        .arg(format!("--web.listen-address={listen}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _child = Ended(child);
    check(&format!("http://{listen}")).await;
}

#[tokio::test]
async fn victoria_metrics_answers_as_the_embedded_history_does() {
    let Some(program) = program("victoria-metrics") else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = scrape_config(folder.path()).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let child = Command::new(program)
        .arg(format!("-promscrape.config={}", config.display()))
        .arg(format!("-storageDataPath={}", folder.path().join("data").display()))
        .arg(format!("-httpListenAddr={listen}"))
        .args(["-search.latencyOffset=1s", "-memory.allowedPercent=10"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _child = Ended(child);
    check(&format!("http://{listen}")).await;
}
