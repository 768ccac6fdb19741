//! A replica whose log lost its end: what it must not do, and when it is over.
//!
//! The lost record may have been acknowledged, and an entry may have been committed with its
//! help. A vote of this replica could then elect somebody who lacks that entry. So it neither
//! votes nor campaigns until it holds all that a leader had when they met. Every leader that it
//! follows has what was committed: of this term or a later one, it was elected without this
//! replica, or with its vote from before the loss. (A vote and a term can't be what was lost: they
//! are written twice, see [`crate::raft::log`].)
//!
//! Where the lost record had replaced entries of another history, those stand at the log's end
//! again. So nothing at the end counts before the leader's own entries have been matched with it:
//! not as caught up, and not as committed because a leader, which remembers what was acknowledged
//! before the loss, names a commit index. Acknowledgements are true: they follow a match.
//!
//! If nobody leads (a power loss everywhere), all voters tell their log ends first; then only
//! who has the best of them may be elected by it. In a joint configuration all of either set are
//! enough: what is committed under it stands on majorities of both, and so does all that was
//! committed before it.
//!
//! Who the voters are, a peer may know better: changes of the membership may be among what was lost.
//! So the newest sets count that anybody has taken over. Whom they leave out may be gone for good,
//! and nobody waits for it; whom they add may be the only other one that holds what was lost here.
//! And what a peer says is committed counts here where the same entry stands.

use super::{OlderEntries, Replica, Truncated};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a suspect replica still has to see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Suspicion {
    /// (leader, term, index to reach): the leader's last index when it was met in that term.
    pub(super) met: Option<(u64, u64, u64)>,
    /// The last index up to which this log was found to be that of the leader of a term.
    pub(super) verified: Option<(u64, u64)>,
    /// The best log end among all voters, once every one of them has told its own.
    pub(super) floor: Option<Floor>,
}

/// What a candidate's log must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) end: Truncated,
    /// Index of the sets whose voters were compared.
    of_sets: u64,
}

/// Who votes, by the last change of the membership that was taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterSets {
    /// Index of that change, or of the snapshot that told the sets.
    pub index: u64,
    /// The voters.
    pub voters: Vec<u64>,
    /// In a joint configuration, the voters before it.
    pub outgoing: Vec<u64>,
}

/// What a peer told of itself last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its log's durable end.
    pub end: Truncated,
    /// It leads, or knows who does.
    pub knows_leader: bool,
    /// Who votes, as far as it knows.
    pub sets: VoterSets,
}

/// True where log end `a` is behind `b`, as Raft compares logs.
pub(super) fn behind(a: Truncated, b: Truncated) -> bool {
    (a.term, a.index) < (b.term, b.index)
}

