//! PURE. One node's place in the picture, and what its silence means.
//!
//! A node that gives no report may be dead, cut off, busy, or stopped on purpose. The others are
//! asked: whether they still hear it, and whether it said goodbye to them. A goodbye counts for the
//! process that said it and for no later one, so that a crash after a restart is not taken for the
//! stop before it.

use super::{Memory, NodeState, NodeView};
use crate::report::{NodeReport, ScrapeFailure, seconds_between};
use api::cluster::{PeerStatus, Report};
use jiff::{SignedDuration, Timestamp};

/// One node's place in the picture.
pub(super) fn view(asked: &NodeReport, all: &[NodeReport], memory: &Memory) -> NodeView {
    let remembered = memory.nodes.get(&asked.address);
    let (node_id, last_report_at, report, failure) = match &asked.outcome {
        Ok(report) => (Some(report.status.node_id.clone()), Some(asked.at), Some(report.clone()), None),
        Err(failure) => {
            let node_id = remembered
                .map(|r| r.node_id.clone())
                .or_else(|| named_by_peers(&asked.address, all).map(str::to_owned));
            (node_id, remembered.map(|r| r.last_report_at), None, Some(failure.clone()))
        }
    };
    let said = said_of(node_id.as_deref(), &asked.address, all);
    let stopped_at = failure.as_ref().and_then(|_| {
        let boot_nonce = remembered.map(|r| r.boot_nonce.as_str());
        let before = remembered.and_then(|r| r.stopped_at);
        stopped_at(&said, boot_nonce, before, asked.at)
    });
    let state = match &failure {
        None => NodeState::Reporting,
        Some(failure) => absent(failure, &said, stopped_at.is_some()),
    };
    NodeView {
        node_id,
        address: asked.address.clone(),
        state,
        took_ms: asked.took_ms,
        last_report_at,
        failure,
        stopped_at,
        report,
    }
}

/// What the absence of a report says, given what reporting peers say of the node.
fn absent(failure: &ScrapeFailure, said: &[(&str, &PeerStatus)], said_goodbye: bool) -> NodeState {
    let hearers: Vec<&str> = said.iter().filter(|(_, p)| p.reachable).map(|(from, _)| *from).collect();
    let goodbye = if said_goodbye { "; it had said that it stops" } else { "" };
    match (failure, &hearers[..]) {
        (ScrapeFailure::Refused, []) => {
            NodeState::Down { why: format!("connection refused, and no reporting peer hears it{goodbye}") }
        }
        (failure, []) => NodeState::Unknown { why: format!("{failure}{goodbye}") },
        (failure, hearers) => {
            let plural = if hearers.len() == 1 { "hears" } else { "hear" };
            NodeState::Unknown { why: format!("{failure}; but {} {plural} it{goodbye}", hearers.join(", ")) }
        }
    }
}

/// When the process that was last known of a node said goodbye.
///
/// `before` is what was known in the round before; it goes on where nobody is left to say it, and
/// ends where a peer hears the node and was told nothing: that is another process.
fn stopped_at(
    said: &[(&str, &PeerStatus)],
    boot_nonce: Option<&str>,
    before: Option<Timestamp>,
    at: Timestamp,
) -> Option<Timestamp> {
    let same_process = |nonce: &str| boot_nonce.is_none_or(|known| known.is_empty() || known == nonce);
    let told = said
        .iter()
        .filter_map(|(_, peer)| peer.goodbye.as_ref())
        .filter(|goodbye| same_process(&goodbye.boot_nonce))
        .map(|goodbye| at - SignedDuration::from_millis(i64::try_from(goodbye.ago_ms).unwrap_or(0)))
        .max();
    let is_back = said.iter().any(|(_, peer)| peer.reachable && peer.goodbye.is_none());
    // Each round's arithmetic would move it by what the answers took.
    match (told, before) {
        (Some(told), Some(before)) if seconds_between(before, told) < 1.0 => Some(before),
        (Some(told), _) => Some(told),
        (None, before) => before.filter(|_| !is_back),
    }
}

fn reporting(all: &[NodeReport]) -> impl Iterator<Item = &Report> {
    all.iter().filter_map(|n| n.outcome.as_ref().ok())
}

/// The id that reporting nodes give to the peer at `address`.
fn named_by_peers<'a>(address: &str, all: &'a [NodeReport]) -> Option<&'a str> {
    reporting(all).flat_map(|r| &r.status.peers).find(|p| p.address == address).map(|p| p.node_id.as_str())
}

/// What reporting nodes say of the node of that id or address: who says it, and what.
fn said_of<'a>(
    node_id: Option<&str>,
    address: &str,
    all: &'a [NodeReport],
) -> Vec<(&'a str, &'a PeerStatus)> {
    let is_it =
        |p: &&PeerStatus| node_id == Some(p.node_id.as_str()) || (node_id.is_none() && p.address == address);
    reporting(all)
        .filter_map(|r| Some((r.status.node_id.as_str(), r.status.peers.iter().find(is_it)?)))
        .collect()
}
