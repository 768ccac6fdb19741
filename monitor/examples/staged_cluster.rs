//! Three coordinators that are not there, for looking at the cluster view: they answer
//! `/api/report` like a cluster under load, and node-3 comes and goes.
//!
//! ```text
//! cargo run -p monitor --example staged_cluster -- calm|crash|divided 18101
//! monitor --nodes 127.0.0.1:18101,127.0.0.1:18102,127.0.0.1:18103
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

use api::cluster::{CheckpointRecord, Report};
use jiff::Timestamp;
use std::time::Duration;
use support::reports::{after, epoch, hash, healthy};
use support::{Answer, StagedNode};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let scene = arguments.next().unwrap_or_else(|| "calm".into());
    let base_port: u16 = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(18_101);
    let began = Timestamp::now();
    let mut nodes = Vec::new();
    for n in 1..=3 {
        let address = format!("127.0.0.1:{}", base_port + n - 1);
        nodes.push(Some(StagedNode::start_at(&address, Answer::Status(503, "not yet".into())).await));
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        let seconds = Timestamp::now().duration_since(began).as_secs_f64();
        for n in 1..=3 {
            let report = stage(&scene, n, seconds, base_port);
            if let Some(node) = &nodes[n - 1] {
                node.set(Answer::Report(Box::new(report)));
            }
        }
        if scene == "crash" && seconds > 4.0 && nodes[2].take().is_some() {
            eprintln!("node-3 is gone");
        }
    }
}

fn stage(scene: &str, n: usize, seconds: f64, base_port: u16) -> Report {
    let (leader, term) = if scene != "calm" && seconds > 6.0 { (1, 8) } else { (2, 7) };
    let mut report = healthy(n, 3, leader, term, after(seconds));
    report.now = Timestamp::now();
    for peer in &mut report.status.peers {
        let p: u16 = peer.node_id[5..].parse().unwrap_or(1);
        peer.address = format!("127.0.0.1:{}", base_port + p - 1);
        if scene == "crash" && seconds > 4.0 && p == 3 {
            peer.reachable = false;
            peer.last_contact_ms = Some(((seconds - 4.0) * 1_000.0) as u64);
            peer.error = Some("connection refused".into());
        }
    }
    if scene == "divided" && seconds > 4.0 {
        divide(&mut report, n, seconds);
    }
    report
}

/// node-3 holds another state, and hears node-1 no more though node-1 hears it; its disk fills up.
fn divide(report: &mut Report, n: usize, seconds: f64) {
    if n != 3 {
        return;
    }
    let from = support::reports::index_at(epoch()) + 400;
    let other = |c: &mut CheckpointRecord| c.checksum = hash("another state", c.index);
    report.state_checksum.checkpoints.iter_mut().filter(|c| c.index > from).for_each(other);
    report.state_checksum.checksum = hash("another state", report.state_checksum.applied_index);
    report.resources.disk_usage = 91.4;
    let link = report.status.peers.iter_mut().find(|p| p.node_id == "node-1");
    if let Some(link) = link {
        link.reachable = false;
        link.last_contact_ms = Some(((seconds - 4.0) * 1_000.0) as u64);
        link.error = Some("no heartbeat".into());
    }
}
