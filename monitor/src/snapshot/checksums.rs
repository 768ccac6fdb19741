//! PURE. Compares what nodes hold, at indexes that both passed and nowhere else.
//!
//! Two hashes stand at every checkpoint: the chain over the applied log, and the checksum of the
//! machine. Different chains mean that the logs differ; equal chains with different checksums mean
//! that the same log made two states. Who is wrong is decided by a majority of the voters or not at
//! all.

use super::{ClusterSnapshot, NodeView, reporting};
use api::cluster::Report;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a comparison of two nodes gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Agreement {
    /// Chain and checksum are equal at the highest index both passed.
    Equal {
        /// That index.
        index: u64,
    },
    /// The logs are equal, the states are not.
    StateUnequal {
        /// The highest index where that shows.
        index: u64,
    },
    /// The logs are not equal.
    LogUnequal {
        /// The highest index where that shows.
        index: u64,
    },
    /// There is no index that both remember, or they are of different clusters.
    NotComparable {
        /// Which.
        why: String,
    },
}

impl Agreement {
    /// The index that was compared.
    pub const fn index(&self) -> Option<u64> {
        match self {
            Agreement::Equal { index }
            | Agreement::StateUnequal { index }
            | Agreement::LogUnequal { index } => Some(*index),
            Agreement::NotComparable { .. } => None,
        }
    }
}

/// Two nodes, compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairComparison {
    /// One.
    pub a: String,
    /// The other.
    pub b: String,
    /// What came of it.
    pub agreement: Agreement,
}

/// Which of the two hashes differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DissentIn {
    /// The chain over the log.
    Log,
    /// The machine's checksum, with equal chains.
    State,
}

/// Nodes that hold different things at one index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dissent {
    /// The index.
    pub index: u64,
    /// The nodes in each camp, the largest first.
    pub camps: Vec<(String, Vec<String>)>,
    /// The nodes outside the camp that a majority of the voters stands in; none where no camp is
    /// that large, because then nobody knows who is right.
    pub minority: Option<Vec<String>>,
}

/// Index -> (chain, checksum).
type Marks<'a> = BTreeMap<u64, (&'a str, &'a str)>;

/// What one node holds: its checkpoints, and the present.
fn marks(report: &Report) -> Marks<'_> {
    let held = &report.state_checksum;
    let mut marks: BTreeMap<u64, (&str, &str)> =
        held.checkpoints.iter().map(|c| (c.index, (c.log_chain.as_str(), c.checksum.as_str()))).collect();
    marks.insert(held.applied_index, (&held.log_chain, &held.checksum));
    marks
}

/// Among more reporting nodes than this, each is compared with one of them instead of with all.
const MAX_PAIRED_NODES: usize = 16;

/// Every pair of reporting nodes, compared; among very many, each with `reference`.
pub(super) fn compare_all(nodes: &[NodeView], reference: Option<&str>) -> Vec<PairComparison> {
    let held: Vec<(&NodeView, &Report, Marks)> =
        reporting(nodes).map(|(node, report)| (node, report, marks(report))).collect();
    let pair = |a: &(&NodeView, &Report, Marks), b: &(&NodeView, &Report, Marks)| PairComparison {
        a: a.0.name().to_owned(),
        b: b.0.name().to_owned(),
        agreement: compare(a, b),
    };
    if held.len() > MAX_PAIRED_NODES {
        let Some(one) = held.iter().find(|(node, ..)| Some(node.name()) == reference) else {
            return Vec::new();
        };
        return held
            .iter()
            .filter(|other| other.0.address != one.0.address)
            .map(|other| pair(one, other))
            .collect();
    }
    let mut pairs = Vec::new();
    for (i, a) in held.iter().enumerate() {
        pairs.extend(held[i + 1..].iter().map(|b| pair(a, b)));
    }
    pairs
}

fn compare(
    (_, a, marks_a): &(&NodeView, &Report, Marks),
    (_, b, marks_b): &(&NodeView, &Report, Marks),
) -> Agreement {
    if a.status.cluster_id.is_none() || a.status.cluster_id != b.status.cluster_id {
        return Agreement::NotComparable { why: "not of one cluster".into() };
    }
    let mut common =
        marks_a.iter().rev().filter_map(|(index, mark)| Some((*index, *mark, *marks_b.get(index)?)));
    let Some((index, (chain_a, sum_a), (chain_b, sum_b))) = common.next() else {
        return Agreement::NotComparable { why: "no index that both remember".into() };
    };
    match (chain_a == chain_b, sum_a == sum_b) {
        (false, _) => Agreement::LogUnequal { index },
        (true, false) => Agreement::StateUnequal { index },
        (true, true) => Agreement::Equal { index },
    }
}

/// The disagreement of this kind, if the nodes disagree now.
///
/// "Now" is the highest index that two nodes have in common: a difference further down that is gone
/// higher up has been repaired since. Who is right is looked for at the highest index, from there
/// down, at which a majority of the voters agrees against somebody: two nodes may meet at an index
/// that the third did not remember.
pub fn dissent(snapshot: &ClusterSnapshot, kind: DissentIn) -> Option<Dissent> {
    let unequal = |pair: &&PairComparison| {
        matches!(
            (&pair.agreement, kind),
            (Agreement::LogUnequal { .. }, DissentIn::Log)
                | (Agreement::StateUnequal { .. }, DissentIn::State)
        )
    };
    let pairs: Vec<&PairComparison> = snapshot.checksums.iter().filter(unequal).collect();
    let top = pairs.iter().filter_map(|pair| pair.agreement.index()).max()?;
    let held: Vec<(&str, Marks)> =
        snapshot.reporting().map(|(node, report)| (node.name(), marks(report))).collect();
    let mut indexes: Vec<u64> =
        held.iter().flat_map(|(_, marks)| marks.range(..=top).map(|(i, _)| *i)).collect();
    indexes.sort_unstable();
    indexes.dedup();
    let in_question = |node: &String| pairs.iter().any(|pair| pair.a == *node || pair.b == *node);
    let decided =
        indexes.iter().rev().map(|index| camps_at(snapshot, &held, *index, kind)).find(|dissent| {
            dissent.minority.as_ref().is_some_and(|minority| minority.iter().any(in_question))
        });
    Some(decided.unwrap_or_else(|| camps_at(snapshot, &held, top, kind)))
}

/// Who holds what at `index`, and whether a majority of the voters agrees there.
fn camps_at(snapshot: &ClusterSnapshot, held: &[(&str, Marks)], index: u64, kind: DissentIn) -> Dissent {
    let mut camps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (node, marks) in held {
        let Some((chain, checksum)) = marks.get(&index) else { continue };
        let camp = match kind {
            DissentIn::Log => (*chain).to_owned(),
            // A node with another log is no witness on what this log should have made.
            DissentIn::State => format!("{chain}/{checksum}"),
        };
        camps.entry(camp).or_default().push((*node).to_owned());
    }
    let mut camps: Vec<(String, Vec<String>)> = camps.into_iter().collect();
    camps.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
    let votes = |nodes: &[String]| nodes.iter().filter(|n| snapshot.is_voter(n)).count();
    let majority = snapshot.quorum.majority;
    let right = camps.iter().position(|(_, nodes)| majority > 0 && votes(nodes) >= majority);
    let minority = right.map(|right| {
        let others = camps.iter().enumerate().filter(|(i, _)| *i != right);
        others.flat_map(|(_, (_, nodes))| nodes.clone()).collect()
    });
    Dissent { index, camps, minority }
}
