//! PURE. What is and was wrong, with its evidence and what is done about it.

use super::daemon;
use super::format::{capital, escape_path, moment};
use super::{Seen, node_href, tone, words};
use crate::chronicle::Case;
use crate::detectors::{FaultKind, Finding};
use crate::report::{Span, seconds_between};
use web::fragments::{FindingRow, Findings, Mark, Past, Tone};
use web::pages::{FindingPage, FindingsPage, Here};

/// Past findings that a page shows.
const SHOWN_PAST: usize = 100;

fn href(id: &str) -> String {
    format!("/anomalies/{}", escape_path(id))
}

fn row(seen: &Seen, finding: &Finding, case: Option<&Case>) -> FindingRow {
    let now = seen.snapshot.at;
    let lasted = match case.and_then(|case| case.until) {
        Some(until) => format!("gone after {}", Span(seconds_between(finding.since, until))),
        None => String::new(),
    };
    FindingRow {
        title: capital(&words(finding.kind.as_str())),
        href: case.map_or_else(|| "/anomalies".to_owned(), |case| href(&case.id)),
        mark: Mark::new(tone(finding.severity), finding.severity.as_str()),
        nodes: finding.nodes.iter().map(|node| (node.clone(), node_href(node))).collect(),
        since: moment(finding.since, now),
        lasted,
        evidence: finding.evidence.clone(),
        answers: case.map(|case| daemon::answers(seen, case)).unwrap_or_default(),
    }
}

/// Findings of this round, as rows.
pub(super) fn findings<'a>(seen: &Seen, found: impl Iterator<Item = &'a Finding>, empty: &str) -> Findings {
    let rows = found.map(|finding| {
        let case = seen.chronicle.id_of(finding).and_then(|id| seen.chronicle.case(id));
        row(seen, finding, case)
    });
    Findings { rows: rows.collect(), empty: empty.to_owned() }
}

/// What is wrong now, for the cluster view.
pub(super) fn now(seen: &Seen) -> Findings {
    let reporting = seen.snapshot.reporting().count();
    let empty = match reporting {
        0 => "Nobody reports, so nothing can be found.".to_owned(),
        n => format!("Nothing is wrong as far as {n} of {} nodes tell.", seen.snapshot.nodes.len()),
    };
    findings(seen, seen.findings.iter(), &empty)
}

fn past(seen: &Seen) -> Past {
    let cases = &seen.chronicle.past;
    Past {
        rows: cases.iter().take(SHOWN_PAST).map(|case| row(seen, &case.finding, Some(case))).collect(),
        since: moment(seen.chronicle.since.unwrap_or(seen.snapshot.at), seen.snapshot.at),
        older: cases.len().saturating_sub(SHOWN_PAST),
    }
}

/// What is and was wrong.
pub fn findings_page(seen: &Seen) -> FindingsPage {
    let frame = super::polled(seen, "Findings", Here::Findings);
    FindingsPage { frame, findings: now(seen), past: past(seen) }
}

/// One finding, going on or past.
pub fn finding_page(seen: &Seen, id: &str) -> Option<FindingPage> {
    let case = seen.chronicle.case(id)?;
    let finding = row(seen, &case.finding, Some(case));
    let state = match case.until {
        Some(_) => Mark::new(Tone::Good, "gone"),
        None => Mark::new(tone(case.finding.severity), "going on"),
    };
    let mut elsewhere: Vec<(String, String)> =
        finding.nodes.iter().map(|(n, h)| (n.clone(), h.clone())).collect();
    elsewhere.extend(finding.nodes.iter().map(|(name, _)| {
        (format!("Log lines of {name}"), format!("/logs?level=WARN&node={}", escape_path(name)))
    }));
    Some(FindingPage {
        frame: super::polled(seen, &finding.title, Here::Findings),
        until: case.until.map(|until| moment(until, seen.snapshot.at)),
        meaning: meaning(case.finding.kind),
        elsewhere,
        records: daemon::records_on(seen, case),
        records_empty: daemon::silence(seen),
        state,
        finding,
    })
}

/// What a kind of failure means and what one does about it.
const fn meaning(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::ProcessCrash => {
            "The process is gone: its host refuses the connection and no other node hears it. Start it again with \
             its old data directory; with a recovery daemon on its host that happens by itself."
        }
        FaultKind::NetworkPartition => {
            "Nodes that run do not hear each other. Look at the matrix for which way is cut, then at the network \
             between these hosts. Nothing is lost; a side without a majority takes no writes."
        }
        FaultKind::DatabaseCorruption => {
            "This node's database differs from its memory or can't be read. The node keeps serving. The file can be \
             rebuilt from the node itself: POST /api/admin/rebuild_db."
        }
        FaultKind::LogCorruption => {
            "This node's log is damaged or differs from the majority's. It must not vote. Keep its data directory as \
             evidence; it comes back as a new member."
        }
        FaultKind::SplitBrain => {
            "Two nodes claim to lead one term, or there are two clusters under one configuration. Touch nothing and \
             merge nothing; keep every data directory, find out which processes run on which data."
        }
        FaultKind::TermDivergence => {
            "Terms run apart or leaders change too often. Look for the node that disturbs: late heartbeats, a slow \
             disk, a link that comes and goes, or timers that do not fit the round trips."
        }
        FaultKind::StateDivergence => {
            "Equal logs made different states: the node in the minority is wrong. Keep its data directory; it gets \
             the majority's state by a snapshot (POST /api/admin/force_sync)."
        }
        FaultKind::Deadlock => {
            "A thread of this node stands still while there is work. If it leads, hand leadership over, then take a \
             dump and restart it."
        }
        FaultKind::ResourceExhaustion => {
            "Disk, memory or descriptors run out. Make room before the floor is reached: POST \
             /api/admin/cleanup_resources, fewer kept tasks, a larger disk."
        }
        FaultKind::SlowFollower => {
            "A voter stays behind though its link is up: look at its disk's syncs and its CPU. While it lags, the \
             cluster can lose less."
        }
        FaultKind::ClockOffset => {
            "The wall clocks of nodes differ. Nothing in the cluster depends on them, but the times in logs and on these \
             pages do: see that time is synchronised on every host (chrony, systemd-timesyncd)."
        }
        FaultKind::BadReport => {
            "The node answers the monitor with something that is no report: another program on its port, another \
             version, or a refused token."
        }
    }
}
