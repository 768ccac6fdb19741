//! Random histories: whatever is asked in whatever order, the books are right.

use api::ErrorCode;
use api::task::TaskState;
use api::worker::WorkerState;
use coordinator::command::{
    Batch, Command, ExpireReason, KeyedWrite, Reply, RequestKey, RetryFilter, Stamp, TaskSpec, WorkerSpec,
};
use coordinator::machine::{Effect, Limits, Machine};
use coordinator::scheduler::{Offer, plan};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A step that makes sense only against a state; it is turned into a command when its turn comes.
#[derive(Debug, Clone)]
enum Step {
    Wait(u16),
    Submit(Vec<(u8, u8, u8)>),
    Cancel(u8),
    Retry(u8),
    Register(u8, u8),
    Drain(u8),
    Lost(u8),
    AssignAny(u8, u8),
    Plan(u8),
    Delivered(u8),
    /// Of a live lease or, where the last is true, of an old token.
    Complete(u8, bool, bool),
    Expire(u8, bool),
    Maintenance(bool),
    Checkpoint,
    Evict(u16, u8),
    NamedLease(u8, u8, u8),
    /// Submissions and retries under few keys.
    Keyed(u8, u8, u8),
    RetryMany(bool, u8),
    /// One of some settings.
    Set(u8, u16),
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u16..400).prop_map(Step::Wait),
        6 => proptest::collection::vec((0u8..24, 0u8..10, 0u8..6), 1..4).prop_map(Step::Submit),
        1 => (0u8..24).prop_map(Step::Cancel),
        2 => (0u8..24).prop_map(Step::Retry),
        3 => (0u8..4, 0u8..4).prop_map(|(w, slots)| Step::Register(w, slots)),
        1 => (0u8..4).prop_map(Step::Drain),
        1 => (0u8..4).prop_map(Step::Lost),
        3 => (0u8..24, 0u8..4).prop_map(|(t, w)| Step::AssignAny(t, w)),
        6 => (1u8..6).prop_map(Step::Plan),
        3 => any::<u8>().prop_map(Step::Delivered),
        8 => (any::<u8>(), any::<bool>(), proptest::bool::weighted(0.2)).prop_map(|(n, ok, old)| Step::Complete(n, ok, old)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(n, silent)| Step::Expire(n, silent)),
        1 => any::<bool>().prop_map(Step::Maintenance),
        1 => Just(Step::Checkpoint),
        1 => (0u16..800, 0u8..4).prop_map(|(ago, limit)| Step::Evict(ago, limit)),
        2 => (0u8..2, 0u8..3, 0u8..200).prop_map(|(n, h, ttl)| Step::NamedLease(n, h, ttl)),
        2 => (0u8..4, 0u8..3, 0u8..24).prop_map(|(k, hash, t)| Step::Keyed(k, hash, t)),
        1 => (any::<bool>(), 0u8..4).prop_map(|(failed, limit)| Step::RetryMany(failed, limit)),
        1 => (0u8..4, 0u16..2000).prop_map(|(n, value)| Step::Set(n, value)),
        1 => Just(Step::Empty),
    ]
}

fn small_limits() -> Limits {
    Limits {
        finished_tasks: 5,
        attempts_per_task: 3,
        named_leases: 3,
        checkpoints: 4,
        lost_worker_ms: 300,
        checkpoint_interval: 7,
        ..Limits::default()
    }
}

/// A machine with the books a suspicious person would keep beside it.
struct Audit {
    machine: Machine,
    index: u64,
    log_ms: u64,
    /// Every token ever seen with its task.
    tokens: BTreeMap<u64, String>,
    /// (task number, attempt) whose result was accepted.
    accepted: BTreeSet<(u64, u32)>,
    /// The batches, for another machine.
    log: Vec<Vec<u8>>,
}

