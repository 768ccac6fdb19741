//! A cut: the machine as it stood behind one entry, read piece by piece while it goes on.
//!
//! Encoding a million tasks takes seconds, and nobody may wait for it. So only what is one of a
//! kind is taken at the moment of the cut. Tasks are read behind it, a few at a time under a short
//! lock. A task that changes or leaves before the reader has come to it is kept as it was, once;
//! memory grows by what changes meanwhile and no more.
//!
//! Invariant: the tasks a cut gives are exactly those that the machine held when it began, each
//! once, in the order of their numbers. Whoever changes or removes a task tells the cut first
//! (`Tasks::change`, `Tasks::remove`); if one forgets, the snapshot's sum of hashes does not give
//! the checksum that was taken with the cut, and the snapshot is refused.

use super::Machine;
use super::records::Head;
use super::tasks::Task;
use super::workers::Worker;
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::atomic::{AtomicU64, Ordering};

/// The tasks of a cut.
#[derive(Debug)]
pub(crate) struct TaskCut {
    id: u64,
    last_seq: u64,
    /// Everything up to here was read.
    cursor: u64,
    /// Tasks behind the cursor that changed or left since, as they were.
    kept: BTreeMap<u64, Task>,
}

impl TaskCut {
    pub(crate) fn new(id: u64, last_seq: u64) -> Self {
        TaskCut { id, last_seq, cursor: 0, kept: BTreeMap::new() }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The task is about to change or to leave.
    pub(crate) fn keep(&mut self, seq: u64, task: &Task) {
        if seq > self.cursor && seq <= self.last_seq {
            self.kept.entry(seq).or_insert_with(|| task.clone());
        }
    }

    /// At most `max` more tasks.
    pub(crate) fn read(&mut self, present: &BTreeMap<u64, Box<Task>>, max: usize) -> Vec<Task> {
        if self.cursor >= self.last_seq {
            return Vec::new();
        }
        let range = (Excluded(self.cursor), Included(self.last_seq));
        let mut live = present.range(range).peekable();
        let mut tasks = Vec::with_capacity(max.min(4096));
        while tasks.len() < max {
            let kept = self.kept.first_key_value().map(|(seq, _)| *seq);
            let next = match (live.peek().map(|(seq, _)| **seq), kept) {
                (None, None) => break,
                (Some(live), Some(kept)) => live.min(kept),
                (Some(seq), None) | (None, Some(seq)) => seq,
            };
            let as_now = live.next_if(|(seq, _)| **seq == next);
            match self.kept.remove(&next) {
                Some(task) => tasks.push(task),
                None => tasks.extend(as_now.map(|(_, task)| Task::clone(task))),
            }
            self.cursor = next;
        }
        if tasks.is_empty() {
            self.cursor = self.last_seq;
        }
        tasks
    }
}

/// What was taken at the moment of a cut; its tasks are read with [`Machine::read_cut`].
#[derive(Debug)]
pub struct Cut {
    pub(crate) id: u64,
    pub(crate) head: Head,
    pub(crate) workers: Vec<Worker>,
}

impl Cut {
    /// Index of the last entry in it.
    pub fn index(&self) -> u64 {
        self.head.applied_index
    }

    /// Term of that entry.
    pub fn term(&self) -> u64 {
        self.head.applied_term
    }

    /// Who votes and follows there.
    pub fn conf_state(&self) -> ConfState {
        self.head.members.conf_state()
    }

    /// The same state without its members, for an archive that belongs to no cluster.
    pub fn without_members(mut self) -> Cut {
        let members = std::mem::take(&mut self.head.members).hash();
        self.head.checksum = self.head.checksum.wrapping_sub(members);
        self.head.standing_hash = self.head.standing_hash.wrapping_sub(members);
        self
    }

    /// The checksum of the state.
    pub fn checksum(&self) -> u128 {
        self.head.checksum
    }
}

/// Tasks of a cut.
#[derive(Debug)]
pub struct CutTasks(pub(crate) Vec<Task>);

impl CutTasks {
    /// True at the end of the cut.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many tasks.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Adds up the records of a cut, to compare them with the checksum that was kept all along.
#[derive(Debug)]
pub struct CutSum {
    expected: u128,
    sum: u128,
    /// A task whose hash is not that of its record, if any.
    damaged: Option<String>,
}

impl CutSum {
    /// Begins with everything but the tasks.
    pub fn new(cut: &Cut) -> Self {
        let mut sum = cut.head.standing_hash;
        for (name, lease) in &cut.head.named {
            sum = sum.wrapping_add(lease.compute_hash(name));
        }
        for (key, done) in &cut.head.keys {
            sum = sum.wrapping_add(done.compute_hash(key));
        }
        for worker in &cut.workers {
            sum = sum.wrapping_add(worker.compute_hash());
        }
        CutSum { expected: cut.head.checksum, sum, damaged: None }
    }

    /// Adds tasks, their hashes computed anew.
    pub fn add(&mut self, tasks: &CutTasks) {
        for task in &tasks.0 {
            let hash = task.recompute_hash();
            if hash != task.hash && self.damaged.is_none() {
                self.damaged = Some(task.spec.id.to_string());
            }
            self.sum = self.sum.wrapping_add(hash);
        }
    }

    /// What is wrong, if anything.
    pub fn finish(self) -> Result<(), String> {
        if let Some(id) = self.damaged {
            return Err(format!("the record of task `{id}` is not what its hash says"));
        }
        if self.sum != self.expected {
            return Err(format!(
                "the records add up to checksum {:032x}, the machine kept {:032x}",
                self.sum, self.expected
            ));
        }
        Ok(())
    }
}

impl Machine {
    /// Begins a cut at the present index. Only the newest cut can be read.
    pub fn begin_cut(&mut self) -> Cut {
        // Unique in the process: a machine that is replaced by a snapshot must not take the reader
        // of its predecessor's cut for its own.
        static CUTS: AtomicU64 = AtomicU64::new(1);
        let id = CUTS.fetch_add(1, Ordering::Relaxed);
        self.tasks.begin_cut(id, self.last_seq);
        Cut { id, head: Head::of(self), workers: self.workers.values().cloned().collect() }
    }

    /// The next tasks of a cut; empty at its end, none where the cut was given up for another.
    pub fn read_cut(&mut self, cut: &Cut, max: usize) -> Option<CutTasks> {
        self.tasks.read_cut(cut.id, max).map(CutTasks)
    }

    /// Forgets a cut that was read, or is not wanted any more.
    pub fn end_cut(&mut self, cut: &Cut) {
        self.tasks.end_cut(cut.id);
    }
}
