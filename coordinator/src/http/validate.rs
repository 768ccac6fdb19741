//! PURE. What a request may ask for: tasks and workers, checked and with every default filled in.
//!
//! Every fault is collected before anything is refused, each with the path of its field, so that
//! a batch is mended in one go. What passes here is what the log takes: the machine trusts it.

use crate::command::{RetryFilter, TaskSpec, WorkerSpec};
use crate::machine::Limits;
use crate::name;
use api::task::{self, CommandConfig, CommandLine, NewTask, TaskState};
use api::worker::{MAX_SLOTS, Register};
use std::collections::BTreeMap;
use std::fmt::Display;

/// The largest config of one task.
pub const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// The longest type name.
pub const MAX_KIND_BYTES: usize = 64;
/// The most sets of labels of which a worker must carry one.
pub const MAX_ALTERNATIVES: usize = 16;
/// The most labels or resources one task or worker may name.
pub const MAX_ENTRIES: usize = 64;
/// The longest key or value of a label, and the longest name of a resource.
pub const MAX_TEXT_BYTES: usize = 256;
/// The shortest limit on an attempt.
pub const MIN_TIMEOUT_SECONDS: f64 = 0.001;
/// The longest limit on an attempt.
pub const MAX_TIMEOUT_SECONDS: f64 = 7.0 * 86_400.0;
/// The longest first back-off.
pub const MAX_BACKOFF_SECONDS: f64 = 86_400.0;
/// The most retries.
pub const MAX_RETRIES: u32 = 1000;
/// The deepest nesting of a task's config and result. Whoever reads them inside a larger document
/// may take no more than 128 levels.
pub const MAX_DEPTH: usize = 100;
/// The longest error text of an attempt.
pub const MAX_ERROR_BYTES: usize = 1024 * 1024;
/// The most types a worker may run.
pub const MAX_TYPES: usize = 64;
/// The most output of a `command` task that may be kept.
pub const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Faults that are listed; a batch may have thousands.
pub const MAX_FAULTS: usize = 20;

/// Everything that is wrong with a request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Faults {
    list: Vec<String>,
    more: usize,
}

impl Faults {
    /// Notes a fault of the field at `path`.
    pub fn add(&mut self, path: impl Display, why: impl AsRef<str>) {
        if self.list.len() < MAX_FAULTS {
            self.list.push(format!("`{path}` {}", why.as_ref()));
        } else {
            self.more += 1;
        }
    }

    /// `value` where there are none.
    pub fn or<T>(self, value: T) -> Result<T, Faults> {
        if self.list.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.list.join("; "))?;
        if self.more > 0 { write!(f, "; and {} more", self.more) } else { Ok(()) }
    }
}

/// Checks one task. `fresh_id` makes an id where the task has none.
pub fn new_task(
    task: NewTask,
    limits: &Limits,
    fresh_id: impl FnOnce() -> String,
) -> Result<TaskSpec, Faults> {
    let mut faults = Faults::default();
    let spec = check_task(task, "", limits, fresh_id, &mut faults);
    faults.or(spec)
}

/// Checks a batch; an id may stand in it once.
pub fn new_batch(
    tasks: Vec<NewTask>,
    limits: &Limits,
    mut fresh_id: impl FnMut() -> String,
) -> Result<Vec<TaskSpec>, Faults> {
    let mut faults = Faults::default();
    if tasks.is_empty() {
        faults.add("tasks", "is empty");
    }
    if tasks.len() as u64 > limits.batch_tasks {
        let why = format!("has {} entries; at most {} may go in one batch", tasks.len(), limits.batch_tasks);
        faults.add("tasks", why);
        return Err(faults);
    }
    let mut specs = Vec::with_capacity(tasks.len());
    for (place, task) in tasks.into_iter().enumerate() {
        specs.push(check_task(task, &format!("tasks[{place}]."), limits, &mut fresh_id, &mut faults));
    }
    let mut places = BTreeMap::new();
    for (place, spec) in specs.iter().enumerate() {
        if let Some(first) = places.insert(spec.task_id.as_str(), place) {
            faults.add(format!("tasks[{place}].task_id"), format!("is that of tasks[{first}] too"));
        }
    }
    faults.or(specs)
}