impl<O: OlderEntries> Replica<O> {
    /// True while the log's lost end is not made up.
    pub fn is_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// A suspect campaigns only where its log end is the best of all, and nobody while a
    /// snapshot is being installed.
    pub(super) fn may_campaign(&self) -> bool {
        match self.suspect {
            _ if self.installing.is_some() => false,
            None => true,
            Some(s) => s.floor.is_some_and(|floor| !behind(self.raw.store().last(), floor.end)),
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

    /// What an append says of this log: where it goes on from an entry that stands here too, the
    /// log is the leader's up to the append's end once it is taken. One from before the commit
    /// index is not taken at all.
    pub(super) fn verified_by(&self, message: &Message) -> Option<(u64, u64)> {
        let raft = &self.raw.raft;
        let matches = message.get_msg_type() == MessageType::MsgAppend
            && message.term >= raft.term
            && message.index >= raft.raft_log.committed
            && raft.raft_log.match_term(message.index, message.log_term);
        matches.then(|| (message.term, message.index + message.entries.len() as u64))
    }

    pub(super) fn note_verified(&mut self, term: u64, index: u64) {
        if let Some(suspicion) = &mut self.suspect {
            let known = suspicion.verified.filter(|(t, _)| *t == term).map_or(0, |(_, known)| known);
            suspicion.verified = Some((term, known.max(index)));
        }
    }

    /// The index up to which this suspect's log is known to be its leader's. Beyond what is
    /// committed here, nothing is before the leader was heard.
    pub fn verified_index(&self) -> u64 {
        let raft = &self.raw.raft;
        let of_this_term = |(term, index): (u64, u64)| (term == raft.term).then_some(index);
        let verified = self.suspect.and_then(|s| s.verified).and_then(of_this_term);
        verified.unwrap_or(0).max(raft.raft_log.committed)
    }

    /// A suspect peer has found its log to be this leader's up to `verified`; its log ends at
    /// `last_index`. What this leader counted beyond it is gone there.
    pub fn meet_suspect(&mut self, raft_id: u64, verified: u64, last_index: u64) {
        if self.raw.raft.state != StateRole::Leader {
            return;
        }
        let own_last = self.raw.raft.raft_log.last_index();
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(raft_id)
            && progress.matched > verified
        {
            progress.matched = verified;
            progress.become_probe();
            // Where it goes on is asked from its end downwards; what it has beyond this log is of
            // another history.
            progress.next_idx = progress.next_idx.max(last_index + 1).min(own_last + 1);
        }
    }

    /// A peer knows this entry to be committed. Where it stands here too, so does everything
    /// before it.
    pub fn learn_commit(&mut self, entry: Truncated) {
        let log = &mut self.raw.raft.raft_log;
        if self.suspect.is_some() && entry.index > log.committed && log.match_term(entry.index, entry.term) {
            log.commit_to(entry.index);
        }
    }

    /// Who votes, for peers that lost a part of their logs.
    pub fn voter_sets(&self) -> VoterSets {
        let sets = self.conf_state();
        VoterSets { index: self.sets_index, voters: sets.voters, outgoing: sets.voters_outgoing }
    }

    /// `told` is what each peer told of itself. Once every voter has, and none knows a leader, the
    /// best of their log ends is the floor below which a suspect neither campaigns nor gives its
    /// vote.
    pub fn compare_log_ends(&mut self, told: &BTreeMap<u64, Told>) {
        if self.suspect.is_none() || self.raw.raft.leader_id != raft::INVALID_ID {
            self.awaited.clear();
            return;
        }
        let own = self.voter_sets();
        let newest = told.values().map(|t| &t.sets).max_by_key(|sets| sets.index);
        let sets = newest.filter(|sets| sets.index > own.index).unwrap_or(&own);
        let best = self.best_end(&sets.voters, told).or_else(|| self.best_end(&sets.outgoing, told));
        let silent = |voter: &u64| *voter != self.config.raft_id && !told.contains_key(voter);
        self.awaited = match best {
            Some(_) => Vec::new(),
            None => sets.voters.iter().copied().filter(silent).collect(),
        };
        let Some(suspicion) = &mut self.suspect else { return };
        match best {
            Some(end) => suspicion.floor = Some(Floor { end, of_sets: sets.index }),
            // What was compared says nothing of who was added since.
            None => suspicion.floor = suspicion.floor.filter(|floor| floor.of_sets >= sets.index),
        }
    }

    /// Whose log end a suspect without a leader lacks.
    pub fn awaited(&self) -> &[u64] {
        &self.awaited
    }

    /// The best log end among these voters and this replica; none before all of them have told
    /// theirs, and where one knows a leader.
    fn best_end(&self, voters: &[u64], told: &BTreeMap<u64, Told>) -> Option<Truncated> {
        let mut best = (!voters.is_empty()).then(|| self.log_end())?;
        for voter in voters.iter().filter(|voter| **voter != self.config.raft_id) {
            let told = told.get(voter).filter(|told| !told.knows_leader)?;
            if behind(best, told.end) {
                best = told.end;
            }
        }
        Some(best)
    }

    pub(super) fn clear_suspicion(&mut self) {
        let Some(suspicion) = self.suspect else { return };
        let raft = &self.raw.raft;
        if raft.state == StateRole::Leader {
            // Its end was the best of all, and a quorum found so too.
            self.suspect = None;
        } else if let Some((leader, term, target)) = suspicion.met
            && (raft.leader_id, raft.term) == (leader, term)
            && self.raw.store().durable_index().min(self.verified_index()) >= target
        {
            self.suspect = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Disk, config, entries, voters};
    use super::super::{Recovered, ReplicaConfig};
    use super::*;
    use raft::eraftpb::{ConfState, Entry, HardState};

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    /// Member 2 of three. Its last record, which replaced entries 3 and 4 by those of term 2, is
    /// lost, so that those of term 1 stand there again; two entries are committed.
    fn suspect() -> Replica<Disk> {
        suspect_with(voters(&[1, 2, 3]))
    }

    fn suspect_with(conf_state: ConfState) -> Replica<Disk> {
        let recovered = Recovered {
            hard_state: HardState { term: 2, vote: 1, commit: 2, ..HardState::default() },
            conf_state,
            last: Truncated { index: 4, term: 1 },
            ..Recovered::default()
        };
        fixture::replica(ReplicaConfig { suspect: true, ..config(2) }, entries(4, 1), recovered)
    }

    fn from_leader(msg_type: MessageType, commit: u64) -> Message {
        Message { msg_type, from: 1, to: 2, term: 2, commit, ..Message::default() }
    }

    /// The leader's entries 3 and 4, all that it has.
    fn append() -> Message {
        let entries = vec![entry(3, 2), entry(4, 2)].into();
        Message { index: 2, log_term: 1, entries, ..from_leader(MessageType::MsgAppend, 4) }
    }

    /// (index, term) of what is to be applied now; all writes are made durable.
    fn applied(replica: &mut Replica<Disk>) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        loop {
            let turn = replica.turn();
            all.extend(turn.apply.iter().map(|c| (c.entry.index, c.entry.term)));
            let Some(last) = turn.writes.last() else { return all };
            replica.on_durable(last.number);
        }
    }

    #[test]
    fn a_commit_index_counts_only_where_the_log_was_matched() {
        let mut replica = suspect();
        replica.step(from_leader(MessageType::MsgHeartbeat, 4));
        assert_eq!(applied(&mut replica), [(1, 1), (2, 1)], "3 and 4 are another history's");
        assert_eq!(replica.verified_index(), 2);
        replica.step(append());
        replica.step(from_leader(MessageType::MsgHeartbeat, 4));
        assert_eq!(applied(&mut replica), [(3, 2), (4, 2)]);
        assert_eq!(replica.verified_index(), 4);
    }

    #[test]
    fn an_append_from_before_the_commit_index_verifies_nothing() {
        let mut replica = suspect();
        // Raft answers it with its commit index and takes none of its entries.
        let entries = vec![entry(2, 1), entry(3, 2), entry(4, 2)].into();
        replica.step(Message { index: 1, log_term: 1, entries, ..from_leader(MessageType::MsgAppend, 4) });
        assert_eq!(replica.verified_index(), 2);
        replica.step(from_leader(MessageType::MsgHeartbeat, 4));
        assert_eq!(applied(&mut replica), [(1, 1), (2, 1)], "3 and 4 are another history's");
    }

    #[test]
    fn nothing_goes_on_behind_an_entry_of_no_term() {
        let mut replica = suspect();
        // Beyond a log's end Raft finds term 0, which would fit.
        replica.step(Message { index: 9, log_term: 0, ..from_leader(MessageType::MsgAppend, 9) });
        assert_eq!(replica.verified_index(), 2);
        assert_eq!(applied(&mut replica), [(1, 1), (2, 1)]);
    }

    #[test]
    fn a_suspect_whose_log_is_longer_is_asked_from_the_leaders_end() {
        let mut leader = suspect();
        leader.suspect = None;
        leader.campaign();
        for (answer, term) in
            [(MessageType::MsgRequestPreVoteResponse, 3), (MessageType::MsgRequestVoteResponse, 3)]
        {
            applied(&mut leader);
            leader.step(Message { msg_type: answer, from: 1, to: 2, term, ..Message::default() });
        }
        let took = Message {
            msg_type: MessageType::MsgAppendResponse,
            from: 3,
            to: 2,
            term: 3,
            index: 5,
            ..Message::default()
        };
        leader.step(took);
        assert_eq!(leader.standing().role, StateRole::Leader);
        assert_eq!(leader.progress().iter().find(|(id, _)| *id == 3), Some(&(3, 5)));
        leader.meet_suspect(3, 4, 9);
        let progress = leader.raw.raft.prs().get(3).unwrap();
        assert_eq!((progress.matched, progress.next_idx), (4, 6));
    }

    #[test]
    fn in_a_joint_configuration_all_of_one_set_are_enough() {
        // 1 is gone for good; 4 takes its place.
        let both = || {
            suspect_with(ConfState {
                voters: vec![2, 3, 4],
                voters_outgoing: vec![1, 2, 3],
                ..ConfState::default()
            })
        };
        let without = |gone: u64| all_but(gone, [1, 3, 4]);
        for (gone, floor) in [(1, 8), (4, 7)] {
            let mut replica = both();
            replica.compare_log_ends(&without(gone));
            assert_eq!(floor_of(&replica), Some(floor));
        }
        let mut replica = both();
        replica.compare_log_ends(&without(3));
        assert_eq!(floor_of(&replica), None, "3 is in both");
        let mut told = without(0);
        told.get_mut(&3).unwrap().knows_leader = true;
        replica.compare_log_ends(&told);
        assert_eq!(floor_of(&replica), None, "3 knows a leader");
        let mut simple = suspect();
        simple.compare_log_ends(&without(1));
        assert_eq!(floor_of(&simple), None, "1 may have what nobody else has");
    }

    /// What these peers tell; the log of each ends at 4 and its own number.
    fn all_but(gone: u64, peers: [u64; 3]) -> BTreeMap<u64, Told> {
        let told = |peer: u64| Told {
            end: Truncated { index: 4 + peer, term: 1 },
            knows_leader: false,
            sets: VoterSets::default(),
        };
        peers.into_iter().filter(|peer| *peer != gone).map(|peer| (peer, told(peer))).collect()
    }

    fn floor_of(replica: &Replica<Disk>) -> Option<u64> {
        replica.suspect.unwrap().floor.map(|floor| floor.end.index)
    }

    fn sets(index: u64, voters: &[u64]) -> VoterSets {
        VoterSets { index, voters: voters.to_vec(), outgoing: Vec::new() }
    }

    #[test]
    fn who_was_taken_out_meanwhile_is_not_waited_for() {
        // This log lost the removal of 1, which 3 has taken over.
        let mut replica = suspect();
        let mut told = all_but(1, [1, 3, 4]);
        replica.compare_log_ends(&told);
        assert_eq!(floor_of(&replica), None);
        told.get_mut(&3).unwrap().sets = sets(6, &[2, 3, 4]);
        replica.compare_log_ends(&told);
        assert_eq!(floor_of(&replica), Some(8));
    }

    #[test]
    fn who_was_added_meanwhile_is_waited_for() {
        // 4 and this replica may be the only ones that had what was lost here.
        let mut replica = suspect();
        let mut told = all_but(4, [1, 3, 4]);
        replica.compare_log_ends(&told);
        assert_eq!(floor_of(&replica), Some(7), "nobody knows of 4");
        told.get_mut(&1).unwrap().sets = sets(5, &[1, 2, 3, 4]);
        replica.compare_log_ends(&told);
        assert_eq!(floor_of(&replica), None, "1 knows of 4");
        assert_eq!(replica.awaited(), [4]);
        told.extend(all_but(0, [1, 3, 4]).split_off(&4));
        replica.compare_log_ends(&told);
        assert_eq!(floor_of(&replica), Some(8));
        assert!(replica.awaited().is_empty());
        // An older view of the members changes nothing.
        told.get_mut(&3).unwrap().sets = sets(3, &[2, 3, 9]);
        replica.compare_log_ends(&told);
        assert_eq!(floor_of(&replica), Some(8));
    }

    #[test]
    fn what_a_peer_knows_to_be_committed_counts_where_the_same_entry_stands() {
        let mut replica = suspect();
        replica.learn_commit(Truncated { index: 4, term: 2 });
        replica.learn_commit(Truncated { index: 9, term: 2 });
        assert_eq!(applied(&mut replica), [(1, 1), (2, 1)], "this log has another entry 4, and no 9");
        replica.learn_commit(Truncated { index: 3, term: 1 });
        assert_eq!(applied(&mut replica), [(3, 1)]);
    }

    #[test]
    fn a_log_that_is_long_enough_is_not_caught_up_before_it_was_matched() {
        let mut replica = suspect();
        replica.step(from_leader(MessageType::MsgHeartbeat, 2));
        replica.meet_leader(1, 2, 4);
        applied(&mut replica);
        assert!(replica.standing().suspect, "its end is as far, and not the leader's");
        replica.step(append());
        assert!(replica.standing().suspect, "the entries are not durable");
        applied(&mut replica);
        assert!(!replica.standing().suspect);
    }

    #[test]
    fn a_write_that_was_overtaken_makes_nothing_durable_that_replaced_it() {
        let mut replica = suspect();
        let mut older = append();
        older.set_commit(2);
        let mut newer = older.clone();
        replica.step(older);
        let older = replica.turn().writes.last().unwrap().number;
        newer.set_term(3);
        newer.set_from(3);
        newer.mut_entries().iter_mut().for_each(|e| e.set_term(3));
        replica.step(newer);
        let number = replica.turn().writes.last().unwrap().number;
        replica.on_durable(older);
        assert_eq!(replica.raw.store().durable_index(), 2, "3 and 4 of term 3 are on their way");
        replica.on_durable(number);
        assert_eq!(replica.raw.store().durable_index(), 4);
    }
}
