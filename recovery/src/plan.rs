//! PURE. From a cause to what would be done about it.
//!
//! A plan is made on one observation, is never changed, and names the generation of that
//! observation. A plan without steps says why a person is needed.

use crate::diagnosis::{Cause, Proof};
use crate::fault::FaultKind;
use serde::Serialize;

/// One step of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// Start the process of a node that is proven dead.
    StartProcess {
        /// The node.
        node: String,
    },
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The fault's id.
    pub id: String,
    /// What is wrong.
    pub cause: Cause,
    /// The steps, in order. Empty: a person is needed.
    pub steps: Vec<Step>,
    /// Why a person is needed.
    pub needs_person: Option<String>,
    /// The observation it was made on.
    pub generation: u64,
}

/// The plan for one cause.
pub fn plan(id: &str, cause: &Cause, generation: u64) -> Plan {
    let node = cause.nodes.first().cloned().unwrap_or_default();
    let (steps, needs_person) = match (cause.kind, &cause.proof) {
        (FaultKind::ProcessCrash, Proof::Dead) => (vec![Step::StartProcess { node }], None),
        (FaultKind::ProcessCrash, Proof::Alive { .. }) => (
            Vec::new(),
            Some("the process is alive and does not answer; it is not started a second time".into()),
        ),
        (FaultKind::ProcessCrash, Proof::Unclear(why)) => {
            (Vec::new(), Some(format!("it is not clear whether the process is dead: {why}")))
        }
        (FaultKind::ProcessCrash, Proof::NoActuator) => {
            (Vec::new(), Some("no actuator: start it on its host".into()))
        }
        (FaultKind::SplitBrain, _) => {
            (Vec::new(), Some("nothing is touched and nothing merged; keep every data directory".into()))
        }
        (kind, _) => (Vec::new(), Some(format!("this version does not repair {} by itself", kind.as_str()))),
    };
    Plan { id: id.to_owned(), cause: cause.clone(), steps, needs_person, generation }
}
