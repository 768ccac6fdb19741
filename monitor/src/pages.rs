//! PURE. From what was seen to what is shown: view models for the templates of crate `web`.
//!
//! What comes with every round is drawn for everybody at once ([`draw`]) and goes out by the event
//! stream. What depends on an address (a list of tasks, the lines of a log, a range of time) is
//! drawn for the request.

pub mod asked;
pub mod charts;
pub mod daemon;
pub mod findings;
mod format;
mod leadership;
mod links;
mod login;
pub mod logs;
mod node;
mod output;
mod table;
pub mod tasks;
pub mod workers;

pub use charts::Range;
pub use daemon::AuditFeed;
pub(crate) use format::escape_path;
pub use login::login_page;

use crate::chronicle::Chronicle;
use crate::detectors::Finding;
use crate::events::{Event, EventKind};
use crate::history::Answer;
use crate::own::OwnState;
use crate::report::{Span, seconds_between};
use crate::snapshot::{ClusterSnapshot, Severity};
use api::task::TaskState;
use api::worker::WorkerState;
use askama::Template;
use format::{grouped, moment, percent_of};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use web::fragments::{Count, EventRow, Mark, Tone, Verdict, Work};
use web::pages::{CLUSTER_STREAM, ClusterPage, Frame, Here, MessagePage, NodePage};

/// Events a page shows; the rest are counted.
const SHOWN_EVENTS: usize = 60;
/// Seconds between two questions for what does not come with the stream.
const POLL_SECONDS: u64 = 2;
/// The event stream of a page whose parts don't come with it: the sentence and the rounds.
const PLAIN_STREAM: &str = "/api/stream?page=plain";

/// What history says of a range, or why it says nothing.
pub type Past = Result<Answer, String>;

/// Everything a page can show.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The cluster.
    pub snapshot: Arc<ClusterSnapshot>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What happened, the latest first.
    pub events: Vec<Event>,
    /// Who led, and what was wrong.
    pub chronicle: Chronicle,
    /// What the recovery daemon said last.
    pub audit: Option<AuditFeed>,
    /// True where the monitor was told of a recovery daemon.
    pub has_recovery: bool,
    /// Between two rounds.
    pub interval: Duration,
    /// How the monitor itself stands.
    pub own: OwnState,
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

/// The cluster view; `past` is what history says of that range, none where it was not asked.
pub fn cluster_page(seen: &Seen, range: Range, past: Option<&Past>) -> ClusterPage {
    let mut frame = frame(seen, "Cluster", Here::Cluster, CLUSTER_STREAM.into());
    frame.poll_seconds = poll_seconds(range);
    ClusterPage {
        frame,
        charts: past.map(|past| charts::charts("/", None, range, past)),
        nodes: table::nodes(&seen.snapshot),
        findings: findings::now(seen),
        leadership: leadership::leadership(seen, range.duration()),
        links: links::links(&seen.snapshot),
        work: work(&seen.snapshot),
        events: events(seen),
        recovery: daemon::recovery(seen, false),
    }
}

/// The page of one node, if it is watched.
pub fn node_page(seen: &Seen, name: &str, range: Range, past: &Past) -> Option<NodePage> {
    let node = seen.snapshot.node(name)?;
    let stream = format!("/api/stream?node={}", escape_path(node.name()));
    let mut frame = frame(seen, node.name(), Here::Cluster, stream);
    frame.poll_seconds = poll_seconds(range);
    Some(NodePage {
        frame,
        node: node::page(seen, node),
        charts: charts::charts(&node_href(node.name()), Some(node.name()), range, past),
    })
}

/// A page that has only a message, also before anything was seen.
pub fn message_page(seen: Option<&Seen>, interval: Duration, heading: &str, text: &str) -> MessagePage {
    let frame = match seen {
        Some(seen) => frame(seen, heading, Here::Nowhere, PLAIN_STREAM.into()),
        None => Frame {
            title: heading.to_owned(),
            here: Here::Nowhere,
            verdict: None,
            cluster: String::new(),
            at: web::fragments::Moment { iso: String::new(), text: String::new() },
            round: 0,
            interval_ms: interval.as_millis() as u64,
            refresh_seconds: Some(refresh_seconds(interval)),
            stream: String::new(),
            poll_seconds: 0,
            version: api::VERSION,
            inline_style: None,
        },
    };
    MessagePage { frame, heading: heading.to_owned(), text: text.to_owned() }
}

