//! PURE. Tasks: lists of them, and one task's whole life.

use super::asked::{Asked, Refused};
use super::format::{escape_path, grouped, moment, query};
use super::output::output;
use super::{Seen, words};
use crate::report::{Span, seconds_between, shorten};
use api::task::{
    Attempt, AttemptOutcome, CommandConfig, CommandLine, CommandOutput, TaskPage, TaskRecord, TaskState,
};
use jiff::Timestamp;
use web::fragments::{Fact, Mark, Tone};
use web::listings::{Choice, Entry, LifeRow, LifeSpan, Output, Task, TaskRow, Tasks};
use web::pages::{Here, TasksPage};

/// Rows a page may have.
pub const LIMITS: [usize; 4] = [25, 50, 100, 200];
/// Rows of a page when the address says nothing.
pub const DEFAULT_LIMIT: usize = 50;
/// Attempts that a task's page shows; the oldest ones beyond are counted.
const SHOWN_ATTEMPTS: usize = 100;

/// Which tasks are wanted: what stands in the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskQuery {
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only of this type.
    pub kind: String,
    /// Only those this worker has or had last.
    pub worker: String,
    /// Where the page begins.
    pub after: String,
    /// Rows.
    pub limit: usize,
    /// From the database, finished ones; else from memory.
    pub record: bool,
}

impl TaskQuery {
    /// The address of these tasks in the pages.
    fn href(&self) -> String {
        let limit = if self.limit == DEFAULT_LIMIT { String::new() } else { self.limit.to_string() };
        let fields = [
            ("status", self.state.map_or("", TaskState::as_str)),
            ("type", &self.kind),
            ("worker", &self.worker),
            ("limit", &limit),
            ("from", if self.record { "record" } else { "" }),
            ("after", &self.after),
        ];
        format!("/tasks{}", query(&fields))
    }

    /// The address at a coordinator.
    pub fn path(&self) -> String {
        let limit = self.limit.to_string();
        let fields = [
            ("status", self.state.map_or("", TaskState::as_str)),
            ("type", &self.kind),
            ("worker", if self.record { "" } else { &self.worker }),
            ("limit", &limit),
            ("after", &self.after),
            ("consistency", "local"),
        ];
        format!("{}{}", if self.record { "/api/results" } else { "/api/tasks" }, query(&fields))
    }

    fn with_state(&self, state: Option<TaskState>) -> TaskQuery {
        TaskQuery { state, after: String::new(), ..self.clone() }
    }
}

/// A task's page.
pub(super) fn task_href(id: &str) -> String {
    format!("/tasks/{}", escape_path(id))
}

fn worker_href(worker: &str) -> String {
    format!("/tasks{}", query(&[("worker", worker)]))
}

pub(super) fn state_mark(state: TaskState) -> Mark {
    let tone = match state {
        TaskState::Completed => Tone::Good,
        TaskState::Failed => Tone::Bad,
        TaskState::Cancelled => Tone::Warn,
        TaskState::Pending | TaskState::Assigned | TaskState::Running => Tone::Idle,
    };
    Mark::new(tone, state.as_str())
}

