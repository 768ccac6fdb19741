//! What a snapshot lets go of the log, and peers that were sent one.
//!
//! A snapshot is one bound of the log's beginning; DuckDB and peers that still fetch an older one
//! are others. These move on after the snapshot was taken, so the log is cut behind the same
//! snapshot again, as often as it takes.

use super::{LogWrite, OlderEntries, Replica, Truncated};
use raft::eraftpb::Snapshot;
use raft::{StateRole, Storage};

/// A peer that was sent a snapshot and for so many ticks has neither answered nor said that it is
/// fetching one is sent another: the message, or the process that had it, is gone.
const SNAPSHOT_TICKS: u32 = 300;

impl<O: OlderEntries> Replica<O> {
    /// A snapshot of the machine is on disk. Gives the compaction to write: entries up to
    /// `upto` go, unless they are gone already.
    pub fn on_snapshot(&mut self, snapshot: Snapshot, upto: u64) -> Option<LogWrite> {
        let view = self.raw.mut_store();
        let newest = view.snapshot_index();
        let index = snapshot.get_metadata().index;
        // One of the same index takes the other's place: its file may be damaged.
        if index < newest || index == 0 || index > self.applied {
            return None;
        }
        let upto = upto.min(index);
        let truncated = match view.term(upto) {
            Ok(term) if upto >= view.bounds().0 => Truncated { index: upto, term },
            _ => view.truncated(),
        };
        view.set_snapshot(snapshot.clone());
        view.compact(truncated);
        Some(LogWrite { compact: Some((snapshot, truncated)), must_sync: true, ..Default::default() })
    }

    /// The last entry that is gone and the newest snapshot's index: what lies between may go once
    /// nobody needs it. None where nothing does.
    pub fn compactable(&self) -> Option<(u64, u64)> {
        let view = self.raw.store();
        let (begin, snapshot) = (view.truncated().index, view.snapshot_index());
        (begin < snapshot && self.installing.is_none()).then_some((begin, snapshot))
    }

    /// Lets the entries up to `upto` go, which the newest snapshot holds; for when nobody needs
    /// them any more. None where that is nothing more than before.
    pub fn compact_behind_snapshot(&mut self, upto: u64) -> Option<LogWrite> {
        let (begin, newest) = self.compactable()?;
        let upto = upto.min(newest).min(self.applied);
        let view = self.raw.mut_store();
        if upto <= begin {
            return None;
        }
        let truncated = Truncated { index: upto, term: view.term(upto).ok()? };
        let snapshot = view.newest_snapshot()?.clone();
        view.compact(truncated);
        Some(LogWrite { compact: Some((snapshot, truncated)), must_sync: true, ..Default::default() })
    }

    /// A peer says that it is fetching a snapshot, however long that takes.
    pub fn on_peer_fetches(&mut self, raft_id: u64) {
        if let Some(age) = self.snapshots_sent.get_mut(&raft_id) {
            *age = 0;
        }
    }

    /// A peer that was sent a snapshot and says nothing of it for long gets another.
    pub(super) fn age_snapshots(&mut self) {
        if self.raw.raft.state != StateRole::Leader {
            self.snapshots_sent.clear();
            return;
        }
        let pending: Vec<u64> = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(_, p)| p.state == raft::ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        self.snapshots_sent.retain(|id, _| pending.contains(id));
        for id in pending {
            let age = self.snapshots_sent.entry(id).or_insert(0);
            *age += 1;
            if *age > SNAPSHOT_TICKS {
                *age = 0;
                self.raw.report_snapshot(id, raft::SnapshotStatus::Failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Disk, config, entries, voters};
    use super::super::{Recovered, ReplicaConfig};
    use super::*;
    use raft::eraftpb::HardState;

    /// Ten entries, eight of them applied.
    fn replica() -> Replica<Disk> {
        let recovered = Recovered {
            hard_state: HardState { term: 1, commit: 8, ..HardState::default() },
            conf_state: voters(&[1]),
            last: Truncated { index: 10, term: 1 },
            ..Recovered::default()
        };
        fixture::replica(ReplicaConfig { applied: 8, ..config(1) }, entries(10, 1), recovered)
    }

    #[test]
    fn what_was_held_back_goes_later_behind_the_same_snapshot() {
        let mut replica = replica();
        assert_eq!(replica.compactable(), None, "there is no snapshot");
        let mut snapshot = Snapshot::default();
        (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (8, 1);
        replica.on_snapshot(snapshot.clone(), 3).unwrap();
        assert_eq!(replica.compactable(), Some((3, 8)));
        assert!(replica.compact_behind_snapshot(3).is_none(), "nothing moved on");
        let write = replica.compact_behind_snapshot(5).unwrap();
        assert!(write.must_sync, "the log's beginning and its snapshot stay together on the disk");
        assert_eq!(write.compact, Some((snapshot, Truncated { index: 5, term: 1 })));
        let write = replica.compact_behind_snapshot(u64::MAX).unwrap();
        let (_, truncated) = write.compact.unwrap();
        assert_eq!(truncated.index, 8, "what no snapshot holds stays");
        assert_eq!((replica.compactable(), replica.log_end().index), (None, 10));
    }
}
