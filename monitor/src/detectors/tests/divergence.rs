//! Damaged and divided logs, states and databases.

use super::kinds;
use crate::detectors::FaultKind;
use crate::detectors::fixture::{Answers, Scene, only, reports};
use crate::snapshot::Severity;
use api::cluster::CheckpointRecord;

#[test]
fn a_divided_log_blames_the_minority_even_if_it_leads() {
    // divergence_blames_the_minority: node-2 leads.
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        let held = &mut a.report(2).state_checksum;
        held.log_chain = "x".repeat(32);
        for c in &mut held.checkpoints {
            (c.log_chain, c.checksum) =
                (reports::hash("other log", c.index), reports::hash("other", c.index));
        }
    });
    let found = only(&findings, FaultKind::LogCorruption);
    assert_eq!((&found.nodes[..], findings.len()), (&["node-2".to_owned()][..], 1));
}

fn bend_state(answers: &mut Answers, n: usize) {
    let held = &mut answers.report(n).state_checksum;
    held.checksum = reports::hash(&format!("state of {n}"), held.applied_index);
    let other = |c: &mut CheckpointRecord| c.checksum = reports::hash(&format!("state of {n}"), c.index);
    held.checkpoints.iter_mut().for_each(other);
}

#[test]
fn divergence_raises_alert() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.round(|a| bend_state(a, 3));
    assert!(findings.is_empty());
    // node-1 and node-3 also meet at their applied index, which node-2 is past: the majority is
    // found further down, where all three have a checkpoint.
    let (_, findings) = scene.round(|a| bend_state(a, 3));
    let found = only(&findings, FaultKind::StateDivergence);
    assert_eq!((&found.nodes[..], findings.len()), (&["node-3".to_owned()][..], 1));
    assert_eq!(found.severity, Severity::Critical);
}

/// A follower was always blamed, whoever differed.
#[test]
fn divergence_blames_the_minority() {
    // Whoever it is, the first one and the leader included.
    for minority in 1..=3 {
        let mut scene = Scene::new(3);
        let (_, findings) = scene.rounds(2, |a| bend_state(a, minority));
        let found = only(&findings, FaultKind::StateDivergence);
        assert_eq!(found.nodes, [format!("node-{minority}")]);
    }
    let mut scene = Scene::new(5);
    let (_, findings) = scene.rounds(2, |a| {
        bend_state(a, 1);
        bend_state(a, 4);
    });
    let found = only(&findings, FaultKind::StateDivergence);
    let blamed: std::collections::BTreeSet<&str> = found.nodes.iter().map(String::as_str).collect();
    assert_eq!(blamed, ["node-1", "node-4"].into());
}

#[test]
fn without_a_majority_nobody_is_blamed() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        bend_state(a, 1);
        bend_state(a, 3);
    });
    let found = only(&findings, FaultKind::StateDivergence);
    assert!(found.nodes.is_empty());
    assert!(found.evidence.iter().any(|e| e.contains("nobody can be blamed")), "{:?}", found.evidence);
}

/// A bit that flipped in memory: the checksums, which were made before, still agree.
#[test]
fn a_record_that_is_not_what_its_hash_says_is_named_by_its_own_node() {
    let damaged = |a: &mut Answers| {
        a.report(3).state_checksum.integrity = Some(api::admin::IntegrityCheck {
            part: "machine".into(),
            checked_at: jiff::Timestamp::UNIX_EPOCH,
            sound: false,
            checked: 7,
            took_ms: 1,
            detail: "the record of task `a` is not what its hash says".into(),
        });
    };
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, damaged);
    let found = only(&findings, FaultKind::StateDivergence);
    assert_eq!((&found.nodes[..], found.severity), (&["node-3".to_owned()][..], Severity::Critical));
    assert!(found.evidence.iter().any(|e| e.contains("task `a`")), "{:?}", found.evidence);
    // Once another record is made of it, the checksums part as well: that is the same fault.
    let (_, findings) = scene.rounds(2, |a| {
        damaged(a);
        bend_state(a, 3);
    });
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert!(findings[0].evidence.iter().any(|e| e.contains("different states")));
    let (_, findings) = scene.rounds(2, |a| {
        damaged(a);
        a.report(3).state_checksum.integrity.as_mut().unwrap().sound = true;
    });
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn a_node_that_lags_is_not_accused_of_divergence() {
    let mut scene = Scene::new(3);
    for _ in 0..5 {
        let (_, findings) = scene.round(|a| {
            let report = a.report(3);
            report.status.applied_index -= 700;
            report.state_checksum.applied_index -= 700;
            let held = &mut report.state_checksum;
            held.checksum = reports::hash("state", held.applied_index);
            held.log_chain = reports::hash("log", held.applied_index);
            held.checkpoints.retain(|c| c.index <= held.applied_index);
        });
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

#[test]
fn a_damaged_database_and_a_damaged_log_say_so_themselves() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).db.healthy = false;
        a.report(1).db.details = (0..20).map(|n| (format!("a{n}"), n.into())).collect();
        a.report(1).db.details.insert("error".into(), "checksum of block 7".into());
        a.report(3).log.healthy = false;
    });
    assert_eq!(kinds(&findings), [FaultKind::LogCorruption, FaultKind::DatabaseCorruption]);
    assert!(findings[1].evidence.contains(&"error: checksum of block 7".to_owned()), "{findings:#?}");
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).db.healthy = false;
        a.report(1).db.details.insert("rebuilding".into(), true.into());
    });
    assert_eq!(only(&findings, FaultKind::DatabaseCorruption).severity, Severity::Info);
}
