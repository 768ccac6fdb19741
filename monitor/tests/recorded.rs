//! The detectors on what a monitor saw of real failures, made on real programs.
//!
//! The recordings in `recorded/` come from `./dev chaos record`. Each holds some quiet rounds, a failure
//! until it was named, its end, and quiet rounds again: that one failure must be named, on the node it was
//! made on, and nothing else above info, ever.

use jiff::Timestamp;
use monitor::detectors::{FaultKind, Finding, Limits};
use monitor::{NodeReport, Observer, ScrapeFailure, Severity};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The first line of a recording.
#[derive(Debug, Deserialize)]
struct Header {
    kind: FaultKind,
    node: Option<String>,
    made_by: String,
    /// The last round before the failure was made, and before it was taken away again.
    made_after_round: u64,
    undone_after_round: u64,
}

#[derive(Debug, Deserialize)]
struct Round {
    round: u64,
    at: Timestamp,
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    address: String,
    took_ms: f64,
    failure: Option<ScrapeFailure>,
    report: Option<api::cluster::Report>,
}

struct Recording {
    header: Header,
    rounds: Vec<Round>,
}

/// Makes the next round of the one before: keys that changed, places of arrays that changed.
fn apply(value: &mut Value, change: Value) {
    match (value, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (key, change) in changes {
                match fields.get_mut(&key) {
                    _ if change.is_null() => drop(fields.remove(&key)),
                    Some(field) => apply(field, change),
                    None => drop(fields.insert(key, change)),
                }
            }
        }
        (Value::Array(items), Value::Object(changes)) => {
            for (place, change) in changes {
                let place: usize = place.parse().expect("a place in an array");
                apply(&mut items[place], change);
            }
        }
        (value, change) => *value = change,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded")
}

fn read(kind: FaultKind) -> Recording {
    let path = folder().join(format!("{kind}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = text.lines();
    let header: Header = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(header.kind, kind);
    let mut standing = Value::Object(serde_json::Map::new());
    let rounds = lines.map(|line| {
        apply(&mut standing, serde_json::from_str(line).unwrap());
        Round::deserialize(&standing).unwrap_or_else(|e| panic!("{kind}: {e}"))
    });
    Recording { rounds: rounds.collect(), header }
}

fn answers(round: Round) -> Vec<NodeReport> {
    let answer = |node: Node| NodeReport {
        outcome: match (node.report, node.failure) {
            (Some(report), _) => Ok(report),
            (None, Some(failure)) => Err(failure),
            (None, None) => panic!("{} has neither a report nor a failure", node.address),
        },
        address: node.address,
        at: round.at,
        took_ms: node.took_ms,
    };
    round.nodes.into_iter().map(answer).collect()
}

/// What is found above info in each round.
fn findings(rounds: Vec<Round>) -> Vec<(u64, Vec<Finding>)> {
    let mut observer = Observer::new(Limits::default(), 1.0);
    let mut all = Vec::new();
    for round in rounds {
        let (number, at) = (round.round, round.at);
        let mut findings = observer.take(&answers(round), at).findings;
        findings.retain(|finding| finding.severity > Severity::Info);
        all.push((number, findings));
    }
    all
}

fn is_named_rightly(kind: FaultKind) {
    let Recording { header, rounds } = read(kind);
    let (first, last) = (rounds[0].round, rounds[rounds.len() - 1].round);
    assert_eq!(last - first + 1, rounds.len() as u64, "they are numbered one by one");
    assert!(header.made_after_round >= 5 && last >= header.undone_after_round + 5, "{header:?}");
    let found = findings(rounds);
    for (round, findings) in &found {
        if *round <= header.made_after_round {
            assert!(findings.is_empty(), "before it was made, round {round}: {findings:#?}");
        }
        for finding in findings {
            assert_eq!(finding.kind, kind, "round {round}: {finding:#?}");
            // A cut has two ends.
            let concerned = header.node.as_ref().is_none_or(|node| finding.nodes.contains(node));
            assert!(
                concerned,
                "made on {:?} by {}, round {round}: {finding:#?}",
                header.node, header.made_by
            );
            assert!(!finding.evidence.is_empty() && !finding.look_at.is_empty(), "{finding:#?}");
        }
    }
    let named = found.iter().find(|(_, findings)| !findings.is_empty()).map(|(round, _)| *round);
    let named = named.unwrap_or_else(|| panic!("{kind} was never named"));
    assert!(named <= header.undone_after_round, "named only in round {named}: {header:?}");
    for (round, findings) in found.iter().rev().take(5) {
        assert!(findings.is_empty(), "once it was gone, round {round}: {findings:#?}");
    }
}

macro_rules! recorded {
    ($($name:ident: $kind:ident,)*) => {
        $(#[test]
        fn $name() {
            is_named_rightly(FaultKind::$kind);
        })*

        #[test]
        fn every_one_of_the_ten_failures_was_recorded_and_names_no_machine() {
            let mut tried: Vec<String> = [$(FaultKind::$kind),*].iter().map(|k| format!("{k}.jsonl")).collect();
            tried.sort();
            let mut there: Vec<String> = std::fs::read_dir(folder())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            there.sort();
            assert_eq!((tried.len(), &tried), (10, &there));
            for name in there {
                let text = std::fs::read_to_string(folder().join(&name)).unwrap();
                for sign in ["127.0.0.1", "localhost", "/tmp", "/home", "/root", "/var"] {
                    assert!(!text.contains(sign), "{name} contains {sign}");
                }
                assert!(text.len() < 100_000, "{name} has {} bytes", text.len());
            }
        }
    };
}

recorded! {
    a_killed_process: ProcessCrash,
    a_paused_process: Deadlock,
    a_cut_between_two_followers: NetworkPartition,
    a_long_way: SlowFollower,
    descriptors_that_run_out: ResourceExhaustion,
    a_leader_that_is_paused_again_and_again: TermDivergence,
    a_deleted_database: DatabaseCorruption,
    a_record_changed_in_memory: StateDivergence,
    bits_flipped_in_the_log: LogCorruption,
    a_node_that_founds_its_own_cluster: SplitBrain,
}
