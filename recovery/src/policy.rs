//! PURE. May a plan be carried out? Gates in a fixed order; the first that objects decides.
//!
//! The gates stand between a diagnosis that may be wrong and an action that can't be taken back.
//! [`judge`] is asked again right before each step, with fresh circumstances.

use crate::fault::FaultKind;
use crate::ledger::{FaultLedger, START_WINDOW_MS};
use crate::plan::{Plan, Step};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Starts of one node within [`START_WINDOW_MS`] at most: above it the node is in a crash loop,
/// however well each restart went.
pub const MAX_STARTS_IN_WINDOW: usize = 20;
/// A back-off is doubled up to this many times.
const MAX_DOUBLINGS: u32 = 4;

/// The rule for one failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// May it be repaired?
    pub enabled: bool,
    /// Rounds in a row that have to show it.
    pub confirmations_rounds: u32,
    /// Milliseconds after a failed repair before the next, doubled for each further one.
    pub cooldown_ms: u64,
    /// Page a person where it is not repaired.
    pub escalate: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Rule { enabled: false, confirmations_rounds: 2, cooldown_ms: 60_000, escalate: true }
    }
}

/// The rules of all failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: BTreeMap<FaultKind, Rule>,
    fallback: Rule,
    /// Failed repairs in a row before the daemon stops and pages.
    pub max_attempts: u32,
}

impl Policy {
    /// A policy that repairs nothing; `rule` gives the other figures.
    pub fn observe_only(rule: Rule, max_attempts: u32) -> Self {
        let fallback = Rule { enabled: false, ..rule };
        let rules = FaultKind::ALL.into_iter().map(|kind| (kind, fallback.clone())).collect();
        Policy { rules, fallback, max_attempts }
    }

    /// The rule for `kind`.
    pub fn rule(&self, kind: FaultKind) -> &Rule {
        self.rules.get(&kind).unwrap_or(&self.fallback)
    }

    /// The same, to change it.
    pub fn rule_mut(&mut self, kind: FaultKind) -> &mut Rule {
        self.rules.entry(kind).or_insert_with(|| self.fallback.clone())
    }
}

/// Which gate objected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The brake is on.
    Brake,
    /// The policy does not allow it, or there is nothing that could be done.
    Policy,
    /// Maintenance mode.
    Maintenance,
    /// A person acknowledged the fault.
    Acknowledged,
    /// The evidence is stale, or the daemon itself may be cut off.
    Evidence,
    /// Another repair is under way.
    Busy,
    /// It would endanger the quorum.
    Quorum,
    /// Too soon after a failed repair.
    Cooldown,
    /// Too many attempts.
    Budget,
    /// Not seen often enough yet.
    Confirmation,
    /// Nothing can carry it out.
    Actuator,
    /// `--dry-run`.
    DryRun,
}

impl Gate {
    /// Every gate.
    pub const ALL: [Gate; 12] = [
        Gate::Brake,
        Gate::Policy,
        Gate::Maintenance,
        Gate::Acknowledged,
        Gate::Evidence,
        Gate::Busy,
        Gate::Quorum,
        Gate::Cooldown,
        Gate::Budget,
        Gate::Confirmation,
        Gate::Actuator,
        Gate::DryRun,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Gate::Brake => "brake",
            Gate::Policy => "policy",
            Gate::Maintenance => "maintenance",
            Gate::Acknowledged => "acknowledged",
            Gate::Evidence => "evidence",
            Gate::Busy => "busy",
            Gate::Quorum => "quorum",
            Gate::Cooldown => "cooldown",
            Gate::Budget => "budget",
            Gate::Confirmation => "confirmation",
            Gate::Actuator => "actuator",
            Gate::DryRun => "dry_run",
        }
    }
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allow,
    /// Not now.
    Deny {
        /// Which gate objected.
        gate: Gate,
        /// Why, for people. Stable from round to round, so that a change of mind can be seen.
        why: String,
    },
}

/// Everything a gate looks at.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// Now, Unix milliseconds on the daemon's steady clock.
    pub now_ms: u64,
    /// Why the brake is on; none where it is off.
    pub brake: Option<&'a str>,
    /// Maintenance mode.
    pub maintenance: bool,
    /// A person acknowledged this fault.
    pub acknowledged: bool,
    /// When the evidence was taken.
    pub observed_at_ms: u64,
    /// How old evidence may be.
    pub max_evidence_age_ms: u64,
    /// The daemon reaches nobody and can't prove why.
    pub blind: bool,
    /// Rounds in a row that showed the fault.
    pub rounds_seen: u32,
    /// A repair of the same node is under way.
    pub node_busy: bool,
    /// Voters and which of them serve.
    pub quorum: QuorumView<'a>,
    /// What was done about this fault before.
    pub ledger: &'a FaultLedger,
    /// Something can carry the steps out.
    pub actuator: bool,
    /// `--dry-run`.
    pub dry_run: bool,
}

/// The voters, and those of them that serve now.
#[derive(Debug, Clone, Copy)]
pub struct QuorumView<'a> {
    /// Every voter.
    pub voters: &'a [String],
    /// Nodes that serve.
    pub healthy: &'a [String],
}

