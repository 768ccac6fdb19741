//! The language of the golden scripts: one command a line, run against a machine.

use api::task::{TaskRecord, TaskState};
use coordinator::command::{
    Command, ExpireReason, KeyedWrite, Reply, RequestKey, RetryFilter, Stamp, TaskSpec, WorkerSpec,
};
use coordinator::machine::{Effect, Limits, Machine, SETTINGS, TaskFilter};
use coordinator::scheduler::{Offer, plan};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The wall clock of the scripts at log time 0.
const WALL_MS: i64 = 1_700_000_000_000;

/// A machine with its log.
#[derive(Default)]
pub struct Session {
    machine: Machine,
    index: u64,
    log_ms: u64,
    show_effects: bool,
    output: String,
}

impl Session {
    pub fn take_output(&mut self) -> String {
        std::mem::take(&mut self.output)
    }

    /// Runs one line and keeps what it prints.
    pub fn run(&mut self, line: &str) {
        let words = split(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (verb, rest) = words.split_first().unwrap_or_else(|| panic!("empty line"));
        if !self.look(verb, rest) {
            let command = parse(verb, rest).unwrap_or_else(|| panic!("can't read `{line}`"));
            self.apply(&command);
        }
        assert_eq!(self.machine.checksum(), self.machine.recompute_checksum(), "after `{line}`");
    }

    fn print(&mut self, text: impl std::fmt::Display) {
        writeln!(self.output, "{text}").unwrap();
    }

    fn apply(&mut self, command: &Command) {
        self.index += 1;
        let stamp = Stamp { log_ms: self.log_ms, wall_ms: WALL_MS + self.log_ms as i64 };
        let mut effects = Vec::new();
        let reply = self.machine.apply(self.index, 1, stamp, command, &mut effects);
        self.machine.finish_entry(self.index, 1, &command.encode());
        self.print(show_reply(&reply));
        if self.show_effects {
            for effect in &effects {
                self.print(format!("  {}", show_effect(effect)));
            }
        }
    }

    /// Lines that change no state. False where the verb is a command.
    fn look(&mut self, verb: &str, rest: &[&str]) -> bool {
        match verb {
            "at" => self.log_ms = number(rest[0]),
            "effects" => self.show_effects = rest[0] == "on",
            "limits" => {
                self.machine = Machine::with_limits(limits(rest));
                (self.index, self.log_ms) = (0, 0);
            }
            "empty" => {
                for _ in 0..number(rest[0]) {
                    self.index += 1;
                    self.machine.finish_entry(self.index, 1, &[]);
                }
            }
            "task" => self.show_task(rest[0]),
            "tasks" => self.show_tasks(rest),
            "counts" => self.show_counts(),
            "workers" => self.show_workers(),
            "leases" => {
                for lease in self.machine.all_leases() {
                    self.print(format!(
                        "{} {} -> {} {}",
                        lease.token,
                        lease.task_id,
                        lease.worker_id,
                        if lease.delivered { "delivered" } else { "not delivered" }
                    ));
                }
            }
            "settings" => self.show_settings(),
            "keys" => {
                let keys = self.machine.request_keys();
                self.print(format!("{keys} keys are remembered"));
            }
            "queue" => self.show_queue(),
            "plan" => self.plan(rest),
            "memory" => {
                let (tasks, evicted) = (self.machine.tasks_in_memory(), self.machine.tasks_evicted());
                self.print(format!("{tasks} tasks in memory, {evicted} evicted"));
            }
            "evictable" => {
                let verdict = self.machine.evictable(number(rest[0]));
                self.print(verdict);
            }
            "checkpoints" => {
                let indexes: Vec<_> = self.machine.checkpoints().map(|c| c.index.to_string()).collect();
                self.print(indexes.join(" "));
            }
            "state_checksum" => {
                let state = self.machine.state_checksum();
                self.print(format!("index {} term {}", state.applied_index, state.term));
                self.print(format!("checksum  {}", state.checksum));
                self.print(format!("log_chain {}", state.log_chain));
            }
            "snapshot" => {
                let bytes = self.machine.encode_snapshot();
                self.machine = Machine::decode_snapshot(&bytes).unwrap();
                let same = self.machine.encode_snapshot() == bytes;
                self.print(if same { "the same after a round trip" } else { "NOT THE SAME" });
            }
            _ => return false,
        }
        true
    }

    fn show_task(&mut self, id: &str) {
        let Some(task) = self.machine.task(id) else { return self.print(format!("no task {id}")) };
        let mut line = format!("{} {}, attempt {}", task.task_id, task.state, task.attempt);
        let optional = [
            ("worker", task.worker_id.clone()),
            ("token", task.token.map(|t| t.to_string())),
            ("error", task.error.clone()),
            ("result", task.result.as_ref().map(|r| r.to_string())),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                write!(line, ", {name} {value}").unwrap();
            }
        }
        self.print(line);
        for attempt in task.attempts {
            self.print(format!(
                "  {}: {} token {} {}{}",
                attempt.attempt,
                attempt.worker_id,
                attempt.token,
                attempt.outcome.map_or("goes on", |o| o.as_str()),
                attempt.error.map(|e| format!(" ({e})")).unwrap_or_default()
            ));
        }
    }

