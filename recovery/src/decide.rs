//! PURE. One round: from a look at the cluster to the records to write and the steps to take.
//!
//! The [`Tracker`] keeps what spans rounds and dies with the process: how often a fault was seen
//! in a row, and which repairs wait for their proof. What must not die is in the [`Ledger`].
//!
//! Invariant: a node has one repair under way at most; while it has, nothing else that is said of
//! the node becomes a cause.
//! Invariant: a fault that was not seen for longer than evidence may age starts from its first
//! round again. Old observations prove nothing.

use crate::diagnosis::{Cause, Proof, diagnose};
use crate::fault::FaultKind;
use crate::ledger::{FaultLedger, Ledger, OpenFault, fault_key, said};
use crate::observation::{Observation, ProcessState};
use crate::plan::{Plan, Step, plan};
use crate::policy::{Circumstances, Gate, Policy, QuorumView, Verdict, judge};
use crate::record::{DAEMON, Outcome, Phase, Record};
use crate::verify::{Judgement, Target, VERIFY_LIMIT_MS};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// How long a live process may refuse connections before that is a finding: it may be starting.
pub const STARTING_GRACE_MS: u64 = 30_000;
/// A budget is fresh again after the node was healthy at least this long, or the rule's cooldown.
const MIN_HEALTHY_HOLD_MS: u64 = 10_000;

/// What a round works with.
#[derive(Debug)]
pub struct Round<'a> {
    /// The look.
    pub look: &'a Observation,
    /// The rules.
    pub policy: &'a Policy,
    /// What is remembered.
    pub ledger: &'a Ledger,
    /// Now.
    pub at: Timestamp,
    /// Counts up with every round.
    pub generation: u64,
    /// How old evidence may be, ms.
    pub max_evidence_age_ms: u64,
    /// Looks closer together than this count as one round, ms.
    pub round_gap_ms: u64,
    /// The same for a death that the host proves: no slow network can feign it, so that it may be
    /// confirmed sooner.
    pub proven_gap_ms: u64,
    /// Only looking.
    pub dry_run: bool,
    /// The lease's epoch, where it is held.
    pub epoch: Option<u64>,
}

impl Round<'_> {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.at.as_millisecond()).unwrap_or(0)
    }
}

/// How soon the next look should follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Nothing is going on.
    Calm,
    /// The host proves a death, and one more look has to show it.
    Confirming,
    /// A repair waits for its proof.
    Verifying,
}

/// Where a plan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its steps are being taken.
    Allowed,
    /// A gate denies it.
    Denied,
    /// Its steps were taken; the outcome is awaited.
    Verifying,
}

/// A plan as people see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanView {
    /// The fault's id.
    pub id: String,
    /// Which failure.
    pub kind: FaultKind,
    /// The nodes.
    pub nodes: Vec<String>,
    /// What would be done.
    pub steps: Vec<Step>,
    /// Where it stands.
    pub standing: Standing,
    /// The gate that denies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Why it stands there.
    pub why: String,
    /// What shows the fault.
    pub evidence: Vec<String>,
    /// The observation it rests on.
    pub generation: u64,
    /// Milliseconds since first sight.
    pub age_ms: u64,
}

/// What a round decided.
#[derive(Debug)]
pub struct Decision {
    /// To be written, in order, before anything is done.
    pub records: Vec<Record>,
    /// To be carried out then.
    pub start: Vec<Plan>,
    /// Every fault, with its plan.
    pub plans: Vec<PlanView>,
    /// How soon the next look should follow.
    pub pace: Pace,
    /// Some fault was not seen often or long enough yet to be told from a passing one.
    pub unsettled: bool,
    /// No node answers, and the daemon can't say why.
    pub blind: bool,
}

#[derive(Debug, Clone)]
struct Tracked {
    id: String,
    first_ms: u64,
    last_ms: u64,
    counted_ms: Option<u64>,
    rounds: u32,
}

/// A repair whose steps were taken and whose outcome is awaited.
#[derive(Debug, Clone)]
struct Repair {
    id: String,
    kind: FaultKind,
    nodes: Vec<String>,
    target: Target,
    first_ms: u64,
    step: Step,
    evidence: Vec<String>,
}

