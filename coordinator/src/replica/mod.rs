//! The replica: one member of the Raft group, without threads, clocks or IO.
//!
//! It owns the `RawNode`. The node round it (and the simulation) feeds it ticks, messages,
//! proposals and reads, and calls [`Replica::turn`], which says what is to be done now: send
//! these messages, make this durable, apply these entries, answer these reads. What was made
//! durable or applied is reported back.
//!
//! Order of a turn (raft-rs' asynchronous persistence): a leader's messages may leave at once,
//! since its own vote for an entry counts only when the entry is durable; a follower's leave
//! after the write that they promise ([`LogWrite::then_send`]).
//!
//! Invariants:
//! - No message that promises something (a vote, an acknowledgement) leaves before what it
//!   promises is durable.
//! - A *suspect* replica, one whose log lost its end, neither votes nor campaigns until it holds
//!   everything a leader had when it met it. Its acknowledgements are true (it acknowledges what
//!   it has matched and written), its vote would not be: the entry it lost may have been committed with its help.
//! - A proposal's outcome is told once. A leader that steps down waits for it: the entry is applied
//!   here, or another of a later term is committed at its place or before, and then it is lost for
//!   good and nothing was done. Where a snapshot jumps over its place, or this node leads again with a
//!   log that lost it, the outcome is unknown.

mod changes;
#[cfg(test)]
mod fixture;
mod log_view;
mod owed;
mod proposals;
mod reads;
mod snapshots;
mod suspicion;
mod transfer;

pub use changes::ConfOutcome;
pub use log_view::{LogView, OlderEntries, Recovered, Truncated};
pub use suspicion::{Told, VoterSets};

use owed::{Owed, Unsynced};
use proposals::last_log_ms;
use raft::eraftpb::{Entry, HardState, Message, MessageType, Snapshot};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use reads::PendingRead;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use suspicion::{Suspicion, behind};

/// Names a proposal or read to whoever waits for it.
pub type Tag = u64;

/// The replica's timers and bounds.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Raft id of this member.
    pub raft_id: u64,
    /// Unique to this start of the process: read contexts carry it.
    pub boot_nonce: u64,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Shortest election time-out, in ticks.
    pub election_ticks_min: usize,
    /// Longest election time-out, in ticks.
    pub election_ticks_max: usize,
    /// Index up to which the machine is applied already.
    pub applied: u64,
    /// The machine's log time at that index.
    pub applied_log_ms: u64,
    /// Bytes of the log's tail kept in memory.
    pub cache_limit_bytes: u64,
    /// Bytes of proposals that may be in flight; beyond it they are dropped.
    pub max_uncommitted_bytes: u64,
    /// True where the log lost its end at the last crash.
    pub suspect: bool,
    /// Seed of the election time-outs.
    pub seed: u64,
}

/// Something to be made durable, in the order of `number`.
#[derive(Debug, Clone, Default)]
pub struct LogWrite {
    /// Report this to [`Replica::on_durable`].
    pub number: u64,
    /// Term, vote and commit, where they changed.
    pub hard_state: Option<HardState>,
    /// Entries to append; they replace what stands at their indexes.
    pub entries: Vec<Entry>,
    /// Messages that may leave once this, and all before it, is durable.
    pub then_send: Vec<Message>,
    /// The whole log is replaced by this snapshot; entries begin behind it.
    pub install: Option<Snapshot>,
    /// Entries up to here may go, since this snapshot holds them.
    pub compact: Option<(Snapshot, Truncated)>,
    /// False where losing it costs nothing: only the commit index moved, or there is nothing to write
    /// and messages wait for what was handed out before.
    pub must_sync: bool,
}

/// A committed entry, and who waits for it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// The waiters of the commands in it, where this replica proposed it.
    pub tag: Option<Tag>,
    /// What a change of the membership made of the sets; none for every other entry, and for a
    /// change that can't be read, at which the node has to stop.
    pub conf: Option<ConfOutcome>,
}

