//! Who stays behind.

use super::kinds;
use crate::detectors::FaultKind;
use crate::detectors::fixture::{Answers, Scene, only};
use api::cluster::Role;

#[test]
fn a_slow_follower_is_a_voter_whose_lag_holds_while_its_link_is_up() {
    let behind = |a: &mut Answers, lag: u64| {
        let report = a.report(3);
        report.status.applied_index -= lag;
        report.progress.applied_entries -= lag;
    };
    let mut scene = Scene::new(3);
    scene.calm(20);
    let (_, findings) = scene.rounds(10, |a| behind(a, 2_000));
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.round(|a| behind(a, 2_000));
    assert_eq!(only(&findings, FaultKind::SlowFollower).nodes, ["node-3"]);
    // Catching up: 500 entries a second.
    let mut scene = Scene::new(3);
    scene.calm(60);
    let mut lag = 9_000;
    for _ in 0..15 {
        lag -= 500;
        let (_, findings) = scene.round(|a| behind(a, lag));
        assert!(findings.is_empty(), "{findings:#?}");
    }
    // A learner, and a node whose link is cut.
    let mut scene = Scene::new(3);
    scene.calm(20);
    let (_, findings) = scene.rounds(15, |a| {
        behind(a, 2_000);
        for n in 1..=3 {
            a.report(n).status.voters.retain(|v| v != "node-3");
        }
        a.report(3).status.role = Role::Learner;
    });
    assert!(findings.is_empty(), "{findings:#?}");
    let mut scene = Scene::new(3);
    scene.calm(20);
    let (_, findings) = scene.rounds(15, |a| {
        behind(a, 2_000);
        a.cut(2, 3);
    });
    assert_eq!(kinds(&findings), [FaultKind::NetworkPartition]);
}

#[test]
fn disk_stall_shows_as_slow_acknowledgement() {
    let slow = |a: &mut Answers| {
        let entries = a.report(3).performance.writes;
        let buckets = &mut a.report(3).performance.log_sync.buckets;
        buckets.fill(0);
        // 0.5 to 1 s each.
        buckets[13] = entries / 200;
    };
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(14, slow);
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.rounds(4, slow);
    let found = only(&findings, FaultKind::SlowFollower);
    assert_eq!(found.nodes, ["node-3"]);
    assert!(found.evidence[0].contains("acknowledges after"), "{found:?}");
}
