use super::fixture::{Answers, Scene, only, reports};
use super::{FaultKind, Finding, Limits, Window, detect_all};
use crate::report::ScrapeFailure;
use crate::snapshot::Severity;
use api::cluster::{CheckpointRecord, HealthStatus, Operation, Role};

fn kinds(findings: &[Finding]) -> Vec<FaultKind> {
    findings.iter().map(|f| f.kind).collect()
}

fn timed_out(connected: bool) -> ScrapeFailure {
    ScrapeFailure::TimedOut { connected, waited_ms: 1_000 }
}

#[test]
fn names_survive_the_wire() {
    for kind in FaultKind::ALL {
        assert_eq!(FaultKind::parse(kind.as_str()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}

#[test]
fn a_healthy_cluster_has_no_findings() {
    for of in [1, 3, 5, 7] {
        let mut scene = Scene::new(of);
        scene.leader = 1;
        scene.calm(150);
    }
}

#[test]
fn members_down_alert_is_quiet_on_first_round() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.round(|a| {
        a.kill(1);
        a.fail(3, ScrapeFailure::HttpStatus { status: 500, text: String::new() });
        a.report(2).resources.disk_usage = 99.0;
        a.report(2).db.healthy = false;
    });
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn one_clean_failover_is_no_finding() {
    let mut scene = Scene::new(3);
    scene.calm(5);
    // One round without a leader, everyone a term further, then a new one.
    let (snapshot, findings) = scene.round(|a| {
        for n in 1..=3 {
            a.report(n).status.role = if n == 1 { Role::Candidate } else { Role::Follower };
            a.report(n).status.term = 8;
            a.report(n).health.status = HealthStatus::Degraded;
        }
    });
    assert_eq!((snapshot.leader, findings), (None, vec![]));
    // The old leader has not heard of it yet.
    (scene.leader, scene.term) = (1, 8);
    let (snapshot, findings) = scene.round(|a| {
        a.report(2).status.role = Role::Leader;
        a.report(2).status.term = 7;
    });
    assert_eq!(snapshot.leader.as_deref(), Some("node-1"));
    assert!(findings.is_empty(), "{findings:#?}");
    scene.calm(70);
}

#[test]
fn a_fresh_cluster_that_is_not_founded_has_no_findings() {
    let mut scene = Scene::new(3);
    for _ in 0..20 {
        let (snapshot, findings) = scene.round(|a| {
            for n in 1..=3 {
                let report = a.report(n);
                report.status.cluster_id = None;
                report.status.role = Role::Uninitialised;
                report.status.current_leader = None;
                report.status.voters.clear();
                report.status.uptime_seconds = 1.0;
                report.progress.raft_turns = 0;
                report.status.peers.iter_mut().for_each(|p| p.reachable = false);
                report.operations.operations.push(Operation {
                    id: "1".into(),
                    kind: "founding".into(),
                    started_at: reports::epoch(),
                    duration_seconds: 500.0,
                    detail: String::new(),
                });
            }
        });
        assert!(findings.is_empty(), "{findings:#?}");
        assert!(snapshot.verdict.contains("no cluster founded yet"), "{}", snapshot.verdict);
    }
}

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
fn when_every_node_refuses_every_node_is_down() {
    let mut scene = Scene::new(3);
    scene.calm(1);
    let (_, findings) = scene.rounds(2, |a| {
        a.kill(1).kill(2).kill(3);
    });
    assert_eq!(kinds(&findings), [FaultKind::ProcessCrash; 3]);
    assert!(findings[0].evidence.iter().any(|e| e.contains("the only evidence")), "{findings:#?}");
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
    });
    only(&findings, FaultKind::TermDivergence);
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
fn repeated_elections_and_a_term_that_runs_ahead() {
    let mut scene = Scene::new(3);
    let mut last = Vec::new();
    for turn in 0..5 {
        (scene.leader, scene.term) = (turn % 2 + 1, 10 + turn as u64);
        last = scene.rounds(3, |_| {}).1;
    }
    let found = only(&last, FaultKind::TermDivergence);
    assert!(found.evidence[0].starts_with("4 leader changes"), "{:?}", found.evidence);
    // Counted by a node between two rounds.
    let mut scene = Scene::new(3);
    scene.calm(2);
    let (_, findings) = scene.rounds(2, |a| a.report(1).status.leader_changes = 6);
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

#[test]
fn a_stuck_applier_is_told_from_a_slow_one() {
    let stuck = |a: &mut Answers, applied: u64| {
        a.report(3).status.applied_index = applied;
        a.report(3).progress.applied_entries = applied;
    };
    let mut scene = Scene::new(3);
    scene.calm(1);
    let (_, findings) = scene.rounds(2, |a| stuck(a, 1_100));
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.round(|a| stuck(a, 1_100));
    assert_eq!(only(&findings, FaultKind::Deadlock).nodes, ["node-3"]);
    // Slow: behind, but moving.
    let mut scene = Scene::new(3);
    scene.calm(1);
    let mut applied = 1_100;
    let (_, findings) = scene.rounds(8, |a| {
        applied += 1;
        stuck(a, applied);
    });
    assert!(findings.is_empty(), "{findings:#?}");
    // A restart is progress, whatever the counter says.
    let mut scene = Scene::new(3);
    let mut boot = 0;
    let (_, findings) = scene.rounds(8, |a| {
        boot += 1;
        stuck(a, 1_100);
        a.report(3).status.boot_nonce = format!("boot {boot}");
    });
    assert!(findings.iter().all(|f| f.kind != FaultKind::Deadlock), "{findings:#?}");
}

#[test]
fn a_stuck_log_writer_a_still_raft_thread_and_an_overdue_operation() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).progress.log_syncs = 5;
        a.report(1).progress.log_busy_ms = 6_000;
    });
    assert!(only(&findings, FaultKind::Deadlock).evidence[0].contains("log writer"));
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(4, |a| a.report(2).progress.raft_turns = 5);
    assert!(only(&findings, FaultKind::Deadlock).evidence[0].contains("Raft thread"));
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.report(1).operations.operations.push(Operation {
            id: "7".into(),
            kind: "snapshot".into(),
            started_at: reports::epoch(),
            duration_seconds: 75.0,
            detail: String::new(),
        });
    });
    assert!(only(&findings, FaultKind::Deadlock).evidence[0].contains("snapshot runs for 75 s"));
}

