//! What is handed to the log's writer, and what is not worth a write of its own.
//!
//! Of every entry a node hears twice: that it is there, and that it is committed. The second only
//! moves the commit index, which any leader tells again. Raft asks nobody to keep it, so it is
//! *owed* to the disk: it goes with the next entries, or alone once nothing has come for a while.
//! That spares every node a write, and two threads a wake-up, for each entry.
//!
//! Invariants:
//! - A term, a vote and entries are never owed. The commit index that goes with them to the disk is
//!   the newest, as if each had been written in its turn.
//! - Messages that wait for a write that only moves the commit index promise nothing new; they still
//!   leave behind every older write that is not durable.

use super::{LogWrite, OlderEntries, Replica, Turn};
use raft::eraftpb::HardState;

/// A commit index that is owed for so many ticks is written alone.
const OWED_TICKS: u64 = 100;

/// A write that was handed out and is not reported durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsynced {
    pub(super) number: u64,
    /// The last index of its entries, 0 without any.
    pub(super) last: u64,
    /// There was nothing to write: it is durable as soon as those before it are.
    pub(super) only_counts: bool,
}

/// A commit index that the disk does not have yet, with the term and vote that it has.
#[derive(Debug, Clone)]
pub(super) struct Owed {
    state: HardState,
    since_tick: u64,
}

impl<O: OlderEntries> Replica<O> {
    /// Hands a write out, or does without it where nothing in it has to be kept.
    pub(super) fn hand_out(&mut self, mut write: LogWrite, turn: &mut Turn) {
        let number = write.number;
        let keeps = !write.entries.is_empty() || write.install.is_some() || write.must_sync;
        if keeps {
            let owed = self.owed.take().map(|owed| owed.state);
            write.hard_state = write.hard_state.or(owed);
        } else if let Some(state) = write.hard_state.take() {
            let since_tick = self.owed.as_ref().map_or(self.ticks, |owed| owed.since_tick);
            self.owed = Some(Owed { state, since_tick });
        }
        let only_counts = !keeps && write.then_send.is_empty();
        let last = write.entries.last().map_or(0, |entry| entry.index);
        self.unsynced.push_back(Unsynced { number, last, only_counts });
        if keeps {
            turn.writes.push(write);
        } else if self.unsynced.len() == 1 {
            turn.send.append(&mut write.then_send);
            self.on_durable(number);
        } else if !only_counts {
            turn.writes.push(write);
        }
    }

    /// What is owed, as a write, once it is old enough.
    pub(super) fn settle_if_due(&mut self) -> Option<LogWrite> {
        let due = self.owed.as_ref().is_some_and(|owed| self.ticks >= owed.since_tick + OWED_TICKS);
        if due { self.settle() } else { None }
    }

    /// What is owed, as a write: for a node that ends, so that the next start knows what it knew.
    pub fn settle(&mut self) -> Option<LogWrite> {
        let owed = self.owed.take()?;
        // Number 0: there is nothing of it to report.
        Some(LogWrite { hard_state: Some(owed.state), ..Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Disk, config, replica, voters};
    use super::super::*;
    use super::OWED_TICKS;
    use raft::eraftpb::EntryType;

    /// A follower of a cluster of three, without a log, that starts no election here.
    fn follower() -> Replica<Disk> {
        let config = ReplicaConfig {
            election_ticks_min: 10 * OWED_TICKS as usize,
            election_ticks_max: 20 * OWED_TICKS as usize,
            ..config(2)
        };
        replica(config, Vec::new(), Recovered { conf_state: voters(&[1, 2, 3]), ..Recovered::default() })
    }

    fn append(index: u64, commit: u64, entries: usize) -> Message {
        let entry = |at: usize| Entry {
            entry_type: EntryType::EntryNormal,
            term: 1,
            index: index + at as u64,
            data: vec![1; 8].into(),
            ..Entry::default()
        };
        let entries = (0..entries).map(entry).collect::<Vec<_>>().into();
        let log_term = u64::from(index > 1);
        Message {
            msg_type: MessageType::MsgAppend,
            from: 1,
            to: 2,
            term: 1,
            index: index - 1,
            log_term,
            commit,
            entries,
            ..Message::default()
        }
    }

    #[test]
    fn a_commit_index_goes_with_the_next_entries() {
        let mut replica = follower();
        replica.step(append(1, 0, 1));
        let first = replica.turn().writes.pop().expect("an entry is written");
        assert!(first.must_sync && !first.then_send.is_empty());
        replica.on_durable(first.number);
        replica.turn();

        replica.step(append(2, 1, 0));
        let turn = replica.turn();
        assert!(turn.writes.is_empty(), "the commit index is not worth a write: {:?}", turn.writes);
        assert_eq!(turn.send.len(), 1, "the leader is answered at once");
        assert_eq!(turn.apply.len(), 1, "and the entry is applied");

        replica.step(append(2, 1, 1));
        let second = replica.turn().writes.pop().expect("the next entry is written");
        assert_eq!(second.hard_state.map(|state| state.commit), Some(1), "the commit index with it");
    }

    #[test]
    fn what_is_answered_behind_entries_waits_for_them() {
        let mut replica = follower();
        replica.step(append(1, 0, 1));
        let mut writes = replica.turn().writes;
        replica.step(append(2, 0, 0));
        let turn = replica.turn();
        assert!(turn.send.is_empty(), "the entry before it is not durable: {:?}", turn.send);
        writes.extend(turn.writes);
        let answers: usize = writes.iter().map(|write| write.then_send.len()).sum();
        assert!(answers >= 2, "{writes:?}");
    }

    #[test]
    fn what_is_owed_is_written_when_nothing_comes_and_at_the_end() {
        let mut replica = follower();
        replica.step(append(1, 0, 1));
        let first = replica.turn().writes.pop().unwrap();
        replica.on_durable(first.number);
        replica.step(append(2, 1, 0));
        assert!(replica.turn().writes.is_empty());
        (1..OWED_TICKS).for_each(|_| replica.tick());
        assert!(replica.turn().writes.is_empty(), "something may still come");
        replica.tick();
        let settled = replica.turn().writes.pop().expect("nothing came");
        assert_eq!(settled.hard_state.map(|state| (state.term, state.commit)), Some((1, 1)));
        assert!(!settled.must_sync && settled.entries.is_empty());
        assert!(replica.settle().is_none(), "nothing is owed twice");

        replica.step(append(2, 1, 1));
        let second = replica.turn().writes.pop().unwrap();
        replica.on_durable(second.number);
        replica.step(append(3, 2, 0));
        assert!(replica.turn().writes.is_empty());
        let settled = replica.settle().expect("it ends");
        assert_eq!(settled.hard_state.map(|state| state.commit), Some(2));
    }
}
