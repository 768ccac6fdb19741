//! Policy, diagnosis and verification as tables.

use crate::sample::{dead, look, refusing, report, sighting, silent, target, well};
use monitor::detectors::FaultKind::{self, *};
use recovery::diagnosis::{Cause, Proof, diagnose};
use recovery::ledger::FaultLedger;
use recovery::observation::{NodeView, ProcessState};
use recovery::plan::{Plan, plan};
use recovery::policy::{
    Circumstances, Gate, MAX_STARTS_IN_WINDOW, Policy, QuorumView, Risk, Rule, Verdict, backoff_ms,
    check_quorum, judge,
};
use recovery::verify::{self, Judgement};

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn crash_plan() -> Plan {
    let cause = Cause {
        kind: ProcessCrash,
        nodes: names(&["n2"]),
        evidence: vec!["gone".into()],
        proof: Proof::Dead,
    };
    plan("f", &cause, 1)
}

fn restarting_policy() -> Policy {
    let mut policy = Policy::observe_only(Rule::default(), 5);
    policy.rule_mut(ProcessCrash).enabled = true;
    policy
}

/// Circumstances in which a restart is allowed.
fn calm<'a>(ledger: &'a FaultLedger, voters: &'a [String], healthy: &'a [String]) -> Circumstances<'a> {
    Circumstances {
        now_ms: 1_000_000,
        brake: None,
        maintenance: false,
        acknowledged: false,
        observed_at_ms: 999_900,
        max_evidence_age_ms: 2_000,
        blind: false,
        rounds_seen: 2,
        node_busy: false,
        quorum: QuorumView { voters, healthy },
        ledger,
        actuator: true,
        dry_run: false,
    }
}

