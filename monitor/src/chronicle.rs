//! PURE. What a page tells of the past: who led when, and what was wrong until when.
//!
//! Bounded and in memory. What earlier runs of this monitor saw comes from history, and a page says
//! since when it knows. While no monitor ran nobody looked: that one node led term 7 before and after
//! means that it led all the time, since a term has one leader; else nothing is made up.

use crate::detectors::{FaultKind, Finding};
use crate::events::{self, EventKind};
use crate::history::{PastEvent, PastFinding};
use crate::observer::Round;
use crate::snapshot::{ClusterSnapshot, Severity};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// Stretches of leadership that are kept.
pub const MAX_REIGNS: usize = 500;
/// Findings that are kept after they ended.
pub const MAX_PAST: usize = 200;
/// Open findings that are kept.
const MAX_OPEN: usize = 256;

/// Who led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// This node, in this term.
    Leads {
        /// The node.
        node: String,
        /// The term.
        term: u64,
    },
    /// Nodes reported, and none of them led.
    Nobody,
    /// Nobody reported: the monitor does not know.
    Unseen,
}

/// A stretch of time with one leader, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reign {
    /// Who led.
    pub who: Who,
    /// From when.
    pub from: Timestamp,
    /// Until when it was seen.
    pub until: Timestamp,
}

/// A finding from its first sight to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name in addresses.
    pub id: String,
    /// As it was seen last.
    pub finding: Finding,
    /// When it was seen last.
    pub seen_at: Timestamp,
    /// When it was gone; none while it goes on.
    pub until: Option<Timestamp>,
}

impl Case {
    fn new(finding: &Finding, at: Timestamp) -> Self {
        let mut nodes = finding.nodes.clone();
        nodes.sort();
        let who = if nodes.is_empty() { "cluster".to_owned() } else { nodes.join("+") };
        let id = format!("{}-{who}-{}", finding.kind, finding.since.as_millisecond());
        Case { id, finding: finding.clone(), seen_at: at, until: None }
    }

    fn is(&self, kind: FaultKind, nodes: &[String]) -> bool {
        self.finding.kind == kind && self.finding.key().1 == sorted(nodes)
    }
}

fn severity(name: &str) -> Option<Severity> {
    [Severity::Info, Severity::Warning, Severity::Critical].into_iter().find(|s| s.as_str() == name)
}

fn sorted(nodes: &[String]) -> Vec<String> {
    let mut nodes = nodes.to_vec();
    nodes.sort();
    nodes
}

/// The past, as far as it is kept. Cheap to clone: what is shared is copied when it changes.
#[derive(Debug, Clone, Default)]
pub struct Chronicle {
    /// Since when findings are known.
    pub since: Option<Timestamp>,
    /// Since when it is known who led.
    pub led_since: Option<Timestamp>,
    /// Who led, the earliest first.
    pub reigns: Arc<VecDeque<Reign>>,
    /// What is wrong, in order of first sight.
    pub open: Arc<Vec<Case>>,
    /// What was wrong, the latest end first.
    pub past: Arc<VecDeque<Case>>,
    /// True until the first round of this run, where an earlier one left reigns.
    recalled: bool,
}

impl Chronicle {
    /// What history holds of earlier runs; what it can't be read from is left out.
    pub fn recall(findings: &[PastFinding]) -> Self {
        let case = |past: &PastFinding| {
            let until = past.ended_at?;
            let finding = Finding {
                kind: FaultKind::parse(&past.kind)?,
                nodes: past.nodes.clone(),
                severity: severity(&past.severity)?,
                evidence: past.evidence.clone(),
                look_at: Vec::new(),
                since: past.since,
                rounds: 0,
            };
            Some(Case { until: Some(until), ..Case::new(&finding, until) })
        };
        let past: VecDeque<Case> = findings.iter().filter_map(case).take(MAX_PAST).collect();
        let since = findings.iter().map(|past| past.since).min();
        Chronicle { since, past: Arc::new(past), ..Chronicle::default() }
    }

    /// Who led in earlier runs, from their events in order of time. `last_round` says when the last
    /// round was before a time at which a run began, and before now for none.
    pub fn recall_reigns(
        &mut self,
        told: &[PastEvent],
        last_round: impl Fn(Option<Timestamp>) -> Option<Timestamp>,
    ) {
        let mut reigns: VecDeque<Reign> = VecDeque::new();
        for event in told {
            let who = match (event.kind.as_str(), event.nodes.first(), events::term_told(&event.text)) {
                ("leader_changed", Some(node), Some(term)) => Who::Leads { node: node.clone(), term },
                ("leader_lost", ..) => Who::Nobody,
                _ => continue,
            };
            if let Some(last) = reigns.back_mut() {
                let is_new_run = event.kind == "leader_changed" && events::is_first_sight(&event.text);
                if last.who == who || !is_new_run {
                    last.until = event.at;
                    if last.who == who {
                        continue;
                    }
                } else {
                    end_unseen(&mut reigns, last_round(Some(event.at)), event.at);
                }
            }
            reigns.push_back(Reign { who, from: event.at, until: event.at });
        }
        let Some(last) = reigns.back_mut() else { return };
        last.until = last_round(None).map_or(last.until, |seen| seen.max(last.from));
        let surplus = reigns.len().saturating_sub(MAX_REIGNS);
        reigns.drain(..surplus);
        self.led_since = reigns.front().map(|reign| reign.from);
        (self.reigns, self.recalled) = (Arc::new(reigns), true);
    }

