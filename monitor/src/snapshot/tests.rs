use super::*;
use crate::detectors::fixture::{Answers, Scene, address, reports};
use crate::report::ScrapeFailure;

#[test]
fn a_healthy_cluster_in_one_sentence() {
    let (snapshot, _) = Scene::new(3).round(|_| {});
    assert_eq!(snapshot.verdict, "3 of 3 healthy, leader node-2, can lose 1");
    assert_eq!(snapshot.severity, Severity::Info);
    assert_eq!((snapshot.leader.as_deref(), snapshot.highest_term), (Some("node-2"), 7));
    assert_eq!(snapshot.links.len(), 6);
    assert!(snapshot.checksums.iter().all(|p| matches!(p.agreement, Agreement::Equal { .. })));
    let (snapshot, _) = Scene::new(5).round(|_| {});
    assert!(snapshot.verdict.ends_with("can lose 2"), "{}", snapshot.verdict);
}

#[test]
fn unknown_is_never_down() {
    let failures = [
        ScrapeFailure::TimedOut { connected: false, waited_ms: 9 },
        ScrapeFailure::TimedOut { connected: true, waited_ms: 9 },
        ScrapeFailure::Unreachable { why: "no route to host".into() },
        ScrapeFailure::HttpStatus { status: 503, text: String::new() },
        ScrapeFailure::Malformed { why: "eof".into() },
    ];
    for failure in failures {
        let (snapshot, _) = Scene::new(3).round(|a| {
            a.kill(3).fail(3, failure.clone());
        });
        assert_eq!(snapshot.nodes[2].state.as_str(), "unknown", "{failure}");
    }
    let (snapshot, _) = Scene::new(3).round(|a| {
        a.kill(3);
    });
    assert_eq!(snapshot.nodes[2].state.as_str(), "down");
    let (snapshot, _) = Scene::new(3).round(|a| {
        a.fail(3, ScrapeFailure::Refused);
    });
    let NodeState::Unknown { why } = &snapshot.nodes[2].state else {
        panic!("{:?}", snapshot.nodes[2].state)
    };
    assert_eq!(why, "connection refused; but node-1, node-2 hear it");
}

#[test]
fn a_silent_node_keeps_its_name() {
    let mut scene = Scene::new(3);
    // Never seen, but its peers know who is at that address.
    let (snapshot, _) = scene.round(|a| {
        a.kill(3);
    });
    assert_eq!(snapshot.nodes[2].name(), "node-3");
    assert_eq!(snapshot.nodes[2].last_report_at, None);
    // Seen, then gone together with everyone who could name it.
    let mut scene = Scene::new(3);
    scene.calm(1);
    let (snapshot, _) = scene.round(|a| {
        a.kill(1).kill(2).kill(3);
    });
    assert_eq!(snapshot.nodes[2].name(), "node-3");
    assert_eq!(snapshot.nodes[2].last_report_at, Some(reports::after(1.0)));
    assert_eq!(snapshot.verdict, "All 3 nodes are down: every connection is refused");
    // Neither: it goes by its address.
    let (snapshot, _) = Scene::new(3).round(|a| {
        a.kill(1).kill(2).kill(3);
    });
    assert_eq!(snapshot.nodes[2].name(), address(3));
}

#[test]
fn a_replaced_node_goes_by_its_new_name() {
    let mut scene = Scene::new(3);
    scene.calm(1);
    let (snapshot, _) = scene.round(|a| a.report(3).status.node_id = "node-9".into());
    assert_eq!(snapshot.nodes[2].name(), "node-9");
}

#[test]
fn replicas_are_never_added_up() {
    // metrics_are_measured: the figures are one node's, not the sum over three.
    let (snapshot, _) = Scene::new(3).round(|a| {
        a.report(1).status.tasks.insert(TaskState::Pending, 9);
    });
    let work = snapshot.work.unwrap();
    assert_eq!(
        (work.from.as_str(), work.from_leader, work.tasks[&TaskState::Pending]),
        ("node-2", true, 412)
    );
    // Without a leader: the node furthest ahead, and it says so.
    let (snapshot, _) = Scene::new(3).round(|a| {
        a.report(2).status.role = Role::Follower;
        a.report(3).status.applied_index += 50;
        a.report(3).status.tasks.insert(TaskState::Pending, 5);
    });
    let work = snapshot.work.unwrap();
    assert_eq!((work.from.as_str(), work.from_leader, work.tasks[&TaskState::Pending]), ("node-3", false, 5));
}

#[test]
fn a_leader_is_named_only_by_itself_and_only_in_the_highest_term() {
    // recovery_forgets_old_observations: followers still naming a dead leader make it no leader.
    let mut scene = Scene::new(3);
    scene.calm(3);
    let (snapshot, _) = scene.round(|a| {
        a.kill(2);
    });
    assert_eq!(snapshot.leader, None);
    assert_eq!(snapshot.verdict, "2 of 3 healthy, no leader; node-2 down");
    assert_eq!(snapshot.severity, Severity::Warning);
    let (snapshot, _) = scene.rounds(4, |a| {
        a.kill(2);
    });
    assert_eq!((snapshot.severity, snapshot.leaderless_seconds), (Severity::Critical, Some(5.0)));
    let (snapshot, _) = Scene::new(3).round(|a| a.report(1).status.term = 8);
    assert_eq!((snapshot.leader, snapshot.leaders.len()), (None, 1));
}

