//! A node: the threads round the real replica and the real machine, in small steps.
//!
//! The owner takes its inbox, ticks and hands out what the replica says; the writer writes,
//! syncs and reports; the applier applies and answers; the snapshot thread writes a file. Each
//! goes on when the dice say so, so that each may lag behind the others, and between any two
//! steps the process may end.

use crate::disk::{End, Record, SharedDisk};
use crate::faults::Boundary;
use crate::members::founders;
use crate::mutations::Mutation;
use crate::network::{Payload, Pulse};
use crate::world::{STEP_MS, World};
use coordinator::machine::{Cut, Machine, SnapshotEncoder};
use coordinator::replica::{
    Committed, LogWrite, Recovered, Replica, ReplicaConfig, Tag, Told, Truncated, Turn,
};
use raft::StateRole;
use raft::eraftpb::{ConfState, Message, MessageType, Snapshot};
use std::collections::{BTreeMap, VecDeque};

/// Steps between two pulses.
const PULSE_STEPS: u64 = 10;
/// So long is what is committed told at once, then as long only with the next entry or heartbeat.
const RIDES_STEPS: u64 = 64;
/// Steps that fetching a snapshot takes.
const FETCH_STEPS: u64 = 6;
/// Tasks that the snapshot thread reads at once.
const TASKS_AT_ONCE: usize = 20;

/// What the owner thread is told.
pub enum Input {
    Raft(Message),
    Pulse(u64, Pulse),
    Durable { number: u64, send: Vec<Message> },
    Applied(u64),
    Installed(u64, u64),
    SnapshotWritten { index: u64, term: u64, conf: ConfState, file: String },
}

/// A snapshot under way: the cut it is read from while the machine goes on, and what was read.
struct Taken {
    cut: Cut,
    encoder: SnapshotEncoder,
    bytes: Vec<u8>,
}

/// What the applier is given, in order.
pub enum Work {
    Apply(Committed),
    Install(String),
}

/// A process.
pub struct Running {
    pub replica: Replica<SharedDisk>,
    pub machine: Machine,
    pub inbox: VecDeque<Input>,
    /// The writer's queue.
    pub writes: VecDeque<LogWrite>,
    /// The applier's.
    pub work: VecDeque<Work>,
    /// A snapshot that replaces the machine once the write of this number is durable.
    install: Option<(u64, String)>,
    /// The snapshot thread's work.
    snapshot: Option<Taken>,
    /// A new member needs a snapshot that names it.
    snapshot_wanted: bool,
    snapshot_index: u64,
    /// A peer's snapshot under way: the message, and when its file is here.
    fetching: Option<(Message, u64)>,
    pub reads_ready: Vec<(u64, Tag)>,
    /// What peers said of themselves last.
    ends: BTreeMap<u64, Pulse>,
    told_applied: u64,
    heard_peer: bool,
    was_leader: u64,
}

/// A clock that may run wrong, and a wall clock that may jump.
#[derive(Default)]
pub struct Clock {
    pub rate_per_mille: u64,
    /// Monotonic time, in thousandths of a step.
    mono: u64,
    ticks: u64,
    pub wall_offset_ms: i64,
}

pub struct SimNode {
    pub id: u64,
    pub disk: SharedDisk,
    pub running: Option<Running>,
    pub boots: u64,
    pub down_until: u64,
    /// The log's end has to be cut at the next start.
    pub torn: bool,
    pub armed: Option<Boundary>,
    pub paused_until: u64,
    pub slow_until: u64,
    pub full_until: u64,
    pub clock: Clock,
}

impl SimNode {
    pub fn new(id: u64) -> SimNode {
        SimNode {
            id,
            disk: SharedDisk::default(),
            running: None,
            boots: 0,
            down_until: 0,
            torn: false,
            armed: None,
            paused_until: 0,
            slow_until: 0,
            full_until: 0,
            clock: Clock { rate_per_mille: 1000, ..Clock::default() },
        }
    }

    pub fn suspect(&self) -> bool {
        self.torn || self.running.as_ref().is_some_and(|r| r.replica.standing().suspect)
    }
}

