//! Looks at clusters that never were.

use api::cluster::Report;
use monitor::ScrapeFailure;
use recovery::observation::{NodeView, Observation, ProcessState, Sighting};
use recovery::verify::Target;
use serde_json::json;

/// A report of a node that is well: leader `n1`, everything applied up to `applied`.
pub fn report(node: &str, applied: u64, pid: u32) -> Report {
    let role = if node == "n1" { "leader" } else { "follower" };
    let peers: Vec<_> = ["n1", "n2", "n3"]
        .iter()
        .filter(|peer| **peer != node)
        .map(|peer| {
            json!({"node_id": peer, "address": format!("{peer}:1"), "reachable": true,
                "last_contact_ms": 5, "rtt_ms": 0.2, "match_index": null})
        })
        .collect();
    let states = ["pending", "assigned", "running", "completed", "failed", "cancelled"];
    let tasks: serde_json::Map<_, _> = states.iter().map(|s| ((*s).to_owned(), json!(0))).collect();
    let workers: serde_json::Map<_, _> =
        ["active", "busy", "draining", "lost"].iter().map(|s| ((*s).to_owned(), json!(0))).collect();
    let mark = format!("{applied:032x}");
    serde_json::from_value(json!({
        "now": "2026-01-01T00:00:00Z",
        "status": {
            "node_id": node, "cluster_id": "c", "role": role, "current_leader": "n1", "term": 3,
            "commit_index": applied, "applied_index": applied, "first_log_index": 1,
            "last_log_index": applied, "snapshot_index": 0, "voters": ["n1", "n2", "n3"], "learners": [],
            "peers": peers, "tasks": tasks, "workers": workers, "maintenance": {"enabled": false},
            "uptime_seconds": 100.0, "version": "0", "pid": pid, "boot_nonce": format!("{pid}"),
            "leader_changes": 1
        },
        "health": {"status": "ok", "checks": []},
        "db": {"healthy": true, "details": {}},
        "log": {"healthy": true, "details": {}},
        "state_checksum": {"checksum": mark, "applied_index": applied, "term": 3, "log_chain": mark,
            "checkpoints": []},
        "resources": {"cpu_usage": 1.0, "memory_usage": 1.0, "disk_usage": 1.0, "memory_bytes": 1,
            "memory_total_bytes": 100, "disk_free_bytes": 99, "disk_total_bytes": 100,
            "data_dir_bytes": 1, "open_fds": 1, "max_fds": 1000, "threads": 4},
        "operations": {"operations": []},
        "progress": {"raft_turns": applied, "log_syncs": applied, "log_busy_ms": 0,
            "applied_entries": applied, "apply_busy_ms": 0}
    }))
    .unwrap()
}

/// A node that is well.
pub fn well(node: &str) -> NodeView {
    let report = Ok(Box::new(report(node, 100, 7)));
    NodeView { report, process: ProcessState::NotAsked, startable: true, pardoned: false }
}

/// A node whose connection is refused and whose process is as given.
pub fn refusing(process: ProcessState) -> NodeView {
    let startable = process != ProcessState::NoActuator;
    NodeView { report: Err(ScrapeFailure::Refused), process, startable, pardoned: false }
}

/// A node that is proven dead.
pub fn dead() -> NodeView {
    refusing(ProcessState::Dead { proof: vec!["the lock is free".into()] })
}

/// A node that gives no answer and has no actuator.
pub fn silent() -> NodeView {
    let report = Err(ScrapeFailure::TimedOut { connected: false, waited_ms: 500 });
    NodeView { report, process: ProcessState::NoActuator, startable: false, pardoned: false }
}

/// A look at `n1`, `n2` and `n3`.
pub fn look(at_ms: u64, nodes: [NodeView; 3]) -> Observation {
    let nodes = ["n1", "n2", "n3"].map(str::to_owned).into_iter().zip(nodes).collect();
    Observation { at_ms, nodes, ..Observation::default() }
}

/// Something a detector named.
pub fn sighting(kind: monitor::detectors::FaultKind, nodes: &[&str]) -> Sighting {
    let nodes = nodes.iter().map(|n| (*n).to_owned()).collect();
    Sighting { kind, nodes, evidence: vec![format!("{kind} was seen")] }
}

/// What `n2` has to reach.
pub fn target(commit_index: u64, deadline_ms: u64) -> Target {
    Target { node: "n2".into(), commit_index, deadline_ms }
}
