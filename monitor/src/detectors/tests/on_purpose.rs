//! What is done on purpose is no fault: stops that were announced, leadership that moves on request.

use crate::detectors::fixture::{Answers, Scene, only, reports};
use crate::detectors::{FaultKind, Finding};
use crate::report::ScrapeFailure;
use crate::snapshot::Severity;
use api::cluster::Goodbye;

/// Node `n` said goodbye to these, and is gone; the process is the one of [`reports::healthy`].
fn left(answers: &mut Answers, n: usize, told: &[usize], ago_seconds: f64) {
    answers.kill(n);
    let goodbye = Goodbye { boot_nonce: format!("boot-{n}"), ago_ms: (ago_seconds * 1_000.0) as u64 };
    for from in told {
        let Ok(report) = &mut answers.0[from - 1].outcome else { continue };
        let peer = report.status.peers.iter_mut().find(|p| p.node_id == reports::name(n)).unwrap();
        peer.goodbye = Some(goodbye.clone());
    }
}

fn quiet(findings: &[Finding]) {
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn a_node_that_said_goodbye_is_no_crash_until_its_grace_is_over() {
    let mut scene = Scene::new(3);
    scene.calm(3);
    for away in 1..120 {
        let (snapshot, findings) = scene.round(|a| left(a, 3, &[1, 2], f64::from(away)));
        quiet(&findings);
        assert!(snapshot.verdict.ends_with("; node-3 stopped on purpose"), "{}", snapshot.verdict);
        assert_eq!(snapshot.nodes[2].stopped_at, Some(reports::after(3.0)));
    }
    let (_, findings) = scene.rounds(2, |a| left(a, 3, &[1, 2], 121.0));
    let found = only(&findings, FaultKind::ProcessCrash);
    assert_eq!((&found.nodes[..], found.severity), (&["node-3".to_owned()][..], Severity::Warning));
    assert!(found.evidence[0].starts_with("it said that it stops 2 min ago"), "{:?}", found.evidence);
    // It comes back, and is killed: that is another matter.
    scene.rounds(3, |a| a.report(3).status.boot_nonce = "another".into());
    let (_, findings) = scene.rounds(2, |a| left(a, 3, &[1, 2], 140.0));
    assert!(only(&findings, FaultKind::ProcessCrash).evidence[0].contains("refuses connections"));
}

#[test]
fn a_host_that_is_switched_off_with_its_node_is_no_partition() {
    let mut scene = Scene::new(3);
    scene.calm(3);
    let gone = |a: &mut Answers, away: f64| {
        left(a, 3, &[1], away);
        a.fail(3, ScrapeFailure::TimedOut { connected: false, waited_ms: 800 });
    };
    for away in 1..120 {
        quiet(&scene.round(|a| gone(a, f64::from(away))).1);
    }
    let (_, findings) = scene.rounds(2, |a| gone(a, 121.0));
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(only(&findings, FaultKind::ProcessCrash).nodes, ["node-3"]);
}

#[test]
fn a_goodbye_outlives_the_peers_that_heard_it() {
    let mut scene = Scene::new(3);
    scene.calm(2);
    quiet(&scene.rounds(3, |a| left(a, 3, &[1], 1.0)).1);
    // Whoever was told is a new process now, and knows nothing.
    quiet(&scene.rounds(10, |a| left(a, 3, &[], 0.0)).1);
}

#[test]
fn a_node_that_goes_on_purpose_and_was_one_too_many_is_named_at_once() {
    let mut scene = Scene::new(3);
    scene.calm(2);
    let (_, findings) = scene.rounds(2, |a| {
        a.kill(1);
        left(a, 3, &[2], 1.0);
    });
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert!(findings.iter().all(|f| f.severity == Severity::Critical));
}

#[test]
fn a_crash_leaves_no_goodbye() {
    // It stopped once, came back, and its peers met the new process: nothing is left of the goodbye.
    let mut scene = Scene::new(3);
    scene.calm(2);
    quiet(&scene.rounds(4, |a| left(a, 3, &[1, 2], 1.0)).1);
    // Not yet asked, but heard by a peer that was told nothing by it.
    quiet(
        &scene
            .round(|a| {
                a.fail(3, ScrapeFailure::Refused);
            })
            .1,
    );
    let (snapshot, findings) = scene.rounds(2, |a| {
        a.kill(3);
    });
    assert_eq!(snapshot.nodes[2].stopped_at, None);
    only(&findings, FaultKind::ProcessCrash);
}

#[test]
fn leadership_that_moves_on_request_is_no_divergence_however_often() {
    let mut scene = Scene::new(3);
    scene.calm(3);
    for turn in 0..40_usize {
        (scene.leader, scene.term) = (turn % 3 + 1, 8 + turn as u64);
        let changes = 2 + turn as u64;
        for _ in 0..2 {
            quiet(&scene.round(|a| (1..=3).for_each(|n| a.report(n).status.leader_changes = changes)).1);
        }
    }
}

#[test]
fn elections_among_transfers_count_alone() {
    let transfers = |scene: &mut Scene, elections: u64, forced: u64| {
        let mut last = Vec::new();
        for turn in 0..8_usize {
            (scene.leader, scene.term) = (turn % 3 + 1, 8 + turn as u64);
            last = scene
                .rounds(2, |a| {
                    a.report(1).status.elections = Some(1 + elections * turn as u64 / 7);
                    a.report(2).status.forced_handovers = forced * turn as u64 / 7;
                })
                .1;
        }
        last
    };
    let mut scene = Scene::new(3);
    scene.calm(3);
    quiet(&transfers(&mut scene, 3, 0));
    let mut scene = Scene::new(3);
    scene.calm(3);
    let findings = transfers(&mut scene, 2, 2);
    let found = only(&findings, FaultKind::TermDivergence);
    assert!(found.evidence[1].starts_with("4 elections or forced hand-overs"), "{:?}", found.evidence);
    // A program that does not tell: every change counts, as nobody knows better.
    let mut scene = Scene::new(3);
    scene.calm(3);
    let mut last = Vec::new();
    for turn in 0..8_usize {
        (scene.leader, scene.term) = (turn % 3 + 1, 8 + turn as u64);
        last = scene.rounds(2, |a| a.report(3).status.elections = None).1;
    }
    only(&last, FaultKind::TermDivergence);
}

#[test]
fn a_leader_that_is_started_again_and_again_counts_by_the_elections_of_the_others() {
    let mut scene = Scene::new(3);
    scene.calm(3);
    let mut last = Vec::new();
    for turn in 0..5_u64 {
        // node-1 and node-3 lead in turn; the one that was elected is killed, and starts from nothing.
        let (elected, started) = if turn % 2 == 0 { (1, 3) } else { (3, 1) };
        (scene.leader, scene.term) = (elected, 8 + turn);
        last = scene
            .rounds(3, |a| {
                let status = &mut a.report(elected).status;
                (status.elections, status.uptime_seconds) = (Some(1), 3.0);
                status.boot_nonce = format!("boot {elected} of turn {turn}");
                let status = &mut a.report(started).status;
                (status.elections, status.uptime_seconds) = (Some(0), 2.0);
                status.boot_nonce = format!("boot {started} of turn {}", turn + 1);
            })
            .1;
    }
    only(&last, FaultKind::TermDivergence);
}
