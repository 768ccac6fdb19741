//! A node's disk: a log whose records may be written and not synced, and snapshot files.
//!
//! A record is one batch of the log engine: it is there whole or not at all. A process that is
//! killed leaves everything it wrote; a power loss leaves the synced records and any first part
//! of the others, and perhaps half a record, which the check at the next start cuts off. Worse
//! than that is damage: the last synced record, acknowledged, can't be read any more.

use coordinator::replica::{LogWrite, OlderEntries, Truncated};
use raft::eraftpb::{Entry, HardState, Snapshot};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What the log engine holds.
#[derive(Clone, Default)]
pub struct Log {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub truncated: Truncated,
    pub snapshot: Option<Snapshot>,
}

/// A batch of writes that became one record.
pub type Record = Vec<LogWrite>;

#[derive(Default)]
pub struct Disk {
    /// What survives a power loss.
    pub synced: Log,
    /// Synced and unsynced together: what a reader sees, and what survives a kill.
    pub written: Log,
    /// Written and not synced.
    unsynced: VecDeque<Record>,
    /// `synced` without its last record, where that one may be damaged.
    before_last: Option<Log>,
    /// Snapshot files that are durable, by name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// What a crash left behind.
#[derive(Default)]
pub struct Left {
    /// Records that were lost.
    pub lost: u64,
    /// True where the check at the next start finds half a record.
    pub torn: bool,
}

/// Which way the process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The process was killed; the system wrote the rest.
    Kill,
    /// The power went: so many of the unsynced records are there, and perhaps half of the next.
    Power { kept: usize, torn: bool },
}

impl Log {
    /// The record's effect. `forget_truncation` is a mutation: entries behind those that were
    /// replaced stay.
    fn take(&mut self, record: &[LogWrite], forget_truncation: bool) {
        for write in record {
            if let Some(snapshot) = &write.install {
                let metadata = snapshot.get_metadata();
                self.entries.clear();
                self.truncated = Truncated { index: metadata.index, term: metadata.term };
                self.snapshot = Some(snapshot.clone());
            }
            if let Some((snapshot, truncated)) = &write.compact {
                self.entries.retain(|e| e.index > truncated.index);
                self.truncated = *truncated;
                self.snapshot = Some(snapshot.clone());
            }
            if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
                let from = self.entries.partition_point(|e| e.index < first.index);
                let tail = self.entries.split_off(from);
                self.entries.extend(write.entries.iter().cloned());
                if forget_truncation {
                    self.entries.extend(tail.into_iter().filter(|e| e.index > last.index));
                }
            }
            if let Some(state) = &write.hard_state {
                self.hard_state = state.clone();
            }
        }
    }

    /// Index and term of its end.
    pub fn last(&self) -> Truncated {
        let last = self.entries.last().filter(|e| e.index > self.truncated.index);
        last.map_or(self.truncated, |e| Truncated { index: e.index, term: e.term })
    }

    /// Name of the snapshot that a record of the engine names.
    pub fn named_file(&self) -> Option<String> {
        self.snapshot.as_ref().map(|s| String::from_utf8_lossy(&s.data).into_owned())
    }
}

/// The disk, shared by the node and the replica that reads older entries from it.
#[derive(Clone, Default)]
pub struct SharedDisk(pub Rc<RefCell<Disk>>);

impl OlderEntries for SharedDisk {
    fn fetch(&self, low: u64, high: u64, _max_bytes: u64) -> Result<Vec<Entry>, String> {
        let disk = self.0.borrow();
        let entries = &disk.written.entries;
        let from = entries.partition_point(|e| e.index < low);
        Ok(entries[from..].iter().take_while(|e| e.index < high).cloned().collect())
    }
}

impl SharedDisk {
    /// Writes a record without syncing it.
    pub fn write(&self, record: Record, forget_truncation: bool) {
        let mut disk = self.0.borrow_mut();
        disk.written.take(&record, forget_truncation);
        disk.unsynced.push_back(record);
    }

    /// Syncs what was written.
    pub fn sync(&self, forget_truncation: bool) {
        let mut disk = self.0.borrow_mut();
        while let Some(record) = disk.unsynced.pop_front() {
            // A record that names a snapshot frees what it replaces; it is no end of the log.
            let plain = record.iter().all(|w| w.install.is_none() && w.compact.is_none());
            let before = plain.then(|| disk.synced.clone());
            let promised = |log: &Log| (log.hard_state.term, log.hard_state.vote);
            let promise = promised(&disk.synced);
            disk.synced.take(&record, forget_truncation);
            // A new term or vote is followed by a second record with the same: that one is the last.
            let twice = promise != promised(&disk.synced);
            disk.before_last = if twice { Some(disk.synced.clone()) } else { before };
        }
    }

    /// The process or the machine ended.
    pub fn end(&self, end: End, forget_truncation: bool) -> Left {
        let mut left = Left::default();
        if let End::Power { kept, torn } = end {
            let mut disk = self.0.borrow_mut();
            let all = disk.unsynced.len();
            disk.unsynced.truncate(kept);
            left.lost = (all - disk.unsynced.len()) as u64;
            left.torn = torn && left.lost > 0;
        }
        self.sync(forget_truncation);
        let mut disk = self.0.borrow_mut();
        disk.written = disk.synced.clone();
        left
    }

    /// How many records a power loss could take.
    pub fn unsynced(&self) -> usize {
        self.0.borrow().unsynced.len()
    }

    /// Takes the last synced record away, acknowledged or not; false where it can't be the one
    /// that is damaged.
    pub fn damage_last_record(&self) -> bool {
        let mut disk = self.0.borrow_mut();
        let Some(before) = disk.before_last.take() else { return false };
        disk.synced = before;
        disk.written = disk.synced.clone();
        true
    }

    /// At a start: files that no record names go.
    pub fn keep_named_file(&self) {
        let mut disk = self.0.borrow_mut();
        let named = disk.synced.named_file();
        disk.files.retain(|file, _| Some(file) == named.as_ref());
    }
}