    fn show_tasks(&mut self, rest: &[&str]) {
        let options = options(rest);
        let filter = TaskFilter {
            state: options.get("state").map(|s| TaskState::parse(s).unwrap()),
            kind: options.get("kind").cloned(),
            worker: options.get("worker").cloned(),
            after: options.get("after").map(|s| number(s)),
            limit: options.get("limit").map_or(100, |s| number(s) as usize),
        };
        let page = self.machine.list_tasks(&filter);
        let row = |task: &TaskRecord| format!("{} {}", task.task_id, task.state);
        let rows: Vec<String> = page.tasks.iter().map(row).collect();
        let next = page.next.map(|next| format!(", next {next}")).unwrap_or_default();
        self.print(format!("[{}]{next}", rows.join(", ")));
    }

    fn show_counts(&mut self) {
        let counts = self.machine.task_counts();
        let counts: Vec<_> = counts.iter().map(|(state, n)| format!("{state} {n}")).collect();
        self.print(counts.join(", "));
    }

    fn show_workers(&mut self) {
        for id in self.machine.workers().iter().map(|w| w.worker_id.clone()).collect::<Vec<_>>() {
            let worker = self.machine.worker(&id).unwrap();
            let free: Vec<String> = worker
                .spec()
                .resources
                .keys()
                .map(|name| format!(", {name} {} free", worker.free_resource(name)))
                .collect();
            let line = format!(
                "{id} {} {}/{}{}",
                worker.state().as_str(),
                worker.running(),
                worker.spec().slots,
                free.concat()
            );
            self.print(line);
        }
    }

    /// The settings that are not at their defaults.
    fn show_settings(&mut self) {
        let defaults = Limits::default();
        let limits = self.machine.limits();
        let changed = SETTINGS.iter().filter(|setting| setting.value(limits) != setting.value(&defaults));
        let changed: Vec<String> =
            changed.map(|setting| format!("{}={}", setting.name, setting.value(limits))).collect();
        self.print(if changed.is_empty() { "all defaults".into() } else { changed.join(" ") });
    }

    fn show_queue(&mut self) {
        let pending = self.machine.pending();
        let mut lines = Vec::new();
        for class in pending.classes(self.log_ms) {
            let demand = class.demand().clone();
            let tasks: Vec<String> =
                class.map(|(p, seq)| format!("{}(p{p})", pending.task_id(seq).unwrap())).collect();
            lines.push(format!(
                "{} {:?} {:?}{}: {}",
                demand.kind,
                demand.labels,
                demand.resources,
                if demand.any_of.is_empty() { String::new() } else { format!(" {:?}", demand.any_of) },
                tasks.join(" ")
            ));
        }
        let next = self.machine.next_ready_at_ms();
        lines.push(format!(
            "{}{}",
            if self.machine.has_pending() { "has pending" } else { "nothing pending" },
            next.map(|at| format!(", next retry at {at}")).unwrap_or_default()
        ));
        lines.into_iter().for_each(|line| self.print(line));
    }

    /// `plan w1:2 w2:1 limit=10`: prints the pairs and applies them.
    fn plan(&mut self, rest: &[&str]) {
        let offers: Vec<Offer> = rest
            .iter()
            .filter_map(|word| word.split_once(':'))
            .map(|(id, slots)| Offer { worker_id: id.to_owned(), slots: number(slots) as u32 })
            .collect();
        let limit = options(rest).get("limit").map_or(100, |s| number(s) as usize);
        let pairs = plan(&self.machine, self.log_ms, &offers, limit);
        let shown: Vec<String> = pairs.iter().map(|(task, worker)| format!("{task}>{worker}")).collect();
        self.print(format!("[{}]", shown.join(" ")));
        let count = pairs.len();
        let before = self.machine.all_leases().len();
        self.index += 1;
        let stamp = Stamp { log_ms: self.log_ms, wall_ms: WALL_MS + self.log_ms as i64 };
        let reply = self.machine.apply(self.index, 1, stamp, &Command::Assign { pairs }, &mut Vec::new());
        self.machine.finish_entry(self.index, 1, &[]);
        assert_eq!(reply, Reply::Count(count), "the machine skipped what the scheduler planned");
        assert_eq!(self.machine.all_leases().len(), before + count);
    }
}