/// A page of tasks.
pub fn tasks_page(seen: &Seen, wanted: &TaskQuery, asked: &Asked<TaskPage>) -> TasksPage {
    let rows: Vec<TaskRow> = asked.value().map(|page| rows(seen, page)).unwrap_or_default();
    let next = asked.value().and_then(|page| page.next.clone());
    let other = if wanted.record {
        let href = TaskQuery { record: false, after: String::new(), ..wanted.clone() }.href();
        Choice {
            name: "Tasks in memory".into(),
            count: "live ones, and those that ended lately.".into(),
            href,
            chosen: false,
        }
    } else {
        let state = wanted.state.filter(|state| state.is_final());
        let query =
            TaskQuery { record: true, state, worker: String::new(), after: String::new(), ..wanted.clone() };
        let count = "with all that the record still holds.".into();
        Choice { name: "Finished tasks from the database".into(), count, href: query.href(), chosen: false }
    };
    let tasks = Tasks {
        states: states(seen, wanted),
        state: wanted.state.map_or(String::new(), |state| state.as_str().to_owned()),
        record: wanted.record,
        kind: wanted.kind.clone(),
        worker: wanted.worker.clone(),
        limits: LIMITS
            .into_iter()
            .map(|n| Entry { value: n.to_string(), name: n.to_string(), chosen: n == wanted.limit })
            .collect(),
        source: asked.source(seen),
        empty: empty(seen, wanted, asked),
        rows,
        first: (!wanted.after.is_empty()).then(|| wanted.with_state(wanted.state).href()),
        next: next.map(|after| TaskQuery { after, ..wanted.clone() }.href()),
        other,
    };
    TasksPage { frame: super::polled(seen, "Tasks", Here::Tasks), tasks }
}

fn states(seen: &Seen, wanted: &TaskQuery) -> Vec<Choice> {
    let counts = seen.snapshot.work.as_ref().map(|work| &work.tasks).filter(|_| !wanted.record);
    let choice = |state: Option<TaskState>| Choice {
        name: state.map_or("all", TaskState::as_str).to_owned(),
        count: match (counts, state) {
            (Some(counts), Some(state)) => grouped(counts.get(&state).copied().unwrap_or(0)),
            (Some(counts), None) => grouped(counts.values().sum()),
            (None, _) => String::new(),
        },
        href: wanted.with_state(state).href(),
        chosen: wanted.state == state,
    };
    let listed = TaskState::ALL.into_iter().filter(|state| !wanted.record || state.is_final());
    std::iter::once(None).chain(listed.map(Some)).map(choice).collect()
}

/// Why a list is empty.
fn empty(seen: &Seen, wanted: &TaskQuery, asked: &Asked<TaskPage>) -> String {
    if asked.value().is_none() {
        return "There is no list: no coordinator gave one. The reasons stand above.".into();
    }
    let total: u64 = seen.snapshot.work.as_ref().map_or(0, |work| work.tasks.values().sum());
    let filtered = wanted.state.is_some() || !wanted.kind.is_empty() || !wanted.worker.is_empty();
    match (wanted.record, filtered, wanted.after.is_empty()) {
        (_, _, false) => "There is nothing behind the page before.".into(),
        (true, true, _) => "No finished task in the database fits.".into(),
        (true, false, _) => "The database holds no finished task yet.".into(),
        (false, true, _) if total > 0 => format!(
            "None of {} tasks in memory fits. Finished ones leave memory after a while; the database has them.",
            grouped(total)
        ),
        (false, ..) => {
            "There are no tasks in memory. Finished ones leave it after a while; the database has them."
                .into()
        }
    }
}

fn rows(seen: &Seen, page: &TaskPage) -> Vec<TaskRow> {
    let now = seen.snapshot.at;
    let row = |task: &TaskRecord| TaskRow {
        id: shorten(&task.task_id, 120),
        href: task_href(&task.task_id),
        state: state_mark(task.state),
        kind: shorten(&task.kind, 60),
        what: what(task),
        priority: task.priority,
        attempts: format!("{} of {}", task.attempt, u64::from(task.max_retries) + 1),
        worker: task.worker_id.as_ref().map(|worker| (shorten(worker, 60), worker_href(worker))),
        created: moment(task.created_at, now),
        took: match task.finished_at {
            Some(at) => Span(seconds_between(task.created_at, at)).to_string(),
            None => format!("{} so far", Span(seconds_between(task.created_at, now).round())),
        },
        error: shorten(task.error.as_deref().unwrap_or_default(), 160),
    };
    page.tasks.iter().map(row).collect()
}

