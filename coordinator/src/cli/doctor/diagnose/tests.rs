use super::*;
use serde_json::json;

/// A node of a sound cluster of three, of which node-1 leads.
fn sound(n: usize) -> NodeSeen {
    let peers: Vec<_> = (1..=3)
        .filter(|other| *other != n)
        .map(|other| {
            json!({"node_id": format!("node-{other}"), "address": format!("h{other}:8080"), "reachable": true,
                "last_contact_ms": 5, "rtt_ms": 0.3, "match_index": if n == 1 { Some(100) } else { None }})
        })
        .collect();
    let report = json!({
        "now": "2026-01-01T00:00:00Z",
        "status": {
            "node_id": format!("node-{n}"), "cluster_id": "c", "role": if n == 1 { "leader" } else { "follower" },
            "current_leader": "node-1", "term": 3, "commit_index": 100, "applied_index": 100,
            "first_log_index": 1, "last_log_index": 100, "snapshot_index": 0,
            "voters": ["node-1", "node-2", "node-3"], "learners": [], "peers": peers,
            "tasks": {}, "workers": {"active": 1}, "maintenance": {"enabled": false},
            "uptime_seconds": 7200.0, "version": "0.1.0", "leader_changes": 1,
        },
        "health": {"status": "ok", "checks": [{"name": "disk", "status": "ok", "detail": "fine"}]},
        "db": {"healthy": true, "details": {}}, "log": {"healthy": true, "details": {}},
        "state_checksum": {"checksum": "aa", "applied_index": 100, "term": 3, "log_chain": "bb",
            "checkpoints": [{"index": 64, "checksum": "11", "log_chain": "22"}]},
        "resources": {"cpu_usage": 1.0, "memory_usage": 1.0, "disk_usage": 1.0, "memory_bytes": 1, "memory_total_bytes": 1,
            "disk_free_bytes": 1, "disk_total_bytes": 1, "data_dir_bytes": 1, "open_fds": 1, "max_fds": 1, "threads": 1},
        "operations": {"operations": []}, "progress": api::cluster::Progress::default(),
    });
    NodeSeen {
        address: format!("h{n}:8080"),
        report: Some(serde_json::from_value(report).unwrap()),
        documents: [("config.json", json!({"election_timeout_min": 150}))].into(),
        ..NodeSeen::default()
    }
}

fn cluster() -> Vec<NodeSeen> {
    (1..=3).map(sound).collect()
}

fn changed(change: impl FnOnce(&mut [NodeSeen])) -> Vec<Complaint> {
    let mut nodes = cluster();
    change(&mut nodes);
    diagnose(&nodes)
}

fn report(nodes: &mut [NodeSeen], n: usize) -> &mut Report {
    nodes[n - 1].report.as_mut().unwrap()
}

fn lose(nodes: &mut [NodeSeen], n: usize) {
    nodes[n - 1].report = None;
    nodes[n - 1].error = Some("connection refused".into());
}

#[test]
fn a_sound_cluster_has_no_complaint() {
    assert_eq!(diagnose(&cluster()), []);
}

#[test]
fn a_node_that_refuses_to_tell_is_not_taken_for_a_dead_one() {
    let found = changed(|nodes| {
        nodes[2].report = None;
        nodes[2].refusal = Some(api::Problem::new(ErrorCode::Unauthorized, "the token has ended"));
    });
    assert!(found[0].what.contains("answers, and refuses to tell"), "{found:#?}");
    assert!(found[0].what.contains("the token has ended"), "{found:#?}");
    assert!(found[0].advice.contains("--token-file"), "{found:#?}");
}

#[test]
fn a_node_that_is_missing_is_named_with_what_the_others_see() {
    let found = changed(|nodes| {
        lose(nodes, 3);
        for n in [1, 2] {
            let peer = report(nodes, n).status.peers.iter_mut().find(|p| p.node_id == "node-3").unwrap();
            peer.reachable = false;
        }
    });
    assert_eq!(found[0].severity, Severity::Fault);
    assert!(found[0].what.contains("connection refused; 0 of 2 other nodes reach it"), "{found:#?}");
    assert!(found[0].advice.contains("process"), "{found:#?}");
    // One that the others reach is not down.
    let found = changed(|nodes| lose(nodes, 3));
    assert!(found[0].advice.contains("from here to it is cut"), "{found:#?}");
}

