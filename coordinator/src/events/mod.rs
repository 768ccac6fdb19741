//! What happens in the cluster, as this node sees it, behind `GET /api/events`.
//!
//! Two sources meet here. What stands in the log (maintenance, workers, members, settings, named
//! leases) comes from the applier as the very [`Effect::Event`]s that DuckDB's table `events`
//! records, so every node tells it with the same index. What a node notices by itself (who leads,
//! its role, its disk, its peers, its database) comes from the [`watch`]: differences between two
//! looks.
//!
//! There is one bounded ring and no queue per listener: a listener remembers how far it has read,
//! and reads on when it is woken. A slow one therefore costs nothing; when the ring has passed it,
//! it is told of the gap.
//!
//! Invariant: ids grow by one within a run of the process, and name the run. So nobody who comes
//! back is given the events of another run for those he waits for.

pub mod watch;

use crate::machine::{Effect, EventKind};
use api::event::ClusterEvent;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;

/// Events that are kept.
pub const MAX_EVENTS: usize = 1024;
/// Streams at once.
pub const MAX_LISTENERS: usize = 64;
/// Bytes of an event's detail that are kept.
const MAX_DETAIL_BYTES: usize = 1024;

/// The node's events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node_id: String,
    boot: String,
    ring: Mutex<Ring>,
    newest: signal::Sender<u64>,
    listeners: AtomicUsize,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Ring {
    last_seq: u64,
    events: VecDeque<Arc<ClusterEvent>>,
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// Its name on the wire.
    pub kind: &'static str,
    /// The node, worker or lease; empty for the cluster.
    pub subject: String,
    /// More about it.
    pub detail: String,
}

impl Occurrence {
    /// An occurrence.
    pub fn new(kind: &'static str, subject: &str, detail: impl Into<String>) -> Occurrence {
        Occurrence { kind, subject: subject.to_owned(), detail: detail.into() }
    }
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Everything that is kept.
    Kept,
    /// Only what is to come.
    Now,
    /// After this number of this run.
    After(u64),
    /// It has read another run of this node.
    OtherRun,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The events, oldest first.
    pub events: Vec<Arc<ClusterEvent>>,
    /// The number to read on from.
    pub next: u64,
    /// Something between is lost.
    pub gap: bool,
}

/// A place among the listeners; given back when dropped.
#[derive(Debug)]
pub struct Place(Events);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    /// No events yet, of the run `boot`.
    pub fn new(node_id: &str, boot: &str) -> Events {
        Events(Arc::new(Shared {
            node_id: node_id.to_owned(),
            boot: boot.to_owned(),
            ring: Mutex::default(),
            newest: signal::Sender::new(0),
            listeners: AtomicUsize::new(0),
            closed: CancellationToken::new(),
        }))
    }

    /// Whose events they are.
    pub fn node_id(&self) -> &str {
        &self.0.node_id
    }

    /// Tells what this node noticed now.
    pub fn noticed(&self, term: u64, what: Occurrence) {
        self.push(Timestamp::now(), term, None, what);
    }

    /// Tells what an applied entry says. Tasks that people took up again stay out: one request can
    /// name ten thousand, and they would drive out everything else.
    pub fn applied(&self, index: u64, term: u64, effects: &[Effect]) {
        for effect in effects {
            let Effect::Event { kind, subject, detail, wall_ms } = effect else { continue };
            if *kind == EventKind::TaskReopened {
                continue;
            }
            let at = Timestamp::from_millisecond(*wall_ms).unwrap_or(Timestamp::UNIX_EPOCH);
            self.push(at, term, Some(index), Occurrence::new(kind.as_str(), subject, detail.clone()));
        }
    }

    fn push(&self, at: Timestamp, term: u64, index: Option<u64>, what: Occurrence) {
        let seq = {
            let mut ring = self.0.ring.lock();
            ring.last_seq += 1;
            let seq = ring.last_seq;
            if ring.events.len() == MAX_EVENTS {
                ring.events.pop_front();
            }
            ring.events.push_back(Arc::new(ClusterEvent {
                id: self.id(seq),
                at,
                node_id: self.0.node_id.clone(),
                kind: what.kind.to_owned(),
                subject: what.subject,
                detail: cut(what.detail),
                index,
                term,
            }));
            seq
        };
        self.0.newest.send_if_modified(|newest| {
            let newer = seq > *newest;
            *newest = seq.max(*newest);
            newer
        });
    }

    /// The id of the event `seq` of this run; 0 comes before the first.
    pub fn id(&self, seq: u64) -> String {
        format!("{}-{seq}", self.0.boot)
    }

    /// Where somebody stands who names this id; nothing where it is none.
    pub fn since(&self, id: &str) -> Option<Since> {
        let (boot, seq) = id.rsplit_once('-')?;
        let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        if !digits(boot, 16) || !digits(seq, 10) {
            return None;
        }
        let seq: u64 = seq.parse().ok()?;
        let ours = boot == self.0.boot && seq <= self.0.ring.lock().last_seq;
        Some(if ours { Since::After(seq) } else { Since::OtherRun })
    }

    /// At most `limit` events that follow.
    pub fn read(&self, since: Since, limit: usize) -> Read {
        let ring = self.0.ring.lock();
        let first_seq = ring.last_seq + 1 - ring.events.len() as u64;
        let (after, gap) = match since {
            Since::Kept => (first_seq - 1, false),
            Since::Now => (ring.last_seq, false),
            Since::After(seq) => (seq.max(first_seq - 1), seq + 1 < first_seq),
            Since::OtherRun => (first_seq - 1, true),
        };
        let skipped = (after + 1 - first_seq) as usize;
        let events: Vec<_> = ring.events.iter().skip(skipped).take(limit).cloned().collect();
        Read { next: after + events.len() as u64, events, gap }
    }

    /// Wakes when an event comes.
    pub fn subscribe(&self) -> signal::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// A place for one more stream, if there is one.
    pub fn enter(&self) -> Option<Place> {
        let taken = self.0.listeners.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < MAX_LISTENERS).then_some(open + 1)
        });
        taken.ok().map(|_| Place(self.clone()))
    }

    /// Ends every stream: the node stops.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Cancelled when the node stops.
    pub fn closed(&self) -> &CancellationToken {
        &self.0.closed
    }
}

