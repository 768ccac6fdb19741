//! What is no fault, and what every finding has.

use crate::detectors::fixture::{Scene, only, reports};
use crate::detectors::{FaultKind, Limits, Window, detect_all};
use crate::report::ScrapeFailure;
use api::cluster::{HealthStatus, Operation, Role};

#[test]
fn names_survive_the_wire() {
    for kind in FaultKind::ALL {
        assert_eq!(FaultKind::parse(kind.as_str()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}

#[test]
fn a_healthy_cluster_has_no_findings() {
    for of in [1, 3, 5, 7] {
        let mut scene = Scene::new(of);
        scene.leader = 1;
        scene.calm(150);
    }
}

#[test]
fn members_down_alert_is_quiet_on_first_round() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.round(|a| {
        a.kill(1);
        a.fail(3, ScrapeFailure::HttpStatus { status: 500, text: String::new() });
        a.report(2).resources.disk_usage = 99.0;
        a.report(2).db.healthy = false;
    });
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn one_clean_failover_is_no_finding() {
    let mut scene = Scene::new(3);
    scene.calm(5);
    // One round without a leader, everyone a term further, then a new one.
    let (snapshot, findings) = scene.round(|a| {
        for n in 1..=3 {
            a.report(n).status.role = if n == 1 { Role::Candidate } else { Role::Follower };
            a.report(n).status.term = 8;
            a.report(n).health.status = HealthStatus::Degraded;
        }
    });
    assert_eq!((snapshot.leader, findings), (None, vec![]));
    // The old leader has not heard of it yet.
    (scene.leader, scene.term) = (1, 8);
    let (snapshot, findings) = scene.round(|a| {
        a.report(2).status.role = Role::Leader;
        a.report(2).status.term = 7;
    });
    assert_eq!(snapshot.leader.as_deref(), Some("node-1"));
    assert!(findings.is_empty(), "{findings:#?}");
    scene.calm(70);
}

#[test]
fn a_fresh_cluster_that_is_not_founded_has_no_findings() {
    let mut scene = Scene::new(3);
    for _ in 0..20 {
        let (snapshot, findings) = scene.round(|a| {
            for n in 1..=3 {
                let report = a.report(n);
                report.status.cluster_id = None;
                report.status.role = Role::Uninitialised;
                report.status.current_leader = None;
                report.status.voters.clear();
                report.status.uptime_seconds = 1.0;
                report.progress.raft_turns = 0;
                report.status.peers.iter_mut().for_each(|p| p.reachable = false);
                report.operations.operations.push(Operation {
                    id: "1".into(),
                    kind: "founding".into(),
                    started_at: reports::epoch(),
                    duration_seconds: 500.0,
                    detail: String::new(),
                });
            }
        });
        assert!(findings.is_empty(), "{findings:#?}");
        assert!(snapshot.verdict.contains("no cluster founded yet"), "{}", snapshot.verdict);
    }
}

#[test]
fn the_window_is_bounded_and_never_looks_ahead() {
    let mut scene = Scene::new(3);
    scene.window = Window::new(4);
    let (snapshot, findings) = scene.rounds(50, |a| {
        a.kill(3);
    });
    assert_eq!((scene.window.len(), findings[0].rounds), (4, 5));
    // The round itself is in the window by now and must not count twice.
    let again = detect_all(&snapshot, &scene.window, &Limits::default());
    assert_eq!(again[0].rounds, 4);
}

#[test]
fn every_finding_says_where_to_look() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| a.report(1).db.healthy = false);
    let found = only(&findings, FaultKind::DatabaseCorruption);
    assert_eq!(found.look_at, [format!("{}/api/health/db", crate::detectors::fixture::address(1))]);
}
