//! History through HTTP, and through a kill of the real program.

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use support::{Answer, StagedNode, wait_for};

/// The real program; killed when dropped.
struct Program {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Program {
    async fn start(nodes: &[StagedNode], output_dir: Option<&Path>, more: &[&str]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.arg("--nodes").args(nodes.iter().map(|n| &n.address)).args(["--listen", &listen]);
        command.args(["--interval", "0.2"]).args(more).stdout(Stdio::null()).stderr(Stdio::inherit());
        if let Some(folder) = output_dir {
            command.arg("--output-dir").arg(folder);
        }
        let child = command.spawn().unwrap();
        let http = api::http::builder().no_proxy().build().unwrap();
        let program = Program { child, url: format!("http://{listen}"), http };
        wait_for("the monitor to answer", || async { program.get("/api/cluster").await.ok() }).await;
        program
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body: Value = answer.json().await.map_err(|e| e.to_string())?;
        if status.is_success() { Ok(body) } else { Err(format!("{status}: {body}")) }
    }

    /// Waits until a series of that metric has so many points; gives the answer.
    async fn points(&self, path: &str, least: usize) -> Value {
        wait_for(&format!("{least} points at {path}"), || async {
            let answer = self.get(path).await.ok()?;
            let points = answer["series"][0]["points"].as_array()?.len();
            (points >= least).then_some(answer)
        })
        .await
    }
}

/// One node that leads itself, and whose log grows.
async fn node() -> StagedNode {
    StagedNode::start(Answer::Living(1, 1, 1)).await
}

#[tokio::test]
async fn history_is_answered_with_units_and_survives_a_kill() {
    let nodes = [node().await];
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(&nodes, Some(folder.path()), &[]).await;
    let before = program.points("/api/history?metric=writes&from=-1m&step=1", 3).await;
    assert_eq!(before["series"][0]["unit"], "writes/s");
    assert_eq!(before["series"][0]["node"], "node-1");
    assert_eq!(before["columns"][0], "seconds_after_from");
    let mean = before["series"][0]["points"][1][1].as_f64().unwrap();
    assert!(mean > 0.0, "{before}");
    let span = format!("from={}&to={}", before["from"].as_str().unwrap(), before["to"].as_str().unwrap());
    // The newest second may still grow; those before it may not change any more.
    let settled = |answer: &Value| {
        let points = answer["series"][0]["points"].as_array().unwrap().clone();
        points[..points.len() - 1].to_vec()
    };
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    drop(program);
    let program = Program::start(&nodes, Some(folder.path()), &[]).await;
    let path = format!("/api/history?metric=writes&{span}&step=1");
    let after = program.points(&path, 3).await;
    let kept = after["series"][0]["points"].as_array().unwrap();
    assert!(settled(&before).iter().all(|point| kept.contains(point)), "before {before}, after {after}");
    let mut second = Command::new(env!("CARGO_BIN_EXE_monitor"));
    second.args(["--nodes", &nodes[0].address, "--listen", "127.0.0.1:0", "--output-dir"]).arg(folder.path());
    let refused = second.output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("another monitor has it open"), "{why}");
    let listed = program.get("/api/history/metrics").await.unwrap();
    assert!(listed["metrics"].as_array().unwrap().iter().any(|m| m["name"] == "commit_p99"), "{listed}");
    assert!(listed["history"]["file"].as_str().unwrap().ends_with("history.duckdb"), "{listed}");
    for (path, part) in [
        ("/api/history?metric=speed", "no metric is called `speed`"),
        ("/api/history?metric=writes&nodes=x", "unknown field"),
        ("/api/history/events?limit=0", "`limit` is 0"),
        ("/api/history/export?what=all", "unknown variant"),
    ] {
        let refusal = program.get(path).await.unwrap_err();
        assert!(refusal.starts_with("422") && refusal.contains(part), "{path}: {refusal}");
    }
    let answer =
        program.http.get(format!("{}/api/history/export?from=-1h", program.url)).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/vnd.apache.parquet");
    let bytes = answer.bytes().await.unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "{} bytes", bytes.len());
}

#[tokio::test]
async fn events_and_findings_of_the_past_are_listed() {
    let nodes = [node().await];
    let program = Program::start(&nodes, None, &[]).await;
    program.points("/api/history?metric=leader&from=-1m", 1).await;
    nodes[0].set(Answer::Status(404, "nothing here".into()));
    let found = wait_for("the finding in history", || async {
        let answer = program.get("/api/history/findings?from=-1m").await.ok()?;
        answer["findings"].as_array()?.iter().find(|f| f["kind"] == "bad_report").cloned()
    })
    .await;
    assert_eq!(found["ended_at"], Value::Null, "{found}");
    nodes[0].set(Answer::Living(1, 1, 1));
    wait_for("the finding's end", || async {
        let answer = program.get("/api/history/findings?from=-1m").await.ok()?;
        answer["findings"][0]["ended_at"].as_str().map(str::to_owned)
    })
    .await;
    let events = program.get("/api/history/events?from=-1m").await.unwrap();
    let kinds: Vec<&str> =
        events["events"].as_array().unwrap().iter().filter_map(|e| e["kind"].as_str()).collect();
    assert!(kinds.contains(&"finding_begun") && kinds.contains(&"leader_changed"), "{kinds:?}");
}
