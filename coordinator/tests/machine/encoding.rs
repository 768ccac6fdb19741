//! The encoding of log entries: golden bytes hold the format down, random ones come back whole.

use api::task::TaskState;
use coordinator::command::{
    Batch, Command, DecodeError, ExpireReason, KeyedWrite, RequestKey, RetryFilter, Stamp, TaskSpec,
    WorkerSpec,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn amounts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
}

fn filter() -> RetryFilter {
    RetryFilter { state: TaskState::Failed, kind: Some("noop".into()), worker: None, limit: 300 }
}

/// One of each command, in the order of the enum.
fn every_command() -> Vec<Command> {
    vec![
        Command::Submit {
            tasks: vec![TaskSpec {
                task_id: "t".into(),
                kind: "command".into(),
                priority: 5,
                config: "{}".into(),
                labels: texts(&[("os", "linux")]),
                resources: amounts(&[("cpu", 300)]),
                timeout_ms: 600_000,
                max_retries: 2,
                retry_backoff_ms: 1000,
                any_of: vec![texts(&[("gpu", "a")])],
            }],
        },
        Command::Cancel { task_id: "t".into() },
        Command::Retry { task_id: "t".into() },
        Command::RegisterWorker {
            worker: WorkerSpec {
                worker_id: "w".into(),
                labels: texts(&[("os", "linux")]),
                resources: amounts(&[("cpu", 4)]),
                slots: 2,
                types: vec!["noop".into()],
                host: Some("h".into()),
            },
        },
        Command::DrainWorker { worker_id: "w".into() },
        Command::Assign { pairs: vec![("t".into(), "w".into())] },
        Command::Delivered { tokens: vec![1, 300] },
        Command::Complete {
            task_id: "t".into(),
            worker_id: "w".into(),
            token: 7,
            success: true,
            result: Some("1".into()),
            error: None,
            started_ms: -1,
            finished_ms: 2,
            resources: amounts(&[("cpu_ms", 5)]),
        },
        Command::Expire {
            leases: vec![("t".into(), 7, ExpireReason::Silent), ("u".into(), 8, ExpireReason::TimedOut)],
        },
        Command::WorkerLost { worker_id: "w".into() },
        Command::Maintenance { enabled: true, by: Some("ann".into()) },
        Command::Checkpoint,
        Command::Evict { before_log_ms: 300, limit: 9 },
        Command::NamedLease { name: "n".into(), holder: "h".into(), ttl_ms: 200 },
        Command::RaiseVersion { to: 300 },
        Command::ChangeSettings { changes: amounts(&[("lease_ttl_ms", 300)]) },
        Command::RetryMany { filter: filter() },
        Command::Keyed {
            key: RequestKey { key: "k".into(), request_hash: 300, salt: 1 },
            write: KeyedWrite::RetryMany { filter: filter() },
        },
    ]
}

