//! What raft-rs reads: the log's tail in memory, its hard state, and a way to older entries.
//!
//! Entries and hard state are put here when a `Ready` names them, before they are on disk; the
//! writer makes them durable behind. Raft therefore always reads what it last decided.
//!
//! Invariant: an entry leaves the cache only after it is durable *and* applied, so that
//! everything Raft may still need in this round is either here or in the log on disk.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// Reads entries that have left the cache. The simulation gives a vector, the node its log.
pub trait OlderEntries {
    /// Entries from `low` up to and without `high`, at least one if there is any, then as many as
    /// fit into `max_bytes`.
    fn fetch(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, String>;
}

/// The point up to which the log was compacted away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Truncated {
    /// Index of the last entry that is gone.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The log as Raft reads it.
pub struct LogView<O> {
    hard_state: HardState,
    /// The sets that a restart began with; Raft itself keeps the present ones.
    conf_state: ConfState,
    truncated: Truncated,
    snapshot: Option<Snapshot>,
    /// True once a snapshot was asked for that a newer one has to serve.
    snapshot_wanted: Cell<bool>,
    /// Consecutive entries that end with the log's last one.
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    /// Above this size, durable and applied entries leave the cache.
    cache_limit_bytes: u64,
    /// Last entry that is on disk.
    durable_index: u64,
    /// Last index of the log.
    last: Truncated,
    older: O,
}

/// What a restart finds on disk.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// Voters and learners at the snapshot's index, or as founded where there is none; changes
    /// behind it are taken over again from the log.
    pub conf_state: ConfState,
    /// Where the log begins.
    pub truncated: Truncated,
    /// Index and term of the last entry; equal to `truncated` for an empty log.
    pub last: Truncated,
    /// The newest snapshot.
    pub snapshot: Option<Snapshot>,
}

impl<O: OlderEntries> LogView<O> {
    /// A view on what the disk holds.
    pub fn new(recovered: Recovered, older: O, cache_limit_bytes: u64) -> Self {
        LogView {
            hard_state: recovered.hard_state,
            conf_state: recovered.conf_state,
            truncated: recovered.truncated,
            snapshot: recovered.snapshot,
            snapshot_wanted: Cell::new(false),
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_limit_bytes,
            durable_index: recovered.last.index,
            last: recovered.last,
            older,
        }
    }

    /// Takes entries a `Ready` names; they replace what stood at their indexes.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.cache.back().is_some_and(|e| e.index >= first.index) {
            if let Some(gone) = self.cache.pop_back() {
                self.cache_bytes -= entry_bytes(&gone);
            }
        }
        self.durable_index = self.durable_index.min(first.index - 1);
        for entry in entries {
            self.cache_bytes += entry_bytes(entry);
            self.cache.push_back(entry.clone());
        }
        if let Some(entry) = entries.last() {
            self.last = Truncated { index: entry.index, term: entry.term };
        }
    }

    /// Takes the hard state a `Ready` names.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The present hard state.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Takes the snapshot that may be sent to a peer which is too far behind.
    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// True once after somebody needed a snapshot that the newest one can't serve.
    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// Index of that snapshot, 0 without one.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |s| s.get_metadata().index)
    }

    /// That snapshot.
    pub fn newest_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Where the log begins.
    pub fn truncated(&self) -> Truncated {
        self.truncated
    }

    /// The log now begins behind `truncated`.
    pub fn compact(&mut self, truncated: Truncated) {
        if truncated.index <= self.truncated.index {
            return;
        }
        self.truncated = truncated;
        while self.cache.front().is_some_and(|e| e.index <= truncated.index) {
            if let Some(gone) = self.cache.pop_front() {
                self.cache_bytes -= entry_bytes(&gone);
            }
        }
    }

    /// The whole state was replaced by a snapshot.
    pub fn install(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        self.cache.clear();
        self.cache_bytes = 0;
        self.truncated = Truncated { index: metadata.index, term: metadata.term };
        self.last = self.truncated;
        self.durable_index = metadata.index;
        self.conf_state = metadata.get_conf_state().clone();
        self.snapshot = Some(snapshot.clone());
        if self.hard_state.commit < metadata.index {
            self.hard_state.commit = metadata.index;
        }
    }

    /// The log is durable up to `index`.
    pub fn set_durable(&mut self, index: u64) {
        self.durable_index = self.durable_index.max(index.min(self.last.index));
    }

    /// Last entry that is on disk.
    pub fn durable_index(&self) -> u64 {
        self.durable_index
    }

    /// Lets entries go that are durable and applied, while the cache is above its limit.
    pub fn trim(&mut self, applied: u64) {
        let safe = applied.min(self.durable_index);
        while self.cache_bytes > self.cache_limit_bytes && self.cache.front().is_some_and(|e| e.index <= safe)
        {
            if let Some(gone) = self.cache.pop_front() {
                self.cache_bytes -= entry_bytes(&gone);
            }
        }
    }

    /// Where the log begins and ends.
    pub fn bounds(&self) -> (u64, u64) {
        (self.truncated.index + 1, self.last.index)
    }

    /// Index and term of the last entry.
    pub fn last(&self) -> Truncated {
        self.last
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let first = self.cache.front()?.index;
        index.checked_sub(first).and_then(|at| self.cache.get(at as usize))
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 48) as u64
}

