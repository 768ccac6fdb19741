//! The owner thread: the only one that touches the replica.
//!
//! Each turn it drains its inbox (peers and completions first, then a bounded number of client
//! requests, packed into one entry), ticks, lets the replica say what is to be done, and hands
//! that out: messages to the transport, writes to the log writer, entries to the applier.
//!
//! It is a thread of its own, not a task, so that load on the HTTP side can't starve the ticks.

use crate::machine::members::MemberChange;
use crate::node::NodeError;
use crate::raft::applier::{ToApply, Waiter, Work};
use crate::raft::handover::{Fitness, Trouble};
use crate::raft::limits::RaftLimits;
use crate::raft::publish::Publisher;
use crate::raft::snapshots::SnapshotName;
use crate::raft::transport::{Pulse, Transport};
use crate::replica::{LogWrite, OlderEntries, ProposeRefused, Replica, Tag, Turn, VoterSets};
use crate::telemetry::traces::entry::Places;
use crate::telemetry::traces::in_flight::InFlight;
use crate::telemetry::{ProposalOutcome, ReadOutcome, Telemetry};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use raft::eraftpb::{ConfState, Message, Snapshot};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Length of a tick. The guide's shortest sensible heartbeat is five of them.
pub const TICK: Duration = Duration::from_millis(10);
/// Requests of clients that may wait for the owner thread.
const CLIENT_QUEUE: usize = 16_384;
/// Batches of peer messages that may wait for it; beyond it they are dropped, as a network would.
const PEER_QUEUE: usize = 8_192;
/// Inputs of peers and threads taken in one turn.
const DRAIN: usize = 4_096;
/// Bytes packed into one entry, unless one command alone is larger.
const ENTRY_BYTES: usize = 1024 * 1024;
/// How long requests gather for the next entry while one of this leader's is not yet committed.
const GATHER: Duration = Duration::from_millis(5);
/// How long proposals wait out a hand-over of leadership.
const HOLD: Duration = Duration::from_millis(1_000);

/// Between two looks whether more of the log may go behind the newest snapshot.
const COMPACT_INTERVAL: Duration = Duration::from_millis(500);

/// What the owner thread is told.
pub enum Input {
    /// Messages of a peer.
    Peer(Vec<Message>),
    /// The log is durable up to this write; then these messages may leave.
    Durable {
        /// The write's number.
        number: u64,
        /// Messages that waited for it.
        send: Vec<Message>,
    },
    /// The machine has applied up to this index.
    Applied(u64),
    /// The machine was replaced by a peer's: its index and its log time.
    Installed(u64, u64),
    /// A snapshot of this node's machine is on disk, with the voters and learners at its index.
    SnapshotWritten(SnapshotName, ConfState),
    /// A message to this member could not be sent.
    Unreachable(u64),
    /// A member told how it stands.
    Pulse(u64, Pulse),
    /// A client's command, and its place in a trace that is sampled.
    Propose(Vec<u8>, Waiter, Option<otlp::Context>),
    /// A change of the membership.
    ChangeMembers {
        /// What is to change.
        change: MemberChange,
        /// The applied index as of which the members were looked at.
        looked_at: u64,
        /// Who is told.
        waiter: Waiter,
    },
    /// A client's linearizable read.
    Read(oneshot::Sender<Result<u64, NodeError>>),
    /// Hand leadership to this member, or to the best one.
    Transfer(Option<u64>, oneshot::Sender<Result<(), NodeError>>),
    /// End.
    Stop,
}

/// Where inputs go. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    threads: Sender<Input>,
    clients: Sender<Input>,
    peers_waiting: Arc<AtomicUsize>,
}

/// The other end of an [`Inbox`].
pub struct Outbox {
    threads: Receiver<Input>,
    clients: Receiver<Input>,
    peers_waiting: Arc<AtomicUsize>,
}

/// An inbox and its other end.
pub fn inbox() -> (Inbox, Outbox) {
    let (threads, threads_out) = crossbeam_channel::unbounded();
    let (clients, clients_out) = crossbeam_channel::bounded(CLIENT_QUEUE);
    let waiting = Arc::new(AtomicUsize::new(0));
    (
        Inbox { threads, clients, peers_waiting: waiting.clone() },
        Outbox { threads: threads_out, clients: clients_out, peers_waiting: waiting },
    )
}

impl Inbox {
    /// Tells something that must not get lost; false when the owner thread has ended.
    pub fn tell(&self, input: Input) -> bool {
        self.threads.send(input).is_ok()
    }

