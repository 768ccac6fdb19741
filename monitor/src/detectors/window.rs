//! PURE. The rounds before this one, bounded.

use crate::report::seconds_between;
use crate::snapshot::ClusterSnapshot;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// The last snapshots, oldest first, without what only their own round needed.
#[derive(Debug, Clone)]
pub struct Window {
    rounds: VecDeque<Arc<ClusterSnapshot>>,
    capacity_rounds: usize,
}

/// For how long something has been so, without a break up to now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// Rounds in a row, the present one included; 0 where it is not so now.
    pub rounds: u32,
    /// The first of them.
    pub since: Timestamp,
    /// Seconds from that one to now.
    pub seconds: f64,
}

impl Held {
    /// True where it held in at least `rounds` rounds and for at least `seconds`.
    pub fn at_least(&self, rounds: u32, seconds: f64) -> bool {
        self.rounds >= rounds.max(1) && self.seconds >= seconds
    }
}

impl Default for Window {
    fn default() -> Self {
        Window::new(120)
    }
}

impl Window {
    /// A window of at most `capacity_rounds`.
    pub fn new(capacity_rounds: usize) -> Self {
        Window { rounds: VecDeque::new(), capacity_rounds: capacity_rounds.max(1) }
    }

    /// A window that reaches `seconds` back at this interval, 120 to 1,000 rounds.
    pub fn reaching_back(seconds: f64, interval_seconds: f64) -> Self {
        let rounds = (seconds / interval_seconds.max(0.001)).ceil();
        Window::new((rounds as usize).clamp(120, 1_000))
    }

    /// Takes in a round that is over.
    pub fn push(&mut self, snapshot: &ClusterSnapshot) {
        if self.rounds.len() == self.capacity_rounds {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Arc::new(snapshot.compact()));
    }

    /// How many rounds it holds.
    pub fn len(&self) -> usize {
        self.rounds.len()
    }

    /// True where it holds none.
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// The rounds before `now`, the latest first.
    pub fn back_from<'a>(
        &'a self,
        now: &'a ClusterSnapshot,
    ) -> impl DoubleEndedIterator<Item = &'a ClusterSnapshot> {
        self.rounds.iter().rev().map(Arc::as_ref).filter(move |s| s.round < now.round)
    }

    /// For how long `is_so` has been true in every round up to and with `now`.
    pub fn held(&self, now: &ClusterSnapshot, mut is_so: impl FnMut(&ClusterSnapshot) -> bool) -> Held {
        if !is_so(now) {
            return Held { rounds: 0, since: now.at, seconds: 0.0 };
        }
        let mut held = Held { rounds: 1, since: now.at, seconds: 0.0 };
        for earlier in self.back_from(now) {
            if !is_so(earlier) {
                break;
            }
            held.rounds += 1;
            held.since = earlier.at;
        }
        held.seconds = seconds_between(held.since, now.at);
        held
    }
}