/// Checks a registration.
pub fn worker(register: Register) -> Result<WorkerSpec, Faults> {
    let mut faults = Faults::default();
    text("worker_id", &register.worker_id, task::MAX_TASK_ID_BYTES, &mut faults);
    pairs("labels", &register.labels, &mut faults);
    amounts("resources", &register.resources, &mut faults);
    if register.slots == 0 || register.slots > MAX_SLOTS {
        faults.add("slots", format!("is {}; must be 1 to {MAX_SLOTS}", register.slots));
    }
    if register.types.is_empty() || register.types.len() > MAX_TYPES {
        faults.add("types", format!("has {} entries; must have 1 to {MAX_TYPES}", register.types.len()));
    }
    for (place, kind) in register.types.iter().take(MAX_TYPES).enumerate() {
        text(format!("types[{place}]"), kind, MAX_KIND_BYTES, &mut faults);
    }
    if let Some(host) = &register.host {
        text("host", host, MAX_TEXT_BYTES, &mut faults);
    }
    faults.or(WorkerSpec {
        worker_id: register.worker_id,
        labels: register.labels,
        resources: register.resources,
        slots: register.slots,
        types: register.types,
        host: register.host,
    })
}

/// Checks what an attempt came to.
pub fn attempt_end(
    result: Option<&str>,
    error: Option<&str>,
    resources: Option<&BTreeMap<String, u64>>,
) -> Result<(), Faults> {
    let mut faults = Faults::default();
    if result.is_some_and(|json| nests_deeper(json, MAX_DEPTH)) {
        faults.add("result", format!("nests deeper than {MAX_DEPTH} levels"));
    }
    if error.is_some_and(|text| text.len() > MAX_ERROR_BYTES) {
        faults.add("error", format!("has more than {MAX_ERROR_BYTES} bytes"));
    }
    if let Some(resources) = resources {
        amounts("resources", resources, &mut faults);
    }
    faults.or(())
}

/// True where arrays and objects of `json`, which is well formed, nest deeper.
fn nests_deeper(json: &str, most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Checks a bulk retry.
pub fn retry_filter(body: task::RetryMany) -> Result<RetryFilter, Faults> {
    let mut faults = Faults::default();
    if !matches!(body.status, TaskState::Failed | TaskState::Cancelled) {
        faults.add("status", format!("is {}; only failed or cancelled tasks are retried", body.status));
    }
    if let Some(kind) = &body.kind {
        text("type", kind, MAX_KIND_BYTES, &mut faults);
    }
    if let Some(worker) = &body.worker {
        text("worker", worker, task::MAX_TASK_ID_BYTES, &mut faults);
    }
    let limit = body.limit.unwrap_or(task::RETRY_DEFAULT);
    if limit == 0 || limit > task::RETRY_MAX {
        faults.add("limit", format!("is {limit}; must be 1 to {}", task::RETRY_MAX));
    }
    faults.or(RetryFilter { state: body.status, kind: body.kind, worker: body.worker, limit })
}

/// Checks a name in a path or body (holder of a lease, worker id, …).
pub fn named(path: &str, value: &str) -> Result<(), Faults> {
    let mut faults = Faults::default();
    text(path, value, MAX_TEXT_BYTES, &mut faults);
    faults.or(())
}

/// The name of a field; made into text only where something is wrong with it.
#[derive(Clone, Copy)]
struct Path<'a> {
    at: &'a str,
    field: &'a str,
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.at, self.field)
    }
}

