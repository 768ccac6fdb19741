//! A state of others for a log of one's own: does it fit, and how the log names it.

use super::log::{GROUP, HARD_STATE_KEY, RaftLog, SNAPSHOT_KEY, TRUNCATED_KEY};
use crate::machine::checksum::chain;
use crate::replica::{OlderEntries, Recovered};
use raft::eraftpb::{ConfState, Snapshot};
use raft_engine::{Command, LogBatch};

/// Bytes of entries read at once.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;

impl RaftLog {
    /// Why this log is not the one that left this chain at these indexes (ascending), if so.
    ///
    /// Terms alone do not tell: a damaged or rewritten entry keeps its term. Only what was committed
    /// here counts; entries of a leader that was deposed may be others. A log with its first entry is
    /// compared from there, any other from the first of these indexes that lies in it.
    pub fn departs_from(&self, points: &[(u64, u128)]) -> Result<Option<String>, String> {
        let Recovered { hard_state, truncated, last, .. } = self.recovered(ConfState::default())?;
        let committed = hard_state.commit.min(last.index);
        let beginning = (0, 0);
        let points: Vec<_> = std::iter::once(beginning).chain(points.iter().copied()).collect();
        for pair in points.windows(2) {
            let [(from, begin), (to, end)] = [pair[0], pair[1]];
            if from < truncated.index || to > committed {
                continue;
            }
            let (mut index, mut hash) = (from, begin);
            while index < to {
                let page = self.fetch(index + 1, to + 1, PAGE_BYTES)?;
                if page.first().is_none_or(|entry| entry.index != index + 1) {
                    return Err(format!("entry {} of the log is missing", index + 1));
                }
                for entry in page {
                    hash = chain(hash, entry.index, entry.term, &entry.data);
                    index = entry.index;
                }
            }
            if hash != end {
                return Ok(Some(format!(
                    "the entries {} to {to} are not those of the majority: their chain differs",
                    from + 1
                )));
            }
        }
        Ok(None)
    }

    fn term_of(&self, index: u64) -> Result<u64, String> {
        self.entry(index)?.map(|entry| entry.term).ok_or_else(|| format!("entry {index} is missing"))
    }

    /// Names another state to begin with, in one synced batch. What the log holds behind it stays, what
    /// lies before it goes: nobody can vouch for all of it, and it would be sent to a peer that lacks it.
    /// A log that ends before it, or whose end there was never committed, begins anew behind it. Term
    /// and vote stay.
    pub fn replace_state(&self, snapshot: &Snapshot) -> Result<(), String> {
        let (index, term) = (snapshot.get_metadata().index, snapshot.get_metadata().term);
        let Recovered { mut hard_state, truncated, last, snapshot: named, .. } =
            self.recovered(ConfState::default())?;
        if named.is_some_and(|named| named.data == snapshot.data) {
            return Ok(());
        }
        if index < truncated.index {
            return Err(format!(
                "the state is of index {index}, and the log begins behind {}",
                truncated.index
            ));
        }
        let mut batch = LogBatch::default();
        let failed = |e: raft_engine::Error| format!("naming the new state: {e}");
        // Entries of a leader that was deposed before they were committed: the majority has others in
        // their place, and none behind them counts.
        let void = index > hard_state.commit
            && index > truncated.index
            && index <= last.index
            && self.term_of(index)? != term;
        if index > last.index || void {
            if last.index > truncated.index {
                batch.add_command(GROUP, Command::Compact { index: last.index + 1 });
            }
        } else if index > truncated.index {
            let own = self.term_of(index)?;
            if own != term {
                return Err(format!(
                    "entry {index} of the log has term {own}, the new state has {term} there"
                ));
            }
            batch.add_command(GROUP, Command::Compact { index: index + 1 });
        }
        let begins = [index.to_be_bytes(), term.to_be_bytes()].concat();
        batch.put(GROUP, TRUNCATED_KEY.to_vec(), begins).map_err(failed)?;
        if hard_state.term < term {
            // A term that this node never voted in.
            (hard_state.term, hard_state.vote) = (term, 0);
        }
        hard_state.commit = hard_state.commit.max(index);
        batch.put_message(GROUP, HARD_STATE_KEY.to_vec(), &hard_state).map_err(failed)?;
        batch.put_message(GROUP, SNAPSHOT_KEY.to_vec(), snapshot).map_err(failed)?;
        self.engine.write(&mut batch, true).map_err(failed).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log::Entries;
    use crate::replica::Truncated;
    use raft::eraftpb::{Entry, HardState};
    use std::path::Path;

    /// A log of the entries 1 to `last`, committed up to `commit`; `other` has other bytes there.
    fn log(folder: &Path, last: u64, commit: u64, other: Option<u64>) -> RaftLog {
        let log = RaftLog::open(folder).unwrap();
        let mut batch = LogBatch::default();
        let entries: Vec<Entry> = (1..=last).map(|index| entry(index, other == Some(index))).collect();
        batch.add_entries::<Entries>(GROUP, &entries).unwrap();
        let state = HardState { term: 3, vote: 1, commit, ..HardState::default() };
        batch.put_message(GROUP, HARD_STATE_KEY.to_vec(), &state).unwrap();
        log.engine.write(&mut batch, true).unwrap();
        log
    }

    fn entry(index: u64, other: bool) -> Entry {
        let text = if other { "other" } else { "entry" };
        Entry { index, term: 3, data: format!("{text} {index}").into_bytes().into(), ..Entry::default() }
    }

    /// What the majority remembers: the chain at these indexes.
    fn points(at: &[u64]) -> Vec<(u64, u128)> {
        let (mut hash, mut points) = (0, Vec::new());
        for index in 1..=at.last().copied().unwrap_or_default() {
            hash = chain(hash, index, 3, &entry(index, false).data);
            if at.contains(&index) {
                points.push((index, hash));
            }
        }
        points
    }

    fn departs(last: u64, commit: u64, other: Option<u64>, at: &[u64]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path(), last, commit, other).departs_from(&points(at)).unwrap()
    }

