//! The parts of pages that change, each with the values it shows.

use askama::Template;

/// How something stands: it picks shape and colour, and never stands alone without a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Needs attention.
    Warn,
    /// Broken.
    Bad,
    /// Not known, or nothing to say.
    Idle,
}

impl Tone {
    /// The class in the style sheet.
    pub const fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
            Tone::Idle => "idle",
        }
    }

    /// A shape that differs without colour.
    pub const fn shape(self) -> &'static str {
        match self {
            Tone::Good => "●",
            Tone::Warn => "▲",
            Tone::Bad => "■",
            Tone::Idle => "○",
        }
    }
}

/// A text with a tone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// How it stands.
    pub tone: Tone,
    /// What it says.
    pub text: String,
}

impl Mark {
    /// A mark.
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Mark { tone, text: text.into() }
    }
}

/// A moment: the machine-readable time and what people read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// RFC 3339.
    pub iso: String,
    /// `12:30:05`.
    pub text: String,
}

/// The sentence on top. It changes only when the verdict does, since it is read aloud then.
#[derive(Debug, Clone, Template)]
#[template(path = "verdict.html")]
pub struct Verdict {
    /// One word and its tone.
    pub mark: Mark,
    /// The sentence.
    pub sentence: String,
}

/// A share with a small bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// What it says.
    pub text: String,
    /// 0 to 100.
    pub percent: u8,
    /// How it stands.
    pub tone: Tone,
}

/// A node's row.
#[derive(Debug, Clone)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its page.
    pub href: String,
    /// Where it is asked.
    pub address: String,
    /// Reporting, unknown or down.
    pub state: Mark,
    /// Why it does not report.
    pub why: Option<String>,
    /// For how long nothing was heard of it.
    pub stale: Option<String>,
    /// What it reported; none where it did not.
    pub figures: Option<NodeFigures>,
}

/// What a reporting node's row shows.
#[derive(Debug, Clone)]
pub struct NodeFigures {
    /// Its role.
    pub role: Mark,
    /// Its term.
    pub term: String,
    /// Its commit index.
    pub commit: String,
    /// Its applied index.
    pub applied: String,
    /// Entries behind the highest commit.
    pub lag: Mark,
    /// The short form of its checksum.
    pub checksum: String,
    /// Equal or unequal to the others.
    pub agreement: Mark,
    /// Tasks it holds that have not ended.
    pub live_tasks: String,
    /// Disk use.
    pub disk: Share,
    /// Memory use.
    pub memory: Share,
    /// CPU use.
    pub cpu: String,
    /// Uptime.
    pub uptime: String,
    /// Version.
    pub version: String,
    /// How long its answer took.
    pub answer: String,
}

/// The nodes.
#[derive(Debug, Clone, Template)]
#[template(path = "nodes.html")]
pub struct Nodes {
    /// In configured order.
    pub rows: Vec<NodeRow>,
}

/// A cell of the matrix.
#[derive(Debug, Clone)]
pub struct LinkCell {
    /// Whom it would hear; the label where there is no table head to see.
    pub to: String,
    /// None on the diagonal.
    pub mark: Option<Mark>,
    /// Round trip, or the silence.
    pub detail: String,
}

/// A row of the matrix.
#[derive(Debug, Clone)]
pub struct LinkRow {
    /// Who listens.
    pub from: String,
    /// One cell a node.
    pub cells: Vec<LinkCell>,
}

/// Who hears whom.
#[derive(Debug, Clone, Template)]
#[template(path = "links.html")]
pub struct Links {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<LinkRow>,
}

/// A state and how many are in it.
#[derive(Debug, Clone)]
pub struct Count {
    /// The state.
    pub name: String,
    /// How many.
    pub count: String,
    /// Of the largest count, 0 to 100.
    pub percent: u8,
}

/// Tasks and workers.
#[derive(Debug, Clone, Template)]
#[template(path = "work.html")]
pub struct Work {
    /// Whose figures they are.
    pub source: String,
    /// Maintenance mode, if it is on.
    pub maintenance: Option<String>,
    /// Tasks by state; empty where nobody reports.
    pub tasks: Vec<Count>,
    /// Workers by state.
    pub workers: Vec<Count>,
    /// Totals since that node's process started.
    pub totals: Vec<Count>,
}

/// A finding.
#[derive(Debug, Clone)]
pub struct FindingRow {
    /// Its kind, in words.
    pub title: String,
    /// How bad.
    pub mark: Mark,
    /// Whom it concerns.
    pub nodes: String,
    /// Since when.
    pub since: Moment,
    /// For how long, in rounds.
    pub rounds: u32,
    /// What was seen.
    pub evidence: Vec<String>,
}

/// What is wrong.
#[derive(Debug, Clone, Template)]
#[template(path = "findings.html")]
pub struct Findings {
    /// The worst first.
    pub rows: Vec<FindingRow>,
}

/// An event.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// When.
    pub at: Moment,
    /// What, in two words.
    pub mark: Mark,
    /// The whole of it.
    pub text: String,
}

/// What happened lately.
#[derive(Debug, Clone, Template)]
#[template(path = "events.html")]
pub struct Events {
    /// The latest first.
    pub rows: Vec<EventRow>,
    /// How many older ones are kept.
    pub older: usize,
}

/// A record of the recovery daemon's audit.
#[derive(Debug, Clone)]
pub struct ActionRow {
    /// When.
    pub at: String,
    /// Of which kind of fault.
    pub kind: String,
    /// On which nodes.
    pub nodes: String,
    /// What phase.
    pub phase: String,
    /// More about it.
    pub detail: String,
}

/// The recovery daemon, as far as it answers.
#[derive(Debug, Clone, Template)]
#[template(path = "recovery.html")]
pub struct Recovery {
    /// Where it is; none where the monitor was not told of one.
    pub url: Option<String>,
    /// Whether it answers.
    pub mark: Mark,
    /// Its last records, the latest first.
    pub rows: Vec<ActionRow>,
}

/// A name and a value.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// A check of a node's health.
#[derive(Debug, Clone)]
pub struct CheckRow {
    /// What was checked.
    pub name: String,
    /// The verdict.
    pub mark: Mark,
    /// What was seen.
    pub detail: String,
}

/// A named group of facts.
#[derive(Debug, Clone)]
pub struct FactGroup {
    /// Its heading.
    pub title: String,
    /// What is in it.
    pub facts: Vec<Fact>,
}

/// A checkpoint beside those of the other nodes.
#[derive(Debug, Clone)]
pub struct CheckpointRow {
    /// The index.
    pub index: String,
    /// The machine's checksum.
    pub checksum: String,
    /// The chain over the log.
    pub log_chain: String,
    /// How it compares.
    pub agreement: Mark,
}

/// One node, whole.
#[derive(Debug, Clone, Template)]
#[template(path = "node.html")]
pub struct Node {
    /// The row it has in the table of nodes.
    pub row: NodeRow,
    /// Its checks.
    pub checks: Vec<CheckRow>,
    /// The rest, in groups.
    pub groups: Vec<FactGroup>,
    /// Whom it hears.
    pub links: Vec<LinkCell>,
    /// Its newest checkpoints.
    pub checkpoints: Vec<CheckpointRow>,
    /// What is wrong with it.
    pub findings: Findings,
}
