//! PURE. From what was seen to what is shown: view models for the templates of crate `web`.

mod format;
mod node;
mod table;

use crate::detectors::Finding;
use crate::events::{Event, EventKind};
use crate::report::{Span, seconds_between};
use crate::snapshot::{ClusterSnapshot, Hearing, Severity};
use askama::Template;
use format::{grouped, moment, percent_of};
use std::sync::Arc;
use std::time::Duration;
use web::fragments::{
    ActionRow, Count, EventRow, FindingRow, Findings, LinkCell, LinkRow, Links, Mark, Recovery, Tone,
    Verdict, Work,
};
use web::pages::{ClusterPage, Frame, MessagePage, NodePage};

/// Events a page shows; the rest are counted.
const SHOWN_EVENTS: usize = 60;

/// Everything a page can show.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The cluster.
    pub snapshot: Arc<ClusterSnapshot>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What happened, the latest first.
    pub events: Vec<Event>,
    /// What the recovery daemon said last.
    pub audit: Option<AuditFeed>,
    /// True where the monitor was told of a recovery daemon.
    pub has_recovery: bool,
    /// Between two rounds.
    pub interval: Duration,
}

/// A record of the recovery daemon's audit, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// When, as it wrote it.
    pub at: String,
    /// The kind of fault.
    pub kind: String,
    /// The nodes it concerns.
    pub nodes: String,
    /// Which phase of a repair.
    pub phase: String,
    /// More about it.
    pub detail: String,
}

/// What the daemon said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFeed {
    /// Where the daemon is.
    pub url: String,
    /// Its last records, the latest first, or why there are none.
    pub outcome: Result<Vec<AuditRecord>, String>,
}

/// The parts of all pages, drawn anew.
#[derive(Debug, Clone, Default)]
pub struct Drawn {
    /// Of the cluster view: element id and text.
    pub cluster: Vec<(&'static str, String)>,
    /// Of the nodes' pages: name and text.
    pub nodes: Vec<(String, String)>,
    /// The round, as JSON: `{round, at, text}`.
    pub round: serde_json::Map<String, serde_json::Value>,
}

/// The cluster view.
pub fn cluster_page(seen: &Seen) -> ClusterPage {
    ClusterPage {
        frame: frame(seen, "Cluster", "/api/stream".into()),
        verdict: verdict(&seen.snapshot),
        nodes: table::nodes(&seen.snapshot),
        findings: findings(seen, seen.findings.iter()),
        links: links(&seen.snapshot),
        work: work(&seen.snapshot),
        events: events(seen),
        recovery: recovery(seen),
    }
}

/// The page of one node, if it is watched.
pub fn node_page(seen: &Seen, name: &str) -> Option<NodePage> {
    let node = seen.snapshot.node(name)?;
    let stream = format!("/api/stream?node={}", format::escape_path(node.name()));
    Some(NodePage {
        frame: frame(seen, node.name(), stream),
        verdict: verdict(&seen.snapshot),
        node: node::page(seen, node),
    })
}

/// A page that has only a message, also before anything was seen.
pub fn message_page(interval: Duration, heading: &str, text: &str) -> MessagePage {
    let at = web::fragments::Moment { iso: String::new(), text: String::new() };
    let frame = Frame {
        title: heading.to_owned(),
        cluster: String::new(),
        at,
        round: 0,
        interval_ms: interval.as_millis() as u64,
        refresh_seconds: refresh_seconds(interval),
        stream: String::new(),
        version: api::VERSION,
        inline_style: None,
    };
    MessagePage { frame, heading: heading.to_owned(), text: text.to_owned() }
}

/// The cluster view as a file that needs nothing else.
pub fn report(seen: &Seen) -> askama::Result<String> {
    let mut page = cluster_page(seen);
    page.frame.stream = String::new();
    page.frame.inline_style = web::asset("style.css").map(|asset| asset.text);
    page.render()
}

/// Every part that changes, for the event stream.
pub fn draw(seen: &Seen) -> Drawn {
    let page = cluster_page(seen);
    let parts: [(&'static str, askama::Result<String>); 7] = [
        ("verdict", page.verdict.render()),
        ("nodes", page.nodes.render()),
        ("findings", page.findings.render()),
        ("links", page.links.render()),
        ("work", page.work.render()),
        ("events", page.events.render()),
        ("recovery", page.recovery.render()),
    ];
    let cluster = parts.into_iter().filter_map(|(id, text)| Some((id, text.ok()?))).collect();
    let nodes = seen
        .snapshot
        .nodes
        .iter()
        .filter_map(|node| Some((node.name().to_owned(), node::page(seen, node).render().ok()?)))
        .collect();
    let at = moment(seen.snapshot.at, seen.snapshot.at);
    let round = serde_json::json!({ "round": seen.snapshot.round, "at": at.iso, "text": at.text });
    Drawn { cluster, nodes, round: round.as_object().cloned().unwrap_or_default() }
}

fn refresh_seconds(interval: Duration) -> u64 {
    interval.as_secs().max(2)
}

fn frame(seen: &Seen, title: &str, stream: String) -> Frame {
    Frame {
        title: title.to_owned(),
        cluster: seen.snapshot.cluster_ids.join(", "),
        at: moment(seen.snapshot.at, seen.snapshot.at),
        round: seen.snapshot.round,
        interval_ms: seen.interval.as_millis() as u64,
        refresh_seconds: refresh_seconds(seen.interval),
        stream,
        version: api::VERSION,
        inline_style: None,
    }
}

/// How a severity looks.
fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Info => Tone::Idle,
        Severity::Warning => Tone::Warn,
        Severity::Critical => Tone::Bad,
    }
}