impl Audit {
    fn new() -> Self {
        let machine = Machine::with_limits(small_limits());
        Audit {
            machine,
            index: 0,
            log_ms: 0,
            tokens: BTreeMap::new(),
            accepted: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    fn command(&mut self, step: &Step) -> Option<Command> {
        let task = |n: &u8| format!("t{n}");
        let worker = |n: &u8| format!("w{n}");
        let leases = self.machine.all_leases();
        let pick = |n: &u8| (!leases.is_empty()).then(|| leases[*n as usize % leases.len()].clone());
        Some(match step {
            Step::Wait(ms) => {
                self.log_ms += u64::from(*ms);
                return None;
            }
            Step::Submit(tasks) => Command::Submit { tasks: tasks.iter().map(spec).collect() },
            Step::Cancel(n) => Command::Cancel { task_id: task(n) },
            Step::Retry(n) => Command::Retry { task_id: task(n) },
            Step::Register(n, slots) => Command::RegisterWorker { worker: worker_spec(*n, *slots) },
            Step::Drain(n) => Command::DrainWorker { worker_id: worker(n) },
            Step::Lost(n) => Command::WorkerLost { worker_id: worker(n) },
            Step::AssignAny(t, w) => Command::Assign { pairs: vec![(task(t), worker(w))] },
            Step::Plan(slots) => {
                let offers: Vec<Offer> =
                    (0u8..4).map(|n| Offer { worker_id: worker(&n), slots: u32::from(*slots) }).collect();
                Command::Assign { pairs: plan(&self.machine, self.log_ms, &offers, 5) }
            }
            Step::Delivered(n) => {
                Command::Delivered { tokens: pick(n).map(|l| l.token).into_iter().collect() }
            }
            Step::Complete(n, success, old) => {
                let lease = pick(n)?;
                let token = if *old { lease.token.saturating_sub(u64::from(*n % 5)) } else { lease.token };
                Command::Complete {
                    task_id: lease.task_id,
                    worker_id: lease.worker_id,
                    token,
                    success: *success,
                    result: Some(format!("{token}")),
                    error: (!success).then(|| "failed".repeat(usize::from(*n))),
                    started_ms: 1,
                    finished_ms: 2,
                    resources: BTreeMap::new(),
                }
            }
            Step::Expire(n, silent) => {
                let lease = pick(n)?;
                let reason = if *silent { ExpireReason::Silent } else { ExpireReason::TimedOut };
                Command::Expire { leases: vec![(lease.task_id, lease.token, reason)] }
            }
            Step::Maintenance(enabled) => Command::Maintenance { enabled: *enabled, by: None },
            Step::Checkpoint => Command::Checkpoint,
            Step::Evict(ago, limit) => Command::Evict {
                before_log_ms: self.log_ms.saturating_sub(u64::from(*ago)),
                limit: u32::from(*limit),
            },
            Step::NamedLease(name, holder, ttl) => Command::NamedLease {
                name: format!("n{name}"),
                holder: format!("h{holder}"),
                ttl_ms: u64::from(*ttl),
            },
            Step::Keyed(key, hash, n) => Command::Keyed {
                key: RequestKey { key: format!("k{key}"), request_hash: u128::from(*hash), salt: 1 },
                write: match hash {
                    0 => KeyedWrite::Submit { tasks: vec![spec(&(*n, 5, 0))] },
                    1 => KeyedWrite::Retry { task_id: task(n) },
                    _ => KeyedWrite::RetryMany { filter: retry_filter(true, *n) },
                },
            },
            Step::RetryMany(failed, limit) => Command::RetryMany { filter: retry_filter(*failed, *limit) },
            Step::Set(n, value) => {
                let name = ["unfinished_tasks", "workers", "request_keys", "attempts_per_task"][*n as usize];
                Command::ChangeSettings { changes: BTreeMap::from([(name.into(), u64::from(*value))]) }
            }
            Step::Empty => {
                self.index += 1;
                self.machine.finish_entry(self.index, 1, &[]);
                self.log.push(Vec::new());
                return None;
            }
        })
    }

    fn step(&mut self, step: &Step) {
        let Some(command) = self.command(step) else { return };
        let planned = matches!(step, Step::Plan(_));
        let was: BTreeMap<String, (u32, u32)> = self.slots();
        let before = self.machine.checksum();
        let stamp = Stamp { log_ms: self.log_ms, wall_ms: self.log_ms as i64 + 1_000_000 };
        self.index += 1;
        let mut effects = Vec::new();
        let last_ms = self.machine.log_ms();
        let reply = self.machine.apply(self.index, 1, stamp, &command, &mut effects);
        let entry = Batch::pack(stamp, &[command.encode()]);
        self.machine.finish_entry(self.index, 1, &entry);
        self.log.push(entry);

        if let Reply::Refused { code, .. } = &reply {
            assert!(effects.is_empty(), "{command:?} was refused with effects");
            assert_ne!(*code, ErrorCode::Internal);
            if last_ms == self.machine.log_ms() {
                assert_eq!(before, self.machine.checksum(), "{command:?} was refused and changed something");
            }
        }
        if let (true, Command::Assign { pairs }, Reply::Count(count)) = (planned, &command, &reply) {
            assert_eq!(pairs.len(), *count, "the machine skipped a pair of the scheduler");
        }
        self.check_effects(&effects);
        self.check_slots(&was);
        self.check_books();
    }

    fn slots(&self) -> BTreeMap<String, (u32, u32)> {
        self.machine.workers().into_iter().map(|w| (w.worker_id, (w.running, w.slots))).collect()
    }

    fn check_effects(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Assigned { spec, token, .. } => {
                    let twin = self.tokens.insert(*token, spec.id.to_string());
                    assert_eq!(twin, None, "token {token} was given out twice");
                    assert_eq!(self.tokens.last_key_value().map(|(t, _)| *t), Some(*token), "tokens grow");
                }
                Effect::AttemptEnded { spec, attempt, .. } => {
                    let first = self.accepted.insert((spec.seq, attempt.attempt));
                    assert!(first, "attempt {} of {} ended twice", attempt.attempt, spec.id);
                }
                _ => {}
            }
        }
    }