/// What a step does to the quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Risk {
    /// It only adds: a dead process is started.
    None,
    /// It works on a node that does not serve anyway.
    RepairsBroken,
    /// It takes a working node out for a while, or removes or demotes a voter.
    TakesWorking,
}

impl Step {
    /// What the step does to the quorum.
    pub const fn risk(&self) -> Risk {
        match self {
            Step::StartProcess { .. } => Risk::None,
        }
    }

    /// The node it works on.
    pub fn node(&self) -> &str {
        match self {
            Step::StartProcess { node } => node,
        }
    }
}

/// Is there quorum enough for a step on `node`?
///
/// Starting a dead process is always fine. A repair of a node that does not serve leaves a
/// quorum of healthy voters; one that takes a working node leaves a quorum plus one spare.
pub fn check_quorum(view: QuorumView<'_>, node: &str, risk: Risk) -> Result<(), String> {
    if risk == Risk::None {
        return Ok(());
    }
    let quorum = view.voters.len() / 2 + 1;
    let left =
        view.voters.iter().filter(|voter| voter.as_str() != node && view.healthy.contains(voter)).count();
    let needed = quorum + usize::from(risk == Risk::TakesWorking);
    if left >= needed {
        return Ok(());
    }
    Err(format!("without {node} {left} of {} voters would serve; {needed} are needed", view.voters.len()))
}

/// The back-off after `failures` failed attempts.
pub fn backoff_ms(cooldown_ms: u64, failures: u32) -> u64 {
    match failures {
        0 => 0,
        n => cooldown_ms.saturating_mul(1 << (n - 1).min(MAX_DOUBLINGS)),
    }
}

/// Asks every gate in order.
pub fn judge(plan: &Plan, policy: &Policy, now: &Circumstances<'_>) -> Verdict {
    let rule = policy.rule(plan.cause.kind);
    // The restart of a dead process is what maintenance and an acknowledgement let through: it
    // takes nothing from anybody.
    let only_restarts = !plan.steps.is_empty() && plan.steps.iter().all(|s| s.risk() == Risk::None);
    let deny = |gate, why: String| Verdict::Deny { gate, why };
    if let Some(why) = now.brake {
        return deny(Gate::Brake, format!("the brake is on: {why}"));
    }
    if plan.steps.is_empty() {
        return deny(Gate::Policy, plan.needs_person.clone().unwrap_or_else(|| "nothing can be done".into()));
    }
    if !rule.enabled {
        return deny(Gate::Policy, format!("the policy does not repair {}", plan.cause.kind.as_str()));
    }
    if now.maintenance && !only_restarts {
        return deny(Gate::Maintenance, "the cluster is in maintenance mode".into());
    }
    if now.acknowledged && !only_restarts {
        return deny(Gate::Acknowledged, "a person has taken this fault over".into());
    }
    if now.now_ms.saturating_sub(now.observed_at_ms) > now.max_evidence_age_ms {
        return deny(Gate::Evidence, format!("the evidence is older than {} ms", now.max_evidence_age_ms));
    }
    if now.blind && !only_restarts {
        return deny(Gate::Evidence, "no node answers; the daemon itself may be cut off".into());
    }
    if now.node_busy {
        return deny(Gate::Busy, "a repair of this node is under way".into());
    }
    for step in &plan.steps {
        if let Err(why) = check_quorum(now.quorum, step.node(), step.risk()) {
            return deny(Gate::Quorum, why);
        }
    }
    if let Some(verdict) = attempts(policy, rule, now) {
        return verdict;
    }
    if now.rounds_seen < rule.confirmations_rounds {
        let why = format!("seen in {} of {} rounds", now.rounds_seen, rule.confirmations_rounds);
        return deny(Gate::Confirmation, why);
    }
    if !now.actuator {
        return deny(Gate::Actuator, "no actuator can carry it out".into());
    }
    if now.dry_run {
        return deny(Gate::DryRun, "only looking: --dry-run".into());
    }
    Verdict::Allow
}

/// Cooldown and budget.
fn attempts(policy: &Policy, rule: &Rule, now: &Circumstances<'_>) -> Option<Verdict> {
    let ledger = now.ledger;
    let starts = ledger.starts_since(now.now_ms.saturating_sub(START_WINDOW_MS));
    let budget = if ledger.failures >= policy.max_attempts {
        Some(format!("{} attempts in a row failed (at most {})", ledger.failures, policy.max_attempts))
    } else if ledger.gave_up || starts >= MAX_STARTS_IN_WINDOW {
        Some(format!(
            "{MAX_STARTS_IN_WINDOW} starts within {} minutes: a crash loop",
            START_WINDOW_MS / 60_000
        ))
    } else {
        None
    };
    // A spent budget outweighs a cooldown: waiting would not help.
    if let Some(why) = budget {
        return Some(Verdict::Deny {
            gate: Gate::Budget,
            why: format!("{why}; stopped until a person has looked"),
        });
    }
    let wait_ms = backoff_ms(rule.cooldown_ms, ledger.unrepaired_failures);
    match ledger.last_failed_ms {
        Some(at) if now.now_ms < at.saturating_add(wait_ms) => Some(Verdict::Deny {
            gate: Gate::Cooldown,
            why: format!(
                "attempt {} failed; the next one follows after {} s",
                ledger.failures,
                wait_ms / 1000
            ),
        }),
        _ => None,
    }
}
