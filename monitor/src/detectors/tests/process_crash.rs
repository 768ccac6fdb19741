//! Crashes.

use super::kinds;
use crate::detectors::FaultKind;
use crate::detectors::fixture::{Scene, only, reports};
use crate::report::ScrapeFailure;
use crate::snapshot::Severity;

#[test]
fn a_crash_is_a_refusal_that_the_peers_confirm() {
    let mut scene = Scene::new(3);
    scene.calm(3);
    let (_, findings) = scene.round(|a| {
        a.kill(3);
    });
    assert!(findings.is_empty(), "one round proves nothing: {findings:#?}");
    let (_, findings) = scene.round(|a| {
        a.kill(3);
    });
    let crash = only(&findings, FaultKind::ProcessCrash);
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (&crash.nodes[..], crash.rounds, crash.severity),
        (&["node-3".to_owned()][..], 2, Severity::Warning)
    );
    assert_eq!(crash.since, reports::after(4.0));
    assert!(crash.evidence.iter().any(|e| e == "node-1, node-2 lost it too"), "{:?}", crash.evidence);
    scene.calm(1);
}

#[test]
fn a_refusal_that_a_peer_contradicts_is_no_crash() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(5, |a| {
        a.fail(3, ScrapeFailure::Refused).cut(1, 3);
    });
    assert_eq!(kinds(&findings), [FaultKind::NetworkPartition]);
    assert_eq!(findings[0].severity, Severity::Info);
}

#[test]
fn losing_the_quorum_makes_crashes_critical() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.kill(1).kill(3);
    });
    assert_eq!(kinds(&findings), [FaultKind::ProcessCrash; 2]);
    assert!(findings.iter().all(|f| f.severity == Severity::Critical));
}

#[test]
fn when_every_node_refuses_every_node_is_down() {
    let mut scene = Scene::new(3);
    scene.calm(1);
    let (_, findings) = scene.rounds(2, |a| {
        a.kill(1).kill(2).kill(3);
    });
    assert_eq!(kinds(&findings), [FaultKind::ProcessCrash; 3]);
    assert!(findings[0].evidence.iter().any(|e| e.contains("the only evidence")), "{findings:#?}");
}
