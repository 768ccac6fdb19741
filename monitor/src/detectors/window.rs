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

    /// For how long something has been so that begins at a limit and ends at a low-water mark.
    ///
    /// It began where `is_high` held for `rounds` rounds and `seconds`, and goes on while `is_low`
    /// holds, which must be true wherever `is_high` is. What stayed below the limit for as long as
    /// this window reaches is over, too.
    pub fn latched(
        &self,
        now: &ClusterSnapshot,
        rounds: u32,
        seconds: f64,
        is_high: impl Fn(&ClusterSnapshot) -> bool,
        is_low: impl Fn(&ClusterSnapshot) -> bool,
    ) -> Option<Held> {
        let standing: Vec<(&ClusterSnapshot, bool)> = std::iter::once(now)
            .chain(self.back_from(now))
            .take_while(|s| is_high(s) || is_low(s))
            .map(|s| (s, is_high(s)))
            .collect();
        // From the oldest on: the first run above the limit that was long enough.
        let mut run: Option<Held> = None;
        for (snapshot, high) in standing.into_iter().rev() {
            let Some(held) = run.as_mut() else {
                if high {
                    run = Some(Held { rounds: 1, since: snapshot.at, seconds: 0.0 });
                }
                continue;
            };
            let long_enough = held.at_least(rounds, seconds);
            if !high && !long_enough {
                run = None;
                continue;
            }
            held.rounds += 1;
            held.seconds = seconds_between(held.since, snapshot.at);
        }
        run.filter(|held| held.at_least(rounds, seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::fixture::{Answers, reports};
    use crate::snapshot::Memory;

    /// Rounds a second apart, each with the disk use given; the last is now.
    fn of(disk: &[f64]) -> (ClusterSnapshot, Window) {
        let mut window = Window::default();
        let mut last = None;
        for (i, usage) in disk.iter().enumerate() {
            let seconds = i as f64 + 1.0;
            let mut answers = Answers::healthy(1, 1, 7, seconds);
            answers.report(1).resources.disk_usage = *usage;
            let round = i as u64 + 1;
            let now = ClusterSnapshot::join(&answers.0, &Memory::default(), round, reports::after(seconds));
            window.push(&now);
            last = Some(now);
        }
        (last.unwrap(), window)
    }

    fn latched(disk: &[f64], rounds: u32, seconds: f64) -> Option<u32> {
        let (now, window) = of(disk);
        let usage = |s: &ClusterSnapshot| s.nodes[0].report.as_ref().unwrap().resources.disk_usage;
        let held = window.latched(&now, rounds, seconds, |s| usage(s) >= 85.0, |s| usage(s) >= 80.0);
        held.map(|held| held.rounds)
    }

    #[test]
    fn it_begins_at_the_limit_and_ends_at_the_low_water_mark() {
        assert_eq!(latched(&[82.0, 84.0, 84.0], 2, 0.0), None, "never at the limit");
        assert_eq!(latched(&[70.0, 86.0], 2, 0.0), None, "one round proves nothing");
        assert_eq!(latched(&[70.0, 86.0, 86.0], 2, 0.0), Some(2));
        assert_eq!(latched(&[70.0, 86.0, 86.0, 81.0, 81.0], 2, 0.0), Some(4), "it goes on");
        assert_eq!(latched(&[86.0, 86.0, 79.0, 84.0], 2, 0.0), None, "it was over");
        assert_eq!(latched(&[86.0, 84.0, 86.0, 84.0], 2, 0.0), None, "it never held");
        assert_eq!(latched(&[86.0, 84.0, 86.0, 86.0], 2, 0.0), Some(2));
        assert_eq!(latched(&[86.0, 86.0, 86.0, 81.0], 2, 5.0), None);
    }
}
