//! PURE. What one look at the cluster brought: every node's report, its process, and the findings.

use crate::fault::FaultKind;
use api::cluster::{Report, Role};
use monitor::ScrapeFailure;
use std::collections::BTreeMap;

/// What the host knows of a node's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs.
    Running {
        /// Its pid, where it could be read.
        pid: Option<i32>,
    },
    /// Proven dead: its lock is free, its port refuses, and no process of it is alive.
    Dead {
        /// What proves it, and what is known of its end.
        proof: Vec<String>,
    },
    /// Nobody can say: a contradiction or an error while looking. Never taken for dead.
    Unclear {
        /// Why.
        why: String,
    },
    /// Nobody could look: the node has no actuator here.
    NoActuator,
    /// Nobody had to look: its API answered.
    NotAsked,
}

/// One node in one look.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its report, or why there is none.
    pub report: Result<Box<Report>, ScrapeFailure>,
    /// Its process.
    pub process: ProcessState,
    /// True where an actuator could start it.
    pub startable: bool,
    /// True where it was stopped on purpose, not long ago, and the others can do without it.
    pub pardoned: bool,
}

impl NodeView {
    /// Its report, where it gave one.
    pub fn reported(&self) -> Option<&Report> {
        self.report.as_ref().ok().map(|r| &**r)
    }

    /// True where it takes part in the cluster, knows a leader, and no check of its own fails.
    pub fn is_healthy(&self) -> bool {
        self.reported().is_some_and(|report| not_ready(report).is_none())
    }
}

/// Why a reporting node does not serve yet; none where it does.
pub fn not_ready(report: &Report) -> Option<String> {
    let status = &report.status;
    if !matches!(status.role, Role::Leader | Role::Follower | Role::Learner) {
        let detail = status.role_detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default();
        return Some(format!("its role is {}{detail}", status.role));
    }
    if status.current_leader.is_none() {
        return Some("it knows no leader".into());
    }
    if report.health.status == api::cluster::HealthStatus::Failing {
        let failing: Vec<_> = report
            .health
            .checks
            .iter()
            .filter(|check| check.status == api::cluster::HealthStatus::Failing)
            .map(|check| format!("{}: {}", check.name, check.detail))
            .collect();
        return Some(format!("its health is failing ({})", failing.join("; ")));
    }
    None
}

/// Something that a detector named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Which failure.
    pub kind: FaultKind,
    /// The nodes it is about, sorted.
    pub nodes: Vec<String>,
    /// What was seen, a sentence each.
    pub evidence: Vec<String>,
}

/// One look at the cluster.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// When it was complete, Unix milliseconds on the daemon's steady clock.
    pub at_ms: u64,
    /// Every configured node by id.
    pub nodes: BTreeMap<String, NodeView>,
    /// What the detectors named.
    pub sightings: Vec<Sighting>,
    /// What an additional witness (the monitor) says.
    pub witness: Vec<String>,
}

impl Observation {
    /// Nodes that gave a report.
    pub fn reports(&self) -> impl Iterator<Item = (&String, &Report)> {
        self.nodes.iter().filter_map(|(id, view)| Some((id, view.reported()?)))
    }

    /// The highest commit index that any node named.
    pub fn commit_index(&self) -> u64 {
        self.reports().map(|(_, report)| report.status.commit_index).max().unwrap_or(0)
    }

    /// True where any node says that the cluster is in maintenance.
    pub fn maintenance(&self) -> bool {
        self.reports().any(|(_, report)| report.status.maintenance.enabled)
    }

    /// True where no node answered and at least one of them is not proven dead on this host: then
    /// the daemon may be the one that is cut off.
    pub fn is_blind(&self) -> bool {
        !self.nodes.is_empty()
            && self.reports().next().is_none()
            && self
                .nodes
                .values()
                .any(|view| !matches!(view.process, ProcessState::Dead { .. } | ProcessState::Running { .. }))
    }

    /// The voters as the node with the highest term names them; the configured nodes where nobody
    /// answers.
    pub fn voters(&self) -> Vec<String> {
        self.reports()
            .filter(|(_, report)| !report.status.voters.is_empty())
            .max_by_key(|(_, report)| (report.status.term, report.status.commit_index))
            .map(|(_, report)| report.status.voters.clone())
            .unwrap_or_else(|| self.nodes.keys().cloned().collect())
    }

    /// Nodes that serve.
    pub fn healthy(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, view)| view.is_healthy()).map(|(id, _)| id.clone()).collect()
    }
}