/// What version 1 wrote. A change here is a log that older nodes can't read: add a version instead.
const GOLDEN: [&str; 18] = [
    "0001017407636f6d6d616e6405027b7d01026f73056c696e757801036370 75ac02c0cf2402e8070101036770750161",
    "010174",
    "020174",
    "03017701026f73056c696e75780103637075040201046e6f6f70010168",
    "040177",
    "050101740177",
    "060201ac02",
    "07017401770701010131000104010663 70755f6d7305",
    "0802017407000175 0801",
    "090177",
    "0a010103616e6e",
    "0b",
    "0cac0209",
    "0d016e0168c801",
    "0eac02",
    "0f010c6c656173655f74746c5f6d73ac02",
    "100401046e6f6f7000ac02",
    "11016bac0201020401046e6f6f7000ac02",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn commands_are_written_as_ever() {
    for (command, golden) in every_command().iter().zip(GOLDEN) {
        assert_eq!(hex(&command.encode()), golden.replace(' ', ""), "{}", command.name());
    }
}

#[test]
fn a_batch_is_written_as_ever() {
    let stamp = Stamp { log_ms: 300, wall_ms: -2 };
    let commands = [Command::Checkpoint.encode(), Command::Cancel { task_id: "t".into() }.encode()];
    assert_eq!(hex(&Batch::pack(stamp, &commands)), "01ac0203020b010174");
}

#[test]
fn every_command_comes_back() {
    let commands = every_command();
    assert_eq!(commands.len(), GOLDEN.len());
    assert_eq!(commands.len(), Command::KINDS as usize);
    let stamp = Stamp { log_ms: u64::MAX, wall_ms: i64::MIN };
    let encoded: Vec<_> = commands.iter().map(Command::encode).collect();
    assert_eq!(Batch::decode(&Batch::pack(stamp, &encoded)).unwrap(), Batch { stamp, commands });
}

#[test]
fn a_command_of_a_newer_program_is_named_as_such() {
    let entry = Batch::pack(Stamp::default(), &[[Command::KINDS as u8, 0]]);
    let error = Batch::decode(&entry).unwrap_err();
    assert!(matches!(error, DecodeError::UnknownCommand { number: Command::KINDS }), "{error}");
    assert!(error.to_string().contains("update the program"), "{error}");
}

#[test]
fn a_newer_entry_is_named_as_such() {
    let error = Batch::decode(&[2, 0, 0, 0]).unwrap_err();
    assert!(matches!(error, DecodeError::Version { found: 2 }), "{error}");
    assert!(error.to_string().contains("update it"), "{error}");
}

#[test]
fn broken_entries_are_errors() {
    let whole =
        Batch::pack(Stamp::default(), &every_command().iter().map(Command::encode).collect::<Vec<_>>());
    for end in 0..whole.len() {
        assert!(Batch::decode(&whole[..end]).is_err(), "the first {end} bytes passed for a batch");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(Batch::decode(&longer).is_err());
    assert!(Batch::decode(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
}

pub fn arb_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z]{1,8}", "\\PC{0,12}"]
}

fn arb_texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(arb_text(), arb_text(), 0..3)
}

fn arb_amounts() -> impl Strategy<Value = BTreeMap<String, u64>> {
    proptest::collection::btree_map(arb_text(), any::<u64>(), 0..3)
}

fn arb_task() -> impl Strategy<Value = TaskSpec> {
    let names = (arb_text(), arb_text(), any::<u8>(), arb_text());
    let numbers = (any::<u64>(), any::<u32>(), any::<u64>());
    let any_of = proptest::collection::vec(arb_texts(), 0..3);
    (names, arb_texts(), arb_amounts(), numbers, any_of).prop_map(
        |(
            (task_id, kind, priority, config),
            labels,
            resources,
            (timeout_ms, max_retries, retry_backoff_ms),
            any_of,
        )| {
            TaskSpec {
                task_id,
                kind,
                priority,
                config,
                labels,
                resources,
                timeout_ms,
                max_retries,
                retry_backoff_ms,
                any_of,
            }
        },
    )
}

fn arb_filter() -> impl Strategy<Value = RetryFilter> {
    let state = proptest::sample::select(TaskState::ALL.to_vec());
    let name = || proptest::option::of(arb_text());
    (state, name(), name(), any::<u32>()).prop_map(|(state, kind, worker, limit)| RetryFilter {
        state,
        kind,
        worker,
        limit,
    })
}

fn arb_keyed() -> impl Strategy<Value = KeyedWrite> {
    prop_oneof![
        proptest::collection::vec(arb_task(), 0..3).prop_map(|tasks| KeyedWrite::Submit { tasks }),
        arb_text().prop_map(|task_id| KeyedWrite::Retry { task_id }),
        arb_filter().prop_map(|filter| KeyedWrite::RetryMany { filter }),
    ]
}

fn arb_command() -> impl Strategy<Value = Command> {
    let id = arb_text;
    let reason = prop_oneof![Just(ExpireReason::Silent), Just(ExpireReason::TimedOut)];
    let report = (id(), id(), any::<u64>(), any::<bool>());
    let left =
        (proptest::option::of(id()), proptest::option::of(id()), any::<i64>(), any::<i64>(), arb_amounts());
    let worker = (
        id(),
        arb_texts(),
        arb_amounts(),
        any::<u32>(),
        proptest::collection::vec(id(), 0..3),
        proptest::option::of(id()),
    );
    prop_oneof![
        proptest::collection::vec(arb_task(), 0..4).prop_map(|tasks| Command::Submit { tasks }),
        id().prop_map(|task_id| Command::Cancel { task_id }),
        id().prop_map(|task_id| Command::Retry { task_id }),
        worker.prop_map(|(worker_id, labels, resources, slots, types, host)| Command::RegisterWorker {
            worker: WorkerSpec { worker_id, labels, resources, slots, types, host }
        }),
        id().prop_map(|worker_id| Command::DrainWorker { worker_id }),
        proptest::collection::vec((id(), id()), 0..4).prop_map(|pairs| Command::Assign { pairs }),
        proptest::collection::vec(any::<u64>(), 0..4).prop_map(|tokens| Command::Delivered { tokens }),
        (report, left).prop_map(
            |((task_id, worker_id, token, success), (result, error, started_ms, finished_ms, resources))| {
                Command::Complete {
                    task_id,
                    worker_id,
                    token,
                    success,
                    result,
                    error,
                    started_ms,
                    finished_ms,
                    resources,
                }
            }
        ),
        proptest::collection::vec((id(), any::<u64>(), reason), 0..4)
            .prop_map(|leases| Command::Expire { leases }),
        id().prop_map(|worker_id| Command::WorkerLost { worker_id }),
        any::<(bool, Option<String>)>().prop_map(|(enabled, by)| Command::Maintenance { enabled, by }),
        Just(Command::Checkpoint),
        (any::<u64>(), any::<u32>())
            .prop_map(|(before_log_ms, limit)| Command::Evict { before_log_ms, limit }),
        (id(), id(), any::<u64>()).prop_map(|(name, holder, ttl_ms)| Command::NamedLease {
            name,
            holder,
            ttl_ms
        }),
        arb_amounts().prop_map(|changes| Command::ChangeSettings { changes }),
        arb_filter().prop_map(|filter| Command::RetryMany { filter }),
        (id(), any::<u128>(), any::<u128>(), arb_keyed()).prop_map(|(key, request_hash, salt, write)| {
            Command::Keyed { key: RequestKey { key, request_hash, salt }, write }
        }),
    ]
}

proptest! {
    #[test]
    fn any_batch_comes_back(
        commands in proptest::collection::vec(arb_command(), 0..6),
        log_ms in any::<u64>(),
        wall_ms in any::<i64>(),
    ) {
        let stamp = Stamp { log_ms, wall_ms };
        let encoded: Vec<_> = commands.iter().map(Command::encode).collect();
        prop_assert_eq!(Batch::decode(&Batch::pack(stamp, &encoded)).unwrap(), Batch { stamp, commands });
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..3) {
        let mut entry = vec![version];
        entry.extend(bytes);
        let _ = Batch::decode(&entry);
    }

    /// Any command the log could hold is applied without a panic, and keeps the sums.
    #[test]
    fn any_command_can_be_applied(commands in proptest::collection::vec(arb_command(), 0..40), log_ms in any::<u64>()) {
        let mut machine = coordinator::machine::Machine::new();
        for (index, command) in (1..).zip(&commands) {
            let stamp = Stamp { log_ms: log_ms.wrapping_mul(index), wall_ms: log_ms as i64 };
            machine.apply(index, 1, stamp, command, &mut Vec::new());
            machine.finish_entry(index, 1, &[]);
            prop_assert_eq!(machine.checksum(), machine.recompute_checksum());
        }
        let again = coordinator::machine::Machine::decode_snapshot(&machine.encode_snapshot()).unwrap();
        prop_assert_eq!(again.checksum(), machine.checksum());
    }
}