/// The cluster view as a file that needs nothing else.
pub fn report(seen: &Seen) -> askama::Result<String> {
    let mut page = cluster_page(seen, Range::default(), None);
    page.frame.stream = String::new();
    page.frame.poll_seconds = 0;
    page.frame.inline_style = web::asset("style.css").map(|asset| asset.text);
    page.render()
}

/// Every part that changes, for the event stream; of nodes' pages those that are watched.
pub fn draw(seen: &Seen, watched: &BTreeSet<String>) -> Drawn {
    let snapshot = &seen.snapshot;
    let parts: [(&'static str, askama::Result<String>); 7] = [
        ("verdict", verdict(snapshot).render()),
        ("nodes", table::nodes(snapshot).render()),
        ("findings", findings::now(seen).render()),
        ("links", links::links(snapshot).render()),
        ("work", work(snapshot).render()),
        ("events", events(seen).render()),
        ("recovery", daemon::recovery(seen, false).render()),
    ];
    let cluster = parts.into_iter().filter_map(|(id, text)| Some((id, text.ok()?))).collect();
    let nodes = snapshot
        .nodes
        .iter()
        .filter(|node| watched.contains(node.name()))
        .filter_map(|node| Some((node.name().to_owned(), draw_node(seen, node.name())?)))
        .collect();
    let at = moment(snapshot.at, snapshot.at);
    let round = serde_json::json!({ "round": snapshot.round, "at": at.iso, "text": at.text });
    Drawn { cluster, nodes, round: round.as_object().cloned().unwrap_or_default() }
}

/// What changes of a node's page.
pub fn draw_node(seen: &Seen, name: &str) -> Option<String> {
    node::page(seen, seen.snapshot.node(name)?).render().ok()
}

/// A long range changes slowly, and costs more.
fn poll_seconds(range: Range) -> u64 {
    (range.seconds() / charts::POINTS / 2).clamp(POLL_SECONDS, 60)
}

fn refresh_seconds(interval: Duration) -> u64 {
    interval.as_secs().max(2)
}

fn frame(seen: &Seen, title: &str, here: Here, stream: String) -> Frame {
    Frame {
        title: title.to_owned(),
        here,
        verdict: Some(verdict(&seen.snapshot)),
        cluster: seen.snapshot.cluster_ids.join(", "),
        at: moment(seen.snapshot.at, seen.snapshot.at),
        round: seen.snapshot.round,
        interval_ms: seen.interval.as_millis() as u64,
        refresh_seconds: Some(refresh_seconds(seen.interval)),
        stream,
        poll_seconds: 0,
        version: api::VERSION,
        inline_style: None,
    }
}

/// The frame of a page that is asked for again and again.
fn polled(seen: &Seen, title: &str, here: Here) -> Frame {
    let mut frame = frame(seen, title, here, PLAIN_STREAM.into());
    frame.poll_seconds = POLL_SECONDS;
    frame
}

/// A name on the wire as words.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A node's page.
fn node_href(name: &str) -> String {
    format!("/nodes/{}", escape_path(name))
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
    let task = |state: &TaskState| (state.as_str().to_owned(), format!("/tasks?status={}", state.as_str()));
    let worker =
        |state: &WorkerState| (state.as_str().to_owned(), format!("/workers?state={}", state.as_str()));
    let total = |name: &String| (crate::report::shorten(name, 40), String::new());
    Work {
        source,
        maintenance,
        tasks: counts(work.tasks.iter().map(|(state, n)| (task(state), *n))),
        workers: counts(work.workers.iter().map(|(state, n)| (worker(state), *n))),
        totals: counts(work.totals.iter().take(16).map(|(name, n)| (total(name), *n))),
    }
}

fn counts(figures: impl Iterator<Item = ((String, String), u64)>) -> Vec<Count> {
    let figures: Vec<((String, String), u64)> = figures.collect();
    let most = figures.iter().map(|(_, n)| *n).max().unwrap_or(0);
    figures
        .into_iter()
        .map(|((name, href), n)| Count { name, count: grouped(n), percent: percent_of(n, most), href })
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

#[cfg(test)]
mod tests;