/// What a task does, in a line: the command where it is one.
fn what(task: &TaskRecord) -> String {
    let text = match serde_json::from_str::<CommandConfig>(task.config.get()) {
        Ok(config) if task.kind == "command" => command_line(&config),
        _ if matches!(task.config.get(), "{}" | "null") => String::new(),
        _ => task.config.get().chars().take(400).collect(),
    };
    shorten(&text, 120)
}

fn command_line(config: &CommandConfig) -> String {
    match &config.command {
        CommandLine::Shell(line) => line.clone(),
        CommandLine::Argv(words) => words.join(" "),
    }
}

/// One task, or why there is none.
pub fn task_page(
    seen: &Seen,
    id: &str,
    asked: &Asked<TaskRecord>,
    whole: bool,
) -> Result<web::pages::TaskPage, String> {
    let record = match &asked.outcome {
        Ok(answered) => &answered.value,
        Err(Refused::Unknown) => {
            return Err(format!(
                "No coordinator knows a task with the id {}. It never was, it is written otherwise, or its record \
                 was dropped after its retention.",
                shorten(id, 120)
            ));
        }
        Err(Refused::Nobody) => {
            return Err(format!("No coordinator answered. {}", asked.missing.join(". ")));
        }
    };
    let all = format!("{}?output=all", task_href(id));
    let all = (!whole).then_some(all.as_str());
    let (outputs, outputs_empty) = outputs(record, all);
    let task = Task {
        id: shorten(&record.task_id, 256),
        state: state_mark(record.state),
        summary: summary(seen, record),
        source: asked.source(seen),
        facts: facts(record),
        spans: spans(record, seen.snapshot.at),
        life: life(record, seen.snapshot.at),
        error: record.error.clone().unwrap_or_default().chars().take(4_000).collect(),
        config: config(record, all),
        outputs,
        outputs_empty,
        elsewhere: vec![
            ("Tasks of this type".into(), format!("/tasks{}", query(&[("type", &record.kind)]))),
            ("Log lines that name it".into(), format!("/logs{}", query(&[("q", &record.task_id)]))),
        ],
    };
    let mut frame = super::polled(seen, &format!("Task {}", task.id), Here::Tasks);
    if record.state.is_final() || whole {
        // It does not change any more by itself.
        (frame.poll_seconds, frame.refresh_seconds) = (0, None);
    }
    Ok(web::pages::TaskPage { frame, task })
}

fn summary(seen: &Seen, task: &TaskRecord) -> String {
    let now = seen.snapshot.at;
    let waited = |until| Span(seconds_between(task.created_at, until)).to_string();
    match (task.state, &task.worker_id, task.finished_at) {
        (state, _, Some(at)) if state.is_final() => {
            let attempts =
                if task.attempt == 1 { "1 attempt".into() } else { format!("{} attempts", task.attempt) };
            format!("after {} and {attempts}.", waited(at))
        }
        (TaskState::Pending, _, _) if task.attempt > 0 => {
            format!(
                "for its next attempt; {} were made, {} since it was submitted.",
                task.attempt,
                waited(now)
            )
        }
        (TaskState::Pending, ..) => format!("for a worker, since {}.", waited(now)),
        (_, Some(worker), _) => {
            format!("by {worker}, attempt {}; submitted {} ago.", task.attempt, waited(now))
        }
        _ => format!("submitted {} ago.", waited(now)),
    }
}