impl Running {
    /// A snapshot's file is fetched first, one at a time.
    pub fn take_message(&mut self, message: Message, now: u64) {
        if message.get_msg_type() != MessageType::MsgSnapshot {
            self.inbox.push_back(Input::Raft(message));
        } else if self.fetching.is_none() {
            self.fetching = Some((message, now + FETCH_STEPS));
        }
    }

    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.work.is_empty() && self.install.is_none() && self.snapshot.is_none()
    }
}

impl World {
    /// Starts a node on what its disk holds.
    pub fn start(&mut self, at: usize) {
        let founders = founders(&self.founders);
        let (seed, origin) = (self.random.next(), self.random.below(1_000_000));
        let node = &mut self.nodes[at];
        node.boots += 1;
        // A monotonic clock begins anywhere.
        node.clock.mono = origin * 1000;
        let suspect = std::mem::take(&mut node.torn) && self.mutation != Mutation::TrustedTornLog;
        node.disk.keep_named_file();
        let disk = node.disk.0.borrow();
        let recovered = Recovered {
            hard_state: disk.synced.hard_state.clone(),
            conf_state: match &disk.synced.snapshot {
                Some(snapshot) => snapshot.get_metadata().get_conf_state().clone(),
                None => founders.conf_state(),
            },
            truncated: disk.synced.truncated,
            last: disk.synced.last(),
            snapshot: disk.synced.snapshot.clone(),
        };
        let machine = match disk.synced.named_file() {
            Some(file) => {
                let bytes = disk.files.get(&file);
                let bytes =
                    bytes.unwrap_or_else(|| panic!("node {}: named file {file} is not there", node.id));
                Machine::decode_snapshot(bytes).expect("a sound snapshot")
            }
            None => {
                let mut machine = Machine::new();
                machine.found(founders, 1);
                machine
            }
        };
        drop(disk);
        let config = ReplicaConfig {
            raft_id: node.id,
            boot_nonce: node.boots,
            heartbeat_ticks: 5,
            election_ticks_min: 15,
            election_ticks_max: 30,
            applied: machine.applied_index(),
            applied_log_ms: machine.log_ms(),
            cache_limit_bytes: 2_000,
            max_uncommitted_bytes: 1 << 20,
            suspect,
            seed,
        };
        self.trace.tell(self.now, || {
            format!(
                "node {} starts: log {:?}, applied {}, suspect {suspect}",
                node.id, recovered.last, config.applied
            )
        });
        let replica = Replica::new(config, recovered, node.disk.clone()).expect("the disk's state is sound");
        node.running = Some(Running {
            snapshot_index: machine.applied_index(),
            told_applied: machine.applied_index(),
            replica,
            machine,
            inbox: VecDeque::new(),
            writes: VecDeque::new(),
            work: VecDeque::new(),
            install: None,
            snapshot: None,
            snapshot_wanted: false,
            fetching: None,
            reads_ready: Vec::new(),
            ends: BTreeMap::new(),
            heard_peer: false,
            was_leader: 0,
        });
        self.check_state(at);
        self.reached(at, Boundary::Started);
    }

    /// The process at `at` ends.
    pub fn crash(&mut self, at: usize, end: End) {
        // A node that lost its disk counts as damaged until it votes again: nobody else's log may
        // lose its end meanwhile, since a suspect waits for what every voter has.
        let settled = self.members_settled();
        let others_sound = settled && self.nodes.iter().all(|n| !n.suspect());
        let end = match end {
            End::Power { kept, .. } if !settled => End::Power { kept, torn: false },
            end => end,
        };
        let forget = self.mutation == Mutation::ForgottenTruncation;
        let Some(running) = self.nodes[at].running.take() else { return };
        let damage = self.plan.damage && others_sound && self.random.chance(250);
        let amnesia = self.mutation == Mutation::AmnesiacVoter && self.random.chance(300);
        let down = 3 + self.random.below(80);
        let node = &mut self.nodes[at];
        let left = node.disk.end(end, forget);
        (0..left.lost).for_each(|_| self.faults.count("unsynced record lost"));
        node.torn = running.replica.standing().suspect || left.torn;
        if left.torn {
            self.faults.count("unsynced record torn");
        } else if damage && node.disk.damage_last_record() {
            // Acknowledged and gone; on one node at a time: with more, nobody could know.
            self.faults.count("acknowledged record damaged");
            node.torn = true;
        }
        if amnesia {
            *node.disk.0.borrow_mut() = Default::default();
            node.torn = false;
        }
        node.down_until = self.now + down;
        node.armed = None;
        let id = node.id;
        self.trace.tell(self.now, || format!("node {id} ends: {end:?}, torn {}", self.nodes[at].torn));
        self.trace.mark(id << 32 | self.now);
        self.clients.forget(id);
    }