#[test]
fn a_lost_quorum_is_told_from_an_election() {
    let found = changed(|nodes| {
        lose(nodes, 1);
        lose(nodes, 2);
        report(nodes, 3).status.current_leader = None;
        report(nodes, 3).status.role = Role::Candidate;
    });
    let quorum = found.iter().find(|c| c.what.contains("no node leads")).unwrap();
    assert!(quorum.what.contains("1 of 3 voters answer, 2 are needed"), "{quorum:?}");
    assert!(quorum.advice.contains("start the voters"), "{quorum:?}");
    let found = changed(|nodes| {
        for n in 1..=3 {
            report(nodes, n).status.role = Role::Candidate;
            report(nodes, n).status.current_leader = None;
        }
    });
    assert!(found[0].advice.contains("enough voters answer"), "{found:#?}");
}

#[test]
fn two_leaders_of_one_term_are_a_fault_and_of_two_terms_a_moment() {
    let found = changed(|nodes| report(nodes, 2).status.role = Role::Leader);
    assert_eq!((found[0].severity, found[0].nodes.len()), (Severity::Fault, 2));
    let found = changed(|nodes| {
        report(nodes, 2).status.role = Role::Leader;
        report(nodes, 2).status.term = 4;
    });
    assert_eq!(found[0].severity, Severity::Warning);
}

#[test]
fn states_are_compared_at_a_common_index_only() {
    let found = changed(|nodes| report(nodes, 2).state_checksum.checkpoints[0].checksum = "99".into());
    assert!(found[0].what.contains("at index 64: the same log led to different states"), "{found:#?}");
    let found = changed(|nodes| {
        let point = &mut report(nodes, 3).state_checksum.checkpoints[0];
        (point.index, point.checksum) = (65, "99".into());
    });
    assert_eq!(found, []);
}

#[test]
fn every_other_complaint_has_its_trigger() {
    type Change = fn(&mut Report);
    let cases: &[(Change, &str)] = &[
        (
            |r| (r.status.role, r.status.role_detail) = (Role::Failed, Some("the log is damaged".into())),
            "is failed: the log is damaged",
        ),
        (|r| r.health.checks[0].status = HealthStatus::Degraded, "disk: fine"),
        (|r| r.status.peers[0].reachable = false, "does not reach"),
        (|r| r.status.peers[0].clock_offset_ms = Some(-900), "900 ms apart"),
        (|r| r.status.peers[0].match_index = Some(0), ""),
        (|r| r.config_differs = vec!["node-4 is configured but no member".into()], "node-4 is configured"),
        (|r| r.status.leader_changes = 50, "50 leader changes in 2h 0m"),
        (|r| r.status.peers[0].rtt_ms = Some(40.0), "more than a tenth of election_timeout_min"),
        (|r| r.status.version = "0.2.0".into(), "different versions"),
        (|r| r.status.cluster_id = Some("d".into()), "different clusters"),
    ];
    for (change, says) in cases {
        let found = changed(|nodes| change(report(nodes, 2)));
        assert!(says.is_empty() || found.iter().any(|c| c.what.contains(says)), "{says}: {found:#?}");
    }
    let found = changed(|nodes| {
        let newest = report(nodes, 1);
        newest.status.applied_index = 101;
        newest.status.maintenance.enabled = true;
        newest.status.tasks.insert(TaskState::Pending, 7);
        newest.status.workers.clear();
        newest.status.last_log_index = 5000;
    });
    for says in ["maintenance is on", "7 tasks wait and no worker", "4900 entries behind"] {
        assert!(found.iter().any(|c| c.what.contains(says)), "{says}: {found:#?}");
    }
}

#[test]
fn a_config_that_was_not_taken_is_said() {
    let reload = |faults: &[&str], waits: &[&str]| {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        Some(api::cluster::ConfigReload {
            at: jiff::Timestamp::UNIX_EPOCH,
            applied: Vec::new(),
            needs_restart: texts(waits),
            faults: texts(faults),
        })
    };
    let found = changed(|nodes| report(nodes, 1).config.last_reload = reload(&["port"], &[]));
    assert_eq!(found[0].severity, Severity::Warning);
    let found = changed(|nodes| report(nodes, 1).config.last_reload = reload(&[], &["port"]));
    assert_eq!(found[0].severity, Severity::Note);
}
