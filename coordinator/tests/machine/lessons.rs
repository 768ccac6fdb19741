//! Faults that comparable systems shipped, each shown not to be here.

use api::ErrorCode;
use api::task::TaskState;
use coordinator::command::{Command, Reply, Stamp, TaskSpec, WorkerSpec};
use coordinator::machine::Machine;
use coordinator::scheduler::{Offer, plan};
use std::collections::BTreeMap;

#[derive(Default)]
struct Log {
    machine: Machine,
    index: u64,
    log_ms: u64,
}

impl Log {
    fn apply(&mut self, command: &Command) -> Reply {
        self.index += 1;
        let stamp = Stamp { log_ms: self.log_ms, wall_ms: 0 };
        let reply = self.machine.apply(self.index, 1, stamp, command, &mut Vec::new());
        self.machine.finish_entry(self.index, 1, &command.encode());
        reply
    }

    fn submit(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let task: TaskSpec = crate::script::task(&words);
        assert_eq!(self.apply(&Command::Submit { tasks: vec![task] }), Reply::Submitted { created: 1 });
    }

    fn register(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let worker: WorkerSpec = crate::script::worker(&words);
        assert_eq!(self.apply(&Command::RegisterWorker { worker }), Reply::Done);
    }

    fn assign(&mut self, task: &str, worker: &str) -> Option<u64> {
        let pairs = vec![(task.to_owned(), worker.to_owned())];
        let count = self.apply(&Command::Assign { pairs });
        (count == Reply::Count(1)).then(|| self.machine.task(task).unwrap().token.unwrap())
    }

    fn complete(&mut self, task: &str, worker: &str, token: u64) -> Reply {
        self.apply(&Command::Complete {
            task_id: task.into(),
            worker_id: worker.into(),
            token,
            success: true,
            result: Some(format!("\"{worker}\"")),
            error: None,
            started_ms: 0,
            finished_ms: 0,
            resources: BTreeMap::new(),
        })
    }

    fn plan(&self, slots: u32) -> Vec<(String, String)> {
        let offer = |w: api::worker::WorkerRecord| Offer { worker_id: w.worker_id, slots };
        let offers: Vec<Offer> = self.machine.workers().into_iter().map(offer).collect();
        plan(&self.machine, self.log_ms, &offers, 1000)
    }
}

fn is_refused(reply: &Reply, with: ErrorCode) -> bool {
    matches!(reply, Reply::Refused { code, .. } if *code == with)
}

/// It was higher-first in one module and lower-first in another.
#[test]
fn higher_priority_first_everywhere() {
    let mut log = Log::default();
    log.register("w slots=100 labels=os:linux");
    for n in 0..40 {
        // Four classes, priorities all over.
        let label = if n % 2 == 0 { " labels=os:linux" } else { "" };
        let kind = if n % 3 == 0 { "noop" } else { "command" };
        log.submit(&format!("t{n} priority={} kind={kind}{label}", (n * 7) % 10));
    }
    let planned = log.plan(100);
    assert_eq!(planned.len(), 40);
    let order: Vec<(u8, u32)> = planned
        .iter()
        .map(|(id, _)| (9 - log.machine.task(id).unwrap().priority, id[1..].parse().unwrap()))
        .collect();
    assert!(order.is_sorted(), "priority first, then submission: {planned:?}");
    // With too few slots it is the most urgent that go.
    assert_eq!(log.plan(10), planned[..10]);
}

/// The scheduler fell back to any worker.
#[test]
fn requirements_are_never_dropped() {
    let mut log = Log::default();
    log.register("plain slots=9");
    log.register("linux slots=9 labels=os:linux resources=mem:10");
    log.register("gpu slots=9 types=gpu labels=os:linux");
    log.submit("needs-mac priority=9 labels=os:mac");
    log.submit("needs-much priority=9 resources=mem:11");
    log.submit("needs-both priority=9 labels=os:linux,arch:arm");
    log.submit("needs-type priority=9 kind=fuzz");
    assert_eq!(log.plan(9), [], "nobody fits");
    for task in ["needs-mac", "needs-much", "needs-both", "needs-type"] {
        for worker in ["plain", "linux", "gpu"] {
            assert_eq!(log.assign(task, worker), None, "{task} on {worker}: the machine checks too");
        }
    }
    log.register("arm slots=9 labels=os:linux,arch:arm");
    assert_eq!(log.plan(9), [("needs-both".to_owned(), "arm".to_owned())]);
}

