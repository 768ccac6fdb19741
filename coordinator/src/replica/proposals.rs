//! Proposals: commands that become entries, who waits for them, and the log's time.

use super::{OlderEntries, ProposeRefused, Replica, Tag};
use crate::command::{Batch, Stamp};
use raft::StateRole;
use raft::eraftpb::{Entry, EntryType};

impl<O: OlderEntries> Replica<O> {
    /// Packs commands into one entry and proposes it. `mono_ms` is any monotonic clock.
    pub fn propose(
        &mut self,
        commands: &[Vec<u8>],
        mono_ms: u64,
        wall_ms: i64,
        tag: Tag,
    ) -> Result<(), ProposeRefused> {
        self.propose_with(commands, Vec::new(), mono_ms, wall_ms, tag)
    }

    /// As [`Replica::propose`], with a context that goes with the entry to every log and means
    /// nothing to any machine.
    pub fn propose_with(
        &mut self,
        commands: &[Vec<u8>],
        context: Vec<u8>,
        mono_ms: u64,
        wall_ms: i64,
        tag: Tag,
    ) -> Result<(), ProposeRefused> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(ProposeRefused::NotLeader);
        }
        if self.successor_may_come() {
            return Err(ProposeRefused::Busy);
        }
        let (from_log, from_mono) = *self.lead_since.get_or_insert((self.last_log_ms, mono_ms));
        let log_ms = (from_log + mono_ms.saturating_sub(from_mono)).max(self.last_log_ms);
        let data = Batch::pack(Stamp { log_ms, wall_ms }, commands);
        let before = self.raw.raft.raft_log.last_index();
        // On a leader that hands over, and beyond the bound of bytes in flight, raft-rs drops.
        if self.raw.propose(context, data).is_err() || self.raw.raft.raft_log.last_index() != before + 1 {
            return Err(ProposeRefused::Busy);
        }
        self.last_log_ms = log_ms;
        // What an earlier office left behind at this place was overwritten here. Elsewhere it may
        // still stand, and until something of a later term is committed at its place or before, a
        // node that has it may lead next and commit it.
        while let Some((_, _, tag)) = self.proposals.pop_back_if(|(index, ..)| *index > before) {
            self.changes.remove(&tag);
            self.unknown.push(tag);
        }
        self.proposals.push_back((before + 1, self.raw.raft.term, tag));
        Ok(())
    }

    /// True where another entry follows within moments: what is committed meanwhile is told with it,
    /// and not by messages of its own.
    pub fn commit_rides(&mut self, rides: bool) {
        self.raw.skip_bcast_commit(rides);
    }

    /// Who waits for this entry; whoever waited for something else at its index will not get it.
    pub(super) fn tag_of(&mut self, entry: &Entry) -> Option<Tag> {
        while let Some((index, term, tag)) = self.proposals.front().copied() {
            // Terms never fall along a log: behind a committed entry of a later term, or at its
            // place, nothing of this one is ever committed.
            let overtaken = index >= entry.index && term < entry.term;
            if index > entry.index && !overtaken {
                return None;
            }
            self.proposals.pop_front();
            let change = self.changes.remove(&tag);
            if (index, term) == (entry.index, entry.term) {
                // A change that was committed as nothing is one that Raft refused.
                if change && entry.get_entry_type() == EntryType::EntryNormal {
                    self.refused.push(tag);
                    continue;
                }
                return Some(tag);
            }
            if overtaken { self.lost.push(tag) } else { self.unknown.push(tag) }
        }
        None
    }

    /// Waits no more for what was proposed: this node can't learn its outcome in time.
    pub fn give_up_proposals(&mut self) {
        self.unknown.extend(self.proposals.drain(..).map(|(_, _, tag)| tag));
        self.changes.clear();
    }

    pub(super) fn note_log_time(&mut self, entries: &[Entry]) {
        if let Some(stamp) = entries.iter().rev().find_map(stamp_of) {
            self.last_log_ms = self.last_log_ms.max(stamp.log_ms);
        }
    }
}

fn stamp_of(entry: &Entry) -> Option<Stamp> {
    if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
        return None;
    }
    Batch::stamp(&entry.data)
}

/// The log time of the newest entry that has one, looking back a bounded way.
pub(super) fn last_log_ms(older: &impl OlderEntries, last: u64) -> u64 {
    const LOOK_BACK: u64 = 1024;
    let from = last.saturating_sub(LOOK_BACK).max(1);
    let mut index = last;
    while index >= from && index > 0 {
        match older.fetch(index, index + 1, 0) {
            Ok(entries) => match entries.first().and_then(stamp_of) {
                Some(stamp) => return stamp.log_ms,
                None if entries.is_empty() => return 0,
                None => index -= 1,
            },
            Err(_) => return 0,
        }
    }
    0
}