/// What is to be done after a turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// Send now.
    pub send: Vec<Message>,
    /// Make durable, then send.
    pub writes: Vec<LogWrite>,
    /// A snapshot to replace the machine by, once the write of this number is durable and
    /// before anything of this or a later turn is applied.
    pub install: Option<(u64, Snapshot)>,
    /// Apply in this order.
    pub apply: Vec<Committed>,
    /// Reads that may be answered once this index is applied.
    pub reads: Vec<(u64, Vec<Tag>)>,
    /// Reads whose time ran out.
    pub expired_reads: Vec<Tag>,
    /// Proposals whose outcome nobody here can know any more.
    pub unknown: Vec<Tag>,
    /// Proposals that were never committed and never will be: nothing was done.
    pub lost: Vec<Tag>,
    /// Changes of the membership that were committed as nothing: refused, nothing was done.
    pub refused: Vec<Tag>,
    /// True where a member needs a snapshot and the newest one is from before it was a member:
    /// take one of the present state, and report it with [`Replica::on_snapshot`].
    pub wants_snapshot: bool,
}

/// Why a proposal was not taken. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposeRefused {
    /// This replica does not lead.
    NotLeader,
    /// Too much is in flight, or leadership is being handed over.
    Busy,
    /// A change of the membership is under way; only one at a time is taken.
    ChangePending,
    /// The change makes no sense with the present members.
    Impossible(String),
    /// Nobody is ready to take leadership over, for this reason.
    NoSuccessor(String),
}

/// The replica's place among the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It votes (also one that leaves with the end of a joint configuration).
    Voter,
    /// It follows without a vote.
    Learner,
    /// It is no member by its own log: not yet, or not any more.
    None,
}

/// What the replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Raft's role.
    pub role: StateRole,
    /// Its place among the members.
    pub place: Place,
    /// True while the log's lost end is not made up.
    pub suspect: bool,
    /// Raft id of the leader, 0 without one.
    pub leader: u64,
    /// True once this leader has applied an entry of its own term.
    pub leader_ready: bool,
    /// Term.
    pub term: u64,
    /// Commit index.
    pub commit: u64,
    /// First index of the log.
    pub first: u64,
    /// Last index of the log.
    pub last: u64,
    /// Index of the newest snapshot, 0 without one.
    pub snapshot: u64,
}

/// One member of the Raft group.
pub struct Replica<O: OlderEntries> {
    raw: RawNode<LogView<O>>,
    config: ReplicaConfig,
    applied: u64,
    /// (index, term, tag) of this replica's proposals, by index.
    proposals: VecDeque<(u64, u64, Tag)>,
    /// Those of them that change the membership.
    changes: BTreeSet<Tag>,
    /// Index of the last change that was taken over, or of the snapshot that told the sets.
    sets_index: u64,
    refused: Vec<Tag>,
    /// Reads that wait for the next context.
    new_reads: Vec<Tag>,
    /// Ticks since a snapshot was sent to a peer that has not answered, or since it said that it
    /// is fetching.
    snapshots_sent: BTreeMap<u64, u32>,
    /// Reads on their way, by context counter, with the age of each.
    reads: BTreeMap<u64, PendingRead>,
    next_read: u64,
    /// The newest log time seen in any entry.
    last_log_ms: u64,
    /// (log time, monotonic ms) from which this leader counts on.
    lead_since: Option<(u64, u64)>,
    suspect: Option<Suspicion>,
    /// Voters that have not told their log ends to this suspect.
    awaited: Vec<u64>,
    /// Index of a snapshot that replaces the log already and the machine not yet. Until then
    /// raft-rs would look for entries that are gone if it campaigned, and end the process.
    installing: Option<u64>,
    /// Ticks since a leader was heard, while this replica's own timer stands still.
    silent_ticks: usize,
    unknown: Vec<Tag>,
    lost: Vec<Tag>,
    expired: Vec<Tag>,
    /// Writes handed out and not reported durable.
    unsynced: VecDeque<Unsynced>,
    /// A commit index that the disk does not have yet.
    owed: Option<Owed>,
    elections: u64,
    /// Ticks since the start, and at which of them each member was heard last.
    ticks: u64,
    heard: BTreeMap<u64, u64>,
    /// Term and tick at which a member was told to lead last.
    told_to_lead: Option<(u64, u64)>,
    /// State of the generator of election time-outs, and the (term, role) it last drew for.
    random: u64,
    drawn_for: (u64, StateRole),
}