    /// A step that lasts is done or about to be; true where the process ends here.
    fn reached(&mut self, at: usize, boundary: Boundary) -> bool {
        if self.healed || self.nodes[at].armed != Some(boundary) {
            return false;
        }
        self.faults.count(boundary.kind());
        let end = self.draw_end(at);
        self.crash(at, end);
        true
    }

    pub fn step_node(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.running.is_none() {
            // A full disk takes no identity file, so the process does not come up.
            if (node.down_until <= self.now && node.full_until <= self.now) || self.healed {
                self.start(at);
            }
            return;
        }
        node.clock.mono += node.clock.rate_per_mille;
        if node.paused_until > self.now {
            return;
        }
        self.fetch(at);
        self.own(at);
        if self.nodes[at].slow_until <= self.now && self.random.chance(700) {
            self.write(at);
        }
        if self.random.chance(800) {
            self.apply(at);
        }
        self.snapshot(at);
    }

    /// The owner thread's turn.
    fn own(&mut self, at: usize) {
        let inputs = match &mut self.nodes[at].running {
            Some(running) => {
                // As if clients were many, then few.
                running.replica.commit_rides((self.now / RIDES_STEPS).is_multiple_of(2));
                std::mem::take(&mut running.inbox)
            }
            None => return,
        };
        for input in inputs {
            if self.take(at, input) {
                return;
            }
        }
        let pulse_due = self.now.is_multiple_of(PULSE_STEPS);
        let node = &mut self.nodes[at];
        let Some(running) = &mut node.running else { return };
        let due = node.clock.mono / 1000 - node.clock.ticks.min(node.clock.mono / 1000);
        node.clock.ticks = node.clock.mono / 1000;
        // After a stall during which peers were heard, the silence was ours.
        let due = if due > 1 && running.heard_peer { 1 } else { due.min(100) };
        running.heard_peer &= due == 0;
        (0..due).for_each(|_| running.replica.tick());
        let turn = running.replica.turn();
        self.check_turn(at, &turn);
        self.hand_out(at, turn);
        if pulse_due {
            self.pulse(at);
        }
    }

    /// True where the process ended.
    fn take(&mut self, at: usize, input: Input) -> bool {
        let Some(running) = &mut self.nodes[at].running else { return true };
        match input {
            Input::Raft(message) => {
                running.heard_peer = true;
                running.replica.step(message);
            }
            Input::Pulse(from, pulse) => {
                if pulse.leads {
                    running.replica.meet_leader(from, pulse.term, pulse.end.index);
                }
                running.replica.learn_commit(pulse.committed);
                if pulse.fetching {
                    running.replica.on_peer_fetches(from);
                }
                if pulse.suspect {
                    running.replica.meet_suspect(from, pulse.verified, pulse.end.index);
                }
                running.ends.insert(from, pulse);
                self.compare_ends(at);
            }
            Input::Durable { number, send } => {
                running.replica.on_durable(number);
                if let Some((_, file)) = running.install.take_if(|(n, _)| *n <= number) {
                    running.work.push_back(Work::Install(file));
                }
                let left = !send.is_empty();
                self.send(at, send);
                return left && self.reached(at, Boundary::MessagesLeft);
            }
            Input::Applied(index) => {
                running.replica.on_applied(index);
                running.told_applied = index;
                // What held the log back has moved on.
                if let Some((begin, snapshot)) = running.replica.compactable() {
                    let upto = begin + self.random.below(snapshot - begin + 1);
                    if let Some(write) = running.replica.compact_behind_snapshot(upto) {
                        running.writes.push_back(write);
                        self.faults.count("log compacted again");
                    }
                }
                self.answer_reads(at);
            }
            Input::Installed(index, log_ms) => {
                running.replica.on_installed(index, log_ms);
                running.told_applied = index;
                self.answer_reads(at);
            }
            Input::SnapshotWritten { index, term, conf, file } => {
                let mut snapshot = Snapshot { data: file.into_bytes().into(), ..Default::default() };
                let metadata = snapshot.mut_metadata();
                (metadata.index, metadata.term) = (index, term);
                metadata.set_conf_state(conf);
                let kept = index.saturating_sub(self.random.below(12));
                if let Some(write) = running.replica.on_snapshot(snapshot, kept) {
                    running.writes.push_back(write);
                }
            }
        }
        false
    }

