//! PURE. Log lines of all nodes, merged by time.

use super::format::{escape_path, exact_moment, query};
use super::tasks::task_href;
use super::{Seen, node_href};
use crate::report::shorten;
use api::cluster::LogLine;
use web::fragments::{Mark, Tone};
use web::listings::{Entry, LogRow, Logs, Source};
use web::pages::{Here, LogsPage};

/// Lines a page may have.
pub const LIMITS: [usize; 4] = [100, 200, 500, 1000];
/// Lines of a page when the address says nothing.
pub const DEFAULT_LIMIT: usize = 200;
/// The levels, the gravest first; each shows those before it, too.
pub const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
/// The level when the address says nothing.
pub const DEFAULT_LEVEL: &str = "INFO";
/// Fields of a line that are shown.
const SHOWN_FIELDS: usize = 24;

/// Which lines are wanted: what stands in the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// At least of this level.
    pub level: String,
    /// Only of this node.
    pub node: String,
    /// Only lines that contain this, however it is written.
    pub text: String,
    /// Lines.
    pub limit: usize,
    /// True while the page follows.
    pub follow: bool,
}

impl LogQuery {
    fn href(&self) -> String {
        let limit = if self.limit == DEFAULT_LIMIT { String::new() } else { self.limit.to_string() };
        let fields = [
            ("level", if self.level == DEFAULT_LEVEL { "" } else { &self.level }),
            ("node", &self.node),
            ("q", &self.text),
            ("limit", &limit),
            ("follow", if self.follow { "" } else { "off" }),
        ];
        format!("/logs{}", query(&fields))
    }
}

/// What one node gave.
#[derive(Debug, Clone)]
pub struct NodeLines {
    /// The node.
    pub node: String,
    /// Its lines, or why there are none, in a sentence.
    pub outcome: Result<Vec<LogLine>, String>,
    /// Lines that did not reach its log file.
    pub lost_lines: u64,
}

/// The merged lines.
pub fn logs_page(seen: &Seen, wanted: &LogQuery, from: &[NodeLines]) -> LogsPage {
    let needle = wanted.text.to_lowercase();
    let fits = |line: &LogLine| {
        let contains = |text: &str| text.to_lowercase().contains(&needle);
        needle.is_empty()
            || contains(&line.message)
            || contains(&line.target)
            || line.fields.iter().any(|(k, v)| contains(v) || contains(k))
    };
    let answered = || from.iter().filter_map(|node| Some((node, node.outcome.as_ref().ok()?)));
    let read: usize = answered().map(|(_, lines)| lines.len()).sum();
    let all = answered().flat_map(|(node, lines)| lines.iter().map(move |line| (node.node.as_str(), line)));
    let mut lines: Vec<(&str, &LogLine)> = all.filter(|(_, line)| fits(line)).collect();
    lines.sort_by(|a, b| b.1.at.cmp(&a.1.at).then(a.0.cmp(b.0)).then(b.1.seq.cmp(&a.1.seq)));
    let fitting = lines.len();
    lines.truncate(wanted.limit);
    let names: Vec<&str> = answered().map(|(node, _)| node.node.as_str()).collect();
    let mut missing: Vec<String> =
        from.iter().filter_map(|node| node.outcome.as_ref().err().cloned()).collect();
    let lost = from.iter().filter(|node| node.lost_lines > 0);
    missing.extend(lost.map(|n| format!("{}: {} lines did not reach its log file", n.node, n.lost_lines)));
    let text = match names.len() {
        0 => "Nobody answers, so nothing is known.".to_owned(),
        _ => format!(
            "{} of {fitting} lines that fit, of {}; each by its own node's clock.",
            lines.len(),
            names.join(", ")
        ),
    };
    let empty = match (names.len(), read) {
        (0, _) => "There are no lines: no coordinator gave any. The reasons stand above.".to_owned(),
        (_, 0) => format!("No line of level {} or above is in the nodes' memory.", wanted.level),
        (_, read) => format!("None of the {read} newest lines contains that text."),
    };
    let logs = Logs {
        levels: LEVELS.map(|l| entry(l, l, &wanted.level)).into(),
        nodes: nodes(seen, wanted),
        limits: LIMITS.map(|n| entry(&n.to_string(), &n.to_string(), &wanted.limit.to_string())).into(),
        text: wanted.text.clone(),
        following: wanted.follow,
        toggle: LogQuery { follow: !wanted.follow, ..wanted.clone() }.href(),
        source: Source { text, missing },
        rows: lines.into_iter().map(|(node, line)| row(seen, node, line)).collect(),
        empty,
    };
    let mut frame = super::polled(seen, "Logs", Here::Logs);
    if !wanted.follow {
        (frame.poll_seconds, frame.refresh_seconds) = (0, None);
    }
    LogsPage { frame, logs }
}

fn entry(value: &str, name: &str, present: &str) -> Entry {
    Entry { value: value.to_owned(), name: name.to_owned(), chosen: value == present }
}

fn nodes(seen: &Seen, wanted: &LogQuery) -> Vec<Entry> {
    let all = std::iter::once(entry("", "all", &wanted.node));
    all.chain(seen.snapshot.nodes.iter().map(|n| entry(n.name(), n.name(), &wanted.node))).collect()
}

fn row(seen: &Seen, node: &str, line: &LogLine) -> LogRow {
    let tone = match line.level.as_str() {
        "ERROR" => Tone::Bad,
        "WARN" => Tone::Warn,
        _ => Tone::Idle,
    };
    let href = |name: &str, value: &str| match name {
        "task_id" => task_href(value),
        "node" | "peer" | "leader" if seen.snapshot.node(value).is_some() => node_href(value),
        "worker_id" => format!("/tasks{}", query(&[("worker", value)])),
        _ => String::new(),
    };
    let fields = line.fields.iter().take(SHOWN_FIELDS);
    LogRow {
        key: format!("{}-{}", escape_path(node), line.seq),
        at: exact_moment(line.at, seen.snapshot.at),
        level: Mark::new(tone, line.level.to_lowercase()),
        node: node.to_owned(),
        href: node_href(node),
        target: shorten(&line.target, 80),
        message: line.message.chars().take(2_000).collect(),
        fields: fields.map(|(k, v)| (shorten(k, 60), shorten(v, 300), href(k, v))).collect(),
    }
}
