//! A replica whose log lost its end: what it must not do, and when it is over.
//!
//! The lost record may have been acknowledged, and an entry may have been committed with its
//! help. A vote of this replica could then elect somebody who lacks that entry. So it neither
//! votes nor campaigns until it holds all that a leader, elected without it, had when they met;
//! every such leader has what was committed, because a quorum without this replica elected it.
//! Its acknowledgements are true all the same: it acknowledges what it has written.
//!
//! If nobody leads (a power loss everywhere), all voters tell their log ends first; then only
//! who has the best of them may be elected by it.

use super::{OlderEntries, Replica, Truncated};
use raft::StateRole;

/// What a suspect replica still has to see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Suspicion {
    /// (leader, term, index to reach): the leader's last index when it was met in that term.
    pub(super) met: Option<(u64, u64, u64)>,
    /// The best log end among all voters, once every one of them has told its own.
    pub(super) floor: Option<Truncated>,
}

/// True where log end `a` is behind `b`, as Raft compares logs.
pub(super) fn behind(a: Truncated, b: Truncated) -> bool {
    (a.term, a.index) < (b.term, b.index)
}

impl<O: OlderEntries> Replica<O> {
    /// A suspect campaigns only where its log end is the best of all, and nobody while a
    /// snapshot is being installed.
    pub(super) fn may_campaign(&self) -> bool {
        match self.suspect {
            _ if self.installing.is_some() => false,
            None => true,
            Some(s) => s.floor.is_some_and(|floor| !behind(self.raw.store().last(), floor)),
        }
    }

    /// A replica that may not campaign does not tick, so raft-rs never lets go of its leader. As
    /// long as one suspect believes in a leader that is gone, nobody compares log ends, and it
    /// refuses every vote as if that leader were at work.
    pub(super) fn forget_silent_leader(&mut self) {
        self.silent_ticks += 1;
        if self.silent_ticks > self.config.election_ticks_max {
            self.silent_ticks = 0;
            self.raw.raft.leader_id = raft::INVALID_ID;
        }
    }

    /// The leader of `term` has this last index.
    ///
    /// The first sight of each leader counts: what it had then is what this replica may have
    /// acknowledged to it before the crash.
    pub fn meet_leader(&mut self, leader: u64, term: u64, last_index: u64) {
        if let Some(suspicion) = &mut self.suspect
            && suspicion.met.is_none_or(|(id, t, _)| (id, t) != (leader, term))
        {
            suspicion.met = Some((leader, term, last_index));
        }
        self.clear_suspicion();
    }

    /// A suspect peer's log ends here: what this leader counted beyond it is gone there.
    pub fn meet_suspect(&mut self, raft_id: u64, last_index: u64) {
        if self.raw.raft.state != StateRole::Leader {
            return;
        }
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(raft_id)
            && progress.matched > last_index
        {
            progress.matched = last_index;
            progress.become_probe();
        }
    }

    /// Every voter has told its log end, and none leads: the best of them is the floor below
    /// which a suspect neither campaigns nor gives its vote.
    pub fn compare_log_ends(&mut self, best: Truncated) {
        if let Some(suspicion) = &mut self.suspect {
            suspicion.floor = Some(best);
        }
    }

    pub(super) fn clear_suspicion(&mut self) {
        let Some(suspicion) = self.suspect else { return };
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader {
            // Its end was the best of all, and a quorum found so too.
            self.suspect = None;
        } else if let Some((leader, term, target)) = suspicion.met
            && (raft.leader_id, raft.term) == (leader, term)
            && self.raw.store().durable_index() >= target
        {
            // The lost record may have held a vote in this term: count it as the leader's, so
            // that nobody else can get it.
            self.raw.raft.vote = leader;
            self.suspect = None;
        }
    }
}
