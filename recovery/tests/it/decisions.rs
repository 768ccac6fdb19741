//! Rounds: what is done over time, with a cluster that exists only as looks.

use crate::sample::{dead, look, refusing, sighting, silent, well};
use jiff::Timestamp;
use monitor::detectors::FaultKind;
use proptest::prelude::*;
use recovery::decide::{Decision, Pace, Round, Tracker};
use recovery::ledger::Ledger;
use recovery::observation::{NodeView, Observation, ProcessState};
use recovery::policy::{Gate, Policy, Rule};
use recovery::record::{Outcome, Phase, Record};
use std::collections::BTreeMap;

/// A daemon without a world.
struct Daemon {
    tracker: Tracker,
    ledger: Ledger,
    policy: Policy,
    records: Vec<Record>,
    ids: u32,
    dry_run: bool,
}

impl Daemon {
    fn new() -> Self {
        let mut policy = Policy::observe_only(Rule { cooldown_ms: 10_000, ..Rule::default() }, 3);
        policy.rule_mut(FaultKind::ProcessCrash).enabled = true;
        let (tracker, ledger) = (Tracker::default(), Ledger::default());
        Daemon { tracker, ledger, policy, records: Vec::new(), ids: 0, dry_run: false }
    }

    /// A daemon that starts with what this one wrote down.
    fn restarted(self) -> Self {
        let mut ledger = Ledger::default();
        self.records.iter().for_each(|record| ledger.take(record));
        assert_eq!(ledger, self.ledger, "what was written is what was known");
        Daemon { tracker: Tracker::restore(&ledger), ledger, ..self }
    }

    fn sees(&mut self, look: &Observation) -> Decision {
        let round = Round {
            look,
            policy: &self.policy,
            ledger: &self.ledger,
            at: Timestamp::from_millisecond(look.at_ms as i64).unwrap(),
            generation: self.ledger.generation + 1,
            max_evidence_age_ms: 2_000,
            round_gap_ms: 800,
            proven_gap_ms: 400,
            dry_run: self.dry_run,
            epoch: None,
        };
        let mut next = self.ids;
        let decision = self.tracker.round(&round, &mut || {
            next += 1;
            format!("f{next:04}")
        });
        self.ids = next;
        for record in &decision.records {
            self.ledger.take(record);
            self.records.push(record.clone());
        }
        decision
    }

    /// The nodes it starts on seeing this.
    fn starts(&mut self, at_ms: u64, nodes: [NodeView; 3]) -> Vec<String> {
        let decision = self.sees(&look(at_ms, nodes));
        decision.start.iter().flat_map(|plan| plan.cause.nodes.clone()).collect()
    }

    fn phases(&self) -> Vec<Phase> {
        self.records.iter().map(|record| record.phase).collect()
    }

    fn last(&self) -> &Record {
        self.records.last().unwrap()
    }
}

/// Who is stopped on purpose is not started again behind the operator's back, until its time is over.
#[test]
fn a_node_that_said_goodbye_is_left_alone_for_its_grace() {
    let mut daemon = Daemon::new();
    let stopped = || [well("n1"), NodeView { pardoned: true, ..dead() }, well("n3")];
    for second in 1..10 {
        assert!(daemon.starts(second * 1_000, stopped()).is_empty());
    }
    assert!(daemon.starts(10_000, n2_dead()).is_empty(), "one round proves nothing");
    assert_eq!(daemon.starts(11_000, n2_dead()), ["n2"]);
}

fn n2_dead() -> [NodeView; 3] {
    [well("n1"), dead(), well("n3")]
}

fn all_well() -> [NodeView; 3] {
    [well("n1"), well("n2"), well("n3")]
}

