//! What runs out.

use super::kinds;
use crate::detectors::FaultKind;
use crate::detectors::fixture::{Scene, only};
use crate::snapshot::Severity;

#[test]
fn resources_are_measured_against_their_limits() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).resources.disk_usage = 85.0;
        a.report(2).resources.disk_usage = 95.0;
        let r = &mut a.report(3).resources;
        (r.memory_usage, r.open_fds, r.max_fds) = (92.0, 980, 1_000);
    });
    assert_eq!(kinds(&findings), [FaultKind::ResourceExhaustion; 3]);
    let severities: Vec<Severity> = findings.iter().map(|f| f.severity).collect();
    assert_eq!(severities, [Severity::Critical, Severity::Warning, Severity::Warning]);
    assert_eq!(findings[2].evidence.len(), 2, "{:?}", findings[2]);
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(3, |a| {
        let r = &mut a.report(3).resources;
        (r.disk_usage, r.memory_usage, r.open_fds, r.max_fds) = (f64::NAN, f64::NAN, 10, 0);
    });
    assert!(findings.is_empty(), "what was not measured is no shortage: {findings:#?}");
}

#[test]
fn disk_full_is_named() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| a.report(1).resources.disk_usage = 99.5);
    let found = only(&findings, FaultKind::ResourceExhaustion);
    assert_eq!(
        (found.nodes.as_slice(), found.severity),
        (["node-1".to_owned()].as_slice(), Severity::Critical)
    );
    assert!(found.evidence[0].starts_with("disk 99.5 % used, 40.0 GiB free, limit 95 %"), "{found:?}");
}

#[test]
fn a_figure_that_sways_round_its_limit_is_one_finding() {
    let mut scene = Scene::new(3);
    scene.rounds(2, |a| a.report(1).resources.disk_usage = 86.0);
    for usage in [84.0, 86.0, 83.0, 84.9] {
        let (_, findings) = scene.round(|a| a.report(1).resources.disk_usage = usage);
        assert_eq!(only(&findings, FaultKind::ResourceExhaustion).severity, Severity::Warning, "{usage}");
    }
    let (_, findings) = scene.round(|a| a.report(1).resources.disk_usage = 81.0);
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.rounds(3, |a| a.report(1).resources.disk_usage = 84.0);
    assert!(findings.is_empty(), "{findings:#?}");
}