    /// Takes in a round.
    pub fn take(&mut self, round: &Round) {
        let at = round.snapshot.at;
        self.since.get_or_insert(at);
        self.led_since.get_or_insert(at);
        self.take_leader(&round.snapshot);
        self.take_findings(&round.findings, at);
        for event in round.events.iter().filter(|event| event.kind == EventKind::FindingEnded) {
            if let Some(kind) = event.fault {
                self.end(kind, &event.nodes, at);
            }
        }
    }

    fn take_leader(&mut self, snapshot: &ClusterSnapshot) {
        let who = match &snapshot.leader {
            Some(node) => Who::Leads { node: node.clone(), term: snapshot.highest_term },
            None if snapshot.reporting().next().is_some() => Who::Nobody,
            None => Who::Unseen,
        };
        let reigns = Arc::make_mut(&mut self.reigns);
        let is_new_run = std::mem::take(&mut self.recalled);
        if let Some(last) = reigns.back_mut() {
            if last.who == who {
                last.until = last.until.max(snapshot.at);
                return;
            }
            match is_new_run {
                true => end_unseen(reigns, None, snapshot.at),
                false => last.until = last.until.max(snapshot.at),
            }
        }
        while reigns.len() >= MAX_REIGNS {
            reigns.pop_front();
        }
        reigns.push_back(Reign { who, from: snapshot.at, until: snapshot.at });
    }

    fn take_findings(&mut self, findings: &[Finding], at: Timestamp) {
        if findings.is_empty() {
            return;
        }
        let open = Arc::make_mut(&mut self.open);
        for finding in findings {
            let place = open.iter().position(|case| case.is(finding.kind, &finding.nodes));
            match place {
                Some(place) => {
                    let case = &mut open[place];
                    let since = case.finding.since;
                    case.finding = Finding { since, ..finding.clone() };
                    case.seen_at = at;
                }
                None if open.len() < MAX_OPEN => open.push(Case::new(finding, at)),
                None => {}
            }
        }
    }

    fn end(&mut self, kind: FaultKind, nodes: &[String], at: Timestamp) {
        let Some(place) = self.open.iter().position(|case| case.is(kind, nodes)) else { return };
        let mut case = Arc::make_mut(&mut self.open).remove(place);
        case.until = Some(at);
        let past = Arc::make_mut(&mut self.past);
        past.truncate(MAX_PAST - 1);
        past.push_front(case);
    }

    /// The finding of that id, going on or past.
    pub fn case(&self, id: &str) -> Option<&Case> {
        self.open.iter().chain(self.past.iter()).find(|case| case.id == id)
    }

    /// The id of a finding that goes on.
    pub fn id_of(&self, finding: &Finding) -> Option<&str> {
        self.open.iter().find(|case| case.is(finding.kind, &finding.nodes)).map(|case| case.id.as_str())
    }
}