#[test]
fn a_crash_is_confirmed_repaired_and_verified() {
    let mut daemon = Daemon::new();
    assert!(daemon.starts(1_000, n2_dead()).is_empty(), "one round proves nothing");
    assert!(daemon.records.is_empty());
    assert!(daemon.starts(1_100, n2_dead()).is_empty(), "two looks at once are one round");
    assert_eq!(daemon.starts(2_000, n2_dead()), ["n2"]);
    assert_eq!(daemon.phases(), [Phase::Seen, Phase::Planned, Phase::Intent]);
    let decision =
        daemon.sees(&look(2_200, [well("n1"), refusing(ProcessState::Running { pid: None }), well("n3")]));
    assert_eq!((decision.pace, decision.start.len()), (Pace::Verifying, 0));
    let decision = daemon.sees(&look(3_000, all_well()));
    assert_eq!(daemon.last().outcome, Some(Outcome::Repaired));
    assert_eq!(daemon.last().took_ms, Some(2_000));
    assert!(decision.plans.is_empty());
    // Killed again right after: repaired at once, without a cooldown.
    assert!(daemon.starts(3_500, n2_dead()).is_empty());
    assert_eq!(daemon.starts(4_000, n2_dead()), ["n2"]);
}

#[test]
fn a_whole_cluster_that_lost_its_power_comes_back_at_once() {
    let mut daemon = Daemon::new();
    assert!(daemon.starts(1_000, [dead(), dead(), dead()]).is_empty());
    assert_eq!(daemon.starts(2_000, [dead(), dead(), dead()]), ["n1", "n2", "n3"]);
}

#[test]
fn recovery_forgets_old_observations() {
    let mut daemon = Daemon::new();
    assert!(daemon.starts(1_000, n2_dead()).is_empty());
    // The daemon was stopped for a minute: what it saw before proves nothing.
    assert!(daemon.starts(61_000, n2_dead()).is_empty());
    assert_eq!(daemon.starts(62_000, n2_dead()), ["n2"]);
    // A look without the fault in between starts the count anew.
    let mut daemon = Daemon::new();
    assert!(daemon.starts(1_000, n2_dead()).is_empty());
    assert!(daemon.starts(2_000, all_well()).is_empty());
    assert!(daemon.starts(3_000, n2_dead()).is_empty());
}

#[test]
fn repairs_never_overlap() {
    let mut daemon = Daemon::new();
    daemon.sees(&look(1_000, n2_dead()));
    assert_eq!(daemon.starts(2_000, n2_dead()), ["n2"]);
    // While it is under way, other symptoms of the node are no causes, whoever wakes the daemon.
    for step in 1..100 {
        let mut seen =
            look(2_000 + step * 200, [well("n1"), refusing(ProcessState::Running { pid: None }), well("n3")]);
        seen.sightings =
            vec![sighting(FaultKind::ProcessCrash, &["n2"]), sighting(FaultKind::SlowFollower, &["n2"])];
        let decision = daemon.sees(&seen);
        assert!(decision.start.is_empty());
        assert_eq!(decision.plans.len(), 1, "{:?}", decision.plans);
    }
    // Another node's crash is a repair of its own.
    let two_down = || [dead(), refusing(ProcessState::Running { pid: None }), well("n3")];
    daemon.sees(&look(23_000, two_down()));
    assert_eq!(daemon.starts(24_000, two_down()), ["n1"]);
}

#[test]
fn failed_attempts_end_with_a_page_and_a_person_gives_another_try() {
    let mut daemon = Daemon::new();
    let mut starts = Vec::new();
    for second in 1..400u64 {
        starts.extend(daemon.starts(second * 1_000, n2_dead()).iter().map(|_| second));
    }
    // Confirmed, then after 10 s, then after 20 s; a fourth attempt is over the budget of three.
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(starts[1] - starts[0] >= 10 && starts[2] - starts[1] >= 20, "{starts:?}");
    assert_eq!((daemon.last().phase, daemon.last().gate), (Phase::NeedsPerson, Some(Gate::Budget)));
    let pages = daemon.records.iter().filter(|r| r.phase == Phase::NeedsPerson).count();
    assert_eq!(pages, 1, "said once, not every round");
    let mut daemon = daemon.restarted();
    for second in 400..500u64 {
        assert!(
            daemon.starts(second * 1_000, n2_dead()).is_empty(),
            "a restart of the daemon forgets nothing"
        );
    }
    // The node comes back by other hands; after the hold time its budget is fresh.
    for second in 500..520u64 {
        daemon.sees(&look(second * 1_000, all_well()));
    }
    assert!(daemon.ledger.fault("process_crash/n2").is_fresh());
    daemon.sees(&look(521_000, n2_dead()));
    assert_eq!(daemon.starts(522_000, n2_dead()), ["n2"]);
}

