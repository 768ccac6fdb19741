//! What the owner thread tells peers of this node ten times a second, and hears of them.

use super::driver::{Driver, Waiting};
use super::transport::Pulse;
use crate::replica::{OlderEntries, Told, Truncated};

impl<O: OlderEntries> Driver<O> {
    /// Goes before the turn's messages: a suspect peer must not be told a last index below what
    /// this leader has sent already.
    pub(super) fn set_pulse(&self, waiting: &Waiting) {
        let standing = self.replica.standing();
        let (end, committed) = (self.replica.log_end(), self.replica.committed());
        self.transport.set_pulse(Pulse {
            leads: standing.role == raft::StateRole::Leader,
            knows_leader: standing.leader != 0,
            suspect: standing.suspect,
            term: standing.term,
            last_index: end.index,
            last_term: end.term,
            verified_index: self.replica.verified_index(),
            commit_index: committed.index,
            commit_term: committed.term,
            // The transport knows.
            fetching: false,
            trouble: waiting.trouble,
            sets: waiting.sets.clone(),
        });
    }

    /// How a peer stands.
    pub(super) fn take_pulse(&mut self, raft_id: u64, pulse: Pulse, waiting: &mut Waiting) {
        if pulse.leads {
            self.replica.meet_leader(raft_id, pulse.term, pulse.last_index);
        }
        let committed = Truncated { index: pulse.commit_index, term: pulse.commit_term };
        self.replica.learn_commit(committed);
        if pulse.fetching {
            self.replica.on_peer_fetches(raft_id);
        }
        if pulse.suspect {
            self.replica.meet_suspect(raft_id, pulse.verified_index, pulse.last_index);
        }
        waiting.ends.insert(raft_id, pulse);
        self.compare_ends(waiting);
    }

    /// A suspect without a leader waits until every voter has told its log end.
    pub(super) fn compare_ends(&mut self, waiting: &Waiting) {
        let told = |pulse: &Pulse| Told {
            end: Truncated { index: pulse.last_index, term: pulse.last_term },
            knows_leader: pulse.leads || pulse.knows_leader,
            sets: pulse.sets.clone(),
        };
        if self.replica.is_suspect() {
            let told = waiting.ends.iter().map(|(peer, pulse)| (*peer, told(pulse))).collect();
            self.replica.compare_log_ends(&told);
        }
    }
}