/// Results were accepted from anybody; attempts were never written, so retries never ended.
#[test]
fn result_only_from_lease_holder() {
    let mut log = Log::default();
    log.register("w1");
    log.register("w2");
    log.submit("t");
    assert!(is_refused(&log.complete("t", "w1", 1), ErrorCode::StaleToken), "never leased");
    let token = log.assign("t", "w1").unwrap();
    assert!(is_refused(&log.complete("t", "w2", token), ErrorCode::StaleToken));
    assert!(is_refused(&log.complete("t", "w1", token + 1), ErrorCode::StaleToken));
    assert!(is_refused(&log.complete("x", "w1", token), ErrorCode::UnknownTask));
    assert_eq!(log.complete("t", "w1", token), Reply::Task { state: TaskState::Completed });
    assert_eq!(log.machine.task("t").unwrap().result.unwrap().get(), "\"w1\"");
    assert_eq!(log.machine.task("t").unwrap().attempts.len(), 1);
}

/// Locks without fencing are unsafe: a holder that was given up must not act on.
#[test]
fn lease_is_fenced() {
    let mut log = Log::default();
    log.register("w1");
    log.register("w2");
    log.submit("t backoff=0");
    let old = log.assign("t", "w1").unwrap();
    log.apply(&Command::WorkerLost { worker_id: "w1".into() });
    let new = log.assign("t", "w2").unwrap();
    assert!(new > old);
    assert!(is_refused(&log.complete("t", "w1", old), ErrorCode::StaleToken));
    assert_eq!(log.complete("t", "w2", new), Reply::Task { state: TaskState::Completed });
    assert!(is_refused(&log.complete("t", "w1", old), ErrorCode::StaleToken));
    assert_eq!(log.machine.task("t").unwrap().result.unwrap().get(), "\"w2\"");

    // The same worker, given up and back: only the token tells its first attempt from its second.
    log.submit("again backoff=0");
    let old = log.assign("again", "w2").unwrap();
    log.apply(&Command::WorkerLost { worker_id: "w2".into() });
    log.register("w2");
    let new = log.assign("again", "w2").unwrap();
    assert!(
        is_refused(&log.complete("again", "w2", old), ErrorCode::StaleToken),
        "its first attempt is over"
    );
    assert_eq!(log.complete("again", "w2", new), Reply::Task { state: TaskState::Completed });

    let take = |log: &mut Log, holder: &str| {
        log.apply(&Command::NamedLease { name: "repair".into(), holder: holder.into(), ttl_ms: 100 })
    };
    let Reply::Lease { epoch: first } = take(&mut log, "a") else { panic!("free") };
    assert!(first > new, "epochs and tokens come from one counter");
    assert!(is_refused(&take(&mut log, "b"), ErrorCode::LeaseHeld));
    log.log_ms += 100;
    let Reply::Lease { epoch: second } = take(&mut log, "b") else { panic!("expired") };
    assert!(second > first);
}

/// A hundred thousand tasks that nobody can run cost a round as much as one.
#[test]
fn a_class_that_nobody_can_run_is_asked_about_once() {
    let mut log = Log::default();
    log.register("w slots=8");
    let spec = |n: usize| crate::script::task(&[&format!("t{n}"), "labels=os:none", "priority=9"]);
    for chunk in 0..10 {
        let tasks = (0..10_000).map(|n| spec(chunk * 10_000 + n)).collect();
        assert_eq!(log.apply(&Command::Submit { tasks }), Reply::Submitted { created: 10_000 });
    }
    log.submit("fits priority=0");
    let pending = log.machine.pending();
    assert_eq!(pending.classes(0).len(), 2, "two questions a round, whatever waits");
    assert_eq!(log.plan(8), [("fits".to_owned(), "w".to_owned())]);
}
