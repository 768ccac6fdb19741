//! Snapshots: damage is named, hostile bytes never panic, memory stays in its bounds.

use coordinator::command::{Command, Stamp};
use coordinator::machine::{CutSum, Machine, SnapshotEncoder, SnapshotError};
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

/// What version 2 wrote. If this fails, older snapshots can no longer be read: add a version. A
/// new version's file is written by a run with `WRITE_GOLDEN` in the environment.
#[test]
fn a_snapshot_is_written_as_ever() {
    let machine = rich();
    let bytes = machine.encode_snapshot();
    let version = coordinator::machine::SNAPSHOT_VERSION;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/machine/machine-{version}.snapshot"));
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    let read = Machine::decode_snapshot(&golden).unwrap();
    assert_eq!(read.state_checksum(), machine.state_checksum());
    assert_eq!(read.state_checksum().checksum, GOLDEN_CHECKSUM);
    assert!(bytes == golden, "another layout than that of {}", path.display());
}

const GOLDEN_CHECKSUM: &str = "c11d1ee5c2c23549c6883952bac76c3e";

#[test]
fn damage_is_named() {
    let bytes = rich().encode_snapshot();
    let decode = |bytes: &[u8]| Machine::decode_snapshot(bytes).unwrap_err();
    assert_eq!(decode(b""), SnapshotError::Foreign);
    assert_eq!(decode(b"SQLite format 3\0................................"), SnapshotError::Foreign);
    for (version, error) in [(1, SnapshotError::Older { found: 1 }), (3, SnapshotError::Newer { found: 3 })] {
        let mut other = bytes.clone();
        other[8] = version;
        assert_eq!(decode(&other), error);
    }
    assert!(matches!(decode(&bytes[..bytes.len() - 1]), SnapshotError::Short { at: 10 }));
    assert!(matches!(decode(&bytes[..10]), SnapshotError::Short { at: 10 }));
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(decode(&longer), SnapshotError::Long { at: bytes.len() as u64 });
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(decode(&flipped), SnapshotError::Damaged { at: 10 });
}

/// A cut is read while everything in it changes, leaves, and more comes: it gives what was there.
#[test]
fn a_cut_holds_still_while_the_machine_goes_on() {
    let mut machine = rich();
    let expected = rich().encode_snapshot();
    let cut = machine.begin_cut();
    let mut encoder = SnapshotEncoder::new(&cut);
    let mut number = 0;
    while let Some(tasks) = machine.read_cut(&cut, 1).filter(|tasks| !tasks.is_empty()) {
        assert_eq!(tasks.len(), 1);
        encoder.add(&tasks);
        apply(
            &mut machine,
            &Command::Submit { tasks: vec![crate::script::task(&[&format!("new{number}")])] },
        );
        apply(&mut machine, &Command::Cancel { task_id: format!("t{}", 7 - number) });
        apply(&mut machine, &Command::Evict { before_log_ms: u64::MAX, limit: 1 });
        number += 1;
    }
    assert_eq!(number, 8);
    let mut bytes = encoder.take();
    bytes.extend(encoder.finish().unwrap());
    assert_eq!(bytes, expected);
    machine.end_cut(&cut);
    assert_ne!(machine.encode_snapshot(), expected);
}

#[test]
fn a_cut_is_given_up_for_another_and_for_another_machine() {
    let mut machine = rich();
    let first = machine.begin_cut();
    let second = machine.begin_cut();
    assert!(machine.read_cut(&first, 1).is_none());
    assert_eq!(machine.read_cut(&second, 100).unwrap().len(), 8);
    machine.end_cut(&first);
    assert!(machine.read_cut(&second, 100).unwrap().is_empty());
    let mut other = rich();
    other.begin_cut();
    assert!(other.read_cut(&second, 1).is_none());
}

#[test]
fn the_sum_of_a_cut_is_the_checksum() {
    let mut machine = rich();
    let cut = machine.begin_cut();
    let mut sum = CutSum::new(&cut);
    while let Some(tasks) = machine.read_cut(&cut, 3).filter(|tasks| !tasks.is_empty()) {
        sum.add(&tasks);
    }
    sum.finish().unwrap();
    // One task left out.
    let cut = machine.begin_cut();
    let mut sum = CutSum::new(&cut);
    sum.add(&machine.read_cut(&cut, 7).unwrap());
    assert!(sum.finish().unwrap_err().contains("add up to"));
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

/// As an attacker would: the hash is right, the records are not.
fn sealed(block: &[u8]) -> Vec<u8> {
    let mut bytes = b"HOLDFAST\x02\x00".to_vec();
    let packed = lz4_flex::block::compress(block);
    bytes.extend_from_slice(&(block.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&packed).to_le_bytes());
    bytes.extend_from_slice(&packed);
    bytes
}

/// The records of a snapshot of one block.
fn unsealed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::from_le_bytes(bytes[10..14].try_into().unwrap());
    lz4_flex::block::decompress(&bytes[26..], length as usize).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bodies_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut body = unsealed(&rich().encode_snapshot());
        for (at, value) in &changes {
            let at = at.index(body.len());
            body[at] = *value;
        }
        let hostile = sealed(&body);
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
        let _ = Machine::decode_snapshot(&sealed(&body));
    }
}