fn facts(task: &TaskRecord) -> Vec<Fact> {
    let fact = |name: &str, value: String| Fact { name: name.into(), value };
    let mut facts = vec![
        fact("Type", task.kind.clone()),
        fact("Priority", format!("{} (0 to 9, higher first)", task.priority)),
        fact("Attempts", format!("{} of at most {}", task.attempt, u64::from(task.max_retries) + 1)),
        fact("Time limit of an attempt", Span(task.timeout_seconds).to_string()),
        fact("First wait before a retry", Span(task.retry_backoff_seconds).to_string()),
    ];
    if let Some(worker) = &task.worker_id {
        facts.push(fact(if task.state.is_final() { "Ran last on" } else { "Is with" }, worker.clone()));
    }
    if let Some(token) = task.token {
        facts.push(fact("Fencing token", grouped(token)));
    }
    let pairs = |set: &std::collections::BTreeMap<String, String>| {
        set.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
    };
    let needs = &task.requirements;
    if !needs.labels.is_empty() {
        facts.push(fact("Needs a worker with", shorten(&pairs(&needs.labels), 400)));
    }
    if !needs.any_of.is_empty() {
        let sets: Vec<String> = needs.any_of.iter().take(16).map(pairs).collect();
        facts.push(fact("Needs one of", shorten(&sets.join(" or "), 400)));
    }
    if !needs.resources.is_empty() {
        let taken: Vec<String> = needs.resources.iter().map(|(k, n)| format!("{n} {k}")).collect();
        facts.push(fact("Takes", shorten(&taken.join(", "), 400)));
    }
    facts
}

fn outcome_mark(attempt: &Attempt) -> Mark {
    let tone = match attempt.outcome {
        Some(AttemptOutcome::Completed) => Tone::Good,
        Some(AttemptOutcome::Failed | AttemptOutcome::TimedOut) => Tone::Bad,
        Some(AttemptOutcome::LeaseExpired | AttemptOutcome::Cancelled) => Tone::Warn,
        None => Tone::Idle,
    };
    let what = attempt.outcome.map_or("goes on".to_owned(), |outcome| words(outcome.as_str()));
    Mark::new(tone, format!("attempt {} {what}", attempt.attempt))
}

fn life(task: &TaskRecord, now: Timestamp) -> Vec<LifeRow> {
    let mut rows: Vec<(Timestamp, Mark, String)> =
        vec![(task.created_at, Mark::new(Tone::Idle, "submitted"), String::new())];
    let left_out = task.attempts.len().saturating_sub(SHOWN_ATTEMPTS);
    let mut free_since =
        task.attempts.get(left_out.wrapping_sub(1)).and_then(|a| a.finished_at).unwrap_or(task.created_at);
    for attempt in &task.attempts[left_out..] {
        let waited = Span(seconds_between(free_since, attempt.assigned_at));
        let text = format!("to {} after {waited} of waiting, token {}", attempt.worker_id, attempt.token);
        rows.push((
            attempt.assigned_at,
            Mark::new(Tone::Idle, format!("attempt {} leased", attempt.attempt)),
            text,
        ));
        if let Some(at) = attempt.started_at {
            rows.push((
                at,
                Mark::new(Tone::Idle, format!("attempt {} started", attempt.attempt)),
                "by the worker's clock".into(),
            ));
        }
        if let Some(at) = attempt.finished_at {
            let took = Span(seconds_between(attempt.started_at.unwrap_or(attempt.assigned_at), at));
            let error =
                attempt.error.as_deref().map(|e| format!(": {}", shorten(e, 400))).unwrap_or_default();
            rows.push((at, outcome_mark(attempt), format!("after {took}{error}")));
            free_since = at;
        }
    }
    if let Some(at) = task.finished_at {
        let left_out =
            if left_out > 0 { format!("{left_out} earlier attempts are not shown") } else { String::new() };
        rows.push((at, state_mark(task.state), left_out));
    }
    let row = |(at, mark, text)| {
        let offset = seconds_between(task.created_at, at);
        LifeRow {
            at: super::format::exact_moment(at, now),
            after: match offset {
                0.0 => String::new(),
                offset => format!("+{}", super::format::milliseconds(offset * 1_000.0)),
            },
            mark,
            text,
        }
    };
    rows.into_iter().map(row).collect()
}