    /// Gives a peer's messages; dropped when too many wait.
    pub fn peer(&self, messages: Vec<Message>) {
        if self.peers_waiting.fetch_add(1, Ordering::Relaxed) >= PEER_QUEUE {
            self.peers_waiting.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let _ = self.threads.send(Input::Peer(messages));
    }

    /// Gives a client's request; refused when the queue is full.
    pub fn client(&self, input: Input) -> Result<(), NodeError> {
        self.clients.try_send(input).map_err(|e| match e {
            TrySendError::Full(_) => NodeError::Overloaded,
            TrySendError::Disconnected(_) => NodeError::NoLeader,
        })
    }
}

/// Everything the owner thread works with.
pub struct Driver<O: OlderEntries> {
    /// The replica.
    pub replica: Replica<O>,
    /// Its inputs.
    pub outbox: Outbox,
    /// The log writer's queue.
    pub writer: Sender<LogWrite>,
    /// The applier's queue.
    pub applier: Sender<Work>,
    /// Up to which index DuckDB is durable; entries behind it are kept for it.
    pub store_durable: Box<dyn Fn() -> u64 + Send>,
    /// Index of the oldest snapshot that a peer is fetching; it needs the entries behind it.
    pub fetched_index: Box<dyn Fn() -> Option<u64> + Send>,
    /// The peers.
    pub transport: Arc<Transport>,
    /// Where the view goes.
    pub publisher: Publisher,
    /// How much goes into an entry, and how many entries stay behind a snapshot, so that a peer
    /// that lags a little needs none.
    pub limits: Arc<RaftLimits>,
    /// Metrics.
    pub telemetry: Telemetry,
    /// What tells whether this node should lead.
    pub fitness: Fitness,
    /// Counts turns, for the live probe.
    pub turns: Arc<AtomicU64>,
    /// This one's.
    pub raft_id: u64,
}

struct Proposal {
    command: Vec<u8>,
    waiter: Waiter,
    since: Instant,
    place: Option<otlp::Context>,
}

/// What the owner thread remembers between turns.
pub(super) struct Waiting {
    pub(super) origin: Instant,
    next_tag: Tag,
    /// Waiters by the tag of their entry, with the time of the proposal.
    pub(super) proposals: HashMap<Tag, (Vec<Waiter>, Instant)>,
    /// Entries of this leader that are traced.
    traced: InFlight,
    reads: HashMap<Tag, oneshot::Sender<Result<u64, NodeError>>>,
    /// Reads that know their index and wait until it is applied.
    ready_reads: BTreeMap<u64, Vec<Tag>>,
    fresh: Vec<Proposal>,
    /// Until when requests gather while a proposal is in flight.
    gather_until: Instant,
    applied: u64,
    pub(super) ends: HashMap<u64, Pulse>,
    /// Who votes; looked up once a tick.
    pub(super) sets: VoterSets,
    pub(super) trouble: Trouble,
    /// This leader is giving leadership away because of its trouble.
    pub(super) handing_over: bool,
    elections: u64,
    /// When the log's beginning was looked at last.
    compacted_at: Instant,
    /// A snapshot that replaces the machine once the write of this number is durable.
    install: Option<(u64, SnapshotName)>,
    stop: bool,
    heard_peer: bool,
}

impl<O: OlderEntries> Driver<O> {
    /// Works until it is told to stop.
    pub fn run(mut self, applied: u64) {
        let mut waiting = Waiting {
            origin: Instant::now(),
            next_tag: 1,
            proposals: HashMap::new(),
            traced: InFlight::default(),
            reads: HashMap::new(),
            ready_reads: BTreeMap::new(),
            fresh: Vec::new(),
            gather_until: Instant::now(),
            applied,
            ends: HashMap::new(),
            sets: self.replica.voter_sets(),
            trouble: Trouble::default(),
            handing_over: false,
            elections: 0,
            compacted_at: Instant::now(),
            install: None,
            stop: false,
            heard_peer: false,
        };
        if self.replica.conf_state().voters == [self.raft_id] {
            self.compare_ends(&waiting);
            self.replica.campaign();
        }
        let mut next_tick = Instant::now() + TICK;
        while !waiting.stop {
            self.receive(&mut waiting, next_tick);
            failpoint!("turn_before_tick");
            next_tick = self.tick(&mut waiting, next_tick);
            self.propose(&mut waiting);
            let turn = self.replica.turn();
            self.set_pulse(&waiting);
            self.hand_out(turn, &mut waiting);
            self.publish(&mut waiting);
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(write) = self.replica.settle() {
            let _ = self.writer.send(write);
        }
        for (_, (waiters, _)) in waiting.proposals.drain() {
            waiters.into_iter().for_each(|w| drop(w.send(Err(NodeError::UnknownOutcome))));
        }
        for (_, reader) in waiting.reads.drain() {
            let _ = reader.send(Err(NodeError::NoLeader));
        }
    }

    /// Waits for the first input or the next tick, then drains what is there.
    ///
    /// While an entry of this leader is on its way, clients wait a moment and are not even listened
    /// to: an entry costs every node a turn, a write and a message, whatever is in it, and each
    /// request that wakes this thread costs a switch. Alone, a request goes at once.
    fn receive(&mut self, waiting: &mut Waiting, next_tick: Instant) {
        let now = Instant::now();
        let until = |deadline: Instant| deadline.saturating_duration_since(now);
        let gathers = !waiting.proposals.is_empty() && now < waiting.gather_until;
        let first = if gathers {
            self.outbox.threads.recv_timeout(until(next_tick.min(waiting.gather_until))).ok()
        } else {
            crossbeam_channel::select! {
                recv(self.outbox.threads) -> input => input.ok(),
                recv(self.outbox.clients) -> input => input.ok(),
                default(until(next_tick)) => None,
            }
        };
        // Where clients wait, an entry follows within moments: it tells the others what is committed.
        let entry_follows = matches!(first, Some(Input::Propose(..))) || !self.outbox.clients.is_empty();
        self.replica.commit_rides(entry_follows);
        if let Some(input) = first {
            self.take(input, waiting);
        }
        for _ in 0..DRAIN {
            let Ok(input) = self.outbox.threads.try_recv() else { break };
            self.take(input, waiting);
        }
        if gathers && !waiting.proposals.is_empty() && Instant::now() < waiting.gather_until {
            return;
        }
        let mut bytes: usize = waiting.fresh.iter().map(|p| p.command.len()).sum();
        while waiting.fresh.len() < self.limits.batch_commands() && bytes < ENTRY_BYTES {
            let Ok(input) = self.outbox.clients.try_recv() else { break };
            if let Input::Propose(command, ..) = &input {
                bytes += command.len();
            }
            self.take(input, waiting);
        }
    }

    fn take(&mut self, input: Input, waiting: &mut Waiting) {
        match input {
            Input::Peer(mut messages) => {
                self.fitness.admit(&mut messages);
                self.outbox.peers_waiting.fetch_sub(1, Ordering::Relaxed);
                waiting.heard_peer = true;
                messages.into_iter().for_each(|m| self.replica.step(m));
            }
            Input::Durable { number, send } => {
                self.transport.send(send);
                self.replica.on_durable(number);
                if waiting.install.as_ref().is_some_and(|(at, _)| *at <= number)
                    && let Some((_, name)) = waiting.install.take()
                {
                    let _ = self.applier.send(Work::Install(name));
                }
            }
            Input::SnapshotWritten(name, conf) => self.compact(&name, conf),
            Input::Applied(index) => {
                self.replica.on_applied(index);
                waiting.reached(index);
            }
            Input::Installed(index, log_ms) => {
                self.replica.on_installed(index, log_ms);
                waiting.reached(index);
            }
            Input::Unreachable(raft_id) => self.replica.on_unreachable(raft_id),
            Input::Pulse(raft_id, pulse) => self.take_pulse(raft_id, pulse, waiting),
            Input::Propose(command, waiter, place) => {
                waiting.fresh.push(Proposal { command, waiter, since: Instant::now(), place });
            }
            Input::ChangeMembers { change, looked_at, waiter } => {
                self.change_members(&change, looked_at, waiter, waiting);
            }
            Input::Read(reader) => {
                let tag = waiting.tag();
                waiting.reads.insert(tag, reader);
                self.replica.read(tag);
            }
            Input::Transfer(to, reply) => {
                let _ = reply.send(self.transfer(to, waiting));
            }
            Input::Stop => waiting.stop = true,
        }
    }

    /// After a stall, many ticks are due at once. If peers were heard meanwhile, the stall was
    /// ours: counting it as their silence would start an election that nobody needs.
    fn tick(&mut self, waiting: &mut Waiting, mut next_tick: Instant) -> Instant {
        let now = Instant::now();
        let mut due = 0;
        while next_tick <= now {
            next_tick += TICK;
            due += 1;
        }
        if due > 1 && waiting.heard_peer {
            due = 1;
        }
        (0..due.min(100)).for_each(|_| self.replica.tick());
        if due > 0 {
            waiting.heard_peer = false;
            waiting.sets = self.replica.voter_sets();
            self.compare_ends(waiting);
            self.mind_fitness(waiting);
            self.compact_again(waiting);
        }
        next_tick
    }

    /// Packs what clients asked for into one entry.
    fn propose(&mut self, waiting: &mut Waiting) {
        if waiting.fresh.is_empty() {
            return;
        }
        let proposals = std::mem::take(&mut waiting.fresh);
        let mut commands = Vec::with_capacity(proposals.len());
        let mut waiters = Vec::with_capacity(proposals.len());
        let since = proposals.first().map_or_else(Instant::now, |p| p.since);
        let mut places = Places::default();
        for proposal in proposals {
            if let Some(place) = proposal.place {
                places.push(commands.len(), place);
            }
            commands.push(proposal.command);
            waiters.push(proposal.waiter);
        }
        let context = places.encode(self.raft_id);
        let tag = waiting.tag();
        let mono_ms = waiting.origin.elapsed().as_millis() as u64;
        let wall_ms = jiff::Timestamp::now().as_millisecond();
        match self.replica.propose_with(&commands, context, mono_ms, wall_ms, tag) {
            Ok(()) => {
                self.telemetry.entry_commands(waiters.len() as u64);
                waiting.proposals.insert(tag, (waiters, since));
                if !places.is_empty() {
                    waiting.traced.proposed(self.replica.standing().last, places, since);
                }
                waiting.gather_until = Instant::now() + GATHER;
            }
            Err(ProposeRefused::Busy) if since.elapsed() < HOLD => {
                let again = commands.into_iter().zip(waiters).enumerate();
                waiting.fresh.extend(again.map(|(position, (command, waiter))| Proposal {
                    command,
                    waiter,
                    since,
                    place: places.at(position),
                }));
            }
            Err(refused) => {
                let error = NodeError::from(refused);
                self.telemetry.proposals_ended(ProposalOutcome::Dropped, waiters.len());
                waiters.into_iter().for_each(|w| drop(w.send(Err(error.clone()))));
            }
        }
    }

    fn change_members(
        &mut self,
        change: &MemberChange,
        looked_at: u64,
        waiter: Waiter,
        waiting: &mut Waiting,
    ) {
        let tag = waiting.tag();
        match self.replica.change_members(&change.to_raft(), looked_at, tag) {
            Ok(()) => drop(waiting.proposals.insert(tag, (vec![waiter], Instant::now()))),
            Err(refused) => drop(waiter.send(Err(refused.into()))),
        }
    }

    fn hand_out(&mut self, turn: Turn, waiting: &mut Waiting) {
        if let Some((number, snapshot)) = &turn.install {
            match serde_json::from_slice(snapshot.get_data()) {
                Ok(name) => waiting.install = Some((*number, name)),
                // The transport let it through only after it had read and fetched it.
                Err(e) => tracing::error!(error = %e, "a snapshot's name can't be read"),
            }
        }
        self.transport.send(turn.send);
        for write in turn.writes {
            // The writer ends only after this thread.
            let _ = self.writer.send(write);
        }
        if !turn.apply.is_empty() {
            let entries = turn
                .apply
                .into_iter()
                .map(|committed| {
                    let proposed = committed.tag.and_then(|tag| waiting.proposals.remove(&tag));
                    let since = proposed.as_ref().map(|(_, since)| *since);
                    if let Some(since) = since {
                        self.telemetry.committed(since.elapsed());
                        waiting.traced.committed(self.telemetry.traces(), committed.entry.index);
                    }
                    ToApply {
                        entry: committed.entry,
                        waiters: proposed.map(|(waiters, _)| waiters).unwrap_or_default(),
                        since,
                        conf: committed.conf,
                    }
                })
                .collect();
            let _ = self.applier.send(Work::Apply(entries));
        }
        if turn.wants_snapshot {
            let _ = self.applier.send(Work::Snapshot(None));
        }
        for tag in turn.refused {
            if let Some((waiters, _)) = waiting.proposals.remove(&tag) {
                waiters.into_iter().for_each(|w| drop(w.send(Err(NodeError::ChangePending))));
            }
        }
        for (index, tags) in turn.reads {
            tags.iter().for_each(|_| self.telemetry.read(ReadOutcome::Served));
            if index <= waiting.applied {
                waiting.answer_reads(&tags, Ok(index));
            } else {
                waiting.ready_reads.entry(index).or_default().extend(tags);
            }
        }
        turn.expired_reads.iter().for_each(|_| self.telemetry.read(ReadOutcome::Expired));
        waiting.answer_reads(&turn.expired_reads, Err(NodeError::NoLeader));
        for tag in turn.lost {
            if let Some((waiters, _)) = waiting.proposals.remove(&tag) {
                self.telemetry.proposals_ended(ProposalOutcome::Dropped, waiters.len());
                waiters.into_iter().for_each(|w| drop(w.send(Err(NodeError::NotLeader))));
            }
        }
        for tag in turn.unknown {
            if let Some((waiters, _)) = waiting.proposals.remove(&tag) {
                self.telemetry.proposals_ended(ProposalOutcome::Unknown, waiters.len());
                waiters.into_iter().for_each(|w| drop(w.send(Err(NodeError::UnknownOutcome))));
            }
        }
    }

    /// The log may begin behind a snapshot, as far as DuckDB has what was before.
    fn compact(&mut self, name: &SnapshotName, conf: ConfState) {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = name.index;
        metadata.term = name.term;
        metadata.set_conf_state(conf);
        snapshot.data = serde_json::to_vec(name).unwrap_or_default().into();
        let upto = self.dispensable(name.index);
        if let Some(write) = self.replica.on_snapshot(snapshot, upto) {
            let _ = self.writer.send(write);
        }
    }

    /// DuckDB and peers that fetch a snapshot move on after it was taken: the log is looked at again.
    fn compact_again(&mut self, waiting: &mut Waiting) {
        if waiting.compacted_at.elapsed() < COMPACT_INTERVAL {
            return;
        }
        waiting.compacted_at = Instant::now();
        let Some((begin, snapshot)) = self.replica.compactable() else { return };
        if snapshot.saturating_sub(self.limits.snapshot_threshold_entries()) <= begin {
            return;
        }
        let upto = self.dispensable(snapshot);
        if let Some(write) = self.replica.compact_behind_snapshot(upto) {
            let _ = self.writer.send(write);
        }
    }

    /// The last entry before a snapshot that neither DuckDB nor a peer needs.
    fn dispensable(&self, snapshot: u64) -> u64 {
        let fetched = (self.fetched_index)().unwrap_or(u64::MAX);
        let kept = self.limits.snapshot_threshold_entries();
        snapshot.saturating_sub(kept).min((self.store_durable)()).min(fetched)
    }

    fn publish(&mut self, waiting: &mut Waiting) {
        let standing = self.replica.standing();
        for _ in waiting.elections..self.replica.elections() {
            self.telemetry.election();
        }
        waiting.elections = self.replica.elections();
        let matched = self.replica.progress();
        self.publisher.publish(&standing, &matched, self.replica.awaited());
        if !waiting.traced.is_empty() {
            let name_of = |peer| self.publisher.name_of(peer);
            waiting.traced.matched(self.telemetry.traces(), self.raft_id, &matched, name_of);
        }
    }
}

impl Waiting {
    fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag
    }

    /// The machine is at `index`: reads that waited for it are answered.
    fn reached(&mut self, index: u64) {
        self.applied = index;
        while let Some(entry) = self.ready_reads.first_entry() {
            if *entry.key() > index {
                break;
            }
            let (at, tags) = entry.remove_entry();
            self.answer_reads(&tags, Ok(at));
        }
    }

    fn answer_reads(&mut self, tags: &[Tag], answer: Result<u64, NodeError>) {
        for tag in tags {
            if let Some(reader) = self.reads.remove(tag) {
                let _ = reader.send(answer.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_refuses_a_request_and_says_so() {
        let (inbox, outbox) = inbox();
        let ask = || Input::Propose(Vec::new(), oneshot::channel().0, None);
        for _ in 0..CLIENT_QUEUE {
            assert_eq!(inbox.client(ask()), Ok(()));
        }
        assert_eq!(inbox.client(ask()), Err(NodeError::Overloaded));
        // What peers and threads tell is not held up by clients.
        assert!(inbox.tell(Input::Applied(1)));
        drop(outbox);
        assert_eq!(inbox.client(ask()), Err(NodeError::NoLeader), "the owner has ended");
    }
}