    fn compare_ends(&mut self, at: usize) {
        let Some(Running { replica, ends, .. }) = &mut self.nodes[at].running else { return };
        let told = |pulse: &Pulse| Told {
            end: pulse.end,
            knows_leader: pulse.leads || pulse.knows_leader,
            sets: pulse.sets.clone(),
        };
        if replica.is_suspect() {
            replica.compare_log_ends(&ends.iter().map(|(peer, pulse)| (*peer, told(pulse))).collect());
        }
    }

    fn hand_out(&mut self, at: usize, turn: Turn) {
        let id = self.nodes[at].id;
        let Some(running) = &mut self.nodes[at].running else { return };
        if let Some((number, snapshot)) = &turn.install {
            let file = String::from_utf8_lossy(&snapshot.data).into_owned();
            running.install = Some((*number, file));
        }
        running.writes.extend(turn.writes);
        running.work.extend(turn.apply.into_iter().map(Work::Apply));
        let ready = turn.reads.into_iter();
        running.reads_ready.extend(ready.flat_map(|(index, tags)| tags.into_iter().map(move |t| (index, t))));
        running.snapshot_wanted |= turn.wants_snapshot;
        turn.refused.iter().for_each(|tag| self.clients.unknown(id, *tag));
        turn.unknown.iter().for_each(|tag| self.clients.unknown(id, *tag));
        for tag in &turn.lost {
            for task in self.clients.lost(id, *tag) {
                assert!(!self.truth.submitted.contains(&task), "{task} was told lost, and is in the log");
            }
        }
        turn.expired_reads.iter().for_each(|tag| self.clients.expired(id, *tag));
        self.send(at, turn.send);
        self.answer_reads(at);
    }

    fn send(&mut self, at: usize, messages: Vec<Message>) {
        for message in messages {
            let mark = message.term ^ (message.index << 8) ^ (message.to << 40) ^ message.msg_type as u64;
            self.trace.mark(mark);
            self.post(at, message.to, Payload::Raft(message));
        }
    }

    fn post(&mut self, at: usize, to: u64, payload: Payload) {
        let Some(to_boot) = self.nodes.iter().find(|n| n.id == to).map(|n| n.boots) else { return };
        let (link, unruly) = ((self.nodes[at].id, to, to_boot), self.unruly());
        self.network.send(link, payload, self.now, unruly, &mut self.random, &mut self.faults);
    }

    fn pulse(&mut self, at: usize) {
        let Some(running) = &self.nodes[at].running else { return };
        let standing = running.replica.standing();
        let pulse = Pulse {
            leads: standing.role == StateRole::Leader,
            knows_leader: standing.leader != 0,
            suspect: standing.suspect,
            term: standing.term,
            end: running.replica.log_end(),
            verified: running.replica.verified_index(),
            committed: running.replica.committed(),
            fetching: running.fetching.is_some() || running.install.is_some(),
            sets: running.replica.voter_sets(),
        };
        let own = self.nodes[at].id;
        let others: Vec<u64> = self.nodes.iter().map(|n| n.id).filter(|id| *id != own).collect();
        others.into_iter().for_each(|to| self.post(at, to, Payload::Pulse(pulse.clone())));
    }