#[test]
fn a_lost_quorum_is_critical() {
    let (snapshot, _) = Scene::new(3).round(|a| {
        a.kill(1).kill(2);
    });
    assert_eq!(snapshot.verdict, "No quorum: 1 of 3 voters report, writes stop; node-1 down; node-2 down");
    assert_eq!(snapshot.severity, Severity::Critical);
    assert!(!snapshot.quorum.is_met());
}

#[test]
fn a_node_without_a_vote_does_not_count_for_the_quorum() {
    let (snapshot, _) = Scene::new(3).round(|a| a.report(3).status.role = Role::Suspect);
    assert_eq!(snapshot.quorum.can_lose, 0);
    assert_eq!(snapshot.verdict, "2 of 3 healthy, leader node-2, can lose 0; node-3 suspect");
}

#[test]
fn leader_is_found_by_id_not_substring() {
    let mut scene = Scene::new(3);
    scene.leader = 1;
    let (snapshot, _) = scene.round(|a| {
        a.report(3).status.node_id = "node-10".into();
        for n in [1, 2] {
            a.report(n).status.voters[2] = "node-10".into();
            a.report(n).status.peers.iter_mut().find(|p| p.node_id == "node-3").unwrap().node_id =
                "node-10".into();
        }
    });
    assert_eq!(snapshot.leader.as_deref(), Some("node-1"));
    assert_eq!(snapshot.report_of("node-1").unwrap().status.role, Role::Leader);
}

#[test]
fn a_voter_nobody_watches_is_named() {
    let (snapshot, _) = Scene::new(3).round(|a| a.report(2).status.voters.push("node-4".into()));
    assert_eq!(snapshot.quorum.unwatched, ["node-4"]);
    assert!(snapshot.verdict.ends_with("not watched: node-4"), "{}", snapshot.verdict);
}

#[test]
fn checksums_are_compared_only_where_both_passed() {
    // recovery_checks_quorum: never at different indexes.
    let (snapshot, _) = Scene::new(3).round(|a| {
        for n in [1, 3] {
            a.report(n).state_checksum.checkpoints.clear();
        }
        a.report(3).state_checksum.applied_index += 1;
    });
    let of = |a: &str, b: &str| {
        snapshot.checksums.iter().find(|p| p.a == a && p.b == b).map(|p| p.agreement.clone()).unwrap()
    };
    assert!(
        matches!(of("node-1", "node-3"), Agreement::NotComparable { .. }),
        "{:?}",
        of("node-1", "node-3")
    );
    let (snapshot, _) = Scene::new(3).round(|a| a.report(3).status.cluster_id = Some("other".into()));
    assert!(matches!(snapshot.checksums[1].agreement, Agreement::NotComparable { .. }));
}

#[test]
fn a_difference_that_was_repaired_is_none() {
    let (snapshot, _) =
        Scene::new(3).round(|a| a.report(3).state_checksum.checkpoints[0].checksum = "old".into());
    assert!(snapshot.checksums.iter().all(|p| matches!(p.agreement, Agreement::Equal { .. })));
    assert_eq!(dissent(&snapshot, DissentIn::State), None);
}

#[test]
fn nothing_is_called_healthy_while_something_is_wrong() {
    let mut scene = Scene::new(3);
    let (mut snapshot, findings) = scene.rounds(2, |a| a.report(3).resources.disk_usage = 97.0);
    snapshot.note_findings(&findings);
    assert_eq!(snapshot.verdict, "2 of 3 healthy, leader node-2, can lose 1; resource exhaustion on node-3");
    assert_eq!(snapshot.severity, Severity::Critical);
}

#[test]
fn maintenance_is_said() {
    let (snapshot, _) = Scene::new(3).round(|a| a.report(2).status.maintenance.enabled = true);
    assert!(snapshot.verdict.ends_with("; maintenance is on"), "{}", snapshot.verdict);
}

#[test]
fn a_snapshot_survives_the_wire_and_shrinks_for_keeping() {
    let (snapshot, _) = Scene::new(3).round(|a| {
        a.fail(3, ScrapeFailure::HttpStatus { status: 500, text: "<b>".into() });
    });
    let json = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<ClusterSnapshot>(&json).unwrap(), snapshot);
    let kept = snapshot.compact();
    assert!(kept.reporting().all(|(_, r)| r.state_checksum.checkpoints.len() <= 2));
}

#[test]
fn nobody_at_all_is_no_cluster() {
    let snapshot = ClusterSnapshot::join(&[], &Memory::default(), 1, reports::epoch());
    assert_eq!((snapshot.leader, snapshot.severity), (None, Severity::Warning));
    let answers = Answers::healthy(1, 1, 1, 0.0);
    let snapshot = ClusterSnapshot::join(&answers.0, &Memory::default(), 1, reports::epoch());
    assert_eq!(snapshot.verdict, "1 of 1 healthy, leader node-1, can lose 0");
    assert_eq!(snapshot.severity, Severity::Info);
}