impl<O: OlderEntries> Replica<O> {
    /// A replica on what the disk holds.
    ///
    /// The hard state's commit index is raised to `config.applied`: what was applied was
    /// committed, but the commit index may not have been durable when the process ended.
    pub fn new(config: ReplicaConfig, recovered: Recovered, older: O) -> Result<Self, String> {
        Replica::with_logger(config, recovered, older, &slog::Logger::root(slog::Discard, slog::o!()))
    }

    /// As [`Replica::new`]; the Raft library writes its lines to `logger`.
    pub fn with_logger(
        config: ReplicaConfig,
        mut recovered: Recovered,
        older: O,
        logger: &slog::Logger,
    ) -> Result<Self, String> {
        if config.applied > recovered.last.index {
            return Err(format!(
                "the machine has applied index {}, but the log ends at {}: entries are missing",
                config.applied, recovered.last.index
            ));
        }
        if recovered.hard_state.commit > recovered.last.index {
            // Possible only after the log's end was cut: the lost entries were committed, and a
            // leader that has them will send them again.
            recovered.hard_state.commit = recovered.last.index;
        }
        recovered.hard_state.commit = recovered.hard_state.commit.max(config.applied);
        let last_log_ms = last_log_ms(&older, recovered.last.index).max(config.applied_log_ms);
        let raft_config = Config {
            id: config.raft_id,
            election_tick: config.election_ticks_min,
            min_election_tick: config.election_ticks_min,
            max_election_tick: config.election_ticks_max,
            heartbeat_tick: config.heartbeat_ticks,
            applied: config.applied,
            max_size_per_msg: 1024 * 1024,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // raft-rs 0.7 joins entries to an unsent empty append of another index, which the
            // peer then takes for entries at that index; the simulation found it. Commands are
            // packed into entries here, so there is little for it to batch.
            batch_append: false,
            max_uncommitted_size: config.max_uncommitted_bytes,
            max_committed_size_per_ready: 8 * 1024 * 1024,
            ..Default::default()
        };
        let view = LogView::new(recovered, older, config.cache_limit_bytes);
        let raw =
            RawNode::new(&raft_config, view, logger).map_err(|e| format!("raft refused its start: {e}"))?;
        let suspect = config.suspect.then(Suspicion::default);
        let mut replica = Replica {
            raw,
            applied: config.applied,
            proposals: VecDeque::new(),
            changes: BTreeSet::new(),
            sets_index: config.applied,
            refused: Vec::new(),
            new_reads: Vec::new(),
            snapshots_sent: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_read: 0,
            last_log_ms,
            lead_since: None,
            suspect,
            awaited: Vec::new(),
            installing: None,
            silent_ticks: 0,
            unknown: Vec::new(),
            lost: Vec::new(),
            expired: Vec::new(),
            unsynced: VecDeque::new(),
            owed: None,
            elections: 0,
            ticks: 0,
            heard: BTreeMap::new(),
            told_to_lead: None,
            random: config.seed,
            drawn_for: (u64::MAX, StateRole::Follower),
            config,
        };
        replica.draw_timeout();
        Ok(replica)
    }

    /// raft-rs draws its election time-out from the thread's generator when term or role change;
    /// drawing it again from the replica's own makes a run repeatable.
    fn draw_timeout(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now == self.drawn_for {
            return;
        }
        self.drawn_for = now;
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let span = (self.config.election_ticks_max - self.config.election_ticks_min).max(1);
        let ticks = self.config.election_ticks_min + (mixed % span as u64) as usize;
        self.raw.raft.set_randomized_election_timeout(ticks);
    }

    /// One tick of the timers.
    pub fn tick(&mut self) {
        self.ticks += 1;
        let term_before = self.raw.raft.term;
        // A follower's tick only drives its election.
        if self.may_campaign() {
            self.raw.tick();
        } else {
            self.forget_silent_leader();
        }
        self.draw_timeout();
        self.count_election(term_before);
        self.age_reads();
        self.age_snapshots();
        self.leave_joint_if_due();
    }