    /// The writer thread: some of its queue as one record, written, synced, reported.
    fn write(&mut self, at: usize) {
        let most = 1 + self.random.below(6) as usize;
        let Some(running) = &mut self.nodes[at].running else { return };
        let mut record: Record = Vec::new();
        while record.len() < most
            && let Some(next) = running.writes.front()
            && fits(&record, next)
        {
            record.extend(running.writes.pop_front());
        }
        if record.is_empty() {
            return;
        }
        if self.reached(at, Boundary::BeforeWrite) {
            return;
        }
        if self.nodes[at].full_until > self.now {
            // The engine's write fails, and the process ends.
            self.faults.count("write refused by a full disk");
            self.crash(at, End::Kill);
            return;
        }
        let (unsynced, synced) = match record.first() {
            Some(w) if w.install.is_some() => (Boundary::InstallUnsynced, Boundary::InstallSynced),
            Some(w) if w.compact.is_some() => (Boundary::NamedUnsynced, Boundary::Named),
            _ => (Boundary::WrittenUnsynced, Boundary::SyncedUntold),
        };
        if synced == Boundary::Named {
            self.faults.count("log compacted");
        }
        let must_sync = record.iter().any(|w| w.must_sync) && self.mutation != Mutation::SkippedSync;
        let forget = self.mutation == Mutation::ForgottenTruncation;
        let number = record.iter().map(|w| w.number).max().unwrap_or_default();
        let send = record.iter_mut().flat_map(|w| std::mem::take(&mut w.then_send)).collect();
        if self.mutation == Mutation::VoteNotPersisted {
            let states = record.iter_mut().filter_map(|w| w.hard_state.as_mut());
            states.for_each(|state| state.vote = 0);
        }
        self.truth.written(&record, &self.nodes[at]);
        self.nodes[at].disk.write(record, forget);
        if self.reached(at, unsynced) {
            return;
        }
        if must_sync {
            self.nodes[at].disk.sync(forget);
        }
        if self.reached(at, synced) {
            return;
        }
        if let Some(running) = &mut self.nodes[at].running {
            running.inbox.push_back(Input::Durable { number, send });
        }
    }

    /// A peer's snapshot comes in whole or not at all, and is durable before Raft sees it.
    fn fetch(&mut self, at: usize) {
        let (now, to) = (self.now, self.nodes[at].id);
        let Some(running) = &mut self.nodes[at].running else { return };
        let Some((message, _)) = running.fetching.take_if(|(_, ready)| *ready <= now) else { return };
        let file = String::from_utf8_lossy(&message.get_snapshot().data).into_owned();
        let open = self.network.open(message.from, to);
        let sender = self.nodes.iter().find(|n| n.id == message.from && n.running.is_some());
        let bytes = sender.filter(|_| open).and_then(|n| n.disk.0.borrow().files.get(&file).cloned());
        let Some(bytes) = bytes else {
            self.faults.count("snapshot could not be fetched");
            return;
        };
        self.nodes[at].disk.0.borrow_mut().files.insert(file, bytes);
        if self.reached(at, Boundary::Fetched) {
            return;
        }
        if let Some(running) = &mut self.nodes[at].running {
            running.inbox.push_back(Input::Raft(message));
        }
    }

    /// The applier thread.
    fn apply(&mut self, at: usize) {
        if self.reached(at, Boundary::BeforeApply) {
            return;
        }
        let mut applied = None;
        for _ in 0..1 + self.random.below(8) {
            let Some(running) = &mut self.nodes[at].running else { return };
            match running.work.pop_front() {
                None => break,
                Some(Work::Apply(committed)) => {
                    applied = Some(committed.entry.index);
                    self.apply_entry(at, committed);
                }
                Some(Work::Install(file)) => {
                    let bytes = self.nodes[at].disk.0.borrow().files.get(&file).cloned();
                    let bytes = bytes.expect("a snapshot's file is durable before its message is stepped");
                    let machine = Machine::decode_snapshot(&bytes).expect("a sound snapshot");
                    let before = applied.take().map(Input::Applied);
                    let told = Input::Installed(machine.applied_index(), machine.log_ms());
                    self.faults.count("snapshot installed");
                    if let Some(running) = &mut self.nodes[at].running {
                        running.snapshot_index = machine.applied_index();
                        running.machine = machine;
                    }
                    self.check_state(at);
                    if self.reached(at, Boundary::Swapped) {
                        return;
                    }
                    if let Some(running) = &mut self.nodes[at].running {
                        running.inbox.extend(before.into_iter().chain([told]));
                    }
                }
            }
        }
        if let Some(index) = applied {
            if self.reached(at, Boundary::Answered) {
                return;
            }
            if let Some(running) = &mut self.nodes[at].running {
                running.inbox.push_back(Input::Applied(index));
            }
        }
    }

