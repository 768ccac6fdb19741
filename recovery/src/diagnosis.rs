//! PURE. From findings to causes: each thing that is wrong is explained once.
//!
//! A dead process makes its peers lose contact, leaves its log behind and may start an election;
//! a partition makes followers slow and terms run. Repairing the symptom would be a second,
//! wrong repair. `EXPLAINS` says which failure accounts for which others on the same nodes;
//! what is accounted for becomes evidence of the cause instead of a cause of its own.
//!
//! The death of a process is proven by its host and by nobody else: a refused connection is only
//! a hint, and a node whose process is alive is never diagnosed as crashed.

use crate::fault::FaultKind;
use crate::observation::{NodeView, Observation, ProcessState, Sighting};
use FaultKind::*;
use std::collections::BTreeSet;

/// How sure a process crash is; other failures carry [`Proof::Finding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The host proves that the process is gone.
    Dead,
    /// It looks dead, but the process lives: starting, or stuck.
    Alive {
        /// Its pid, where it is known.
        pid: Option<i32>,
    },
    /// The host can't tell.
    Unclear(String),
    /// Nobody can look or act: no actuator.
    NoActuator,
    /// A detector's word.
    Finding,
}

/// One cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Which failure.
    pub kind: FaultKind,
    /// The nodes, sorted.
    pub nodes: Vec<String>,
    /// What shows it, and what it explains.
    pub evidence: Vec<String>,
    /// How sure it is.
    pub proof: Proof,
}

impl Cause {
    /// Names the same fault from round to round.
    pub fn key(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.nodes.join(","))
    }
}

/// Which failure accounts for which others, strongest first.
const EXPLAINS: &[(FaultKind, &[FaultKind])] = &[
    (SplitBrain, &[TermDivergence, StateDivergence, NetworkPartition, SlowFollower]),
    (LogCorruption, &[StateDivergence, DatabaseCorruption, SlowFollower, Deadlock]),
    (NetworkPartition, &[TermDivergence, SlowFollower, Deadlock]),
    (StateDivergence, &[DatabaseCorruption]),
    (ResourceExhaustion, &[Deadlock, SlowFollower, TermDivergence]),
    (DatabaseCorruption, &[Deadlock, SlowFollower]),
    (Deadlock, &[SlowFollower, TermDivergence]),
    (TermDivergence, &[SlowFollower]),
];

/// What a dead process accounts for: all that is said of its node, and the unrest it leaves.
const A_CRASH_EXPLAINS: &[FaultKind] =
    &[NetworkPartition, Deadlock, SlowFollower, TermDivergence, ResourceExhaustion];

/// The causes behind an observation, strongest first.
pub fn diagnose(look: &Observation) -> Vec<Cause> {
    let mut crashes: Vec<Cause> =
        look.nodes.iter().filter_map(|(id, view)| crash(id, view, &look.sightings)).collect();
    let mut others: Vec<Cause> = look
        .sightings
        .iter()
        .filter(|sighting| sighting.kind != ProcessCrash)
        .map(|s| Cause {
            kind: s.kind,
            nodes: s.nodes.clone(),
            evidence: s.evidence.clone(),
            proof: Proof::Finding,
        })
        .collect();
    others.sort_by_key(|cause| (rank(cause.kind), cause.nodes.clone()));
    others.dedup_by(|again, first| {
        let same = again.key() == first.key();
        if same {
            first.evidence.append(&mut again.evidence);
        }
        same
    });
    absorb_into_crashes(&mut crashes, &mut others);
    absorb(&mut others);
    crashes.extend(others);
    for cause in &mut crashes {
        cause.evidence.truncate(MAX_EVIDENCE);
    }
    crashes
}

/// Lines of evidence that one cause keeps at most.
const MAX_EVIDENCE: usize = 32;

fn rank(kind: FaultKind) -> usize {
    EXPLAINS.iter().position(|(cause, _)| *cause == kind).unwrap_or(EXPLAINS.len())
}

/// The crash of one node, as far as it can be known.
fn crash(id: &str, view: &NodeView, sightings: &[Sighting]) -> Option<Cause> {
    if view.report.is_ok() || view.pardoned {
        return None;
    }
    let named: Vec<String> = sightings
        .iter()
        .filter(|s| s.kind == ProcessCrash && s.nodes.iter().any(|node| node == id))
        .flat_map(|s| s.evidence.clone())
        .collect();
    let refused = view.report == Err(monitor::ScrapeFailure::Refused);
    let (proof, mut evidence) = match &view.process {
        ProcessState::Dead { proof } => (Proof::Dead, proof.clone()),
        ProcessState::Running { pid } if refused || !named.is_empty() => {
            let evidence = match pid {
                Some(pid) => format!("its process runs (pid {pid})"),
                None => "its process runs: it holds the lock of its data directory".to_owned(),
            };
            (Proof::Alive { pid: *pid }, vec![evidence])
        }
        ProcessState::Unclear { why } if refused || !named.is_empty() => {
            (Proof::Unclear(why.clone()), vec![why.clone()])
        }
        ProcessState::NoActuator if !named.is_empty() => (Proof::NoActuator, Vec::new()),
        _ => return None,
    };
    if let Err(failure) = &view.report {
        evidence.push(format!("asked for its report: {failure}"));
    }
    evidence.extend(named);
    Some(Cause { kind: ProcessCrash, nodes: vec![id.to_owned()], evidence, proof })
}

/// What a crash accounts for goes into its evidence: only on the dead node, except for the
/// election that the death of a leader starts.
fn absorb_into_crashes(crashes: &mut [Cause], others: &mut Vec<Cause>) {
    let dead: BTreeSet<String> = crashes.iter().flat_map(|cause| cause.nodes.clone()).collect();
    if dead.is_empty() {
        return;
    }
    others.retain(|other| {
        let on_the_dead = other.nodes.iter().all(|node| dead.contains(node));
        let touches = other.nodes.iter().any(|node| dead.contains(node));
        let explained = A_CRASH_EXPLAINS.contains(&other.kind)
            && (on_the_dead
                || other.kind == TermDivergence
                || (other.kind == NetworkPartition && touches && other.nodes.len() <= dead.len() + 1));
        if explained {
            for crash in crashes.iter_mut() {
                if touches && !other.nodes.contains(&crash.nodes[0]) {
                    continue;
                }
                crash.evidence.push(explanation(other));
            }
        }
        !explained
    });
}

/// The stronger cause takes the weaker ones on nodes it shares. A split brain, a partition and
/// repeated elections concern the whole cluster.
fn absorb(causes: &mut Vec<Cause>) {
    let mut kept: Vec<Cause> = Vec::with_capacity(causes.len());
    for cause in causes.drain(..) {
        let by = kept.iter_mut().find(|stronger| {
            let explains =
                EXPLAINS.iter().find(|(kind, _)| *kind == stronger.kind).map_or(&[][..], |(_, e)| *e);
            let whole_cluster = matches!(stronger.kind, SplitBrain | NetworkPartition);
            let one_for_all = matches!(cause.kind, TermDivergence);
            let shared = cause.nodes.iter().any(|node| stronger.nodes.contains(node));
            explains.contains(&cause.kind) && (shared || whole_cluster || one_for_all)
        });
        match by {
            Some(stronger) => stronger.evidence.push(explanation(&cause)),
            None => kept.push(cause),
        }
    }
    *causes = kept;
}

fn explanation(cause: &Cause) -> String {
    let why = cause.evidence.first().map(|line| format!(" ({line})")).unwrap_or_default();
    format!("explains {} of {}{why}", cause.kind.as_str(), cause.nodes.join(", "))
}
