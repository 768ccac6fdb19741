//! PURE. Is a repaired node really back? Ready, caught up, and of one state with the others.

use crate::observation::{Observation, ProcessState, not_ready};
use api::cluster::{Report, StateChecksum};
use std::collections::BTreeMap;

/// How long a repair may take to verify.
pub const VERIFY_LIMIT_MS: u64 = 30_000;

/// What has to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The node.
    pub node: String,
    /// The cluster's commit index at the time of the step.
    pub commit_index: u64,
    /// When waiting ends, Unix milliseconds on the daemon's steady clock.
    pub deadline_ms: u64,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Not there yet.
    Wait(String),
    /// It is back.
    Repaired(String),
    /// It did not come back.
    Failed(String),
}

/// Judges one look.
///
/// Checksums that differ are a failure at once. Ones that can't be compared yet are waited for,
/// and at the deadline being caught up is enough, since nothing speaks against it.
pub fn judge(target: &Target, look: &Observation) -> Judgement {
    let expired = look.at_ms >= target.deadline_ms;
    let wait = |why: String| {
        if expired { Judgement::Failed(format!("not verified in time: {why}")) } else { Judgement::Wait(why) }
    };
    let Some(view) = look.nodes.get(&target.node) else {
        return Judgement::Failed("it is no longer in the config".into());
    };
    let report = match &view.report {
        Ok(report) => report,
        Err(_) if matches!(view.process, ProcessState::Dead { .. }) => {
            let ProcessState::Dead { proof } = &view.process else { unreachable!("matched above") };
            return Judgement::Failed(format!("the process ended again: {}", proof.join("; ")));
        }
        Err(failure) => return wait(format!("no report: {failure}")),
    };
    if let Some(why) = not_ready(report) {
        return wait(why);
    }
    let applied = report.status.applied_index;
    if applied < target.commit_index {
        return wait(format!("applied {applied} of {}", target.commit_index));
    }
    match compare(&target.node, report, look) {
        Comparison::Equal { index, with } => Judgement::Repaired(format!(
            "{} at {applied}, checksum equal to {with}'s at {index}",
            report.status.role
        )),
        Comparison::Alone => {
            Judgement::Repaired(format!("{} at {applied}; nobody else to compare with", report.status.role))
        }
        Comparison::Differs { index, with, what } => {
            Judgement::Failed(format!("its {what} differs from {with}'s at {index}"))
        }
        Comparison::NotYet if expired => {
            Judgement::Repaired(format!("{} at {applied}; checksum not yet comparable", report.status.role))
        }
        Comparison::NotYet => Judgement::Wait("no index that both have passed a checkpoint at".into()),
    }
}

enum Comparison {
    Equal { index: u64, with: String },
    Differs { index: u64, with: String, what: &'static str },
    NotYet,
    Alone,
}

/// Compares the node with every other of its cluster at the newest index they share.
fn compare(node: &str, report: &Report, look: &Observation) -> Comparison {
    let mine = marks(&report.state_checksum);
    let mut result = Comparison::Alone;
    let others = look.reports().filter(|(id, other)| {
        *id != node && not_ready(other).is_none() && other.status.cluster_id == report.status.cluster_id
    });
    for (id, other) in others {
        let theirs = marks(&other.state_checksum);
        let shared = mine.iter().rev().find_map(|(index, mark)| Some((*index, mark, theirs.get(index)?)));
        match shared {
            Some((index, mark, their)) if mark.1 != their.1 => {
                return Comparison::Differs { index, with: id.clone(), what: "log chain" };
            }
            Some((index, mark, their)) if mark.0 != their.0 => {
                return Comparison::Differs { index, with: id.clone(), what: "checksum" };
            }
            Some((index, ..)) => result = Comparison::Equal { index, with: id.clone() },
            None if matches!(result, Comparison::Alone) => result = Comparison::NotYet,
            None => {}
        }
    }
    result
}

/// Checksum and chain by index: the checkpoints, and the present one.
fn marks(state: &StateChecksum) -> BTreeMap<u64, (&str, &str)> {
    state
        .checkpoints
        .iter()
        .map(|c| (c.index, (c.checksum.as_str(), c.log_chain.as_str())))
        .chain([(state.applied_index, (state.checksum.as_str(), state.log_chain.as_str()))])
        .collect()
}
