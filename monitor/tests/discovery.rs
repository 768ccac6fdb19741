//! Whom the running monitor asks, and what it says when a node answers badly or it is late itself.

mod support;

use monitor::config::Flags;
use monitor::{MonitorConfig, Service};
use serde_json::Value;
use std::path::PathBuf;
use support::reports::healthy;
use support::{Answer, StagedNode, wait_for};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Running {
    url: String,
    http: reqwest::Client,
    _guard: DropGuard,
}

impl Running {
    async fn start(flags: Flags) -> Self {
        let flags = Flags { interval: Some(0.2), listen: Some("127.0.0.1:0".into()), ..flags };
        let service = Service::bind(MonitorConfig::load(flags).unwrap()).await.unwrap();
        let url = format!("http://{}", service.address().unwrap());
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        tokio::spawn(service.run(end));
        Running { url, http: api::http::builder().no_proxy().build().unwrap(), _guard: guard }
    }

    async fn cluster(&self) -> Option<Value> {
        let answer = self.http.get(format!("{}/api/cluster", self.url)).send().await.ok()?;
        if answer.status().is_success() { answer.json().await.ok() } else { None }
    }

    /// Waits until exactly these addresses are asked.
    async fn wait_for_nodes(&self, wanted: &[&str]) -> Value {
        wait_for(&format!("{wanted:?} to be watched"), || async {
            let seen = self.cluster().await?;
            let nodes: Vec<&str> =
                seen["nodes"].as_array()?.iter().filter_map(|n| n["address"].as_str()).collect();
            (nodes == wanted).then(|| seen.clone())
        })
        .await
    }
}

fn list(file: &tempfile::NamedTempFile, nodes: &[&StagedNode]) {
    let text: String = nodes.iter().map(|n| format!("{} # staged\n", n.address)).collect();
    std::fs::write(file.path(), text).unwrap();
}

#[tokio::test]
async fn a_file_is_followed() {
    let (one, two) =
        (StagedNode::start(Answer::Living(1, 1, 1)).await, StagedNode::start(Answer::Living(1, 1, 1)).await);
    let file = tempfile::NamedTempFile::new().unwrap();
    list(&file, &[&one]);
    let nodes_file = Some(PathBuf::from(file.path()));
    let monitor = Running::start(Flags { nodes_file, ..Flags::default() }).await;
    monitor.wait_for_nodes(&[&one.address]).await;
    list(&file, &[&one, &two]);
    monitor.wait_for_nodes(&[&one.address, &two.address]).await;
    std::fs::write(file.path(), "no address").unwrap();
    let seen = wait_for("the trouble to be told", || async {
        monitor.cluster().await.filter(|seen| seen["monitor"]["troubles"][0].is_string())
    })
    .await;
    assert_eq!(seen["nodes"].as_array().unwrap().len(), 2, "what it said before stays");
    let metrics =
        monitor.http.get(format!("{}/metrics", monitor.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("holdfast_monitor_discovery_failing 1"), "{metrics}");
    assert!(metrics.contains("holdfast_monitor_rounds_dropped_total"), "{metrics}");
    assert!(metrics.contains("holdfast_process_cpu_time_seconds_total"), "{metrics}");
}

#[tokio::test]
async fn a_member_that_joins_is_watched_and_one_that_was_removed_is_dropped() {
    let (one, two) = (StagedNode::start(Answer::Hang).await, StagedNode::start(Answer::Hang).await);
    let stage = |members: usize, removed: bool| {
        let now = jiff::Timestamp::now();
        let mut first = healthy(1, members, 1, 7, now);
        for peer in &mut first.status.peers {
            peer.address.clone_from(&two.address);
        }
        let mut second = healthy(2, 2, 1, 7, now);
        second.status.peers[0].address.clone_from(&one.address);
        if removed {
            second.status.role = api::cluster::Role::Removed;
        }
        one.set(Answer::Report(Box::new(first)));
        two.set(Answer::Report(Box::new(second)));
    };
    stage(1, false);
    let monitor = Running::start(Flags { nodes: vec![one.address.clone()], ..Flags::default() }).await;
    monitor.wait_for_nodes(&[&one.address]).await;
    stage(2, false);
    let seen = monitor.wait_for_nodes(&[&one.address, &two.address]).await;
    assert_eq!(seen["nodes"][1]["node_id"], "node-2");
    assert!(seen["monitor"]["sources"].as_array().unwrap().iter().any(|s| s["kind"] == "members"));
    stage(1, true);
    monitor.wait_for_nodes(&[&one.address]).await;
}

#[tokio::test]
async fn a_slow_node_delays_nobody_s_round() {
    let (quick, slow) =
        (StagedNode::start(Answer::Living(1, 1, 1)).await, StagedNode::start(Answer::Hang).await);
    let nodes = vec![quick.address.clone(), slow.address.clone()];
    let monitor = Running::start(Flags { nodes, ..Flags::default() }).await;
    // Round after round the quick node is seen anew, though the slow one never answers.
    for least in [3, 6] {
        wait_for(&format!("{least} rounds with a fresh report"), || async {
            let seen = monitor.cluster().await?;
            let fresh = seen["nodes"][0]["state"]["is"] == "reporting"
                && seen["nodes"][1]["state"]["is"] == "unknown";
            (fresh && seen["monitor"]["rounds"].as_u64()? >= least).then_some(())
        })
        .await;
    }
}