    /// Nothing was given to a worker that had no slot for it.
    fn check_slots(&self, was: &BTreeMap<String, (u32, u32)>) {
        for worker in self.machine.workers() {
            let before = was.get(&worker.worker_id).map_or(0, |(running, _)| *running);
            assert!(worker.running <= worker.slots.max(before), "{worker:?} is over-committed");
            if matches!(worker.state, WorkerState::Lost) {
                assert_eq!(worker.running, 0, "a lost worker holds nothing");
            }
        }
    }

    fn check_books(&self) {
        let machine = &self.machine;
        assert_eq!(machine.checksum(), machine.recompute_checksum());
        let counts = machine.task_counts();
        assert_eq!(counts.values().sum::<u64>(), machine.tasks_in_memory() as u64);
        let leases = machine.all_leases();
        assert_eq!(leases.len() as u64, counts[&TaskState::Assigned] + counts[&TaskState::Running]);
        let of_workers: usize = machine.workers().iter().map(|w| machine.leases_of(&w.worker_id).len()).sum();
        assert_eq!(leases.len(), of_workers);
        for lease in &leases {
            assert_eq!(machine.lease(lease.token).as_ref(), Some(lease));
            assert_eq!(machine.task(&lease.task_id).unwrap().token, Some(lease.token));
            assert_eq!(
                machine.leased_task(lease.token, jiff::Timestamp::UNIX_EPOCH).unwrap().task_id,
                lease.task_id
            );
        }
        let finished: u64 = counts.iter().filter(|(s, _)| s.is_final()).map(|(_, n)| n).sum();
        assert!(finished <= machine.limits().finished_tasks);
        assert_eq!(machine.has_pending(), counts[&TaskState::Pending] > 0);
        // Everything that waits is in a class once its time has come.
        let waiting: usize = machine.pending().classes(u64::MAX).into_iter().map(Iterator::count).sum();
        assert_eq!(waiting as u64, counts[&TaskState::Pending]);
        for (state, count) in machine.worker_counts() {
            assert_eq!(machine.workers().iter().filter(|w| w.state == state).count() as u64, count);
        }
    }
}

