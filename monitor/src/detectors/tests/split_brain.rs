//! Two leaders, two clusters, two processes.

use crate::detectors::FaultKind;
use crate::detectors::fixture::{Answers, Scene, only};
use api::cluster::Role;

#[test]
fn two_leaders_of_one_term_are_proof_at_once() {
    let mut scene = Scene::new(3);
    scene.calm(2);
    let (snapshot, findings) = scene.round(|a| a.report(1).status.role = Role::Leader);
    assert_eq!(only(&findings, FaultKind::SplitBrain).nodes, ["node-1", "node-2"]);
    assert_eq!(snapshot.leader, None);
    // Also when they led in different rounds.
    let mut scene = Scene::new(3);
    scene.calm(2);
    scene.leader = 1;
    let (_, findings) = scene.round(|_| {});
    assert_eq!(only(&findings, FaultKind::SplitBrain).nodes, ["node-1", "node-2"]);
}

#[test]
fn a_leader_that_should_have_stepped_down_is_split_brain() {
    let mut scene = Scene::new(3);
    scene.calm(2);
    (scene.leader, scene.term) = (1, 8);
    let old_leader = |a: &mut Answers| {
        a.report(2).status.role = Role::Leader;
        a.report(2).status.term = 7;
    };
    let (_, findings) = scene.rounds(2, old_leader);
    assert!(findings.is_empty(), "it may still be going: {findings:#?}");
    let (snapshot, findings) = scene.rounds(2, old_leader);
    assert_eq!(only(&findings, FaultKind::SplitBrain).nodes, ["node-2"]);
    assert_eq!(snapshot.leader.as_deref(), Some("node-1"));
    // Cut off from everyone, and still leading.
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(4, |a| {
        a.cut(2, 1).cut(2, 3);
    });
    assert_eq!(only(&findings, FaultKind::SplitBrain).nodes, ["node-2"]);
}

#[test]
fn two_clusters_under_one_configuration_and_a_cloned_node() {
    let mut scene = Scene::new(3);
    let (snapshot, findings) = scene.rounds(2, |a| a.report(3).status.cluster_id = Some("another".into()));
    let found = only(&findings, FaultKind::SplitBrain);
    assert!(found.evidence.contains(&"cluster another: node-3".to_owned()), "{:?}", found.evidence);
    assert_eq!(snapshot.leader, None);
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| a.report(3).status.node_id = "node-1".into());
    let twins = only(&findings, FaultKind::SplitBrain);
    assert!(twins.evidence[0].starts_with("two processes answer as node-1"), "{:?}", twins.evidence);
}
