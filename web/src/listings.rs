//! What is fetched for one request: tasks, workers, log lines.

use crate::fragments::{Fact, Mark, Moment};

/// Whom the page asked, and what came of it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Whose word it is, and how fresh.
    pub text: String,
    /// Who did not answer, one sentence each.
    pub missing: Vec<String>,
}

/// A choice among few: each leads to a page.
#[derive(Debug, Clone)]
pub struct Choice {
    /// What it is called.
    pub name: String,
    /// How many there are; empty where nobody knows.
    pub count: String,
    /// Its page.
    pub href: String,
    /// True for the present one.
    pub chosen: bool,
}

/// An entry of a list to choose from.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is sent.
    pub value: String,
    /// What is shown.
    pub name: String,
    /// True for the present one.
    pub chosen: bool,
}

/// Tasks, one page of them.
#[derive(Debug, Clone)]
pub struct Tasks {
    /// By state.
    pub states: Vec<Choice>,
    /// The present state's value.
    pub state: String,
    /// True where finished tasks are read from the database.
    pub record: bool,
    /// The present type.
    pub kind: String,
    /// The present worker.
    pub worker: String,
    /// Rows a page.
    pub limits: Vec<Entry>,
    /// Whom the page asked.
    pub source: Source,
    /// The rows.
    pub rows: Vec<TaskRow>,
    /// Why there are none.
    pub empty: String,
    /// The first page, where this is another.
    pub first: Option<String>,
    /// The next page.
    pub next: Option<String>,
    /// The other list: memory or database.
    pub other: Choice,
}

/// A task's row.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// Its id.
    pub id: String,
    /// Its page.
    pub href: String,
    /// Where it stands.
    pub state: Mark,
    /// Its type.
    pub kind: String,
    /// What it does, in short.
    pub what: String,
    /// 0 to 9.
    pub priority: u8,
    /// Attempts made, of how many.
    pub attempts: String,
    /// Who has it, and that worker's tasks.
    pub worker: Option<(String, String)>,
    /// When it was submitted.
    pub created: Moment,
    /// How long it took, or has waited.
    pub took: String,
    /// What went wrong at last.
    pub error: String,
}

/// A moment of a task's life.
#[derive(Debug, Clone)]
pub struct LifeRow {
    /// When.
    pub at: Moment,
    /// After the submission.
    pub after: String,
    /// What happened.
    pub mark: Mark,
    /// More about it.
    pub text: String,
}

/// A stretch of a task's life, for the drawing.
#[derive(Debug, Clone)]
pub struct LifeSpan {
    /// Where it begins, of 1000.
    pub x: u32,
    /// How long it is, of 1000; at least 2.
    pub width: u32,
    /// `wait`, `good`, `bad`, `run`.
    pub class: &'static str,
    /// In words.
    pub title: String,
}

/// An output, cut where it is long.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// The id of its heading.
    pub id: String,
    /// The beginning, or all.
    pub head: String,
    /// What was left out between head and tail.
    pub gap: Option<String>,
    /// The end, where something was left out.
    pub tail: String,
    /// How long it is, and what was taken out of it.
    pub note: String,
    /// Where all of it is shown.
    pub all: Option<String>,
}

/// One task's whole life.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: Mark,
    /// In a sentence.
    pub summary: String,
    /// Whom the page asked.
    pub source: Source,
    /// What it is.
    pub facts: Vec<Fact>,
    /// The drawing; empty before anything happened.
    pub spans: Vec<LifeSpan>,
    /// Its life, the earliest first.
    pub life: Vec<LifeRow>,
    /// What went wrong at last.
    pub error: String,
    /// What it does: its config.
    pub config: Output,
    /// What it produced.
    pub outputs: Vec<Output>,
    /// Why there is no output.
    pub outputs_empty: String,
    /// Links to where more can be seen.
    pub elsewhere: Vec<(String, String)>,
}

/// A worker's row.
#[derive(Debug, Clone)]
pub struct WorkerRow {
    /// Its id.
    pub id: String,
    /// Its tasks.
    pub href: String,
    /// Where it stands.
    pub state: Mark,
    /// Slots taken, of how many.
    pub slots: String,
    /// The share that is taken, 0 to 100.
    pub percent: u8,
    /// The types it runs.
    pub types: String,
    /// Labels.
    pub labels: Vec<String>,
    /// Resources.
    pub resources: String,
    /// Its host.
    pub host: String,
    /// When it registered.
    pub registered: Moment,
    /// When it was heard last.
    pub seen: String,
}

/// The workers.
#[derive(Debug, Clone)]
pub struct Workers {
    /// By state.
    pub states: Vec<Choice>,
    /// Whom the page asked.
    pub source: Source,
    /// The rows.
    pub rows: Vec<WorkerRow>,
    /// Why there are none.
    pub empty: String,
    /// How many are not shown.
    pub more: usize,
}

/// A log line.
#[derive(Debug, Clone)]
pub struct LogRow {
    /// Which it is, for the script.
    pub key: String,
    /// When.
    pub at: Moment,
    /// Its level.
    pub level: Mark,
    /// Whose it is.
    pub node: String,
    /// That node's page.
    pub href: String,
    /// The module.
    pub target: String,
    /// The message.
    pub message: String,
    /// The other fields, each with its page where it has one.
    pub fields: Vec<(String, String, String)>,
}

/// Log lines of all nodes.
#[derive(Debug, Clone)]
pub struct Logs {
    /// Levels to choose from.
    pub levels: Vec<Entry>,
    /// Nodes to choose from.
    pub nodes: Vec<Entry>,
    /// Lines a page.
    pub limits: Vec<Entry>,
    /// What lines must contain.
    pub text: String,
    /// True while the page follows.
    pub following: bool,
    /// The same page, following or not.
    pub toggle: String,
    /// Whom the page asked.
    pub source: Source,
    /// The rows, the latest first.
    pub rows: Vec<LogRow>,
    /// Why there are none.
    pub empty: String,
}