fn retry_filter(failed: bool, limit: u8) -> RetryFilter {
    let state = if failed { TaskState::Failed } else { TaskState::Cancelled };
    RetryFilter { state, kind: None, worker: None, limit: u32::from(limit) }
}

fn spec((id, priority, variant): &(u8, u8, u8)) -> TaskSpec {
    let labels =
        if *variant == 1 { BTreeMap::from([("os".into(), "linux".into())]) } else { BTreeMap::new() };
    let resources = if *variant == 2 { BTreeMap::from([("mem".into(), 3)]) } else { BTreeMap::new() };
    TaskSpec {
        task_id: format!("t{id}"),
        kind: if *variant == 3 { "noop".into() } else { "command".into() },
        // Equal ids mostly have equal bodies, or nothing but refusals would follow.
        priority: if *priority == 9 { 9 } else { id % 9 },
        config: if *variant == 4 { "{ }".into() } else { "{}".into() },
        labels,
        resources,
        timeout_ms: 1000,
        max_retries: u32::from(id % 3),
        retry_backoff_ms: u64::from(id % 4) * 100,
        any_of: if *variant == 5 {
            vec![BTreeMap::from([("os".into(), "linux".into())])]
        } else {
            Vec::new()
        },
    }
}

fn worker_spec(id: u8, slots: u8) -> WorkerSpec {
    WorkerSpec {
        worker_id: format!("w{id}"),
        labels: if id.is_multiple_of(2) {
            BTreeMap::from([("os".into(), "linux".into())])
        } else {
            BTreeMap::new()
        },
        resources: BTreeMap::from([("mem".into(), u64::from(id) * 3)]),
        slots: u32::from(slots),
        types: if id == 3 { vec!["command".into()] } else { vec!["command".into(), "noop".into()] },
        host: None,
    }
}

/// Applies a log from the beginning, or behind what a snapshot holds.
fn replay(mut machine: Machine, log: &[Vec<u8>]) -> Machine {
    for (at, entry) in log.iter().enumerate() {
        let index = at as u64 + 1;
        if index <= machine.applied_index() {
            continue;
        }
        if !entry.is_empty() {
            let batch = Batch::decode(entry).unwrap();
            for command in &batch.commands {
                machine.apply(index, 1, batch.stamp, command, &mut Vec::new());
            }
        }
        machine.finish_entry(index, 1, entry);
    }
    machine
}

fn assert_equal(a: &Machine, b: &Machine) {
    assert_eq!(a.state_checksum(), b.state_checksum());
    assert_eq!(a.encode_snapshot(), b.encode_snapshot());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn books_are_right_after_every_step(steps in proptest::collection::vec(step(), 1..160)) {
        let mut audit = Audit::new();
        for step in &steps {
            audit.step(step);
        }
        let twin = replay(Machine::with_limits(small_limits()), &audit.log);
        assert_equal(&audit.machine, &twin);
    }

    #[test]
    fn a_snapshot_goes_on_like_the_machine(
        steps in proptest::collection::vec(step(), 2..120),
        cut in 0.0f64..1.0,
    ) {
        let mut audit = Audit::new();
        let cut = (steps.len() as f64 * cut) as usize;
        for step in &steps[..cut] {
            audit.step(step);
        }
        let bytes = audit.machine.encode_snapshot();
        let restored = Machine::decode_snapshot(&bytes).unwrap();
        assert_equal(&audit.machine, &restored);
        for step in &steps[cut..] {
            audit.step(step);
        }
        assert_equal(&audit.machine, &replay(restored, &audit.log));
    }
}