fn cut(mut detail: String) -> String {
    if detail.len() > MAX_DETAIL_BYTES {
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
        detail.push('…');
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(count: usize) -> Events {
        let events = Events::new("n1", "00ff");
        for n in 0..count {
            events.noticed(3, Occurrence::new("leader_changed", "n2", format!("number {n}")));
        }
        events
    }

    fn ids(read: &Read) -> Vec<&str> {
        read.events.iter().map(|event| event.id.as_str()).collect()
    }

    #[test]
    fn whoever_reads_on_misses_nothing_and_gets_nothing_twice() {
        let events = with(5);
        let first = events.read(Since::Kept, 2);
        assert_eq!(ids(&first), ["00ff-1", "00ff-2"]);
        let since = events.since(first.events[1].id.as_str()).unwrap();
        assert_eq!(since, Since::After(2));
        let rest = events.read(since, 10);
        assert_eq!((ids(&rest), rest.next, rest.gap), (vec!["00ff-3", "00ff-4", "00ff-5"], 5, false));
        let none = events.read(Since::After(rest.next), 10);
        assert_eq!((ids(&none), none.next, none.gap), (vec![], 5, false));
    }

    #[test]
    fn only_what_is_to_come() {
        let events = with(3);
        let now = events.read(Since::Now, 10);
        assert_eq!((ids(&now), now.next), (vec![], 3));
        events.noticed(3, Occurrence::new("leader_lost", "n2", ""));
        assert_eq!(ids(&events.read(Since::After(now.next), 10)), ["00ff-4"]);
    }

    #[test]
    fn what_fell_out_of_the_ring_is_a_gap() {
        let events = with(MAX_EVENTS + 5);
        let read = events.read(Since::After(2), MAX_EVENTS * 2);
        assert_eq!((read.events.len(), read.events[0].id.as_str(), read.gap), (MAX_EVENTS, "00ff-6", true));
        assert!(!events.read(Since::After(5), 1).gap);
        assert!(!events.read(Since::Kept, 1).gap, "who asks for nothing older misses nothing");
    }

    #[test]
    fn the_id_of_another_run_is_a_gap_and_everything_kept_follows() {
        let events = with(2);
        assert_eq!(events.since("00fe-1"), Some(Since::OtherRun));
        assert_eq!(events.since("00ff-9"), Some(Since::OtherRun), "what this run has not told yet");
        let read = events.read(Since::OtherRun, 10);
        assert_eq!((ids(&read), read.gap), (vec!["00ff-1", "00ff-2"], true));
        for none in ["", "7", "-", "00ff-", "-7", "zz-1", "00ff-1x", "00ff-99999999999999999999999", "é-1"] {
            assert_eq!(events.since(none), None, "{none}");
        }
        assert_eq!(events.since(&events.id(0)), Some(Since::After(0)));
    }

    #[test]
    fn of_the_log_only_events_are_told_and_no_single_tasks() {
        let events = with(0);
        let event = |kind, subject: &str| Effect::Event {
            kind,
            subject: subject.into(),
            detail: String::new(),
            wall_ms: 1_000,
        };
        events.applied(9, 2, &[event(EventKind::WorkerLost, "w1"), event(EventKind::TaskReopened, "t")]);
        let read = events.read(Since::Kept, 10);
        assert_eq!(read.events.len(), 1);
        let told = &read.events[0];
        assert_eq!((told.kind.as_str(), told.subject.as_str(), told.index), ("worker_lost", "w1", Some(9)));
        assert_eq!((told.at.as_millisecond(), told.term, told.node_id.as_str()), (1_000, 2, "n1"));
    }

    #[test]
    fn listeners_and_details_are_bounded() {
        let events = with(0);
        let places: Vec<Place> = std::iter::from_fn(|| events.enter()).collect();
        assert_eq!(places.len(), MAX_LISTENERS);
        drop(places);
        assert!(events.enter().is_some());
        events.noticed(1, Occurrence::new("node_failed", "n1", "é".repeat(MAX_DETAIL_BYTES)));
        assert!(events.read(Since::Kept, 1).events[0].detail.len() <= MAX_DETAIL_BYTES + 3);
    }
}