#[test]
fn a_process_that_takes_connections_and_answers_nothing_is_stuck() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| {
        a.fail(3, timed_out(true));
    });
    assert!(findings.is_empty(), "{findings:#?}");
    let (_, findings) = scene.round(|a| {
        a.fail(3, timed_out(true));
    });
    assert_eq!(only(&findings, FaultKind::Deadlock).nodes, ["node-3"]);
}

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
fn the_window_is_bounded_and_never_looks_ahead() {
    let mut scene = Scene::new(3);
    scene.window = Window::new(4);
    let (snapshot, findings) = scene.rounds(50, |a| {
        a.kill(3);
    });
    assert_eq!((scene.window.len(), findings[0].rounds), (4, 5));
    // The round itself is in the window by now and must not count twice.
    let again = detect_all(&snapshot, &scene.window, &Limits::default());
    assert_eq!(again[0].rounds, 4);
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

#[test]
fn saturated_is_not_dead() {
    // A node that is busy to the brim answers late, or not within the time, now and then.
    let mut scene = Scene::new(3);
    for _ in 0..10 {
        let (snapshot, findings) = scene.round(|a| {
            a.fail(3, timed_out(true));
        });
        assert!(findings.is_empty(), "{findings:#?}");
        assert!(matches!(snapshot.nodes[2].state, crate::snapshot::NodeState::Unknown { .. }));
        let (_, findings) = scene.round(|a| a.report(3).resources.cpu_usage = 400.0);
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

#[test]
fn live_probe_sees_stuck_raft_loop() {
    // It answers, and says that all is well: only its counter stands still.
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(4, |a| a.report(2).progress.raft_turns = 77);
    let found = only(&findings, FaultKind::Deadlock);
    assert_eq!(found.nodes, ["node-2"]);
    assert!(found.evidence[0].contains("Raft thread has not turned"), "{found:?}");
}

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

#[test]
fn every_finding_says_where_to_look() {
    let mut scene = Scene::new(3);
    let (_, findings) = scene.rounds(2, |a| a.report(1).db.healthy = false);
    let found = only(&findings, FaultKind::DatabaseCorruption);
    assert_eq!(found.look_at, [format!("{}/api/health/db", super::fixture::address(1))]);
}
