//! PURE. Which place in a trace a task came from.
//!
//! Every node learns it from the entry that brought the task, so that a new leader knows it too,
//! and keeps it in memory only: it is no part of the state, nor of snapshots. After a restart it is
//! there again as far as the log is; a task from before the snapshot goes on without a trace.

use otlp::Context;
use std::collections::{BTreeMap, HashMap};

/// Tasks whose places are kept; beyond it the oldest are forgotten.
pub const MAX_TASKS: usize = 65_536;

/// The places of unfinished tasks.
#[derive(Debug, Default)]
pub struct TaskPlaces {
    by_id: HashMap<String, (u64, Context)>,
    by_age: BTreeMap<u64, String>,
    next: u64,
}

impl TaskPlaces {
    /// True where no task has one.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The place that a task came from.
    pub fn get(&self, task_id: &str) -> Option<Context> {
        self.by_id.get(task_id).map(|(_, place)| *place)
    }

    /// A task came, or came again, from this place.
    pub fn put(&mut self, task_id: &str, place: Context) {
        self.remove(task_id);
        if self.by_id.len() >= MAX_TASKS
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_id.remove(&oldest);
        }
        self.next += 1;
        self.by_id.insert(task_id.to_owned(), (self.next, place));
        self.by_age.insert(self.next, task_id.to_owned());
    }

    /// The task needs it no more.
    pub fn remove(&mut self, task_id: &str) {
        if let Some((age, _)) = self.by_id.remove(task_id) {
            self.by_age.remove(&age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use otlp::{SpanId, TraceId};

    fn place(number: u64) -> Context {
        Context { trace: TraceId::from(1), span: SpanId::from(number) }
    }

    #[test]
    fn the_newest_place_counts_and_the_oldest_task_is_forgotten() {
        let mut places = TaskPlaces::default();
        (0..MAX_TASKS as u64).for_each(|n| places.put(&format!("t{n}"), place(n + 1)));
        places.put("t0", place(7_777_777));
        assert_eq!(places.get("t0"), Some(place(7_777_777)), "put again, it is the youngest");
        places.put("new", place(5));
        assert_eq!((places.get("t1"), places.get("t2")), (None, Some(place(3))));
        assert_eq!((places.by_id.len(), places.by_age.len()), (MAX_TASKS, MAX_TASKS));
        places.remove("t2");
        places.remove("t2");
        assert_eq!((places.by_id.len(), places.by_age.len()), (MAX_TASKS - 1, MAX_TASKS - 1));
    }
}