    /// Starts an election at once; a cluster of one need not wait.
    pub fn campaign(&mut self) {
        if self.may_campaign() {
            let term_before = self.raw.raft.term;
            let _ = self.raw.campaign();
            self.draw_timeout();
            self.count_election(term_before);
        }
    }

    /// Counts an election that has begun since the term was `term_before`: this replica went into a
    /// new term to ask for votes, or leads it already where it votes alone.
    fn count_election(&mut self, term_before: u64) {
        let asks = matches!(self.raw.raft.state, StateRole::Candidate | StateRole::Leader);
        self.elections += u64::from(asks && self.raw.raft.term != term_before);
    }

    /// Takes a peer's message.
    pub fn step(&mut self, mut message: Message) {
        if message.get_msg_type() == MessageType::MsgHeartbeat {
            // A leader that does not know yet that this log lost its end names a commit index
            // beyond it, for which raft-rs would end the process; or one at which an entry of
            // another history stands again.
            let sound = match self.suspect {
                Some(_) if message.term > self.raw.raft.term => self.raw.raft.raft_log.committed,
                Some(_) => self.verified_index(),
                None => u64::MAX,
            };
            message.commit = message.commit.min(sound).min(self.raw.raft.raft_log.last_index());
        }
        if message.get_msg_type() == MessageType::MsgTimeoutNow && self.installing.is_some() {
            return;
        }
        // No entry has term 0, but Raft finds it beyond a log's end, so that anything would fit there.
        if message.get_msg_type() == MessageType::MsgAppend && message.index > 0 && message.log_term == 0 {
            return;
        }
        if let Some(suspicion) = self.suspect {
            match message.get_msg_type() {
                MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                    let candidate = Truncated { index: message.index, term: message.log_term };
                    if suspicion.floor.is_none_or(|floor| behind(candidate, floor.end)) {
                        return;
                    }
                }
                MessageType::MsgTimeoutNow => return,
                _ => {}
            }
        }
        // Only what a leader sends counts: one that stepped down and asks for votes is none any more.
        let leads = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if leads && message.from == self.raw.raft.leader_id {
            self.silent_ticks = 0;
        }
        self.note_heard(message.from);
        let verified = self.suspect.and_then(|_| self.verified_by(&message));
        let asked_to_lead = message.get_msg_type() == MessageType::MsgTimeoutNow;
        let term_before = self.raw.raft.term;
        // Refusals (an unknown sender, a stale term) are Raft's own business.
        let _ = self.raw.step(message);
        if let Some((term, index)) = verified {
            self.note_verified(term, index);
        }
        self.draw_timeout();
        // With enough answers to its pre-vote an election begins here.
        if !asked_to_lead {
            self.count_election(term_before);
        }
    }

    /// The write of this number, and all before it, are durable.
    pub fn on_durable(&mut self, mut number: u64) {
        let mut durable = None;
        while let Some(write) = self.unsynced.pop_front_if(|w| w.number <= number || w.only_counts) {
            number = number.max(write.number);
            durable = Some(write.last).filter(|last| *last > 0).or(durable);
        }
        if let Some(index) = durable {
            self.raw.mut_store().set_durable(index);
        }
        self.raw.on_persist_ready(number);
        self.clear_suspicion();
    }

    /// The machine was replaced by one of this log time. Its entries are not in this log, so
    /// that nothing else tells a replica that leads next where the time must go on.
    pub fn on_installed(&mut self, index: u64, log_ms: u64) {
        self.last_log_ms = self.last_log_ms.max(log_ms);
        self.on_applied(index);
    }

    /// The machine has applied up to `index`.
    pub fn on_applied(&mut self, index: u64) {
        self.installing.take_if(|snapshot| *snapshot <= index);
        if index > self.applied {
            self.applied = index;
            self.raw.advance_apply_to(index);
        }
        self.raw.mut_store().trim(index);
    }

    /// A message to this member could not be sent.
    pub fn on_unreachable(&mut self, raft_id: u64) {
        self.raw.report_unreachable(raft_id);
    }

    /// (member, matched index) of every member, as the leader knows them; empty elsewhere.
    pub fn progress(&self) -> Vec<(u64, u64)> {
        if self.raw.raft.state != StateRole::Leader {
            return Vec::new();
        }
        self.raw.raft.prs().iter().map(|(id, p)| (*id, p.matched)).collect()
    }

    /// Role, term and indexes.
    pub fn standing(&self) -> Standing {
        let raft = &self.raw.raft;
        let (first, _) = self.raw.store().bounds();
        let leading = raft.state == StateRole::Leader;
        let applied_term = if leading { raft.raft_log.term(self.applied).unwrap_or(0) } else { 0 };
        Standing {
            role: raft.state,
            place: self.place(),
            suspect: self.suspect.is_some(),
            leader: raft.leader_id,
            leader_ready: leading && applied_term == raft.term,
            term: raft.term,
            commit: raft.raft_log.committed,
            first,
            last: raft.raft_log.last_index(),
            snapshot: self.raw.store().snapshot_index(),
        }
    }

    /// Index and term of the last entry known to be committed, for peers. It may look into the log, so
    /// it is not part of what is asked several times a turn.
    pub fn committed(&self) -> Truncated {
        let log = &self.raw.raft.raft_log;
        Truncated { index: log.committed, term: log.term(log.committed).unwrap_or(0) }
    }

    /// Index and term of the log's durable end, for handshakes and comparison.
    pub fn log_end(&self) -> Truncated {
        self.raw.store().last()
    }

    /// Elections this replica started by itself; one that its leader asked for, to hand over, is none.
    pub fn elections(&self) -> u64 {
        self.elections
    }

    /// Everything that is to be done now.
    pub fn turn(&mut self) -> Turn {
        self.issue_reads();
        let mut turn = Turn::default();
        while self.raw.has_ready() {
            self.one_ready(&mut turn);
        }
        turn.writes.extend(self.settle_if_due());
        turn.unknown.append(&mut self.unknown);
        turn.lost.append(&mut self.lost);
        turn.expired_reads.append(&mut self.expired);
        turn.refused.append(&mut self.refused);
        turn.wants_snapshot = self.raw.store().take_snapshot_wanted();
        turn
    }

    fn one_ready(&mut self, turn: &mut Turn) {
        let mut ready = self.raw.ready();
        let messages = ready.take_messages();
        self.note_told_to_lead(&messages);
        turn.send.extend(messages);
        if ready.ss().is_some_and(|ss| ss.raft_state != StateRole::Leader) {
            self.lead_since = None;
        }
        for read in ready.take_read_states() {
            if let Some(counter) = self.counter_of(&read.request_ctx)
                && let Some(pending) = self.reads.remove(&counter)
            {
                turn.reads.push((read.index, pending.tags));
            }
        }
        if !ready.snapshot().is_empty() {
            turn.install = Some((ready.number(), ready.snapshot().clone()));
            self.installing = Some(ready.snapshot().get_metadata().index);
            self.sets_index = ready.snapshot().get_metadata().index;
            self.raw.mut_store().install(ready.snapshot());
        }
        let entries = ready.take_entries();
        let mut write = LogWrite {
            number: ready.number(),
            hard_state: ready.hs().cloned(),
            then_send: ready.take_persisted_messages(),
            must_sync: ready.must_sync(),
            install: turn.install.as_ref().filter(|(n, _)| *n == ready.number()).map(|(_, s)| s.clone()),
            ..Default::default()
        };
        if let Some(hard_state) = &write.hard_state {
            self.raw.mut_store().set_hard_state(hard_state.clone());
        }
        self.raw.mut_store().append(&entries);
        if self.raw.raft.state != StateRole::Leader {
            self.note_log_time(&entries);
        }
        write.entries = entries;
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        for entry in committed {
            let tag = self.tag_of(&entry);
            let conf = self.take_change(&entry);
            turn.apply.push(Committed { entry, tag, conf });
        }
        if let Some(first) = write.entries.first() {
            // What is reported of older writes says nothing of entries that replace theirs.
            self.unsynced.iter_mut().for_each(|w| w.last = w.last.min(first.index - 1));
        }
        self.hand_out(write, turn);
    }
}
