//! Elections and terms.

use super::kinds;
use crate::detectors::FaultKind;
use crate::detectors::fixture::{Scene, only};
use api::cluster::Role;

#[test]
fn a_node_that_finds_the_leader_after_its_start_counts_no_change() {
    let mut scene = Scene::new(3);
    scene.calm(2);
    for (leader_changes, knows_one) in [(0, false), (1, true), (2, true), (3, true), (4, true), (4, true)] {
        let (_, findings) = scene.round(|a| {
            let status = &mut a.report(2).status;
            status.boot_nonce = "started again".into();
            status.leader_changes = leader_changes;
            status.current_leader = status.current_leader.take().filter(|_| knows_one);
        });
        assert!(!kinds(&findings).contains(&FaultKind::TermDivergence), "{findings:#?}");
    }
    let (_, findings) = scene.rounds(2, |a| {
        a.report(2).status.boot_nonce = "started again".into();
        a.report(2).status.leader_changes = 5;
        a.report(1).status.elections = Some(5);
    });
    only(&findings, FaultKind::TermDivergence);
}

#[test]
fn repeated_elections_and_a_term_that_runs_ahead() {
    let mut scene = Scene::new(3);
    let mut last = Vec::new();
    for turn in 0..5 {
        (scene.leader, scene.term) = (turn % 2 + 1, 10 + turn as u64);
        last = scene.rounds(3, |a| a.report(3).status.elections = Some(turn as u64)).1;
    }
    let found = only(&last, FaultKind::TermDivergence);
    assert!(found.evidence[0].starts_with("4 leader changes"), "{:?}", found.evidence);
    // Counted by a node between two rounds.
    let mut scene = Scene::new(3);
    scene.calm(2);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).status.leader_changes = 6;
        a.report(3).status.elections = Some(6);
    });
    assert!(only(&findings, FaultKind::TermDivergence).evidence[0].contains("counted by node-1"));
    // But not across a restart.
    let mut scene = Scene::new(3);
    scene.calm(2);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).status.leader_changes = 6;
        a.report(1).status.boot_nonce = "another".into();
    });
    assert!(findings.is_empty(), "{findings:#?}");
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(7, |a| {
        a.report(3).status.term = 30;
        a.report(3).status.role = Role::Candidate;
    });
    assert_eq!(only(&findings, FaultKind::TermDivergence).nodes, ["node-3"]);
}