    #[test]
    fn a_log_of_the_same_terms_and_other_entries_is_not_the_majoritys() {
        assert_eq!(departs(1200, 1200, None, &[256, 512, 1024]), None);
        let why = departs(1200, 1200, Some(700), &[256, 512, 1024]).unwrap();
        assert!(why.contains("513 to 1024"), "{why}");
        assert!(departs(1200, 1200, Some(512), &[256, 512, 1024]).unwrap().contains("257 to 512"));
    }

    #[test]
    fn what_was_never_committed_here_may_be_another() {
        assert_eq!(departs(1200, 600, Some(700), &[256, 512, 1024]), None);
        assert_eq!(departs(1200, 1200, Some(1100), &[256, 512, 1024]), None, "behind what they remember");
        let why = departs(1200, 1200, Some(5), &[256, 512]).unwrap();
        assert!(why.contains("1 to 256"), "a whole log is compared from its first entry: {why}");
        assert_eq!(departs(100, 100, None, &[256, 512]), None, "the log ends before");
    }

    #[test]
    fn a_void_end_of_the_log_gives_way_and_a_committed_one_does_not() {
        let named = |term| {
            let mut snapshot = Snapshot { data: vec![7].into(), ..Snapshot::default() };
            (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (80, term);
            snapshot
        };
        let folder = tempfile::tempdir().unwrap();
        let void = log(folder.path(), 100, 70, None);
        void.replace_state(&named(5)).unwrap();
        let after = void.recovered(ConfState::default()).unwrap();
        assert_eq!((after.truncated, after.last), (Truncated { index: 80, term: 5 }, after.truncated));
        assert_eq!((after.hard_state.term, after.hard_state.vote, after.hard_state.commit), (5, 0, 80));
        let folder = tempfile::tempdir().unwrap();
        let committed = log(folder.path(), 100, 90, None);
        assert!(committed.replace_state(&named(5)).unwrap_err().contains("has term 3"));
        committed.replace_state(&named(3)).unwrap();
        let after = committed.recovered(ConfState::default()).unwrap();
        assert_eq!((after.truncated.index, after.last.index), (80, 100), "what lies behind the state stays");
        assert_eq!((after.hard_state.vote, after.hard_state.commit), (1, 90));
    }

    #[test]
    fn nothing_stays_before_a_state_of_others() {
        let mut snapshot = Snapshot { data: vec![7].into(), ..Snapshot::default() };
        (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (80, 3);
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 100, 90, Some(5));
        log.replace_state(&snapshot).unwrap();
        assert_eq!(log.bounds(), (81, 100));
        assert!(log.page(1, 200).unwrap().iter().all(|entry| entry.index > 80));
        // At its very end, too.
        (snapshot.mut_metadata().index, snapshot.data) = (100, vec![8].into());
        log.replace_state(&snapshot).unwrap();
        let after = log.recovered(ConfState::default()).unwrap();
        assert_eq!((after.truncated, after.last), (Truncated { index: 100, term: 3 }, after.truncated));
    }
}
