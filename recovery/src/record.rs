//! PURE. One line of the audit.

use crate::fault::FaultKind;
use crate::ledger::Ledger;
use crate::policy::Gate;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A fault was seen for the first time.
    Seen,
    /// A plan was made and every gate let it through.
    Planned,
    /// A gate denied it; written when the gate or its reason changes.
    Denied,
    /// A step is about to be taken. Durable before the step.
    Intent,
    /// How it ended.
    Outcome,
    /// A person is needed; written when the reason changes.
    NeedsPerson,
    /// The fault is gone, or its budget is fresh again.
    Cleared,
    /// The brake was put on or taken off.
    Brake,
    /// A person took the fault over.
    Acknowledged,
    /// The config was read again, or refused.
    Config,
    /// What the daemon remembers, at the head of a file.
    State,
}

/// How a repair ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done and verified.
    Repaired,
    /// The step failed, or what it brought could not be verified.
    Failed,
    /// The fault went away before anything was done.
    Gone,
    /// It would have been done.
    DryRun,
}

impl Outcome {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Repaired => "repaired",
            Outcome::Failed => "failed",
            Outcome::Gone => "gone",
            Outcome::DryRun => "dry_run",
        }
    }
}

/// One line of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When, on the daemon's clock.
    pub at: Timestamp,
    /// The fault's id, the same from first sight to end; `daemon` where it is about none.
    pub id: String,
    /// Which failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FaultKind>,
    /// The nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// What this record tells.
    pub phase: Phase,
    /// The observation it rests on.
    pub generation: u64,
    /// In words.
    pub detail: String,
    /// What showed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// The lease's epoch, where the daemon held it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The gate that denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Milliseconds from first sight to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The brake's new position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// What the daemon remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Box<Ledger>>,
}

/// The id of records that are about no fault.
pub const DAEMON: &str = "daemon";

impl Record {
    /// A record with nothing but the essentials.
    pub fn new(at: Timestamp, id: &str, phase: Phase, generation: u64, detail: impl Into<String>) -> Self {
        Record {
            at,
            id: id.to_owned(),
            kind: None,
            nodes: Vec::new(),
            phase,
            generation,
            detail: detail.into(),
            evidence: Vec::new(),
            epoch: None,
            gate: None,
            outcome: None,
            took_ms: None,
            on: None,
            state: None,
        }
    }

    /// Its time, Unix milliseconds.
    pub fn at_ms(&self) -> u64 {
        u64::try_from(self.at.as_millisecond()).unwrap_or(0)
    }
}