fn verdict(snapshot: &ClusterSnapshot) -> Verdict {
    let mark = match snapshot.severity {
        Severity::Info => Mark::new(Tone::Good, "Healthy"),
        Severity::Warning => Mark::new(Tone::Warn, "Attention"),
        Severity::Critical => Mark::new(Tone::Bad, "Critical"),
    };
    Verdict { mark, sentence: snapshot.verdict.clone() }
}

/// Findings, as rows.
fn findings<'a>(seen: &Seen, found: impl Iterator<Item = &'a Finding>) -> Findings {
    let rows = found
        .map(|finding| {
            let words = finding.kind.as_str().replace('_', " ");
            FindingRow {
                title: format::capital(&words),
                mark: Mark::new(tone(finding.severity), finding.severity.as_str()),
                nodes: finding.nodes.join(", "),
                since: moment(finding.since, seen.snapshot.at),
                rounds: finding.rounds,
                evidence: finding.evidence.clone(),
            }
        })
        .collect();
    Findings { rows }
}

fn links(snapshot: &ClusterSnapshot) -> Links {
    let names: Vec<&str> = snapshot.nodes.iter().map(|n| n.name()).collect();
    let rows = snapshot.nodes.iter().map(|from| LinkRow {
        from: from.name().to_owned(),
        cells: snapshot.nodes.iter().map(|to| link_cell(snapshot, from, to)).collect(),
    });
    Links { rows: rows.collect(), columns: names.into_iter().map(str::to_owned).collect() }
}

/// What one node hears of another.
fn link_cell(
    snapshot: &ClusterSnapshot,
    from: &crate::snapshot::NodeView,
    to: &crate::snapshot::NodeView,
) -> LinkCell {
    let name = to.name().to_owned();
    if from.address == to.address {
        return LinkCell { to: name, mark: None, detail: String::new() };
    }
    let Some(link) = snapshot.link(from.name(), to.name()) else {
        return LinkCell { to: name, mark: Some(Mark::new(Tone::Idle, "not said")), detail: String::new() };
    };
    let silence = link.last_contact_ms.map(|ms| format!("last {} ago", Span(ms as f64 / 1_000.0)));
    match link.hearing {
        Hearing::Hears => {
            let rtt = link.rtt_ms.map_or("hears".to_owned(), format::milliseconds);
            LinkCell { to: name, mark: Some(Mark::new(Tone::Good, rtt)), detail: String::new() }
        }
        Hearing::Silent => {
            let detail = silence.or_else(|| link.error.as_deref().map(|e| crate::report::shorten(e, 60)));
            let mark = Some(Mark::new(Tone::Bad, "silent"));
            LinkCell { to: name, mark, detail: detail.unwrap_or_default() }
        }
        Hearing::Unknown => {
            LinkCell { to: name, mark: Some(Mark::new(Tone::Idle, "not said")), detail: String::new() }
        }
    }
}