    /// Takes a snapshot now and then, and carries on with one that is being written.
    fn snapshot(&mut self, at: usize) {
        let (due, goes_on) = (self.random.chance(15) && !self.quiet, self.random.chance(500));
        let Some(running) = &mut self.nodes[at].running else { return };
        let Some(mut taken) = running.snapshot.take() else {
            let index = running.machine.applied_index();
            if (due || running.snapshot_wanted) && index > running.snapshot_index {
                running.snapshot_wanted = false;
                running.snapshot_index = index;
                let cut = running.machine.begin_cut();
                let encoder = SnapshotEncoder::new(&cut);
                running.snapshot = Some(Taken { cut, encoder, bytes: Vec::new() });
            }
            return;
        };
        if !goes_on {
            running.snapshot = Some(taken);
            return;
        }
        // None: the machine was replaced meanwhile, and its cut with it.
        let Some(tasks) = running.machine.read_cut(&taken.cut, TASKS_AT_ONCE) else { return };
        if !tasks.is_empty() {
            taken.encoder.add(&tasks);
            taken.bytes.extend(taken.encoder.take());
            running.snapshot = Some(taken);
            self.reached(at, Boundary::SnapshotHalf);
            return;
        }
        running.machine.end_cut(&taken.cut);
        let Taken { cut, encoder, mut bytes } = taken;
        bytes.extend(encoder.finish().expect("the records add up to the checksum of the cut"));
        let (index, term, conf) = (cut.index(), cut.term(), cut.conf_state());
        let file = format!("{index}-{term}");
        self.nodes[at].disk.0.borrow_mut().files.insert(file.clone(), bytes);
        if self.reached(at, Boundary::SnapshotFile) {
            return;
        }
        if let Some(running) = &mut self.nodes[at].running {
            running.inbox.push_back(Input::SnapshotWritten { index, term, conf, file });
        }
    }

    pub fn answer_reads(&mut self, at: usize) {
        let id = self.nodes[at].id;
        let Some(running) = &mut self.nodes[at].running else { return };
        let applied = running.told_applied;
        for (index, tag) in std::mem::take(&mut running.reads_ready) {
            if index > applied {
                running.reads_ready.push((index, tag));
            } else {
                self.clients.read_answered(id, tag, index);
            }
        }
    }

    /// The node's clocks: monotonic and wall, in milliseconds.
    pub fn clocks(&self, at: usize) -> (u64, i64) {
        let clock = &self.nodes[at].clock;
        (clock.mono * STEP_MS / 1000, (self.now * STEP_MS) as i64 + clock.wall_offset_ms)
    }

    /// Notes that a node leads; true where it did not in this term before.
    pub fn leads_anew(&mut self, at: usize, term: u64) -> bool {
        let Some(running) = &mut self.nodes[at].running else { return false };
        std::mem::replace(&mut running.was_leader, term) != term
    }
}

/// What may join a record: as in the node's log writer, entries that go on, and an install alone.
fn fits(record: &Record, write: &LogWrite) -> bool {
    if record.is_empty() {
        return true;
    }
    if write.install.is_some() || record.iter().any(|w| w.install.is_some()) {
        return false;
    }
    let last = record.iter().rev().find_map(|w| w.entries.last()).map(|e| e.index);
    match (last, write.entries.first()) {
        (Some(last), Some(first)) => first.index == last + 1,
        _ => true,
    }
}

/// Term of the entry at `index` as the replica sees its log: what it queued, then the disk. None
/// where the log has no such entry; `Some(None)` where it begins behind it.
pub fn log_term(node: &SimNode, index: u64) -> Option<Option<u64>> {
    let running = node.running.as_ref()?;
    for write in running.writes.iter().rev() {
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            if index > last.index {
                return None;
            }
            if index >= first.index {
                return Some(Some(write.entries[(index - first.index) as usize].term));
            }
        }
        if let Some(snapshot) = &write.install {
            return (index <= snapshot.get_metadata().index).then_some(None);
        }
    }
    written_term(node, index)
}

/// The same as the disk has it, synced or not: what the next record is written behind.
pub fn written_term(node: &SimNode, index: u64) -> Option<Option<u64>> {
    let disk = node.disk.0.borrow();
    let Truncated { index: gone, .. } = disk.written.truncated;
    if index <= gone {
        return Some(None);
    }
    let at = disk.written.entries.partition_point(|e| e.index < index);
    disk.written.entries.get(at).filter(|e| e.index == index).map(|e| Some(e.term))
}
