//! What stands still.

use super::timed_out;
use crate::detectors::FaultKind;
use crate::detectors::fixture::{Answers, Scene, only, reports};
use api::cluster::Operation;

#[test]
fn a_stuck_applier_is_told_from_a_slow_one() {
    let stuck = |a: &mut Answers, applied: u64| {
        a.report(3).status.applied_index = applied;
        a.report(3).progress.applied_entries = applied;
    };
    let mut scene = Scene::new(3);
    scene.calm(1);
    let (_, findings) = scene.rounds(2, |a| stuck(a, 1_100));
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.round(|a| stuck(a, 1_100));
    assert_eq!(only(&findings, FaultKind::Deadlock).nodes, ["node-3"]);
    // Slow: behind, but moving.
    let mut scene = Scene::new(3);
    scene.calm(1);
    let mut applied = 1_100;
    let (_, findings) = scene.rounds(8, |a| {
        applied += 1;
        stuck(a, applied);
    });
    assert!(findings.is_empty(), "{findings:#?}");
    // A restart is progress, whatever the counter says.
    let mut scene = Scene::new(3);
    let mut boot = 0;
    let (_, findings) = scene.rounds(8, |a| {
        boot += 1;
        stuck(a, 1_100);
        a.report(3).status.boot_nonce = format!("boot {boot}");
    });
    assert!(findings.iter().all(|f| f.kind != FaultKind::Deadlock), "{findings:#?}");
}

#[test]
fn a_stuck_log_writer_a_still_raft_thread_and_an_overdue_operation() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).progress.log_syncs = 5;
        a.report(1).progress.log_busy_ms = 6_000;
    });
    assert!(only(&findings, FaultKind::Deadlock).evidence[0].contains("log writer"));
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(4, |a| a.report(2).progress.raft_turns = 5);
    assert!(only(&findings, FaultKind::Deadlock).evidence[0].contains("Raft thread"));
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).operations.operations.push(Operation {
            id: "7".into(),
            kind: "snapshot".into(),
            started_at: reports::epoch(),
            duration_seconds: 75.0,
            detail: String::new(),
        });
    });
    assert!(only(&findings, FaultKind::Deadlock).evidence[0].contains("snapshot runs for 75 s"));
}

#[test]
fn a_process_that_takes_connections_and_answers_nothing_is_stuck() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.fail(3, timed_out(true));
    });
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.round(|a| {
        a.fail(3, timed_out(true));
    });
    assert_eq!(only(&findings, FaultKind::Deadlock).nodes, ["node-3"]);
}

#[test]
fn saturated_is_not_dead() {
    // A node that is busy to the brim answers late, or not within the time, now and then.
    let mut scene = Scene::new(3);
    for _ in 0..10 {
        let (snapshot, findings) = scene.round(|a| {
            a.fail(3, timed_out(true));
        });
        assert!(findings.is_empty(), "{findings:#?}");
        assert!(matches!(snapshot.nodes[2].state, crate::snapshot::NodeState::Unknown { .. }));
        let (_, findings) = scene.round(|a| a.report(3).resources.cpu_usage = 400.0);
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

#[test]
fn live_probe_sees_stuck_raft_loop() {
    // It answers, and says that all is well: only its counter stands still.
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(4, |a| a.report(2).progress.raft_turns = 77);
    let found = only(&findings, FaultKind::Deadlock);
    assert_eq!(found.nodes, ["node-2"]);
    assert!(found.evidence[0].contains("Raft thread has not turned"), "{found:?}");
}
