//! Split brain: more than one leader, or more than one cluster.
//!
//! A leader change looks like two leaders for a moment, in different terms, one of them going.
//! Three things never happen in a sound cluster: two nodes lead one term, even in different rounds;
//! a leader of an old term, or one that hears no majority, goes on for longer than an election
//! time-out; the nodes of one configuration name two cluster ids. A data directory that was cloned
//! shows as one node id answered by two processes at once.

use super::{FaultKind, Finding, Limits, Window};
use crate::snapshot::{ClusterSnapshot, Hearing, LeaderClaim, Severity};
use std::collections::BTreeMap;

/// Every sign of more than one head.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(two_in_one_term(now, window));
    findings.extend(two_clusters(now, window, limits));
    findings.extend(twins(now, window, limits));
    findings.extend(now.leaders.iter().filter_map(|claim| stale_leader(claim, now, window, limits)));
    findings
}

/// A claim, and the snapshot in which it was first seen.
type FirstSeen<'a> = (&'a LeaderClaim, &'a ClusterSnapshot);

/// Two node ids that led the same term of the same cluster, now or in the window. No confirmation
/// is wanted: that it was seen once, in whichever rounds, is the proof.
fn two_in_one_term(now: &ClusterSnapshot, window: &Window) -> Vec<Finding> {
    let mut led: BTreeMap<(Option<&str>, u64), Vec<FirstSeen>> = BTreeMap::new();
    for snapshot in window.back_from(now).rev().chain([now]) {
        for claim in &snapshot.leaders {
            let heads = led.entry((claim.cluster_id.as_deref(), claim.term)).or_default();
            if !heads.iter().any(|(known, _)| known.node_id == claim.node_id) {
                heads.push((claim, snapshot));
            }
        }
    }
    led.into_iter()
        .filter(|((cluster, _), heads)| cluster.is_some() && heads.len() > 1)
        .map(|((_, term), heads)| {
            let second = heads[1].1;
            let mut held = window.held(now, |s| s.round >= second.round);
            held.rounds = held.rounds.max(1);
            let mut nodes: Vec<String> = heads.iter().map(|(claim, _)| claim.node_id.clone()).collect();
            nodes.sort();
            let evidence = heads
                .iter()
                .map(|(claim, seen)| {
                    format!("{} led term {term} at {}", claim.node_id, seen.at.strftime("%H:%M:%S%.3f"))
                })
                .collect();
            Finding::new(FaultKind::SplitBrain, Severity::Critical, held, nodes, evidence)
        })
        .collect()
}

/// Nodes that name different clusters.
fn two_clusters(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Option<Finding> {
    let held = window.held(now, |s| s.cluster_ids.len() > 1);
    if !held.at_least(limits.confirmations, 0.0) {
        return None;
    }
    let evidence = now.cluster_ids.iter().map(|id| {
        let members: Vec<&str> = now
            .reporting()
            .filter(|(_, r)| r.status.cluster_id.as_ref() == Some(id))
            .map(|(node, _)| node.name())
            .collect();
        format!("cluster {id}: {}", members.join(", "))
    });
    let nodes =
        now.reporting().filter(|(_, r)| r.status.cluster_id.is_some()).map(|(n, _)| n.name().to_owned());
    Some(Finding::new(FaultKind::SplitBrain, Severity::Critical, held, nodes.collect(), evidence.collect()))
}

/// Node ids that two processes answer to at once.
fn twins(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    twin_ids(now)
        .into_iter()
        .filter_map(|(node_id, addresses)| {
            let held = window.held(now, |s| twin_ids(s).iter().any(|(id, _)| *id == node_id));
            held.at_least(limits.confirmations, 0.0).then(|| {
                let evidence =
                    vec![format!("two processes answer as {node_id}: {}", addresses.join(" and "))];
                Finding::new(FaultKind::SplitBrain, Severity::Critical, held, vec![node_id], evidence)
            })
        })
        .collect()
}

fn twin_ids(snapshot: &ClusterSnapshot) -> Vec<(String, Vec<String>)> {
    let mut by_id: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (node, report) in snapshot.reporting() {
        let processes = by_id.entry(&report.status.node_id).or_default();
        if !processes.iter().any(|(nonce, _)| *nonce == report.status.boot_nonce) {
            processes.push((&report.status.boot_nonce, &node.address));
        }
    }
    by_id
        .into_iter()
        .filter(|(_, processes)| processes.len() > 1 && processes.iter().all(|(nonce, _)| !nonce.is_empty()))
        .map(|(id, processes)| (id.to_owned(), processes.iter().map(|(_, a)| (*a).to_owned()).collect()))
        .collect()
}

/// A leader that should have stepped down: its term is over, or it hears no majority of its voters.
fn stale_leader(
    claim: &LeaderClaim,
    now: &ClusterSnapshot,
    window: &Window,
    limits: &Limits,
) -> Option<Finding> {
    let still_claims =
        |s: &ClusterSnapshot| s.leaders.iter().any(|c| c.node_id == claim.node_id && c.term == claim.term);
    let outdated =
        window.held(now, |s| still_claims(s) && s.highest_term > claim.term && s.cluster_ids.len() <= 1);
    let alone = window.held(now, |s| still_claims(s) && hears_no_majority(s, &claim.node_id));
    let long = |held: &super::Held| held.at_least(limits.confirmations, limits.stale_leader_seconds);
    let (held, why) = if long(&outdated) {
        (outdated, format!("goes on leading term {} while term {} is known", claim.term, now.highest_term))
    } else if long(&alone) {
        (alone, format!("goes on leading term {} without hearing a majority of its voters", claim.term))
    } else {
        return None;
    };
    let evidence = vec![format!("{} {why}, for {}", claim.node_id, crate::report::Span(held.seconds))];
    Some(Finding::new(FaultKind::SplitBrain, Severity::Critical, held, vec![claim.node_id.clone()], evidence))
}

fn hears_no_majority(snapshot: &ClusterSnapshot, leader: &str) -> bool {
    let Some(report) = snapshot.report_of(leader) else { return false };
    let voters = &report.status.voters;
    let heard = voters
        .iter()
        .filter(|v| {
            v.as_str() == leader
                || report.status.peers.iter().any(|p| p.node_id == **v && p.reachable)
                || snapshot.link(leader, v).is_some_and(|l| l.hearing == Hearing::Hears)
        })
        .count();
    !voters.is_empty() && heard < voters.len() / 2 + 1
}
