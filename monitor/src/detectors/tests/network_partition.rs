//! Partitions.

use super::{kinds, timed_out};
use crate::detectors::fixture::{Scene, only};
use crate::detectors::{FaultKind, Finding};
use crate::report::ScrapeFailure;
use crate::snapshot::Severity;

#[test]
fn one_observer_is_not_the_truth() {
    let mut scene = Scene::new(3);
    scene.calm(2);
    let (snapshot, findings) = scene.rounds(4, |a| {
        for n in 1..=3 {
            a.fail(
                n,
                if n == 1 { timed_out(true) } else { ScrapeFailure::Unreachable { why: "no route".into() } },
            );
        }
    });
    let blind: Vec<&Finding> = findings.iter().filter(|f| f.nodes.is_empty()).collect();
    assert_eq!(
        (blind.len(), blind[0].kind, blind[0].severity),
        (1, FaultKind::NetworkPartition, Severity::Info)
    );
    assert!(findings.iter().all(|f| f.kind != FaultKind::ProcessCrash && f.kind != FaultKind::Deadlock));
    assert!(snapshot.verdict.contains("says nothing about them"), "{}", snapshot.verdict);
}

#[test]
fn a_time_out_is_never_a_crash() {
    let mut scene = Scene::new(3);
    let (snapshot, findings) = scene.rounds(5, |a| {
        a.fail(3, timed_out(false)).cut(1, 3).cut(2, 3);
    });
    assert_eq!(kinds(&findings), [FaultKind::NetworkPartition]);
    assert_eq!(snapshot.node("node-3").unwrap().state.as_str(), "unknown");
    assert_eq!(findings[0].nodes, ["node-3"]);
}

#[test]
fn a_cut_names_the_node_at_the_end_of_every_cut_link() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.cut(1, 3).cut(2, 3).cut(3, 1).cut(3, 2);
    });
    let cut = only(&findings, FaultKind::NetworkPartition);
    assert_eq!((&cut.nodes[..], cut.evidence.len()), (&["node-3".to_owned()][..], 4));
}

#[test]
fn a_one_way_cut_and_a_bridge_are_seen() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.cut(1, 3);
    });
    let cut = only(&findings, FaultKind::NetworkPartition);
    assert_eq!(cut.nodes, ["node-1", "node-3"]);
    assert!(cut.evidence[0].contains("one way"), "{:?}", cut.evidence);
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.cut(1, 3).cut(3, 1);
    });
    let cut = only(&findings, FaultKind::NetworkPartition);
    assert!(cut.evidence.iter().all(|e| !e.contains("one way")), "{:?}", cut.evidence);
}

#[test]
fn a_process_that_just_started_is_still_making_its_links() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(5, |a| {
        a.report(3).status.uptime_seconds = 2.0;
        a.cut(3, 1).cut(3, 2).cut(1, 3).cut(2, 3);
    });
    assert!(findings.is_empty(), "{findings:#?}");
}
