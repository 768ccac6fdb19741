//! A machine with a store behind it, driven by short lines.

use coordinator::command::{Command, Stamp, TaskSpec, WorkerSpec};
use coordinator::machine::{Effect, Machine};
use coordinator::store::{Store, StoreOptions};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Nothing here takes longer unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The wall clock at log time 0.
pub const WALL_MS: i64 = 1_700_000_000_000;

pub fn options() -> StoreOptions {
    StoreOptions { memory_limit_mb: 128, linger: Duration::ZERO, ..StoreOptions::default() }
}

pub fn open(path: &Path) -> (Store, u64) {
    Store::open(path, options()).unwrap_or_else(|e| panic!("{e}"))
}

/// Commands as they were applied, with what the store was given.
#[derive(Default)]
pub struct History {
    pub machine: Machine,
    pub entries: Vec<(u64, Vec<Effect>)>,
    pub log_ms: u64,
}

impl History {
    pub fn apply(&mut self, command: &Command) {
        let index = self.machine.applied_index() + 1;
        self.log_ms += 10;
        let stamp = Stamp { log_ms: self.log_ms, wall_ms: WALL_MS + self.log_ms as i64 };
        let mut effects = Vec::new();
        self.machine.apply(index, 1, stamp, command, &mut effects);
        self.machine.finish_entry(index, 1, &command.encode());
        self.entries.push((index, effects));
    }

    pub fn index(&self) -> u64 {
        self.machine.applied_index()
    }

    pub fn register(&mut self, id: &str) {
        let worker = WorkerSpec {
            worker_id: id.into(),
            labels: [("os", "linux"), ("gpu", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            resources: BTreeMap::new(),
            slots: 1000,
            types: vec!["command".into(), "noop".into()],
            host: None,
        };
        self.apply(&Command::RegisterWorker { worker });
    }

    pub fn submit(&mut self, id: &str, kind: &str) {
        let task = TaskSpec {
            task_id: id.into(),
            kind: kind.into(),
            priority: 5,
            config: r#"{"command": "echo \"é\""}"#.into(),
            labels: [("os".to_owned(), "linux".to_owned())].into(),
            resources: BTreeMap::new(),
            timeout_ms: 1500,
            max_retries: 1,
            retry_backoff_ms: 0,
            any_of: vec![[("gpu".to_owned(), "a".to_owned())].into()],
        };
        self.apply(&Command::Submit { tasks: vec![task] });
    }

    /// Leases the task and reports its end.
    pub fn run(&mut self, id: &str, success: bool, result: &str) {
        self.apply(&Command::Assign { pairs: vec![(id.into(), "w".into())] });
        let token = self.machine.task(id).unwrap().token.unwrap();
        self.apply(&Command::Complete {
            task_id: id.into(),
            worker_id: "w".into(),
            token,
            success,
            result: Some(result.into()),
            error: (!success).then(|| "it's broken".into()),
            started_ms: WALL_MS,
            finished_ms: WALL_MS + 7,
            resources: [("cpu_ms".to_owned(), 3)].into(),
        });
    }

    /// Gives the store everything behind `from`.
    pub fn feed(&self, store: &Store, from: u64) {
        for (index, effects) in self.entries.iter().filter(|(index, _)| *index > from) {
            store.append(*index, effects.clone());
        }
    }
}

/// A task that fails for good, one that is retried, one by hand, one cancelled, one pending.
pub fn mixed() -> History {
    let mut history = History::default();
    history.register("w");
    for id in ["fails", "flaky", "again", "cancelled", "pending"] {
        history.submit(id, if id == "flaky" { "noop" } else { "command" });
    }
    history.run("fails", false, "1");
    history.run("fails", false, "2");
    history.run("flaky", false, "3");
    history.run("flaky", true, r#"{"exit_code":0}"#);
    history.run("again", false, "4");
    history.run("again", false, "5");
    history.apply(&Command::Retry { task_id: "again".into() });
    history.run("again", true, "6");
    history.apply(&Command::Cancel { task_id: "cancelled".into() });
    history
}