/// What spans rounds.
#[derive(Debug, Default)]
pub struct Tracker {
    faults: BTreeMap<String, Tracked>,
    under_way: BTreeMap<String, Repair>,
    unfinished: BTreeMap<String, OpenFault>,
    healthy_since_ms: BTreeMap<String, u64>,
}

impl Tracker {
    /// A tracker that knows of what an earlier daemon left open: faults to be confirmed anew, and
    /// steps whose outcome nobody wrote down.
    pub fn restore(ledger: &Ledger) -> Self {
        let mut tracker = Tracker::default();
        for (id, open) in &ledger.open {
            let tracked =
                Tracked { id: id.clone(), first_ms: open.seen_ms, last_ms: 0, counted_ms: None, rounds: 0 };
            tracker.faults.insert(open.key(), tracked);
            if open.intent_ms.is_some() {
                tracker.unfinished.insert(id.clone(), open.clone());
            }
        }
        tracker
    }

    /// True while a repair waits for its outcome.
    pub fn is_repairing(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// A step was not taken after all, or failed: what was under way is not.
    pub fn step_ended(&mut self, id: &str) {
        self.under_way.retain(|_, repair| repair.id != id);
        self.confirm_anew(id);
    }

    fn confirm_anew(&mut self, id: &str) {
        if let Some(tracked) = self.faults.values_mut().find(|tracked| tracked.id == id) {
            tracked.rounds = 0;
            tracked.counted_ms = None;
        }
    }

    /// Decides one round. `new_id` gives ids to faults that were not there before.
    pub fn round(&mut self, round: &Round<'_>, new_id: &mut dyn FnMut() -> String) -> Decision {
        let blind = round.look.is_blind();
        let mut decision = Decision {
            records: Vec::new(),
            start: Vec::new(),
            plans: Vec::new(),
            pace: Pace::Calm,
            unsettled: false,
            blind,
        };
        self.examine_unfinished(round, &mut decision);
        self.judge_repairs(round, &mut decision);
        // An outcome of this very round already counts for its cooldown and budget.
        let mut ledger = round.ledger.clone();
        decision.records.iter().for_each(|record| ledger.take(record));
        let round = &Round { ledger: &ledger, ..*round };
        let causes: Vec<Cause> =
            diagnose(round.look).into_iter().filter(|cause| !self.is_busy_with(cause)).collect();
        let mut seen = BTreeSet::new();
        for cause in &causes {
            seen.insert(cause.key());
            self.track(round, cause, new_id);
            self.decide(round, cause, &mut decision);
        }
        self.forget(round, &seen, &mut decision);
        self.renew_budgets(round, &mut decision);
        if self.is_repairing() || !self.unfinished.is_empty() {
            decision.pace = Pace::Verifying;
        }
        decision
    }

    /// Steps that an earlier daemon announced: what did they bring? They are looked at, not
    /// repeated.
    fn examine_unfinished(&mut self, round: &Round<'_>, decision: &mut Decision) {
        for (id, open) in std::mem::take(&mut self.unfinished) {
            let Some(node) = open.nodes.first().cloned() else { continue };
            let view = round.look.nodes.get(&node);
            let runs = view.is_some_and(|view| {
                view.report.is_ok() || matches!(view.process, ProcessState::Running { .. })
            });
            let unclear = view.is_some_and(|view| matches!(view.process, ProcessState::Unclear { .. }));
            if runs {
                let detail = "the daemon ended in the middle of this; the process runs, and is verified now";
                decision.records.push(fault_record(round, &id, &open, Phase::Planned, detail));
                let target = target(round, &node);
                let repair = Repair {
                    id,
                    kind: open.kind,
                    nodes: open.nodes.clone(),
                    target,
                    first_ms: open.seen_ms,
                    step: Step::StartProcess { node: node.clone() },
                    evidence: vec![detail.to_owned()],
                };
                self.under_way.insert(node, repair);
            } else if unclear {
                self.unfinished.insert(id, open);
            } else {
                let detail = "the daemon ended in the middle of this; the process does not run";
                let mut record = fault_record(round, &id, &open, Phase::Outcome, detail);
                record.outcome = Some(Outcome::Failed);
                decision.records.push(record);
                self.confirm_anew(&id);
            }
        }
    }

    fn judge_repairs(&mut self, round: &Round<'_>, decision: &mut Decision) {
        for (node, repair) in std::mem::take(&mut self.under_way) {
            let judgement = crate::verify::judge(&repair.target, round.look);
            let (outcome, why) = match judgement {
                Judgement::Wait(why) => {
                    decision.plans.push(repair.view(round, why));
                    self.under_way.insert(node, repair);
                    continue;
                }
                Judgement::Repaired(why) => (Outcome::Repaired, why),
                Judgement::Failed(why) => (Outcome::Failed, why),
            };
            let mut record = Record::new(round.at, &repair.id, Phase::Outcome, round.generation, why);
            record.kind = Some(repair.kind);
            record.nodes = repair.nodes.clone();
            record.outcome = Some(outcome);
            record.epoch = round.epoch;
            record.took_ms = Some(round.now_ms().saturating_sub(repair.first_ms));
            decision.records.push(record);
            match outcome {
                Outcome::Repaired => {
                    self.faults.remove(&fault_key(repair.kind, &repair.nodes));
                }
                _ => self.confirm_anew(&repair.id),
            }
        }
    }

    /// True where a repair under way accounts for the cause.
    fn is_busy_with(&self, cause: &Cause) -> bool {
        let busy = |node: &String| {
            self.under_way.contains_key(node)
                || self.unfinished.values().any(|open| open.nodes.contains(node))
        };
        match cause.kind {
            FaultKind::SplitBrain | FaultKind::StateDivergence | FaultKind::LogCorruption => false,
            FaultKind::TermDivergence => self.is_repairing(),
            FaultKind::NetworkPartition => cause.nodes.iter().any(busy),
            _ => !cause.nodes.is_empty() && cause.nodes.iter().all(busy),
        }
    }

    fn track(&mut self, round: &Round<'_>, cause: &Cause, new_id: &mut dyn FnMut() -> String) {
        let seen_ms = round.look.at_ms;
        let tracked = self.faults.entry(cause.key()).or_insert_with(|| Tracked {
            id: new_id(),
            first_ms: seen_ms,
            last_ms: seen_ms,
            counted_ms: None,
            rounds: 0,
        });
        if seen_ms.saturating_sub(tracked.last_ms) > round.max_evidence_age_ms {
            tracked.rounds = 0;
            tracked.counted_ms = None;
        }
        tracked.last_ms = seen_ms;
        let gap_ms = if cause.proof == Proof::Dead { round.proven_gap_ms } else { round.round_gap_ms };
        if tracked.counted_ms.is_none_or(|at| seen_ms.saturating_sub(at) >= gap_ms) {
            tracked.counted_ms = Some(seen_ms);
            tracked.rounds = tracked.rounds.saturating_add(1);
        }
    }

    fn decide(&mut self, round: &Round<'_>, cause: &Cause, decision: &mut Decision) {
        let Some(tracked) = self.faults.get(&cause.key()).cloned() else { return };
        let rule = round.policy.rule(cause.kind);
        let age_ms = round.now_ms().saturating_sub(tracked.first_ms);
        let starting = matches!(cause.proof, Proof::Alive { .. }) && age_ms < STARTING_GRACE_MS;
        let plan = plan(&tracked.id, cause, round.generation);
        let verdict = if starting {
            Verdict::Deny { gate: Gate::Confirmation, why: "the process is alive and may be starting".into() }
        } else {
            self.ask_policy(round, &plan, &tracked)
        };
        let view = |standing, gate, why: &str| PlanView {
            id: plan.id.clone(),
            kind: cause.kind,
            nodes: cause.nodes.clone(),
            steps: plan.steps.clone(),
            standing,
            gate,
            why: why.to_owned(),
            evidence: cause.evidence.clone(),
            generation: round.generation,
            age_ms,
        };
        let confirmed = !starting && tracked.rounds >= rule.confirmations_rounds;
        if confirmed && !round.ledger.open.contains_key(&tracked.id) {
            let detail =
                format!("first seen {:.1} s ago, in {} rounds", age_ms as f64 / 1000.0, tracked.rounds);
            decision.records.push(cause_record(round, &plan, Phase::Seen, detail));
        }
        match verdict {
            Verdict::Allow => {
                let what = describe(&plan.steps);
                decision.records.push(cause_record(round, &plan, Phase::Planned, what.clone()));
                decision.records.push(cause_record(round, &plan, Phase::Intent, what.clone()));
                decision.plans.push(view(Standing::Allowed, None, &what));
                self.begin(round, &plan, tracked.first_ms);
                decision.start.push(plan);
            }
            Verdict::Deny { gate, why } => {
                decision.plans.push(view(Standing::Denied, Some(gate), &why));
                if !confirmed {
                    decision.unsettled = true;
                    if cause.proof == Proof::Dead {
                        decision.pace = decision.pace.max(Pace::Confirming);
                    }
                    return;
                }
                let record = denial(round, &plan, gate, why, rule.escalate);
                let last = round.ledger.open.get(&tracked.id).and_then(|open| open.said.as_deref());
                if last != Some(said(record.phase, &record.detail).as_str()) {
                    decision.records.push(record);
                }
            }
        }
    }

    fn ask_policy(&self, round: &Round<'_>, plan: &Plan, tracked: &Tracked) -> Verdict {
        let voters = round.look.voters();
        let healthy = round.look.healthy();
        let ledger: FaultLedger = round.ledger.fault(&plan.cause.key());
        let open = round.ledger.open.get(&tracked.id);
        let startable = |step: &Step| round.look.nodes.get(step.node()).is_some_and(|view| view.startable);
        let circumstances = Circumstances {
            now_ms: round.now_ms(),
            brake: round.ledger.brake.as_deref(),
            maintenance: round.look.maintenance(),
            acknowledged: open.is_some_and(|open| open.acknowledged),
            observed_at_ms: round.look.at_ms,
            max_evidence_age_ms: round.max_evidence_age_ms,
            blind: round.look.is_blind(),
            rounds_seen: tracked.rounds,
            node_busy: plan.steps.iter().any(|step| self.under_way.contains_key(step.node())),
            quorum: QuorumView { voters: &voters, healthy: &healthy },
            ledger: &ledger,
            actuator: plan.steps.iter().all(startable),
            dry_run: round.dry_run,
        };
        judge(plan, round.policy, &circumstances)
    }

    fn begin(&mut self, round: &Round<'_>, plan: &Plan, first_ms: u64) {
        for step in &plan.steps {
            let node = step.node().to_owned();
            let repair = Repair {
                id: plan.id.clone(),
                kind: plan.cause.kind,
                nodes: plan.cause.nodes.clone(),
                target: target(round, &node),
                first_ms,
                step: step.clone(),
                evidence: plan.cause.evidence.clone(),
            };
            self.under_way.insert(node, repair);
        }
    }

    /// Faults that this look no longer shows end here, where the look could have shown them.
    fn forget(&mut self, round: &Round<'_>, seen: &BTreeSet<String>, decision: &mut Decision) {
        let repairing: BTreeSet<String> = self.under_way.values().map(|repair| repair.id.clone()).collect();
        let unfinished = &self.unfinished;
        self.faults.retain(|key, tracked| {
            if seen.contains(key) || repairing.contains(&tracked.id) || unfinished.contains_key(&tracked.id) {
                return true;
            }
            let Some(open) = round.ledger.open.get(&tracked.id) else { return false };
            let could_be_seen = match open.kind {
                FaultKind::ProcessCrash => open
                    .nodes
                    .iter()
                    .all(|node| round.look.nodes.get(node).is_none_or(|view| view.report.is_ok())),
                _ => round.look.reports().next().is_some(),
            };
            if could_be_seen {
                let mut record =
                    fault_record(round, &tracked.id, open, Phase::Outcome, "it is no longer seen");
                record.outcome = Some(Outcome::Gone);
                record.took_ms = Some(round.now_ms().saturating_sub(tracked.first_ms));
                decision.records.push(record);
            }
            !could_be_seen
        });
    }

    /// A node that was healthy long enough has its whole budget again.
    fn renew_budgets(&mut self, round: &Round<'_>, decision: &mut Decision) {
        for (node, view) in &round.look.nodes {
            if !view.is_healthy() {
                self.healthy_since_ms.remove(node);
                continue;
            }
            let since = *self.healthy_since_ms.entry(node.clone()).or_insert(round.look.at_ms);
            let kind = FaultKind::ProcessCrash;
            let hold_ms = round.policy.rule(kind).cooldown_ms.max(MIN_HEALTHY_HOLD_MS);
            let nodes = vec![node.clone()];
            let fresh = round.ledger.fault(&fault_key(kind, &nodes)).is_fresh();
            if !fresh && round.look.at_ms.saturating_sub(since) >= hold_ms {
                let detail = format!("healthy for {} s: attempts count anew", hold_ms / 1000);
                decision.records.push(fresh_budget(round.at, DAEMON, round.generation, kind, nodes, detail));
            }
        }
    }
}

impl Repair {
    fn view(&self, round: &Round<'_>, why: String) -> PlanView {
        PlanView {
            id: self.id.clone(),
            kind: self.kind,
            nodes: self.nodes.clone(),
            steps: vec![self.step.clone()],
            standing: Standing::Verifying,
            gate: None,
            why,
            evidence: self.evidence.clone(),
            generation: round.generation,
            age_ms: round.now_ms().saturating_sub(self.first_ms),
        }
    }
}

/// A record that gives a fault its whole budget again.
pub fn fresh_budget(
    at: Timestamp,
    id: &str,
    generation: u64,
    kind: FaultKind,
    nodes: Vec<String>,
    detail: impl Into<String>,
) -> Record {
    let mut record = Record::new(at, id, Phase::Cleared, generation, detail);
    record.kind = Some(kind);
    record.nodes = nodes;
    record.on = Some(true);
    record
}

fn target(round: &Round<'_>, node: &str) -> Target {
    Target {
        node: node.to_owned(),
        commit_index: round.look.commit_index(),
        deadline_ms: round.now_ms() + VERIFY_LIMIT_MS,
    }
}

fn describe(steps: &[Step]) -> String {
    let words: Vec<String> = steps
        .iter()
        .map(|step| match step {
            Step::StartProcess { node } => format!("start the process of {node}"),
        })
        .collect();
    words.join(", then ")
}

fn cause_record(round: &Round<'_>, plan: &Plan, phase: Phase, detail: String) -> Record {
    let mut record = Record::new(round.at, &plan.id, phase, plan.generation, detail);
    record.kind = Some(plan.cause.kind);
    record.nodes = plan.cause.nodes.clone();
    record.epoch = round.epoch;
    if matches!(phase, Phase::Seen | Phase::Intent | Phase::NeedsPerson) {
        record.evidence = plan.cause.evidence.clone();
        record.evidence.extend(round.look.witness.iter().cloned());
    }
    record
}

fn fault_record(round: &Round<'_>, id: &str, open: &OpenFault, phase: Phase, detail: &str) -> Record {
    let mut record = Record::new(round.at, id, phase, round.generation, detail);
    record.kind = Some(open.kind);
    record.nodes = open.nodes.clone();
    record.epoch = round.epoch;
    record
}

/// What is written when a gate denies. Some denials end by themselves; the others need a person.
fn denial(round: &Round<'_>, plan: &Plan, gate: Gate, why: String, escalate: bool) -> Record {
    let passes = matches!(
        gate,
        Gate::Brake
            | Gate::Maintenance
            | Gate::Acknowledged
            | Gate::Busy
            | Gate::Cooldown
            | Gate::Confirmation
    );
    let dry_run = gate == Gate::DryRun;
    let phase = if passes || dry_run || !escalate { Phase::Denied } else { Phase::NeedsPerson };
    let detail = if dry_run { format!("would {}", describe(&plan.steps)) } else { why };
    let mut record = cause_record(round, plan, phase, detail);
    record.gate = Some(gate);
    record.outcome = dry_run.then_some(Outcome::DryRun);
    record
}
