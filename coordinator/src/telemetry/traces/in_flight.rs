//! The traced entries that the leader's owner thread follows until every peer has them.

use super::Traces;
use super::entry::{Places, replicate_id};
use otlp::SpanKind;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Entries that are followed at once; more are not.
const MAX_ENTRIES: usize = 1_024;
/// How long a peer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Traced entries on their way to commit and peers. Empty, it costs one look a turn.
#[derive(Debug, Default)]
pub struct InFlight {
    entries: VecDeque<Followed>,
}

#[derive(Debug)]
struct Followed {
    index: u64,
    places: Places,
    /// When the first of its commands came.
    asked: Instant,
    /// When it went into the log and to the peers.
    proposed: Instant,
    committed: bool,
    acknowledged: Vec<u64>,
}

impl InFlight {
    /// True where nothing is followed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An entry was proposed at this index.
    pub fn proposed(&mut self, index: u64, places: Places, asked: Instant) {
        if self.entries.len() < MAX_ENTRIES {
            let (committed, acknowledged) = (false, Vec::new());
            let proposed = Instant::now();
            self.entries.push_back(Followed { index, places, asked, proposed, committed, acknowledged });
        }
    }

    /// The entry at this index was committed.
    pub fn committed(&mut self, traces: &Traces, index: u64) {
        for entry in self.entries.iter_mut().filter(|entry| entry.index == index && !entry.committed) {
            entry.committed = true;
            for place in entry.places.iter() {
                let waited_ms = entry.proposed.duration_since(entry.asked).as_secs_f64() * 1_000.0;
                let span = traces.span("raft.commit", SpanKind::Internal, place);
                drop(span.map(|span| {
                    span.began_at(entry.asked)
                        .with("holdfast.raft.index", index as i64)
                        .with("holdfast.raft.queued_ms", waited_ms)
                }));
            }
        }
    }

    /// Up to where each member's log is known to go; empty where this node does not lead.
    pub fn matched(
        &mut self,
        traces: &Traces,
        own: u64,
        matched: &[(u64, u64)],
        name_of: impl Fn(u64) -> Option<String>,
    ) {
        for entry in &mut self.entries {
            for (peer, at) in matched.iter().filter(|(peer, _)| *peer != own) {
                if *at >= entry.index && !entry.acknowledged.contains(peer) {
                    entry.acknowledged.push(*peer);
                    entry.replicated(traces, *peer, name_of(*peer), None);
                }
            }
        }
        self.entries.retain(|entry| {
            let missing = |peer: u64| peer != own && !entry.acknowledged.contains(&peer);
            let late = entry.proposed.elapsed() >= PATIENCE;
            let waits = !entry.committed || matched.iter().any(|(peer, _)| missing(*peer));
            if waits && late {
                for (peer, _) in matched.iter().filter(|(peer, _)| missing(*peer)) {
                    let why = "not acknowledged in time";
                    entry.replicated(traces, *peer, name_of(*peer), Some(why));
                }
            }
            waits && !late && !(matched.is_empty() && entry.committed)
        });
    }
}

impl Followed {
    fn replicated(&self, traces: &Traces, peer: u64, name: Option<String>, failure: Option<&'static str>) {
        let name = name.unwrap_or_else(|| format!("{peer:016x}"));
        for place in self.places.iter() {
            let Some(span) = traces.span("raft.replicate", SpanKind::Client, place) else { return };
            let mut span = span
                .with_id(replicate_id(place.span, peer))
                .began_at(self.proposed)
                .with("holdfast.raft.index", self.index as i64)
                .with("holdfast.peer.node.id", name.clone());
            if let Some(why) = failure {
                span.fail(why);
            }
        }
    }
}
