//! Clocks.

use crate::detectors::FaultKind;
use crate::detectors::fixture::{Answers, Scene, only};
use crate::snapshot::Severity;

#[test]
fn a_clock_that_is_off_names_its_node_where_the_others_agree() {
    let off = |a: &mut Answers, by: i64| {
        for n in [1, 2] {
            a.report(n).status.peers.iter_mut().find(|p| p.node_id == "node-3").unwrap().clock_offset_ms =
                Some(by);
        }
        a.report(3).status.peers.iter_mut().for_each(|p| p.clock_offset_ms = Some(-by));
    };
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(5, |a| off(a, 250));
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.rounds(2, |a| off(a, -3_600_000));
    let found = only(&findings, FaultKind::ClockOffset);
    assert_eq!(
        (found.nodes.as_slice(), found.severity),
        (["node-3".to_owned()].as_slice(), Severity::Warning)
    );
    assert!(found.evidence[0].contains("-3600000 ms from that of node-1, limit 250 ms"), "{found:?}");
    let (_, findings) = scene.round(|a| off(a, 230));
    assert_eq!(findings.len(), 1, "above the low-water mark");
    let (_, findings) = scene.round(|a| off(a, 10));
    assert!(findings.is_empty(), "{findings:#?}");
    let mut scene = Scene::new(2);
    let (_, findings) = scene.rounds(2, |a| a.report(1).status.peers[0].clock_offset_ms = Some(900));
    assert!(only(&findings, FaultKind::ClockOffset).nodes.is_empty(), "of two nobody knows who is right");
}
