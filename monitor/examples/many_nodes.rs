//! Many nodes, one monitor: what a round costs.
//!
//! `cargo run --release --example many_nodes -- PATH-TO-MONITOR [NODES] [SECONDS]`. This program
//! plays the nodes, each on a port of its own, with reports of a real size; the monitor is the real
//! program, held to one core by `taskset`, and tells by itself what it used and whether it was late.

#[path = "../tests/support/mod.rs"]
mod support;

use anyhow::{Context, ensure};
use serde_json::Value;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Answer, StagedNode};

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().context("give the path of the monitor program")?;
    let count: usize = arguments.next().map_or(Ok(64), |n| n.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(30), |n| n.parse())?;
    let mut nodes = Vec::with_capacity(count);
    for n in 1..=count {
        // Five vote; the others learn. All of them name the voters as peers.
        nodes.push(StagedNode::start(Answer::Crowd(n, 5, 1)).await);
    }
    let mut list = tempfile::NamedTempFile::new()?;
    for node in &nodes {
        writeln!(list, "{}", node.address)?;
    }
    let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let child = Command::new("taskset")
        .args(["-c", "0", &program, "--interval", "1", "--listen", &listen.to_string(), "--nodes-file"])
        .arg(list.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("taskset, of package util-linux")?;
    let _child = Ended(child);
    let http = api::http::builder().no_proxy().build()?;
    let url = format!("http://{listen}/api/cluster");
    let ask = || async { http.get(&url).send().await.ok()?.json::<Value>().await.ok() };
    let began = support::wait_for("the first round", || async {
        ask().await.filter(|seen| seen["monitor"]["rounds"].as_u64().is_some_and(|rounds| rounds >= 3))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let ended = ask().await.context("the monitor does not answer")?;
    let of = |seen: &Value, path: &str| seen.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let between = |path: &str| of(&ended, path) - of(&began, path);
    let states = ended["nodes"].as_array().context("no nodes")?;
    let reporting = states.iter().filter(|n| n["state"]["is"] == "reporting").count();
    let rounds = between("/monitor/rounds");
    println!(
        "{count} nodes, {reporting} reporting, {rounds} rounds in {seconds} s, {} dropped",
        between("/monitor/dropped_rounds")
    );
    println!(
        "a round takes {:.0} ms, begins {:.1} ms late; {:.0} % of one core, {:.0} MiB",
        of(&ended, "/monitor/round_ms"),
        of(&ended, "/monitor/late_ms"),
        between("/monitor/process/cpu_seconds") * 100.0 / seconds as f64,
        of(&ended, "/monitor/process/memory_bytes") / 1_048_576.0
    );
    ensure!(reporting == count, "{} nodes did not report", count - reporting);
    Ok(())
}