fn broken(why: String) -> Error {
    Error::Store(StorageError::Other(why.into()))
}

impl<O: OlderEntries> Storage for LogView<O> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last.index + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut out = Vec::new();
        let mut bytes = 0;
        let mut next = low;
        let cached_from = self.cache.front().map_or(self.last.index + 1, |e| e.index);
        if next < cached_from {
            for entry in self.older.fetch(next, high.min(cached_from), limit).map_err(broken)? {
                bytes += entry_bytes(&entry);
                if !out.is_empty() && bytes > limit {
                    return Ok(out);
                }
                next = entry.index + 1;
                out.push(entry);
            }
            if next < high.min(cached_from) {
                return if out.is_empty() { Err(Error::Store(StorageError::Unavailable)) } else { Ok(out) };
            }
        }
        while next < high {
            let entry = self.cached(next).ok_or(Error::Store(StorageError::Unavailable))?;
            bytes += entry_bytes(entry);
            if !out.is_empty() && bytes > limit {
                break;
            }
            out.push(entry.clone());
            next += 1;
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index < self.truncated.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index > self.last.index {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if let Some(entry) = self.cached(index) {
            return Ok(entry.term);
        }
        let found = self.older.fetch(index, index + 1, 0).map_err(broken)?;
        found.first().map(|e| e.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    /// raft-rs throws a snapshot away whose sets don't name the one that gets it: a member that
    /// came after the newest snapshot needs a newer one.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let names_it = |snapshot: &Snapshot| {
            let sets = snapshot.get_metadata().get_conf_state();
            let mut named = sets.voters.iter().chain(&sets.learners).chain(&sets.voters_outgoing);
            named.any(|id| *id == to)
        };
        match &self.snapshot {
            Some(snapshot) if snapshot.get_metadata().index >= request_index && names_it(snapshot) => {
                Ok(snapshot.clone())
            }
            _ => {
                self.snapshot_wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Disk;
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![7; 100].into(), ..Default::default() }
    }

    fn view(cache_limit_bytes: u64) -> LogView<Disk> {
        let entries: Vec<_> = (1..=10).map(|i| entry(i, 1)).collect();
        let mut view = LogView::new(Recovered::default(), Disk(entries.clone()), cache_limit_bytes);
        view.append(&entries);
        view
    }

    #[test]
    fn entries_come_from_cache_and_disk_without_a_gap() {
        let mut view = view(300);
        view.set_durable(10);
        view.trim(8);
        assert!(view.cached(8).is_none() && view.cached(9).is_some());
        let read = view.entries(5, 11, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(read.iter().map(|e| e.index).collect::<Vec<_>>(), [5, 6, 7, 8, 9, 10]);
        assert_eq!(view.term(3), Ok(1));
        let one = view.entries(5, 11, 0, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn what_is_not_durable_stays_in_the_cache() {
        let mut view = view(0);
        view.set_durable(4);
        view.trim(10);
        assert!(view.cached(4).is_none() && view.cached(5).is_some());
    }

    #[test]
    fn an_overlap_replaces_the_tail() {
        let mut view = view(u64::MAX);
        view.set_durable(10);
        view.append(&[entry(6, 2)]);
        assert_eq!(view.bounds(), (1, 6));
        assert_eq!((view.term(6), view.durable_index()), (Ok(2), 5));
        assert_eq!(view.term(7), Err(Error::Store(StorageError::Unavailable)));
    }

    #[test]
    fn what_was_compacted_says_so() {
        let mut view = view(u64::MAX);
        view.compact(Truncated { index: 4, term: 1 });
        assert_eq!(view.term(4), Ok(1));
        assert_eq!(view.term(3), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(
            view.entries(4, 6, None, GetEntriesContext::empty(false)),
            Err(Error::Store(StorageError::Compacted))
        );
        assert_eq!(view.first_index(), Ok(5));
    }
}