fn check_task(
    task: NewTask,
    at: &str,
    limits: &Limits,
    fresh_id: impl FnOnce() -> String,
    faults: &mut Faults,
) -> TaskSpec {
    let path = |field| Path { at, field };
    if let Some(id) = &task.task_id {
        text(path("task_id"), id, task::MAX_TASK_ID_BYTES, faults);
    }
    text(path("type"), &task.kind, MAX_KIND_BYTES, faults);
    let priority = task.priority.unwrap_or(limits.default_priority as u8);
    if priority > task::MAX_PRIORITY {
        faults.add(path("priority"), format!("is {priority}; must be 0 to {}", task::MAX_PRIORITY));
    }
    let config = task.config.as_ref().map_or("{}", |raw| raw.get());
    check_config(path("config"), &task.kind, config, faults);
    let requirements = task.requirements.unwrap_or_default();
    pairs(path("requirements.labels"), &requirements.labels, faults);
    amounts(path("requirements.resources"), &requirements.resources, faults);
    alternatives(path("requirements.any_of"), &requirements.any_of, faults);
    let timeout = seconds(
        path("timeout_seconds"),
        task.timeout_seconds.unwrap_or(limits.default_timeout_ms as f64 / 1000.0),
        MIN_TIMEOUT_SECONDS,
        MAX_TIMEOUT_SECONDS,
        faults,
    );
    let backoff = seconds(
        path("retry_backoff_seconds"),
        task.retry_backoff_seconds.unwrap_or(limits.default_retry_backoff_ms as f64 / 1000.0),
        0.0,
        MAX_BACKOFF_SECONDS,
        faults,
    );
    let max_retries = task.max_retries.unwrap_or(limits.default_max_retries as u32);
    if max_retries > MAX_RETRIES {
        faults.add(path("max_retries"), format!("is {max_retries}; must be 0 to {MAX_RETRIES}"));
    }
    TaskSpec {
        task_id: task.task_id.unwrap_or_else(fresh_id),
        kind: task.kind,
        priority,
        config: config.to_owned(),
        labels: requirements.labels,
        resources: requirements.resources,
        timeout_ms: timeout,
        max_retries,
        retry_backoff_ms: backoff,
        any_of: requirements.any_of,
    }
}

fn alternatives(path: impl Display + Copy, sets: &[BTreeMap<String, String>], faults: &mut Faults) {
    if sets.len() > MAX_ALTERNATIVES {
        faults.add(path, format!("has {} sets; at most {MAX_ALTERNATIVES} are allowed", sets.len()));
    }
    for (place, set) in sets.iter().take(MAX_ALTERNATIVES).enumerate() {
        let path = format!("{path}[{place}]");
        if set.is_empty() {
            faults.add(&path, "is empty, so every worker would do; leave `any_of` out instead");
        }
        pairs(&path, set, faults);
    }
}

fn check_config(path: impl Display, kind: &str, config: &str, faults: &mut Faults) {
    if config.len() > MAX_CONFIG_BYTES {
        faults.add(path, format!("has {} bytes; at most {MAX_CONFIG_BYTES} are allowed", config.len()));
        return;
    }
    if !config.trim_start().starts_with('{') {
        faults.add(path, "must be a JSON object");
        return;
    }
    if nests_deeper(config, MAX_DEPTH) {
        faults.add(path, format!("nests deeper than {MAX_DEPTH} levels"));
        return;
    }
    if kind == "command" {
        check_command(path, config, faults);
    }
}

fn check_command(path: impl Display, config: &str, faults: &mut Faults) {
    let mut reader = serde_json::Deserializer::from_str(config);
    let parsed: CommandConfig = match serde_path_to_error::deserialize(&mut reader) {
        Ok(parsed) => parsed,
        Err(e) => {
            let inner = e.inner().to_string();
            let inner = inner.rfind(" at line ").map_or(inner.as_str(), |end| &inner[..end]);
            match (e.path().to_string().as_str(), inner) {
                ("command", _) => {
                    faults.add(format!("{path}.command"), "must be a string or a list of strings");
                }
                (".", why) => faults.add(path, format!("is not valid for a command task: {why}")),
                (field, why) => faults.add(format!("{path}.{field}"), format!("is not valid: {why}")),
            }
            return;
        }
    };
    let command = format!("{path}.command");
    match &parsed.command {
        CommandLine::Shell(line) if line.trim().is_empty() => faults.add(&command, "is empty"),
        CommandLine::Argv(argv) if argv.first().is_none_or(String::is_empty) => {
            faults.add(&command, "names no program");
        }
        CommandLine::Shell(line) if line.contains('\0') => faults.add(&command, "has a zero byte"),
        CommandLine::Argv(argv) if argv.iter().any(|a| a.contains('\0')) => {
            faults.add(&command, "has a zero byte");
        }
        _ => {}
    }
    if parsed.cwd.as_deref().is_some_and(|cwd| cwd.is_empty() || cwd.contains('\0')) {
        faults.add(format!("{path}.cwd"), "is not a directory name");
    }
    for (key, value) in &parsed.env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            faults.add(format!("{path}.env"), format!("has `{key}`, which no environment can hold"));
        }
    }
    if parsed.output_limit_bytes.is_some_and(|bytes| bytes > MAX_OUTPUT_BYTES) {
        faults.add(format!("{path}.output_limit_bytes"), format!("must be at most {MAX_OUTPUT_BYTES}"));
    }
}