fn work(snapshot: &ClusterSnapshot) -> Work {
    let Some(work) = &snapshot.work else {
        let source = "Nobody reports, so nothing is known.".to_owned();
        return Work { source, maintenance: None, tasks: vec![], workers: vec![], totals: vec![] };
    };
    let source = match work.from_leader {
        true => format!("As {} has them, which leads.", work.from),
        false => format!("As {} has them, the node furthest ahead; there is no leader.", work.from),
    };
    let maintenance = work.maintenance.enabled.then(|| match work.maintenance.since {
        Some(since) => format!("maintenance since {}", moment(since, snapshot.at).text),
        None => "maintenance is on".to_owned(),
    });
    Work {
        source,
        maintenance,
        tasks: counts(work.tasks.iter().map(|(state, n)| (state.as_str().to_owned(), *n))),
        workers: counts(work.workers.iter().map(|(state, n)| (state.as_str().to_owned(), *n))),
        totals: counts(work.totals.iter().take(16).map(|(name, n)| (crate::report::shorten(name, 40), *n))),
    }
}

fn counts(figures: impl Iterator<Item = (String, u64)>) -> Vec<Count> {
    let figures: Vec<(String, u64)> = figures.collect();
    let most = figures.iter().map(|(_, n)| *n).max().unwrap_or(0);
    figures
        .into_iter()
        .map(|(name, n)| Count { name, count: grouped(n), percent: percent_of(n, most) })
        .collect()
}

fn events(seen: &Seen) -> web::fragments::Events {
    let rows = seen
        .events
        .iter()
        .take(SHOWN_EVENTS)
        .map(|event| {
            let tone = match (event.kind, event.severity) {
                (EventKind::NodeReturned | EventKind::FindingEnded, _) => Tone::Good,
                (EventKind::NodeDown, _) => Tone::Bad,
                (_, severity) => tone(severity),
            };
            EventRow {
                at: moment(event.at, seen.snapshot.at),
                mark: Mark::new(tone, event.kind.title()),
                text: event.text.clone(),
            }
        })
        .collect();
    web::fragments::Events { rows, older: seen.events.len().saturating_sub(SHOWN_EVENTS) }
}

fn recovery(seen: &Seen) -> Recovery {
    let (url, mark, records) = match &seen.audit {
        None if seen.has_recovery => (None, Mark::new(Tone::Idle, "not asked yet"), &[][..]),
        None => (None, Mark::new(Tone::Idle, "no recovery daemon was named (--recovery)"), &[][..]),
        Some(AuditFeed { url, outcome: Err(why) }) => {
            (Some(url.clone()), Mark::new(Tone::Warn, format!("does not answer: {why}")), &[][..])
        }
        Some(AuditFeed { url, outcome: Ok(records) }) if records.is_empty() => {
            (Some(url.clone()), Mark::new(Tone::Good, "answers, nothing in its audit"), &[][..])
        }
        Some(AuditFeed { url, outcome: Ok(records) }) => {
            (Some(url.clone()), Mark::new(Tone::Good, "answers"), &records[..])
        }
    };
    let rows = records
        .iter()
        .map(|record| ActionRow {
            at: record.at.parse().map_or_else(|_| record.at.clone(), |at| moment(at, seen.snapshot.at).text),
            kind: record.kind.replace('_', " "),
            nodes: record.nodes.clone(),
            phase: record.phase.replace('_', " "),
            detail: record.detail.clone(),
        })
        .collect();
    Recovery { url, mark, rows }
}

/// For how long nothing was heard of a node that does not report.
fn stale(snapshot: &ClusterSnapshot, node: &crate::snapshot::NodeView) -> Option<String> {
    if node.report.is_some() {
        return None;
    }
    Some(match node.last_report_at {
        Some(at) => format!("stale for {}", Span(seconds_between(at, snapshot.at).round())),
        None => "never reported".to_owned(),
    })
}