#[test]
fn daemon_crash_mid_plan_resumes_safely() {
    let announced = || {
        let mut daemon = Daemon::new();
        daemon.sees(&look(1_000, n2_dead()));
        assert_eq!(daemon.starts(2_000, n2_dead()), ["n2"]);
        daemon.restarted()
    };
    // The step was taken: it is verified, not repeated.
    let mut daemon = announced();
    let starting = || [well("n1"), refusing(ProcessState::Running { pid: Some(5) }), well("n3")];
    for at_ms in [3_000, 4_000, 5_000] {
        assert!(daemon.starts(at_ms, starting()).is_empty());
    }
    daemon.sees(&look(6_000, all_well()));
    assert_eq!(daemon.last().outcome, Some(Outcome::Repaired));
    // It was not taken, or failed: that is an attempt that failed, and its cooldown holds.
    let mut daemon = announced();
    assert!(daemon.starts(3_000, n2_dead()).is_empty());
    assert_eq!(daemon.records.iter().filter(|r| r.outcome == Some(Outcome::Failed)).count(), 1);
    for second in 4..13 {
        assert!(daemon.starts(second * 1_000, n2_dead()).is_empty(), "second {second}");
    }
    assert_eq!(daemon.starts(13_000, n2_dead()), ["n2"]);
    // Nobody can tell: nothing is done and nothing is concluded.
    let mut daemon = announced();
    let unclear = || [well("n1"), refusing(ProcessState::Unclear { why: "?".into() }), well("n3")];
    for second in 3..10 {
        assert!(daemon.starts(second * 1_000, unclear()).is_empty());
    }
    assert!(daemon.records.iter().all(|record| record.outcome.is_none()));
}

#[test]
fn the_brake_an_acknowledgement_and_denials_survive_a_restart() {
    let mut daemon = Daemon::new();
    let at = |ms| Timestamp::from_millisecond(ms).unwrap();
    let mut brake = Record::new(at(500), "daemon", Phase::Brake, 1, "a person");
    brake.on = Some(true);
    daemon.ledger.take(&brake);
    daemon.records.push(brake);
    for second in 1..10 {
        assert!(daemon.starts(second * 1_000, n2_dead()).is_empty());
    }
    assert_eq!(daemon.phases(), [Phase::Brake, Phase::Seen, Phase::Denied]);
    let mut daemon = daemon.restarted();
    for second in 10..20 {
        assert!(daemon.starts(second * 1_000, n2_dead()).is_empty());
    }
    assert_eq!(daemon.phases(), [Phase::Brake, Phase::Seen, Phase::Denied], "nothing is said twice");
    let mut release = Record::new(at(20_000), "daemon", Phase::Brake, 20, "go on");
    release.on = Some(false);
    daemon.ledger.take(&release);
    assert_eq!(daemon.starts(20_500, n2_dead()), ["n2"]);
}

#[test]
fn a_dry_run_goes_as_far_as_the_step() {
    let mut daemon = Daemon::new();
    daemon.dry_run = true;
    for second in 1..10 {
        assert!(daemon.starts(second * 1_000, n2_dead()).is_empty());
    }
    assert_eq!(daemon.phases(), [Phase::Seen, Phase::Denied]);
    assert_eq!(daemon.last().detail, "would start the process of n2");
    assert_eq!(daemon.last().outcome, Some(Outcome::DryRun));
}

#[test]
fn what_is_not_repaired_is_paged_once_and_ends_by_itself() {
    let mut daemon = Daemon::new();
    let split = |at_ms| {
        let mut seen = look(at_ms, all_well());
        seen.sightings = vec![sighting(FaultKind::SplitBrain, &["n1", "n2"])];
        seen
    };
    for second in 1..10 {
        assert!(daemon.sees(&split(second * 1_000)).start.is_empty());
    }
    assert_eq!(daemon.phases(), [Phase::Seen, Phase::NeedsPerson]);
    assert!(daemon.last().detail.contains("nothing is touched"));
    // A blind daemon concludes nothing.
    let decision = daemon.sees(&look(10_000, [silent(), silent(), silent()]));
    assert!(decision.blind && decision.records.is_empty() && decision.start.is_empty());
    daemon.sees(&look(11_000, all_well()));
    assert_eq!(daemon.last().outcome, Some(Outcome::Gone));
}