fn text(path: impl Display, value: &str, most_bytes: usize, faults: &mut Faults) {
    if let Some(why) = name::fault(value, most_bytes) {
        faults.add(path, why);
    }
}

fn pairs(path: impl Display, map: &BTreeMap<String, String>, faults: &mut Faults) {
    count(&path, map.len(), faults);
    for (key, value) in map.iter().take(MAX_ENTRIES) {
        text(format!("{path}.{}", shown(key)), key, MAX_TEXT_BYTES, faults);
        if let Some(why) = name::fault_of_text(value, MAX_TEXT_BYTES) {
            faults.add(format!("{path}.{}", shown(key)), why);
        }
    }
}

fn amounts(path: impl Display, map: &BTreeMap<String, u64>, faults: &mut Faults) {
    count(&path, map.len(), faults);
    for key in map.keys().take(MAX_ENTRIES) {
        text(format!("{path}.{}", shown(key)), key, MAX_TEXT_BYTES, faults);
    }
}

fn count(path: impl Display, entries: usize, faults: &mut Faults) {
    if entries > MAX_ENTRIES {
        faults.add(path, format!("has {entries} entries; at most {MAX_ENTRIES} are allowed"));
    }
}

/// A key short and printable enough for a message.
fn shown(key: &str) -> String {
    key.chars().take(40).flat_map(char::escape_debug).collect()
}

