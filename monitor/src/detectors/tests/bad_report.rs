//! Answers that are no reports.

use super::kinds;
use crate::detectors::FaultKind;
use crate::detectors::fixture::{Answers, Scene, only};
use crate::report::ScrapeFailure;
use crate::snapshot::Severity;

#[test]
fn one_process_at_two_addresses_is_a_mistake_in_the_list() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        let twin = a.report(1).clone();
        *a.report(3) = twin;
    });
    assert_eq!(only(&findings, FaultKind::BadReport).severity, Severity::Info);
    assert!(findings.iter().all(|f| f.kind != FaultKind::SplitBrain), "{findings:#?}");
}

#[test]
fn a_missing_report_is_itself_a_finding() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.fail(1, ScrapeFailure::HttpStatus { status: 404, text: "no such endpoint".into() });
        a.fail(3, ScrapeFailure::Malformed { why: "status.term: expected u64".into() });
    });
    assert_eq!(kinds(&findings), [FaultKind::BadReport; 2]);
    assert!(findings[0].evidence[0].contains("404"), "{findings:#?}");
}

#[test]
fn two_nodes_behind_one_address_are_named() {
    let mut scene = Scene::new(3);
    scene.calm(5);
    let as_other = |a: &mut Answers| {
        let report = a.report(3);
        report.status.node_id = "node-9".into();
        report.status.boot_nonce = "boot-9".into();
    };
    // Replaced once: no finding.
    let (_, findings) = scene.rounds(4, as_other);
    assert!(!findings.iter().any(|f| f.kind == FaultKind::BadReport), "{findings:#?}");
    scene.round(|_| {});
    let (_, findings) = scene.round(as_other);
    let found = only(&findings, FaultKind::BadReport);
    assert_eq!(found.nodes, ["node-3", "node-9"]);
    assert!(found.evidence[0].contains("answers as node-3 and node-9 in turn"), "{found:?}");
}

#[test]
fn a_node_of_another_release_is_told() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| a.report(2).status.version = "9.4.1".into());
    let found = only(&findings, FaultKind::BadReport);
    assert_eq!((found.nodes.as_slice(), found.severity), (["node-2".to_owned()].as_slice(), Severity::Info));
    assert!(found.evidence[0].contains("version 9.4.1"), "{found:?}");
}
