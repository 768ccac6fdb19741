//! The queue of pending tasks, kept in classes of equal demand.
//!
//! The scheduler asks one question a class ("which worker can take this?"), not one a task: ten
//! thousand tasks that no worker can run cost it as much as one. A class orders its tasks by
//! priority, then submission. Tasks that wait for their retry time stand apart and join their
//! class once the log's time has reached it.
//!
//! Invariant: a pending task is either in its class or among the delayed ones, never in both, and
//! no other task is in either.

use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a task asks of its worker. Tasks that ask the same share one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Demand {
    /// The task's type.
    pub kind: String,
    /// Labels the worker must carry.
    pub labels: BTreeMap<String, String>,
    /// Resources it takes from the worker.
    pub resources: BTreeMap<String, u64>,
    /// Sets of labels of which the worker must carry one; empty where it need not.
    pub any_of: Vec<BTreeMap<String, String>>,
}

/// Place in a class: priority descending, then submission.
pub(crate) type Place = (Reverse<u8>, u64);

#[derive(Debug, Default)]
struct Class {
    /// Tasks in memory with this demand, in whatever state.
    tasks: u64,
    ready: BTreeSet<Place>,
}

/// The pending tasks.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    classes: BTreeMap<Arc<Demand>, Class>,
    /// (retry time, task) -> place in its class.
    delayed: BTreeMap<(u64, u64), (Arc<Demand>, u8)>,
}

impl Queue {
    /// The shared form of a demand, counted as used by one more task.
    pub(crate) fn intern(&mut self, demand: Demand) -> Arc<Demand> {
        if let Some((shared, _)) = self.classes.get_key_value(&demand) {
            let shared = Arc::clone(shared);
            if let Some(class) = self.classes.get_mut(&*shared) {
                class.tasks += 1;
            }
            return shared;
        }
        let shared = Arc::new(demand);
        self.classes.insert(Arc::clone(&shared), Class { tasks: 1, ready: BTreeSet::new() });
        shared
    }

    /// One task fewer uses the demand; a class without tasks is forgotten.
    pub(crate) fn release(&mut self, demand: &Demand) {
        if let Some(class) = self.classes.get_mut(demand) {
            class.tasks = class.tasks.saturating_sub(1);
            if class.tasks == 0 {
                self.classes.remove(demand);
            }
        }
    }

    /// Queues a task that is ready at `ready_at_ms`.
    pub(crate) fn push(
        &mut self,
        demand: &Arc<Demand>,
        priority: u8,
        seq: u64,
        ready_at_ms: u64,
        log_ms: u64,
    ) {
        if ready_at_ms > log_ms {
            self.delayed.insert((ready_at_ms, seq), (Arc::clone(demand), priority));
        } else if let Some(class) = self.classes.get_mut(&**demand) {
            class.ready.insert((Reverse(priority), seq));
        }
    }

    /// Takes a task out, wherever it waits.
    pub(crate) fn remove(&mut self, demand: &Demand, priority: u8, seq: u64, ready_at_ms: u64) {
        if self.delayed.remove(&(ready_at_ms, seq)).is_none()
            && let Some(class) = self.classes.get_mut(demand)
        {
            class.ready.remove(&(Reverse(priority), seq));
        }
    }

    /// Moves the tasks whose retry time has come into their classes.
    pub(crate) fn promote(&mut self, log_ms: u64) {
        while let Some(entry) = self.delayed.first_entry() {
            let (ready_at_ms, seq) = *entry.key();
            if ready_at_ms > log_ms {
                break;
            }
            let (demand, priority) = entry.remove();
            if let Some(class) = self.classes.get_mut(&*demand) {
                class.ready.insert((Reverse(priority), seq));
            }
        }
    }

    /// The earliest retry time among the delayed tasks.
    pub(crate) fn next_ready_at_ms(&self) -> Option<u64> {
        self.delayed.first_key_value().map(|((at, _), _)| *at)
    }

    /// The classes that have something ready at `now_log_ms`.
    pub(crate) fn ready(&self, now_log_ms: u64) -> Vec<ReadyClass<'_>> {
        let mut due: BTreeMap<&Demand, Vec<Place>> = BTreeMap::new();
        for ((_, seq), (demand, priority)) in self.delayed.range(..=(now_log_ms, u64::MAX)) {
            due.entry(demand).or_default().push((Reverse(*priority), *seq));
        }
        let mut classes = Vec::new();
        for (demand, class) in &self.classes {
            let mut due = due.remove(&**demand).unwrap_or_default();
            if class.ready.is_empty() && due.is_empty() {
                continue;
            }
            due.sort_unstable_by(|a, b| b.cmp(a));
            classes.push(ReadyClass { demand, ready: class.ready.iter().peekable(), due });
        }
        classes
    }
}

/// The ready tasks of one class, in order.
pub struct ReadyClass<'a> {
    demand: &'a Arc<Demand>,
    ready: std::iter::Peekable<std::collections::btree_set::Iter<'a, Place>>,
    /// Retry time has come since the last entry; last is first.
    due: Vec<Place>,
}

impl<'a> ReadyClass<'a> {
    /// What every task of the class asks for.
    pub fn demand(&self) -> &'a Demand {
        self.demand
    }
}

impl Iterator for ReadyClass<'_> {
    /// Priority and seq.
    type Item = (u8, u64);

    fn next(&mut self) -> Option<(u8, u64)> {
        let place = match (self.ready.peek(), self.due.last()) {
            (Some(ready), Some(due)) if due < *ready => self.due.pop(),
            (Some(_), _) => self.ready.next().copied(),
            (None, _) => self.due.pop(),
        };
        place.map(|(Reverse(priority), seq)| (priority, seq))
    }
}
