//! PURE. Keeps what one observer needs from round to round, and says what each round showed.

use crate::detectors::{FaultKind, Finding, Limits, Window, detect_all};
use crate::events::{self, Event, EventKind, LastLeader};
use crate::report::{NodeReport, seconds_between};
use crate::snapshot::{ClusterSnapshot, Memory};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far back the detectors must see, seconds: a minute of leader changes, and some.
const WINDOW_SECONDS: f64 = 90.0;
/// How long after this observer's own start a node that it never heard may take to start, too,
/// seconds. Both are often started together, and a node that is not up yet has not crashed.
const START_SECONDS: f64 = 5.0;
/// The most findings that are followed at once.
const MAX_FOLLOWED: usize = 256;

/// What one round showed.
#[derive(Debug, Clone)]
pub struct Round {
    /// The cluster.
    pub snapshot: Arc<ClusterSnapshot>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// Which of them are new.
    pub begun: Vec<Finding>,
    /// Which are gone, as they were last seen.
    pub ended: Vec<Finding>,
    /// What happened.
    pub events: Vec<Event>,
}

/// An observer's memory: window, names, and the findings it follows.
#[derive(Debug)]
pub struct Observer {
    limits: Limits,
    window: Window,
    memory: Memory,
    last_leader: LastLeader,
    last: Option<Arc<ClusterSnapshot>>,
    followed: BTreeMap<(FaultKind, Vec<String>), Followed>,
    round: u64,
    began_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Followed {
    finding: Finding,
    absent_rounds: u32,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(limits: Limits, interval_seconds: f64) -> Self {
        Observer {
            limits,
            window: Window::reaching_back(WINDOW_SECONDS, interval_seconds),
            memory: Memory::default(),
            last_leader: LastLeader::default(),
            last: None,
            followed: BTreeMap::new(),
            round: 0,
            began_at: None,
        }
    }

    /// Takes in the answers of one round.
    pub fn take(&mut self, reports: &[NodeReport], at: Timestamp) -> Round {
        self.round += 1;
        let mut snapshot = ClusterSnapshot::join(reports, &self.memory, self.round, at);
        self.memory.learn(&snapshot);
        let began_at = *self.began_at.get_or_insert(at);
        let mut found = detect_all(&snapshot, &self.window, &self.limits);
        if seconds_between(began_at, at) < START_SECONDS {
            found.retain(|finding| !may_be_starting(finding, &snapshot));
        }
        self.window.push(&snapshot);
        snapshot.note_findings(&found);
        let snapshot = Arc::new(snapshot);
        let mut events = events::between(self.last.as_deref(), &snapshot, &mut self.last_leader);
        self.last = Some(snapshot.clone());
        let (findings, begun, ended) = self.follow(found);
        events.extend(begun.iter().map(|f| events::of_finding(f, EventKind::FindingBegun, at)));
        events.extend(ended.iter().map(|f| events::of_finding(f, EventKind::FindingEnded, at)));
        Round { snapshot, findings, begun, ended, events }
    }

    /// Joins what was found to what is followed: a finding keeps its first `since` beyond the
    /// window, and ends only after one round more without it than it took to begin.
    fn follow(&mut self, found: Vec<Finding>) -> (Vec<Finding>, Vec<Finding>, Vec<Finding>) {
        let mut begun = Vec::new();
        for followed in self.followed.values_mut() {
            followed.absent_rounds += 1;
        }
        let mut findings = Vec::with_capacity(found.len());
        for mut finding in found {
            let has_room = self.followed.len() < MAX_FOLLOWED;
            match self.followed.get_mut(&finding.key()) {
                Some(followed) => {
                    finding.since = finding.since.min(followed.finding.since);
                    finding.rounds = finding.rounds.max(followed.finding.rounds.saturating_add(1));
                    *followed = Followed { finding: finding.clone(), absent_rounds: 0 };
                }
                None if has_room => {
                    let followed = Followed { finding: finding.clone(), absent_rounds: 0 };
                    self.followed.insert(finding.key(), followed);
                    begun.push(finding.clone());
                }
                None => {}
            }
            findings.push(finding);
        }
        let patience = self.limits.confirmations.max(1) + 1;
        let mut ended = Vec::new();
        self.followed.retain(|_, followed| {
            if followed.absent_rounds >= patience {
                ended.push(followed.finding.clone());
                return false;
            }
            true
        });
        (findings, begun, ended)
    }
}

/// A crash of nodes none of which was ever heard.
fn may_be_starting(finding: &Finding, snapshot: &ClusterSnapshot) -> bool {
    let never_heard = |name: &String| snapshot.node(name).is_some_and(|n| n.last_report_at.is_none());
    finding.kind == FaultKind::ProcessCrash && finding.nodes.iter().all(never_heard)
}

#[cfg(test)]
mod tests;
