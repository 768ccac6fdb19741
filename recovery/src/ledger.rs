//! PURE. What the daemon remembers: a fold over its audit.
//!
//! Attempt counts, back-offs, the brake, acknowledgements and unfinished plans are never stored
//! on their own; they follow from the records. A daemon that crashed and a daemon that ran on
//! therefore know the same.

use crate::fault::FaultKind;
use crate::policy::Gate;
use crate::record::{Outcome, Phase, Record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The window in which starts of one node are counted.
pub const START_WINDOW_MS: u64 = 10 * 60 * 1000;
/// Starts that are remembered per fault at most.
const MAX_STARTS: usize = 64;
/// Open faults that are remembered at most.
const MAX_OPEN: usize = 1_000;

/// What was done about one failure of one set of nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultLedger {
    /// Failed attempts since the nodes were last healthy for the hold time.
    pub failures: u32,
    /// Failed attempts since the last verified repair: the back-off counts these.
    pub unrepaired_failures: u32,
    /// When the last one failed.
    pub last_failed_ms: Option<u64>,
    /// When starts were attempted, oldest first.
    pub starts_ms: Vec<u64>,
    /// The daemon gave up on it.
    pub gave_up: bool,
}

impl FaultLedger {
    /// Starts attempted since `since_ms`.
    pub fn starts_since(&self, since_ms: u64) -> usize {
        self.starts_ms.iter().filter(|at| **at >= since_ms).count()
    }

    /// True where nothing has to be remembered.
    pub fn is_fresh(&self) -> bool {
        self.failures == 0 && !self.gave_up
    }
}

/// A fault that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFault {
    /// Which failure.
    pub kind: FaultKind,
    /// The nodes.
    pub nodes: Vec<String>,
    /// First sight, Unix milliseconds.
    pub seen_ms: u64,
    /// A step was announced and its outcome is not known.
    pub intent_ms: Option<u64>,
    /// The last thing said about it, so that it is said once.
    pub said: Option<String>,
    /// A person took it over.
    pub acknowledged: bool,
}

impl OpenFault {
    /// Names the same fault from round to round.
    pub fn key(&self) -> String {
        fault_key(self.kind, &self.nodes)
    }
}

/// Names a failure of a set of nodes.
pub fn fault_key(kind: FaultKind, nodes: &[String]) -> String {
    format!("{}/{}", kind.as_str(), nodes.join(","))
}

/// Everything the daemon remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Why the brake is on; none where it is off.
    pub brake: Option<String>,
    /// The highest generation in the audit.
    pub generation: u64,
    /// When a step was last taken, Unix milliseconds.
    pub last_action_ms: u64,
    /// By failure and nodes.
    pub faults: BTreeMap<String, FaultLedger>,
    /// Open faults by id.
    pub open: BTreeMap<String, OpenFault>,
}

impl Ledger {
    /// What was done about this fault before.
    pub fn fault(&self, key: &str) -> FaultLedger {
        self.faults.get(key).cloned().unwrap_or_default()
    }

    /// Takes in one more record.
    pub fn take(&mut self, record: &Record) {
        self.generation = self.generation.max(record.generation);
        match record.phase {
            Phase::State => {
                if let Some(state) = &record.state {
                    *self = (**state).clone();
                }
            }
            Phase::Brake => {
                self.brake = (record.on == Some(true)).then(|| record.detail.clone());
            }
            Phase::Acknowledged => {
                if let Some(open) = self.open.get_mut(&record.id) {
                    open.acknowledged = true;
                }
            }
            Phase::Config => {}
            _ => self.take_fault(record),
        }
    }

    fn take_fault(&mut self, record: &Record) {
        let Some(kind) = record.kind else { return };
        let key = fault_key(kind, &record.nodes);
        let at_ms = record.at_ms();
        match record.phase {
            Phase::Seen => {
                let open = OpenFault {
                    kind,
                    nodes: record.nodes.clone(),
                    seen_ms: at_ms,
                    intent_ms: None,
                    said: None,
                    acknowledged: false,
                };
                self.open.insert(record.id.clone(), open);
                while self.open.len() > MAX_OPEN {
                    self.open.pop_first();
                }
            }
            Phase::Denied | Phase::NeedsPerson => {
                if let Some(open) = self.open.get_mut(&record.id) {
                    open.said = Some(said(record.phase, &record.detail));
                }
                if record.gate == Some(Gate::Budget) {
                    self.faults.entry(key).or_default().gave_up = true;
                }
            }
            Phase::Intent => {
                if let Some(open) = self.open.get_mut(&record.id) {
                    open.intent_ms = Some(at_ms);
                }
                self.last_action_ms = at_ms;
                let fault = self.faults.entry(key).or_default();
                fault.starts_ms.push(at_ms);
                let surplus = fault.starts_ms.len().saturating_sub(MAX_STARTS);
                fault.starts_ms.drain(..surplus);
            }
            Phase::Outcome => self.take_outcome(record, key, at_ms),
            Phase::Cleared => {
                self.open.remove(&record.id);
                if let Some(fault) = self.faults.get_mut(&key)
                    && record.on == Some(true)
                {
                    *fault = FaultLedger::default();
                }
            }
            _ => {}
        }
    }

    fn take_outcome(&mut self, record: &Record, key: String, at_ms: u64) {
        match record.outcome {
            Some(Outcome::Repaired) => {
                self.open.remove(&record.id);
                if let Some(fault) = self.faults.get_mut(&key) {
                    fault.unrepaired_failures = 0;
                    fault.last_failed_ms = None;
                }
            }
            Some(Outcome::Failed) => {
                if let Some(open) = self.open.get_mut(&record.id) {
                    open.intent_ms = None;
                }
                let fault = self.faults.entry(key).or_default();
                fault.failures = fault.failures.saturating_add(1);
                fault.unrepaired_failures = fault.unrepaired_failures.saturating_add(1);
                fault.last_failed_ms = Some(at_ms);
            }
            Some(Outcome::Gone) => {
                self.open.remove(&record.id);
            }
            Some(Outcome::DryRun) | None => {}
        }
    }
}

/// What was said about a fault, in a form that can be compared.
pub fn said(phase: Phase, detail: &str) -> String {
    format!("{phase:?}: {detail}")
}
