//! Snapshots: damage is named, hostile bytes never panic, memory stays in its bounds.

use coordinator::command::{Command, Stamp};
use coordinator::machine::{Machine, SnapshotError};
use proptest::prelude::*;

fn apply(machine: &mut Machine, command: &Command) {
    let index = machine.applied_index() + 1;
    machine.apply(index, 1, Stamp { log_ms: index, wall_ms: 1 }, command, &mut Vec::new());
    machine.finish_entry(index, 1, &command.encode());
}

/// A machine with something of everything.
fn rich() -> Machine {
    let mut machine = Machine::new();
    let worker = crate::script::worker(&["w", "slots=3", "labels=os:linux", "resources=mem:9", "host=h"]);
    apply(&mut machine, &Command::RegisterWorker { worker });
    for n in 0..8 {
        let line = [&format!("t{n}"), "resources=mem:1", "labels=os:linux", "config={\"a\":1}"];
        apply(&mut machine, &Command::Submit { tasks: vec![crate::script::task(&line)] });
    }
    let pairs = (0..3).map(|n| (format!("t{n}"), "w".to_owned())).collect();
    apply(&mut machine, &Command::Assign { pairs });
    apply(&mut machine, &Command::Delivered { tokens: vec![1] });
    for (task, token, success) in [("t1", 2, false), ("t2", 3, true)] {
        apply(
            &mut machine,
            &Command::Complete {
                task_id: task.into(),
                worker_id: "w".into(),
                token,
                success,
                result: Some("[1]".into()),
                error: (!success).then(|| "no".into()),
                started_ms: 5,
                finished_ms: 6,
                resources: [("cpu_ms".to_owned(), 7)].into(),
            },
        );
    }
    apply(&mut machine, &Command::Cancel { task_id: "t7".into() });
    apply(&mut machine, &Command::NamedLease { name: "n".into(), holder: "h".into(), ttl_ms: 500 });
    apply(&mut machine, &Command::Checkpoint);
    machine
}

/// What version 1 wrote. If this fails, older snapshots can no longer be read: add a version.
#[test]
fn a_snapshot_is_written_as_ever() {
    let machine = rich();
    let bytes = machine.encode_snapshot();
    let hash = xxhash_rust::xxh3::xxh3_128(&bytes);
    assert_eq!((bytes.len(), format!("{hash:032x}").as_str()), (GOLDEN_BYTES, GOLDEN_HASH));
    assert_eq!(machine.state_checksum().checksum, GOLDEN_CHECKSUM);
}

const GOLDEN_BYTES: usize = 560;
const GOLDEN_HASH: &str = "62a1799b9ae796f541be62d307d3bb49";
const GOLDEN_CHECKSUM: &str = "c11d1ee5c2c23549c6883952bac76c3e";

#[test]
fn damage_is_named() {
    let bytes = rich().encode_snapshot();
    let decode = |bytes: &[u8]| Machine::decode_snapshot(bytes).unwrap_err();
    assert_eq!(decode(b""), SnapshotError::Foreign);
    assert_eq!(decode(b"SQLite format 3\0................................"), SnapshotError::Foreign);
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(decode(&newer), SnapshotError::Version { found: 2 });
    assert!(matches!(decode(&bytes[..bytes.len() - 1]), SnapshotError::Length { .. }));
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(decode(&longer), SnapshotError::Length { .. }));
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(decode(&flipped), SnapshotError::Damaged);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = rich().encode_snapshot();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(Machine::decode_snapshot(&flipped).is_err(), "byte {at}");
    }
}

/// As an attacker would: the hash is right, the body is not.
fn sealed(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = head[..10].to_vec();
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_128(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bodies_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let bytes = rich().encode_snapshot();
        let mut body = bytes[34..].to_vec();
        for (at, value) in &changes {
            let at = at.index(body.len());
            body[at] = *value;
        }
        let hostile = sealed(&bytes, &body);
        if let Ok(mut machine) = Machine::decode_snapshot(&hostile) {
            // Let in: then it is a sound machine.
            prop_assert_eq!(machine.checksum(), machine.recompute_checksum());
            for n in 0..8 {
                let index = machine.applied_index().saturating_add(1);
                let cancel = Command::Cancel { task_id: format!("t{n}") };
                machine.apply(index, 1, Stamp::default(), &cancel, &mut Vec::new());
            }
        }
    }

    #[test]
    fn random_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Machine::decode_snapshot(&sealed(&rich().encode_snapshot(), &body));
    }
}