/// The last reign was seen until `seen`, and what came until `at` by nobody.
fn end_unseen(reigns: &mut VecDeque<Reign>, seen: Option<Timestamp>, at: Timestamp) {
    let Some(last) = reigns.back_mut() else { return };
    last.until = seen.unwrap_or(last.until).clamp(last.from, at.max(last.from));
    let from = last.until;
    if from < at {
        reigns.push_back(Reign { who: Who::Unseen, from, until: at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::Limits;
    use crate::observer::Observer;
    use crate::report::{NodeReport, ScrapeFailure};
    use jiff::SignedDuration;

    fn refused(second: i64) -> (Vec<NodeReport>, Timestamp) {
        let at = Timestamp::from_second(1_790_000_000 + second).unwrap();
        let report = |n: u16| NodeReport {
            address: format!("127.0.0.1:{n}"),
            at,
            took_ms: 1.0,
            outcome: Err(ScrapeFailure::Refused),
        };
        ((1..=3).map(report).collect(), at)
    }

    #[test]
    fn a_finding_keeps_its_name_and_is_past_when_it_ended() {
        let mut observer = Observer::new(Limits::default(), 1.0);
        let mut chronicle = Chronicle::default();
        for second in 0..12 {
            let (reports, at) = refused(second);
            chronicle.take(&observer.take(&reports, at));
        }
        assert!(!chronicle.open.is_empty(), "all nodes refuse");
        let id = chronicle.open[0].id.clone();
        let (reports, at) = refused(12);
        chronicle.take(&observer.take(&reports, at));
        assert_eq!(chronicle.open[0].id, id);
        assert!(chronicle.past.is_empty());
        let finding = chronicle.open[0].finding.clone();
        let later = at + SignedDuration::from_secs(5);
        chronicle.end(finding.kind, &finding.nodes, later);
        assert_eq!(chronicle.case(&id).unwrap().until, Some(later));
        assert!(chronicle.open.iter().all(|case| case.id != id));
    }

    #[test]
    fn the_monitors_own_blindness_is_no_reign_of_nobody() {
        let mut observer = Observer::new(Limits::default(), 1.0);
        let mut chronicle = Chronicle::default();
        for second in 0..3 {
            let (reports, at) = refused(second);
            chronicle.take(&observer.take(&reports, at));
        }
        assert_eq!(chronicle.reigns.len(), 1);
        assert_eq!(chronicle.reigns[0].who, Who::Unseen);
        assert_eq!(chronicle.reigns[0].until.as_second() - chronicle.reigns[0].from.as_second(), 2);
    }

    #[test]
    fn what_earlier_runs_found_is_past() {
        let at = Timestamp::from_second(1_790_000_000).unwrap();
        let past = |kind: &str, ended_at| PastFinding {
            kind: kind.into(),
            nodes: vec!["node-3".into()],
            severity: "critical".into(),
            since: at,
            found_at: at,
            ended_at,
            evidence: vec!["seen".into()],
        };
        let found =
            [past("process_crash", Some(at)), past("of_another_version", Some(at)), past("deadlock", None)];
        let chronicle = Chronicle::recall(&found);
        assert_eq!(chronicle.past.len(), 1);
        let case = chronicle.case(&format!("process_crash-node-3-{}", at.as_millisecond())).unwrap();
        assert_eq!((case.until, case.finding.severity), (Some(at), Severity::Critical));
    }

    fn told(second: i64, kind: &str, node: &str, text: &str) -> PastEvent {
        PastEvent {
            at: Timestamp::from_second(1_790_000_000 + second).unwrap(),
            kind: kind.into(),
            severity: "info".into(),
            nodes: vec![node.into()],
            text: text.into(),
            fault: None,
        }
    }

    fn spans(chronicle: &Chronicle) -> Vec<(String, i64, i64)> {
        let name = |who: &Who| match who {
            Who::Leads { node, term } => format!("{node} {term}"),
            Who::Nobody => "nobody".into(),
            Who::Unseen => "unseen".into(),
        };
        let second = |at: Timestamp| at.as_second() - 1_790_000_000;
        chronicle.reigns.iter().map(|r| (name(&r.who), second(r.from), second(r.until))).collect()
    }

    #[test]
    fn who_led_in_earlier_runs_is_known_and_nothing_is_made_up() {
        let events = [
            told(0, "leader_changed", "node-2", "node-2 leads term 7"),
            told(50, "leader_lost", "node-2", "nobody leads; node-2 led term 7"),
            told(52, "leader_changed", "node-1", "node-1 leads term 8; before it node-2, term 7"),
            // The next run found the same, the one after it another.
            told(100, "leader_changed", "node-1", "node-1 leads term 8"),
            told(200, "leader_changed", "node-3", "node-3 leads term 12"),
        ];
        let last_round = |before: Option<Timestamp>| {
            let second = if before.is_some() { 150 } else { 260 };
            Timestamp::from_second(1_790_000_000 + second).ok()
        };
        let mut chronicle = Chronicle::default();
        chronicle.recall_reigns(&events, last_round);
        let mut known = vec![
            ("node-2 7".to_owned(), 0, 50),
            ("nobody".to_owned(), 50, 52),
            ("node-1 8".to_owned(), 52, 150),
            ("unseen".to_owned(), 150, 200),
            ("node-3 12".to_owned(), 200, 260),
        ];
        assert_eq!(spans(&chronicle), known);
        assert_eq!(chronicle.led_since, Timestamp::from_second(1_790_000_000).ok());
        // This run begins, and nobody answers it yet.
        let mut observer = Observer::new(Limits::default(), 1.0);
        let (reports, at) = refused(300);
        chronicle.take(&observer.take(&reports, at));
        known.push(("unseen".to_owned(), 260, 300));
        known.push(("unseen".to_owned(), 300, 300));
        let merged: Vec<_> = spans(&chronicle);
        assert_eq!(merged[..5], known[..5]);
        assert!(merged[5..].iter().all(|(who, ..)| who == "unseen"), "{merged:?}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut chronicle = Chronicle::default();
        let at = Timestamp::from_second(1_790_000_000).unwrap();
        for n in 0..2 * MAX_PAST {
            let node = vec![format!("node-{n}")];
            let finding = Finding {
                kind: FaultKind::ProcessCrash,
                nodes: node.clone(),
                severity: crate::snapshot::Severity::Critical,
                evidence: vec![],
                look_at: vec![],
                since: at,
                rounds: 2,
            };
            chronicle.take_findings(&[finding], at);
            chronicle.end(FaultKind::ProcessCrash, &node, at);
        }
        assert_eq!((chronicle.past.len(), chronicle.open.len()), (MAX_PAST, 0));
    }
}