/// What happens to a node in the random histories.
#[derive(Debug, Clone, Copy)]
enum Event {
    Dies,
    Hangs,
    Recovers,
    StartedByHand,
    LookFails,
    DaemonRestarts,
    Brake(bool),
}

fn event() -> impl Strategy<Value = (usize, Event, u64)> {
    let event = prop_oneof![
        4 => Just(Event::Dies),
        2 => Just(Event::Hangs),
        4 => Just(Event::Recovers),
        2 => Just(Event::StartedByHand),
        2 => Just(Event::LookFails),
        1 => Just(Event::DaemonRestarts),
        1 => any::<bool>().prop_map(Event::Brake),
    ];
    (0..3usize, event, 100..5_000u64)
}

/// The truth about a node, and whether the next look at its host fails.
#[derive(Debug, Clone, Copy, Default)]
struct Truth {
    dead: bool,
    hangs: bool,
    look_fails: bool,
}

impl Truth {
    fn view(self, node: &str) -> NodeView {
        match self {
            Truth { look_fails: true, .. } => refusing(ProcessState::Unclear { why: "error".into() }),
            Truth { dead: true, .. } => dead(),
            Truth { hangs: true, .. } => refusing(ProcessState::Running { pid: Some(1) }),
            _ => well(node),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: a node is started only while it is dead, never twice
    /// without an outcome in between, never with the brake on, never beyond its budget.
    #[test]
    fn no_history_makes_it_start_a_living_node(history in proptest::collection::vec(event(), 1..120)) {
        let mut daemon = Daemon::new();
        let mut truth = [Truth::default(); 3];
        let mut open: BTreeMap<String, u32> = BTreeMap::new();
        let mut now_ms = 1_000;
        let mut braked = false;
        for (node, event, pause_ms) in history {
            now_ms += pause_ms;
            let state = &mut truth[node];
            match event {
                Event::Dies => *state = Truth { dead: true, ..Truth::default() },
                Event::Hangs => state.hangs = !state.dead,
                Event::Recovers => state.hangs = false,
                Event::StartedByHand => *state = Truth::default(),
                Event::LookFails => state.look_fails = true,
                Event::DaemonRestarts => daemon = daemon.restarted(),
                Event::Brake(on) => {
                    braked = on;
                    let at = Timestamp::from_millisecond(now_ms as i64).unwrap();
                    let mut record = Record::new(at, "daemon", Phase::Brake, 1, "test");
                    record.on = Some(on);
                    daemon.ledger.take(&record);
                    daemon.records.push(record);
                }
            }
            let views = [0, 1, 2].map(|i| truth[i].view(["n1", "n2", "n3"][i]));
            let written = daemon.records.len();
            let started = daemon.starts(now_ms, views);
            for record in &daemon.records[written..] {
                let count = open.entry(record.nodes.join(",")).or_default();
                match (record.phase, record.outcome) {
                    (Phase::Intent, _) => *count += 1,
                    (Phase::Outcome, Some(Outcome::Repaired | Outcome::Failed)) => *count = 0,
                    _ => {}
                }
                prop_assert!(*count <= 1, "two starts of {:?} without an outcome", record.nodes);
            }
            for name in started {
                let i = ["n1", "n2", "n3"].iter().position(|n| *n == name).unwrap();
                prop_assert!(truth[i].dead && !truth[i].look_fails, "{name} was alive or unclear");
                prop_assert!(!braked, "the brake was on");
                // Every second start works.
                if now_ms % 2 == 0 {
                    truth[i] = Truth::default();
                }
            }
            truth.iter_mut().for_each(|state| state.look_fails = false);
        }
        for fault in daemon.ledger.faults.values() {
            prop_assert!(fault.failures <= 3, "{fault:?}");
        }
    }
}
