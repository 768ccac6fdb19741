//! PURE. What a page asked the coordinators, and how that is told.

use super::Seen;
use super::format::milliseconds;
use web::listings::Source;

/// An answer, and who gave none before it.
#[derive(Debug, Clone)]
pub struct Asked<T> {
    /// The answer, or why there is none.
    pub outcome: Result<Answered<T>, Refused>,
    /// Nodes that were asked before and did not answer, one sentence each.
    pub missing: Vec<String>,
}

/// Somebody's answer.
#[derive(Debug, Clone)]
pub struct Answered<T> {
    /// Who.
    pub node: String,
    /// True where that node leads.
    pub leads: bool,
    /// Milliseconds it took.
    pub took_ms: f64,
    /// What it said.
    pub value: T,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The thing asked for is not there, says a node that answers.
    Unknown,
    /// Nobody answers, or none of the answers can be used.
    Nobody,
}

impl<T> Asked<T> {
    /// The answer's value.
    pub fn value(&self) -> Option<&T> {
        self.outcome.as_ref().ok().map(|answered| &answered.value)
    }

    /// Whose word it is.
    pub(super) fn source(&self, seen: &Seen) -> Source {
        let text = match &self.outcome {
            Ok(Answered { node, leads, took_ms, .. }) => {
                let role = match (leads, &seen.snapshot.leader) {
                    (true, _) => "which leads",
                    (false, Some(_)) => "which follows, so it may be a little behind",
                    (false, None) => "the node furthest ahead that answers; there is no leader",
                };
                format!("As {node} has it, {role}; answered in {}.", milliseconds(*took_ms))
            }
            Err(Refused::Unknown) => "No node that answers knows it.".to_owned(),
            Err(Refused::Nobody) => "Nobody answers, so nothing is known.".to_owned(),
        };
        Source { text, missing: self.missing.clone() }
    }
}