pub fn show_reply(reply: &Reply) -> String {
    match reply {
        Reply::Submitted { created } => format!("submitted, {created} new"),
        Reply::Task { state } => format!("task is {state}"),
        Reply::Done => "done".into(),
        Reply::Count(count) => format!("count {count}"),
        Reply::Retried { count, more } => format!("{count} retried{}", if *more { ", more fit" } else { "" }),
        Reply::Repeated { salt, index, reply } => {
            format!("done before at index {index}, salt {salt}: {}", show_reply(reply))
        }
        Reply::Lease { epoch } => format!("lease, epoch {epoch}"),
        Reply::Refused { code, detail } => format!("refused {code}: {detail}"),
    }
}

fn show_effect(effect: &Effect) -> String {
    match effect {
        Effect::TaskSubmitted { spec } => format!("submitted {} as number {}", spec.id, spec.seq),
        Effect::Assigned { spec, worker_id, token, waited_ms } => {
            format!("assigned {} to {worker_id}, token {token}, after {waited_ms} ms", spec.id)
        }
        Effect::AttemptEnded { spec, attempt, retried, run_ms, result } => format!(
            "attempt {} of {} ended: {}, ran {run_ms} ms{}{}",
            attempt.attempt,
            spec.id,
            attempt.outcome.map_or("?", |o| o.as_str()),
            if *retried { ", will be retried" } else { "" },
            result.as_ref().map(|r| format!(", left {r}")).unwrap_or_default()
        ),
        Effect::TaskFinished { spec, state, attempt, result, .. } => format!(
            "finished {}: {state} after {attempt} attempts{}",
            spec.id,
            result.as_ref().map(|r| format!(", result {r}")).unwrap_or_default()
        ),
        Effect::TaskReopened { spec, .. } => format!("reopened {}", spec.id),
        Effect::WorkerChanged { worker, .. } => {
            format!("worker {} is {}", worker.id(), worker.state().as_str())
        }
        Effect::Event { kind, subject, detail, .. } => {
            format!("event {} `{subject}` {detail}", kind.as_str()).trim_end().to_owned()
        }
    }
}

/// Words; what stands in single quotes is one.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn number(word: &str) -> u64 {
    if word == "max" { u64::MAX } else { word.parse().unwrap_or_else(|_| panic!("`{word}` is no number")) }
}