/// The drawing: waiting and running, from submission to the end or now.
fn spans(task: &TaskRecord, now: Timestamp) -> Vec<LifeSpan> {
    let end = task.finished_at.unwrap_or(now).max(task.created_at);
    let whole = seconds_between(task.created_at, end).max(0.001);
    let place =
        |at: Timestamp| (seconds_between(task.created_at, at) / whole * 1_000.0).clamp(0.0, 1_000.0) as u32;
    let mut spans = Vec::new();
    let mut add = |from: Timestamp, until: Timestamp, class, title: String| {
        let x = place(from).min(998);
        let width = place(until).saturating_sub(x).max(2);
        spans.push(LifeSpan {
            x,
            width,
            class,
            title: format!("{title} for {}", Span(seconds_between(from, until))),
        });
    };
    let mut free_since = task.created_at;
    let left_out = task.attempts.len().saturating_sub(SHOWN_ATTEMPTS);
    for attempt in &task.attempts[left_out..] {
        add(free_since, attempt.assigned_at, "wait", "waited".into());
        let until = attempt.finished_at.unwrap_or(end);
        let class = match attempt.outcome {
            Some(AttemptOutcome::Completed) => "good",
            None => "run",
            Some(_) => "bad",
        };
        add(
            attempt.assigned_at,
            until,
            class,
            format!("attempt {} with {}", attempt.attempt, shorten(&attempt.worker_id, 60)),
        );
        free_since = until;
    }
    if task.attempts.is_empty() || !task.state.is_final() && task.state == TaskState::Pending {
        add(free_since, end, "wait", "waited".into());
    }
    spans
}

fn config(task: &TaskRecord, all: Option<&str>) -> Output {
    let text = match serde_json::from_str::<CommandConfig>(task.config.get()) {
        Ok(config) if task.kind == "command" => {
            let mut text = command_line(&config);
            if let Some(cwd) = &config.cwd {
                text.push_str(&format!("\n\nin {cwd}"));
            }
            for (name, value) in &config.env {
                text.push_str(&format!("\n{name}={value}"));
            }
            text
        }
        _ => pretty(task.config.get()),
    };
    output("What it does", "config-title", &text, all)
}

fn pretty(json: &str) -> String {
    let value: Option<serde_json::Value> = serde_json::from_str(json).ok();
    value.and_then(|v| serde_json::to_string_pretty(&v).ok()).unwrap_or_else(|| json.to_owned())
}

/// Its result: a command's exit and streams, or whatever its worker gave.
fn outputs(task: &TaskRecord, all: Option<&str>) -> (Vec<Output>, String) {
    let Some(result) = &task.result else {
        let empty = match task.state {
            TaskState::Failed => "No result was kept; what went wrong stands above.",
            TaskState::Completed => "It completed without a result.",
            TaskState::Cancelled => "It was cancelled and left no result.",
            _ => "There is none before an attempt ends.",
        };
        return (Vec::new(), empty.into());
    };
    let command = serde_json::from_str::<CommandOutput>(result.get()).ok().filter(|_| task.kind == "command");
    let Some(command) = command else {
        return (vec![output("Result", "result-title", &pretty(result.get()), all)], String::new());
    };
    let mut stdout = output("Standard output", "stdout-title", &command.stdout, all);
    let mut how = match (command.exit_code, command.signal, command.timed_out) {
        (_, _, true) => "The time limit ended it".to_owned(),
        (Some(code), ..) => format!("Exit code {code}"),
        (None, Some(signal), _) => format!("Signal {signal} ended it"),
        (None, None, _) => "How it ended is not known".to_owned(),
    };
    how.push_str(&format!(" after {}. ", Span(command.duration_seconds)));
    if command.dropped_bytes > 0 {
        let dropped = crate::report::bytes(command.dropped_bytes);
        how.push_str(&format!("The worker dropped {dropped} between head and tail. "));
    }
    stdout.note.insert_str(0, &how);
    (vec![stdout, output("Standard error", "stderr-title", &command.stderr, all)], String::new())
}
