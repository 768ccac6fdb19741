//! PURE. What happened between two rounds, in sentences.
//!
//! A leader that is away for an election is one thing that happened, not an alarm: it is told here
//! and judged by the detectors. The last [`MAX_EVENTS`] are kept in memory.

use crate::detectors::{FaultKind, Finding};
use crate::report::{Span, seconds_between};
use crate::snapshot::{ClusterSnapshot, NodeState, Severity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How many events are kept in memory.
pub const MAX_EVENTS: usize = 200;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Another node leads, or the same one in a new term.
    LeaderChanged,
    /// Nobody leads any more.
    LeaderLost,
    /// A node is down.
    NodeDown,
    /// A node does not report, which says nothing of it.
    NodeUnknown,
    /// A node reports, after a time in which it did not, or for the first time.
    NodeReturned,
    /// A node is another process than before.
    NodeRestarted,
    /// An address is asked from now on.
    NodeWatched,
    /// An address is no longer asked.
    NodeUnwatched,
    /// Something is wrong.
    FindingBegun,
    /// It no longer is.
    FindingEnded,
}

impl EventKind {
    /// In two words.
    pub const fn title(self) -> &'static str {
        match self {
            EventKind::LeaderChanged => "new leader",
            EventKind::LeaderLost => "leader lost",
            EventKind::NodeDown => "node down",
            EventKind::NodeUnknown => "node unknown",
            EventKind::NodeReturned => "node reports",
            EventKind::NodeRestarted => "node restarted",
            EventKind::NodeWatched => "node watched",
            EventKind::NodeUnwatched => "node no longer watched",
            EventKind::FindingBegun => "finding begun",
            EventKind::FindingEnded => "finding ended",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was seen.
    pub at: Timestamp,
    /// What kind of thing.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// Which nodes it concerns.
    pub nodes: Vec<String>,
    /// The whole of it, for people.
    pub text: String,
    /// For findings: of what kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultKind>,
}

/// The last events, the latest last.
#[derive(Debug, Clone, Default)]
pub struct EventLog(VecDeque<Event>);

impl EventLog {
    /// Takes in what happened.
    pub fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if self.0.len() == MAX_EVENTS {
                self.0.pop_front();
            }
            self.0.push_back(event);
        }
    }

    /// The events, the latest first.
    pub fn latest_first(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().rev()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const LEADS_TERM: &str = "leads term";
const BEFORE_IT: &str = "before it";

/// The term that an event of a new leader tells.
pub fn term_told(text: &str) -> Option<u64> {
    let digits = text.split_once(LEADS_TERM)?.1.trim_start();
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// True where an event of a new leader is the first that a run of this observer saw: it does not know
/// who led before.
pub fn is_first_sight(text: &str) -> bool {
    !text.contains(';')
}

/// Who led last, and until when.
#[derive(Debug, Clone, Default)]
pub struct LastLeader {
    led: Option<(String, u64)>,
    seen_at: Option<Timestamp>,
    lost: bool,
}

/// What changed among nodes and leaders from `before` to `now`.
pub fn between(
    before: Option<&ClusterSnapshot>,
    now: &ClusterSnapshot,
    last_leader: &mut LastLeader,
) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(before) = before {
        events.extend(nodes(before, now));
    }
    events.extend(leader(now, last_leader));
    events
}

fn leader(now: &ClusterSnapshot, last: &mut LastLeader) -> Option<Event> {
    let event = |kind, severity, nodes, text| Event { at: now.at, kind, severity, nodes, text, fault: None };
    let Some(leader) = &now.leader else {
        let (was, term) = last.led.clone().filter(|_| !last.lost)?;
        last.lost = true;
        let text = format!("nobody leads; {was} led term {term}");
        return Some(event(EventKind::LeaderLost, Severity::Warning, vec![was], text));
    };
    let led = (leader.clone(), now.highest_term);
    let was_lost = std::mem::take(&mut last.lost);
    let gap = last.seen_at.filter(|_| was_lost).map(|at| seconds_between(at, now.at));
    last.seen_at = Some(now.at);
    let is_same = last.led.as_ref() == Some(&led);
    if is_same && !was_lost {
        return None;
    }
    let mut text = format!("{leader} {LEADS_TERM} {}", now.highest_term);
    match &last.led {
        Some(_) if is_same => text.push_str("; as before"),
        Some((was, term)) => text.push_str(&format!("; {BEFORE_IT} {was}, term {term}")),
        None => {}
    }
    if let Some(gap) = gap {
        text.push_str(&format!(", last seen {} ago", Span(gap)));
    }
    last.led = Some(led);
    Some(event(EventKind::LeaderChanged, Severity::Info, vec![leader.clone()], text))
}

fn nodes(before: &ClusterSnapshot, now: &ClusterSnapshot) -> Vec<Event> {
    let mut events = Vec::new();
    for node in &now.nodes {
        let Some(was) = before.nodes.iter().find(|n| n.address == node.address) else { continue };
        let name = node.name();
        let mut tell = |kind, severity, text| {
            events.push(Event {
                at: now.at,
                kind,
                severity,
                nodes: vec![name.to_owned()],
                text,
                fault: None,
            });
        };
        match (&was.state, &node.state) {
            (NodeState::Reporting, NodeState::Reporting) => {}
            (_, NodeState::Reporting) => {
                let role = node.role().map_or("", |r| r.as_str());
                let away = was.last_report_at.map(|at| seconds_between(at, now.at));
                let text = match away {
                    Some(seconds) => format!("{name} reports again after {}, {role}", Span(seconds)),
                    None => format!("{name} reports for the first time, {role}"),
                };
                tell(EventKind::NodeReturned, Severity::Info, text);
            }
            (NodeState::Down { .. }, NodeState::Down { .. })
            | (NodeState::Unknown { .. }, NodeState::Unknown { .. }) => {}
            (_, NodeState::Down { why }) => {
                let severity = if node.stopped_at.is_some() { Severity::Info } else { Severity::Warning };
                tell(EventKind::NodeDown, severity, format!("{name}: {why}"));
            }
            (_, NodeState::Unknown { why }) => {
                tell(EventKind::NodeUnknown, Severity::Info, format!("{name}: {why}"));
            }
        }
        if let (Some(old), Some(new)) = (&was.report, &node.report)
            && old.status.boot_nonce != new.status.boot_nonce
        {
            let pid = new.status.pid;
            tell(EventKind::NodeRestarted, Severity::Info, format!("{name} is a new process, pid {pid}"));
        }
    }
    events
}

/// The event of a finding that began or ended.
pub fn of_finding(finding: &Finding, kind: EventKind, at: Timestamp) -> Event {
    let words = finding.kind.as_str().replace('_', " ");
    let mut text = words;
    if !finding.nodes.is_empty() {
        text.push_str(&format!(" on {}", finding.nodes.join(", ")));
    }
    let severity = match kind {
        EventKind::FindingEnded => {
            let lasted = Span(seconds_between(finding.since, at));
            text.push_str(&format!(", gone after {lasted}"));
            Severity::Info
        }
        _ => {
            if let Some(first) = finding.evidence.first() {
                text.push_str(&format!(": {first}"));
            }
            finding.severity
        }
    };
    Event { at, kind, severity, nodes: finding.nodes.clone(), text, fault: Some(finding.kind) }
}