fn options(words: &[&str]) -> BTreeMap<String, String> {
    words.iter().filter_map(|w| w.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// `a:1,b:2/c:3`: sets of labels.
fn sets(text: Option<&String>) -> Vec<BTreeMap<String, String>> {
    let sets = text.into_iter().flat_map(|text| text.split('/'));
    sets.map(|set| map(Some(&set.to_owned()), str::to_owned)).collect()
}

/// `a:1,b:2`
fn map<T>(text: Option<&String>, value: impl Fn(&str) -> T) -> BTreeMap<String, T> {
    let pairs = text.into_iter().flat_map(|text| text.split(',')).filter(|part| !part.is_empty());
    pairs.map(|p| p.split_once(':').unwrap()).map(|(k, v)| (k.to_owned(), value(v))).collect()
}

fn limits(words: &[&str]) -> Limits {
    let mut limits = Limits::default();
    for (name, value) in options(words) {
        let value = number(&value);
        match name.as_str() {
            "finished" => limits.finished_tasks = value,
            "unfinished" => limits.unfinished_tasks = value,
            "attempts" => limits.attempts_per_task = value as u32,
            "error_bytes" => limits.superseded_error_bytes = value as u32,
            "workers" => limits.workers = value as u32,
            "named_leases" => limits.named_leases = value as u32,
            "checkpoints" => limits.checkpoints = value as u32,
            "request_keys" => limits.request_keys = value,
            "request_key_ttl" => limits.request_key_ttl_ms = value,
            other => panic!("no limit `{other}`"),
        }
    }
    limits
}

pub fn task(words: &[&str]) -> TaskSpec {
    let options = options(&words[1..]);
    let get = |name: &str, default: u64| options.get(name).map_or(default, |s| number(s));
    TaskSpec {
        task_id: words[0].to_owned(),
        kind: options.get("kind").cloned().unwrap_or("command".into()),
        priority: get("priority", 5) as u8,
        config: options.get("config").cloned().unwrap_or("{}".into()),
        labels: map(options.get("labels"), str::to_owned),
        resources: map(options.get("resources"), number),
        timeout_ms: get("timeout", 600_000),
        max_retries: get("retries", 2) as u32,
        retry_backoff_ms: get("backoff", 1000),
        any_of: sets(options.get("any")),
    }
}

pub fn worker(words: &[&str]) -> WorkerSpec {
    let options = options(&words[1..]);
    let types = options.get("types").cloned().unwrap_or("command,noop".into());
    WorkerSpec {
        worker_id: words[0].to_owned(),
        labels: map(options.get("labels"), str::to_owned),
        resources: map(options.get("resources"), number),
        slots: options.get("slots").map_or(1, |s| number(s) as u32),
        types: types.split(',').map(str::to_owned).collect(),
        host: options.get("host").cloned(),
    }
}

fn parse(verb: &str, rest: &[&str]) -> Option<Command> {
    let first = || rest.first().map(|word| (*word).to_owned());
    Some(match verb {
        "submit" => Command::Submit { tasks: rest.split(|word| *word == "|").map(task).collect() },
        "cancel" => Command::Cancel { task_id: first()? },
        "retry" => Command::Retry { task_id: first()? },
        "register" => Command::RegisterWorker { worker: worker(rest) },
        "drain" => Command::DrainWorker { worker_id: first()? },
        "lost" => Command::WorkerLost { worker_id: first()? },
        "assign" => {
            let pair = |word: &&str| word.split_once('>').map(|(t, w)| (t.to_owned(), w.to_owned()));
            Command::Assign { pairs: rest.iter().map(pair).collect::<Option<_>>()? }
        }
        "delivered" => Command::Delivered { tokens: rest.iter().map(|word| number(word)).collect() },
        "complete" => complete(rest)?,
        "expire" => {
            let reason = match *rest.get(2)? {
                "silent" => ExpireReason::Silent,
                "timed_out" => ExpireReason::TimedOut,
                _ => return None,
            };
            Command::Expire { leases: vec![(first()?, number(rest[1]), reason)] }
        }
        "maintenance" => Command::Maintenance { enabled: *rest.first()? == "on", by: None },
        "set" => Command::ChangeSettings {
            changes: options(rest).into_iter().map(|(name, value)| (name, number(&value))).collect(),
        },
        "retry_many" => Command::RetryMany { filter: retry_filter(rest) },
        "keyed" => keyed(rest)?,
        "checkpoint" => Command::Checkpoint,
        "evict" => {
            let options = options(rest);
            let get = |name: &str, default| options.get(name).map_or(default, |s| number(s));
            Command::Evict { before_log_ms: get("before", 0), limit: get("limit", 1000) as u32 }
        }
        "lease" => Command::NamedLease {
            name: first()?,
            holder: (*rest.get(1)?).to_owned(),
            ttl_ms: number(rest.get(2)?),
        },
        _ => return None,
    })
}

/// `failed kind=x worker=w limit=3`
fn retry_filter(rest: &[&str]) -> RetryFilter {
    let options = options(rest);
    RetryFilter {
        state: TaskState::parse(rest[0]).unwrap(),
        kind: options.get("kind").cloned(),
        worker: options.get("worker").cloned(),
        limit: options.get("limit").map_or(1000, |s| number(s) as u32),
    }
}

/// `keyed KEY HASH submit a | b`; the salt is the index at which it is tried first.
fn keyed(rest: &[&str]) -> Option<Command> {
    let [key, hash, verb, rest @ ..] = rest else { return None };
    let write = match *verb {
        "submit" => KeyedWrite::Submit { tasks: rest.split(|word| *word == "|").map(task).collect() },
        "retry" => KeyedWrite::Retry { task_id: (*rest.first()?).to_owned() },
        "retry_many" => KeyedWrite::RetryMany { filter: retry_filter(rest) },
        _ => return None,
    };
    let request_hash = u128::from(number(hash));
    Some(Command::Keyed {
        key: RequestKey { key: (*key).to_owned(), request_hash, salt: request_hash + 100 },
        write,
    })
}

/// `complete TASK WORKER TOKEN ok|fail [result=JSON] [error=TEXT]`
fn complete(rest: &[&str]) -> Option<Command> {
    let [task, worker, token, verdict, more @ ..] = rest else { return None };
    let options = options(more);
    Some(Command::Complete {
        task_id: (*task).to_owned(),
        worker_id: (*worker).to_owned(),
        token: number(token),
        success: *verdict == "ok",
        result: options.get("result").cloned(),
        error: options.get("error").cloned(),
        started_ms: WALL_MS,
        finished_ms: WALL_MS + 5,
        resources: BTreeMap::new(),
    })
}