fn gate_of(change: impl FnOnce(&mut Circumstances<'_>)) -> Option<Gate> {
    let ledger = FaultLedger::default();
    let voters = names(&["n1", "n2", "n3"]);
    let mut circumstances = calm(&ledger, &voters, &voters);
    change(&mut circumstances);
    match judge(&crash_plan(), &restarting_policy(), &circumstances) {
        Verdict::Allow => None,
        Verdict::Deny { gate, .. } => Some(gate),
    }
}

#[test]
fn each_gate_denies_a_restart_for_its_own_reason_only() {
    assert_eq!(gate_of(|_| {}), None);
    assert_eq!(gate_of(|c| c.brake = Some("a person")), Some(Gate::Brake));
    // Maintenance and an acknowledgement let the restart of a dead process through, and so does a
    // total loss of the cluster.
    assert_eq!(gate_of(|c| c.maintenance = true), None);
    assert_eq!(gate_of(|c| c.acknowledged = true), None);
    assert_eq!(gate_of(|c| c.blind = true), None);
    assert_eq!(gate_of(|c| c.observed_at_ms = 997_000), Some(Gate::Evidence));
    assert_eq!(gate_of(|c| c.node_busy = true), Some(Gate::Busy));
    assert_eq!(gate_of(|c| c.rounds_seen = 1), Some(Gate::Confirmation));
    assert_eq!(gate_of(|c| c.actuator = false), Some(Gate::Actuator));
    assert_eq!(gate_of(|c| c.dry_run = true), Some(Gate::DryRun));
    // The brake is asked first.
    assert_eq!(
        gate_of(|c| {
            c.brake = Some("a person");
            c.dry_run = true;
            c.rounds_seen = 0;
        }),
        Some(Gate::Brake)
    );
}

#[test]
fn a_policy_that_observes_denies_everything() {
    let voters = names(&["n1", "n2", "n3"]);
    let ledger = FaultLedger::default();
    let policy = Policy::observe_only(Rule::default(), 5);
    let verdict = judge(&crash_plan(), &policy, &calm(&ledger, &voters, &voters));
    assert!(matches!(verdict, Verdict::Deny { gate: Gate::Policy, .. }), "{verdict:?}");
}

#[test]
fn failed_attempts_wait_longer_and_longer_and_then_stop() {
    assert_eq!([0, 1, 2, 3, 5, 6, 40].map(|n| backoff_ms(60_000, n) / 60_000), [0, 1, 2, 4, 16, 16, 16]);
    let voters = names(&["n1", "n2", "n3"]);
    let verdict = |ledger: &FaultLedger, now_ms: u64| {
        let mut circumstances = calm(ledger, &voters, &voters);
        (circumstances.now_ms, circumstances.observed_at_ms) = (now_ms, now_ms);
        match judge(&crash_plan(), &restarting_policy(), &circumstances) {
            Verdict::Allow => None,
            Verdict::Deny { gate, .. } => Some(gate),
        }
    };
    let failed = |failures, unrepaired_failures| FaultLedger {
        failures,
        unrepaired_failures,
        last_failed_ms: Some(1_000_000),
        ..FaultLedger::default()
    };
    assert_eq!(verdict(&failed(1, 1), 1_059_999), Some(Gate::Cooldown));
    assert_eq!(verdict(&failed(1, 1), 1_060_000), None);
    assert_eq!(verdict(&failed(2, 2), 1_060_000), Some(Gate::Cooldown));
    assert_eq!(verdict(&failed(2, 2), 1_120_000), None);
    // A verified repair ended the fault: a new crash is repaired at once.
    assert_eq!(verdict(&failed(1, 0), 1_000_001), None);
    assert_eq!(verdict(&failed(5, 5), u64::MAX / 2), Some(Gate::Budget));
    let loops = FaultLedger { starts_ms: vec![1_000_000; MAX_STARTS_IN_WINDOW], ..FaultLedger::default() };
    assert_eq!(verdict(&loops, 1_000_500), Some(Gate::Budget));
    assert_eq!(verdict(&loops, 1_000_000 + 11 * 60_000), None);
}

#[test]
fn recovery_checks_quorum() {
    // (voters, healthy, node, risk) -> allowed
    let table = [
        (3, "1 2 3", "n2", Risk::TakesWorking, false),
        (5, "1 2 3 4 5", "n2", Risk::TakesWorking, true),
        (5, "1 2 3 4", "n2", Risk::TakesWorking, false),
        (3, "1 3", "n2", Risk::RepairsBroken, true),
        (3, "1", "n2", Risk::RepairsBroken, false),
        (3, "1 2", "n2", Risk::RepairsBroken, false),
        (1, "1", "n1", Risk::TakesWorking, false),
        (3, "", "n2", Risk::None, true),
    ];
    for (count, healthy, node, risk, allowed) in table {
        let voters: Vec<String> = (1..=count).map(|n| format!("n{n}")).collect();
        let healthy: Vec<String> = healthy.split_whitespace().map(|n| format!("n{n}")).collect();
        let verdict = check_quorum(QuorumView { voters: &voters, healthy: &healthy }, node, risk);
        assert_eq!(
            verdict.is_ok(),
            allowed,
            "{count} voters, {healthy:?} healthy, {node}, {risk:?}: {verdict:?}"
        );
    }
}

fn causes(nodes: [NodeView; 3], seen: &[(FaultKind, &[&str])]) -> Vec<String> {
    let mut look = look(1_000, nodes);
    look.sightings = seen.iter().map(|(kind, nodes)| sighting(*kind, nodes)).collect();
    diagnose(&look).iter().map(Cause::key).collect()
}

#[test]
fn each_thing_that_is_wrong_is_explained_once() {
    let all_well = || [well("n1"), well("n2"), well("n3")];
    assert_eq!(causes(all_well(), &[]), Vec::<String>::new());
    // A dead leader: an election, a follower that was cut off from it, its own silence.
    assert_eq!(
        causes(
            [dead(), well("n2"), well("n3")],
            &[
                (ProcessCrash, &["n1"]),
                (TermDivergence, &[]),
                (NetworkPartition, &["n1"]),
                (SlowFollower, &["n1"])
            ]
        ),
        ["process_crash/n1"]
    );
    // Damage elsewhere is not explained by a crash.
    assert_eq!(
        causes([dead(), well("n2"), well("n3")], &[(DatabaseCorruption, &["n2"]), (SlowFollower, &["n3"])]),
        ["process_crash/n1", "database_corruption/n2", "slow_follower/n3"]
    );
    assert_eq!(
        causes(
            all_well(),
            &[(SlowFollower, &["n3"]), (NetworkPartition, &["n1", "n3"]), (TermDivergence, &["n3"])]
        ),
        ["network_partition/n1,n3"]
    );
    assert_eq!(
        causes(all_well(), &[(TermDivergence, &[]), (SplitBrain, &["n1", "n2"]), (StateDivergence, &["n2"])]),
        ["split_brain/n1,n2"]
    );
    assert_eq!(
        causes(all_well(), &[(Deadlock, &["n2"]), (ResourceExhaustion, &["n2"])]),
        ["resource_exhaustion/n2"]
    );
    assert_eq!(
        causes(all_well(), &[(Deadlock, &["n2"]), (ResourceExhaustion, &["n3"])]),
        ["resource_exhaustion/n3", "deadlock/n2"]
    );
}

#[test]
fn only_the_host_proves_a_death() {
    let at = |view: NodeView, named: bool| {
        let mut look = look(1_000, [well("n1"), view, well("n3")]);
        if named {
            look.sightings = vec![sighting(ProcessCrash, &["n2"])];
        }
        diagnose(&look).first().map(|cause| cause.proof.clone())
    };
    assert_eq!(at(dead(), false), Some(Proof::Dead));
    let running = || refusing(ProcessState::Running { pid: Some(9) });
    assert_eq!(at(running(), true), Some(Proof::Alive { pid: Some(9) }));
    let unclear = refusing(ProcessState::Unclear { why: "no LOCK".into() });
    assert_eq!(at(unclear, true), Some(Proof::Unclear("no LOCK".into())));
    assert_eq!(at(refusing(ProcessState::NoActuator), true), Some(Proof::NoActuator));
    // One refusal to one observer, or silence, is no crash.
    assert_eq!(at(refusing(ProcessState::NoActuator), false), None);
    assert_eq!(at(silent(), false), None);
    for view in [running(), refusing(ProcessState::Unclear { why: "x".into() }), silent()] {
        let mut look = look(1_000, [well("n1"), view, well("n3")]);
        look.sightings = vec![sighting(ProcessCrash, &["n2"])];
        assert!(diagnose(&look).iter().all(|cause| plan("f", cause, 1).steps.is_empty()));
    }
}

#[test]
fn a_repair_counts_when_the_node_is_ready_caught_up_and_equal() {
    let with = |change: &dyn Fn(&mut api::cluster::Report), at_ms: u64| {
        let mut mine = report("n2", 100, 8);
        change(&mut mine);
        let view = NodeView {
            report: Ok(Box::new(mine)),
            process: ProcessState::NotAsked,
            startable: true,
            pardoned: false,
        };
        verify::judge(&target(100, 30_000), &look(at_ms, [well("n1"), view, well("n3")]))
    };
    assert!(matches!(with(&|_| {}, 1), Judgement::Repaired(why) if why.contains("checksum equal")));
    assert!(matches!(with(&|r| r.status.current_leader = None, 1), Judgement::Wait(_)));
    assert!(matches!(with(&|r| r.status.current_leader = None, 30_000), Judgement::Failed(_)));
    assert!(matches!(with(&|r| r.status.role = api::cluster::Role::Suspect, 1), Judgement::Wait(_)));
    assert!(
        matches!(with(&|r| r.status.applied_index = 99, 1), Judgement::Wait(why) if why.contains("99 of 100"))
    );
    assert!(matches!(with(&|r| r.state_checksum.checksum = "f".into(), 1), Judgement::Failed(_)));
    assert!(matches!(with(&|r| r.state_checksum.log_chain = "f".into(), 1), Judgement::Failed(_)));
    let elsewhere = |r: &mut api::cluster::Report| r.state_checksum.applied_index = 101;
    assert!(matches!(with(&elsewhere, 1), Judgement::Wait(_)));
    assert!(
        matches!(with(&elsewhere, 30_000), Judgement::Repaired(why) if why.contains("not yet comparable"))
    );
    let gone = verify::judge(&target(100, 30_000), &look(1, [well("n1"), dead(), well("n3")]));
    assert!(matches!(gone, Judgement::Failed(why) if why.contains("ended again")));
}
