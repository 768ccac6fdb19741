//! Clock offset: a node's wall clock is away from those of most others.
//!
//! Nothing in the cluster depends on the wall clock, so this is no fault of replication and no
//! repair follows from it: it makes logs of several nodes, and every time shown to people, wrong.
//! Offsets are what nodes measured of their peers; where a majority of a node's pairs is off and
//! the others agree among themselves, that node is named, and nobody is where two nodes differ.

use super::{FaultKind, Finding, Limits, Window};
use crate::snapshot::{ClusterSnapshot, Severity};
use std::collections::BTreeMap;

/// Two nodes whose clocks differ, and by how many milliseconds.
type Pair<'a> = ((&'a str, &'a str), i64);

/// The larger of what the two nodes of each pair say of each other.
fn pairs(snapshot: &ClusterSnapshot) -> Vec<Pair<'_>> {
    let mut found: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (node, report) in snapshot.reporting() {
        for peer in report.status.peers.iter().filter(|peer| peer.reachable) {
            let Some(offset_ms) = peer.clock_offset_ms else { continue };
            let (name, peer) = (node.name(), peer.node_id.as_str());
            let (pair, offset_ms) =
                if name < peer { ((name, peer), offset_ms) } else { ((peer, name), -offset_ms) };
            let known = found.entry(pair).or_insert(offset_ms);
            if offset_ms.unsigned_abs() > known.unsigned_abs() {
                *known = offset_ms;
            }
        }
    }
    found.into_iter().collect()
}

fn beyond(snapshot: &ClusterSnapshot, limit_ms: u64) -> Vec<Pair<'_>> {
    let mut found = pairs(snapshot);
    found.retain(|(_, offset_ms)| offset_ms.unsigned_abs() > limit_ms);
    found
}

/// One finding for all clocks that are off.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let held = window.latched(
        now,
        limits.confirmations,
        0.0,
        |s| !beyond(s, limits.clock_offset_ms).is_empty(),
        |s| !beyond(s, limits.clock_offset_low_ms).is_empty(),
    );
    let Some(held) = held else { return Vec::new() };
    let off = beyond(now, limits.clock_offset_low_ms);
    let mut evidence: Vec<String> = off
        .iter()
        .take(8)
        .map(|((a, b), offset_ms)| {
            format!(
                "the clock of {b} is {offset_ms} ms from that of {a}, limit {} ms",
                limits.clock_offset_ms
            )
        })
        .collect();
    evidence.push("as the nodes measured it: status.peers[].clock_offset_ms in /api/report".into());
    vec![Finding::new(FaultKind::ClockOffset, Severity::Warning, held, blamed(now, &off), evidence)]
}

/// The node that is at an end of every pair that is off, where it has two such pairs at least.
fn blamed(now: &ClusterSnapshot, off: &[Pair<'_>]) -> Vec<String> {
    let ends = |name: &str| off.iter().all(|((a, b), _)| *a == name || *b == name);
    let on_all: Vec<&str> = now.nodes.iter().map(|n| n.name()).filter(|name| ends(name)).collect();
    match on_all[..] {
        [only] if off.len() > 1 => vec![only.to_owned()],
        _ => Vec::new(),
    }
}