fn seconds(path: impl Display, value: f64, least: f64, most: f64, faults: &mut Faults) -> u64 {
    if !(least..=most).contains(&value) {
        faults.add(path, format!("is {value:?}; must be {least} to {most}"));
        return 0;
    }
    (value * 1000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(value: Value) -> Result<TaskSpec, String> {
        let task = serde_json::from_value(value).unwrap();
        new_task(task, &Limits::default(), || "fresh".to_owned()).map_err(|faults| faults.to_string())
    }

    #[test]
    fn every_default_is_filled_in() {
        let spec = check(json!({"type": "noop"})).unwrap();
        assert_eq!(
            spec,
            TaskSpec {
                task_id: "fresh".into(),
                kind: "noop".into(),
                priority: 5,
                config: "{}".into(),
                labels: BTreeMap::new(),
                resources: BTreeMap::new(),
                timeout_ms: 600_000,
                max_retries: 2,
                retry_backoff_ms: 1000,
                any_of: Vec::new(),
            }
        );
    }

    #[test]
    fn all_faults_come_in_one_answer() {
        let why = check(json!({
            "task_id": "a\nb", "type": "", "priority": 10, "config": [1],
            "timeout_seconds": 0, "retry_backoff_seconds": -1.0, "max_retries": 5000,
            "requirements": {"labels": {"": "x"}},
        }))
        .unwrap_err();
        for field in [
            "task_id",
            "type",
            "priority",
            "config",
            "timeout_seconds",
            "retry_backoff_seconds",
            "max_retries",
            "requirements.labels.",
        ] {
            assert!(why.contains(&format!("`{field}`")), "{field} is missing in: {why}");
        }
    }

    #[test]
    fn alternatives_are_checked_like_labels() {
        let any_of = |sets: Value| check(json!({"type": "noop", "requirements": {"any_of": sets}}));
        assert_eq!(any_of(json!([{"os": "linux"}, {"os": "mac"}])).unwrap().any_of.len(), 2);
        assert!(any_of(json!([{}])).unwrap_err().contains("`requirements.any_of[0]` is empty"));
        assert!(any_of(json!([{"": "x"}])).unwrap_err().contains("any_of[0]."));
        let many: Vec<_> = (0..17).map(|n| json!({"n": n.to_string()})).collect();
        assert!(any_of(json!(many)).unwrap_err().contains("has 17 sets"));
    }

    #[test]
    fn limits_hold_at_their_edges() {
        assert!(check(json!({"type": "noop", "task_id": "x".repeat(256)})).is_ok());
        assert!(check(json!({"type": "noop", "task_id": "x".repeat(257)})).is_err());
        assert!(check(json!({"type": "noop", "task_id": ""})).is_err());
        assert!(check(json!({"type": "noop", "priority": 0, "timeout_seconds": 0.001})).is_ok());
        assert!(check(json!({"type": "noop", "priority": 9, "timeout_seconds": 604_800})).is_ok());
        assert!(check(json!({"type": "noop", "timeout_seconds": 604_801})).is_err());
        assert!(check(json!({"type": "noop", "timeout_seconds": 0.0004})).is_err());
        let big = "x".repeat(MAX_CONFIG_BYTES);
        assert!(check(json!({"type": "noop", "config": {"a": big}})).unwrap_err().contains("`config` has"));
        let many: BTreeMap<_, _> = (0..65).map(|i| (i.to_string(), "v")).collect();
        let why = check(json!({"type": "noop", "requirements": {"labels": many}})).unwrap_err();
        assert_eq!(why, "`requirements.labels` has 65 entries; at most 64 are allowed");
    }

    #[test]
    fn nesting_is_bounded_and_strings_do_not_count() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(!nests_deeper(&nested(MAX_DEPTH), MAX_DEPTH));
        assert!(nests_deeper(&nested(MAX_DEPTH + 1), MAX_DEPTH));
        assert!(!nests_deeper(&format!("{{\"a\\\"{{\":\"{}\"}}", "[{\\\\".repeat(500)), MAX_DEPTH));
        assert!(!nests_deeper(&"{\"a\":{}},".repeat(500), 2), "beside is not inside");
        let why = attempt_end(Some(&nested(200)), Some(&"x".repeat(MAX_ERROR_BYTES + 1)), None).unwrap_err();
        assert!(why.to_string().contains("`result` nests deeper") && why.to_string().contains("`error` has"));
    }

    #[test]
    fn a_command_task_needs_a_command() {
        let command = |config: Value| check(json!({"type": "command", "config": config}));
        assert!(command(json!({"command": "pytest -q"})).is_ok());
        assert!(command(json!({"command": ["pytest", "-q"], "env": {"A": "1"}, "cwd": "/tmp"})).is_ok());
        for (config, named) in [
            (json!({}), "missing field `command`"),
            (json!({"command": 7}), "`config.command` must be a string or a list of strings"),
            (json!({"command": " "}), "`config.command` is empty"),
            (json!({"command": []}), "`config.command` names no program"),
            (json!({"command": "x", "env": {"A=B": "1"}}), "`config.env` has `A=B`"),
            (json!({"command": "x", "env": {"A": 1}}), "`config.env.A` is not valid"),
            (json!({"command": "x", "cdw": "/"}), "unknown field `cdw`"),
        ] {
            let why = command(config).unwrap_err();
            assert!(why.contains(named), "{why}");
        }
        assert!(check(json!({"type": "other", "config": {"anything": 1}})).is_ok());
    }

    #[test]
    fn a_batch_names_the_place_of_each_fault() {
        let tasks: Vec<NewTask> = serde_json::from_value(json!([
            {"type": "noop", "task_id": "a"}, {"type": "noop", "priority": 11}, {"type": "noop", "task_id": "a"}
        ]))
        .unwrap();
        let mut ids = 0;
        let why = new_batch(tasks, &Limits::default(), || {
            ids += 1;
            format!("fresh-{ids}")
        })
        .unwrap_err()
        .to_string();
        assert!(why.contains("`tasks[1].priority` is 11"), "{why}");
        assert!(why.contains("`tasks[2].task_id` is that of tasks[0] too"), "{why}");
        assert!(
            new_batch(Vec::new(), &Limits::default(), || unreachable!())
                .unwrap_err()
                .to_string()
                .contains("is empty")
        );
    }

    #[test]
    fn a_thousand_faults_are_counted_not_listed() {
        let task = |_| serde_json::from_value::<NewTask>(json!({"type": "", "task_id": "x"})).unwrap();
        let faults =
            new_batch((0..1000).map(task).collect(), &Limits::default(), || unreachable!()).unwrap_err();
        assert_eq!(faults.list.len(), MAX_FAULTS);
        assert!(faults.to_string().ends_with("; and 1979 more"), "{faults}");
    }

    #[test]
    fn a_worker_needs_slots_and_types() {
        let register =
            |value: Value| worker(serde_json::from_value(value).unwrap()).map_err(|f| f.to_string());
        assert!(register(json!({"worker_id": "w", "slots": 4})).is_ok());
        let why = register(json!({"worker_id": "", "slots": 0, "types": []})).unwrap_err();
        for field in ["worker_id", "slots", "types"] {
            assert!(why.contains(&format!("`{field}`")), "{why}");
        }
    }
}
