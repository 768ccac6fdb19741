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
    /// The silence, or the clocks' offset.
    pub detail: String,
    /// How long the round trip is beside the others, 1 (short) to 4; 0 where there is none.
    pub heat: u8,
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
    /// The whole of it in a sentence.
    pub summary: Mark,
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
    /// Where they are listed; empty where they are not.
    pub href: String,
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
    /// Its page.
    pub href: String,
    /// How bad.
    pub mark: Mark,
    /// Whom it concerns, each with its page.
    pub nodes: Vec<(String, String)>,
    /// Since when.
    pub since: Moment,
    /// For how long, in words; empty where that changes all the time.
    pub lasted: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What the recovery daemon did or would do.
    pub answers: Vec<Answer>,
}

/// What the recovery daemon says to a finding.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `would do`, `did`, `denied`.
    pub mark: Mark,
    /// What.
    pub text: String,
    /// All it wrote about it; empty where there is nothing more.
    pub href: String,
}

/// What is wrong.
#[derive(Debug, Clone, Template)]
#[template(path = "findings.html")]
pub struct Findings {
    /// The worst first.
    pub rows: Vec<FindingRow>,
    /// What is said where there are none.
    pub empty: String,
}

/// What was wrong and is no more.
#[derive(Debug, Clone, Template)]
#[template(path = "past.html")]
pub struct Past {
    /// The latest first.
    pub rows: Vec<FindingRow>,
    /// Since when this monitor would know.
    pub since: Moment,
    /// How many older ones are kept and not shown.
    pub older: usize,
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
    pub at: Moment,
    /// Of which kind of fault.
    pub kind: String,
    /// On which nodes.
    pub nodes: String,
    /// What phase.
    pub phase: Mark,
    /// More about it.
    pub detail: String,
    /// What showed it.
    pub evidence: Vec<String>,
    /// Everything it wrote about that fault; empty where it is about none.
    pub href: String,
}

/// What the recovery daemon would do now.
#[derive(Debug, Clone)]
pub struct PlanRow {
    /// The fault.
    pub title: String,
    /// On which nodes.
    pub nodes: String,
    /// Where it stands.
    pub standing: Mark,
    /// Why it stands there.
    pub why: String,
    /// The steps, in words.
    pub steps: Vec<String>,
    /// What shows the fault.
    pub evidence: Vec<String>,
    /// For how long it is known.
    pub age: String,
    /// Everything it wrote about it.
    pub href: String,
}

/// The recovery daemon, as far as it answers.
#[derive(Debug, Clone, Template)]
#[template(path = "recovery.html")]
pub struct Recovery {
    /// Where it is; none where the monitor was not told of one.
    pub url: Option<String>,
    /// Whether it answers.
    pub mark: Mark,
    /// The brake; none where it does not say.
    pub brake: Option<Mark>,
    /// More about how it stands.
    pub facts: Vec<Fact>,
    /// What it would do now.
    pub plans: Vec<PlanRow>,
    /// What is said where it would do nothing, or that is not known.
    pub plans_empty: String,
    /// Its last records, the latest first.
    pub rows: Vec<ActionRow>,
    /// What is said where there are none.
    pub rows_empty: String,
    /// True where the whole of it is shown.
    pub whole: bool,
    /// How many records are not shown.
    pub older: usize,
}

/// What the recovery daemon wrote about one fault.
#[derive(Debug, Clone)]
pub struct RecoveryCase {
    /// The fault's id.
    pub id: String,
    /// In words.
    pub title: String,
    /// The latest first.
    pub rows: Vec<ActionRow>,
    /// Why there are none.
    pub empty: String,
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
    /// What a person should look at, by its own word.
    pub warnings: Vec<String>,
    /// Links to where more can be seen.
    pub elsewhere: Vec<(String, String)>,
    /// What is wrong with it.
    pub findings: Findings,
}
