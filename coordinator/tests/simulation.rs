//! A seeded, single-threaded world that runs the very replica and machine the node runs.
//!
//! N replicas on a simulated network (loss, delay, duplicates, partitions) and simulated disks
//! (unsynced writes are lost at a crash; sometimes a torn end takes an acknowledged record of
//! one node). Checked all the time: one leader a term, one entry an index, log time that never
//! goes back, reads that see every write acknowledged before them. Checked at the end, once
//! healed: progress, equal checksums, nothing acknowledged lost.
//!
//! `HOLDFAST_SEED=n` runs one seed, `HOLDFAST_SEEDS=n` that many.

use coordinator::command::{Batch, Command, TaskSpec};
use coordinator::machine::Machine;
use coordinator::replica::*;
use raft::StateRole;
use raft::eraftpb::{ConfState, Entry, HardState, Message, Snapshot};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

#[derive(Default)]
struct Disk {
    hard_state: HardState,
    entries: Vec<Entry>,
    truncated: Truncated,
    snapshot: Option<Snapshot>,
}

#[derive(Clone, Default)]
struct SharedDisk(Rc<RefCell<Disk>>);

impl OlderEntries for SharedDisk {
    fn fetch(&self, low: u64, high: u64, _max: u64) -> Result<Vec<Entry>, String> {
        let disk = self.0.borrow();
        Ok(disk.entries.iter().filter(|e| (low..high).contains(&e.index)).cloned().collect())
    }
}

impl SharedDisk {
    fn write(&self, write: &LogWrite) {
        let mut disk = self.0.borrow_mut();
        if let Some(snapshot) = &write.install {
            let metadata = snapshot.get_metadata();
            disk.entries.clear();
            disk.truncated = Truncated { index: metadata.index, term: metadata.term };
            disk.snapshot = Some(snapshot.clone());
        }
        if let Some((snapshot, truncated)) = &write.compact {
            disk.entries.retain(|e| e.index > truncated.index);
            disk.truncated = *truncated;
            disk.snapshot = Some(snapshot.clone());
        }
        if let Some(first) = write.entries.first() {
            disk.entries.retain(|e| e.index < first.index);
            disk.entries.extend(write.entries.iter().cloned());
        }
        if let Some(state) = &write.hard_state {
            disk.hard_state = state.clone();
        }
    }
}

struct Running {
    replica: Replica<SharedDisk>,
    machine: Machine,
    /// A snapshot that replaces the machine once the write of this number is durable.
    install: Option<(u64, Snapshot)>,
    unsynced: VecDeque<LogWrite>,
    to_apply: VecDeque<Committed>,
    reads_ready: Vec<(u64, Tag)>,
}

struct SimNode {
    id: u64,
    disk: SharedDisk,
    running: Option<Running>,
    boots: u64,
    down_until: u64,
    torn: bool,
}

/// What the checks know of the whole world.
#[derive(Default)]
struct Truth {
    leaders: BTreeMap<u64, u64>,
    entries: BTreeMap<u64, (u64, Vec<u8>)>,
    acked: BTreeMap<String, u64>,
    highest_acked: u64,
}

#[derive(Default, Debug)]
struct Faults {
    lost: u64,
    duplicated: u64,
    crashes: u64,
    unsynced_lost: u64,
    torn: u64,
    partitions: u64,
    compacted: u64,
    installed: u64,
}

/// What a mutation takes away, to show that the checks would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutation {
    None,
    SkippedSync,
    AmnesiacVoter,
    TrustedTornLog,
    UnsafeRead,
}

struct World {
    mutation: Mutation,
    random: Random,
    now: u64,
    nodes: Vec<SimNode>,
    network: BTreeMap<(u64, u64), Message>,
    sent: u64,
    cut: BTreeSet<(u64, u64)>,
    truth: Truth,
    proposals: BTreeMap<(u64, Tag), String>,
    reads: BTreeMap<(u64, Tag), u64>,
    tags: u64,
    faults: Faults,
    healed: bool,
    reads_served: u64,
    trace: u64,
}

impl World {
    fn new(seed: u64, size: u64, mutation: Mutation) -> World {
        let nodes = (1..=size)
            .map(|id| SimNode {
                id,
                disk: SharedDisk::default(),
                running: None,
                boots: 0,
                down_until: 0,
                torn: false,
            })
            .collect();
        World {
            mutation,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 0,
            nodes,
            network: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            truth: Truth::default(),
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            tags: 0,
            faults: Faults::default(),
            healed: false,
            reads_served: 0,
            trace: 0,
        }
    }

    fn boot(&mut self, at: usize) {
        let voters: Vec<u64> = self.nodes.iter().map(|n| n.id).collect();
        let seed = self.random.next();
        let node = &mut self.nodes[at];
        node.boots += 1;
        let suspect = std::mem::take(&mut node.torn) && self.mutation != Mutation::TrustedTornLog;
        let recovered = {
            let disk = node.disk.0.borrow();
            let last = disk.entries.last();
            let last = last.map_or(disk.truncated, |e| Truncated { index: e.index, term: e.term });
            Recovered {
                hard_state: disk.hard_state.clone(),
                conf_state: ConfState { voters, ..Default::default() },
                truncated: disk.truncated,
                last,
                snapshot: disk.snapshot.clone(),
            }
        };
        let machine = match &recovered.snapshot {
            Some(snapshot) => Machine::decode_snapshot(snapshot.get_data()).expect("a sound snapshot"),
            None => Machine::new(),
        };
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
        let replica = Replica::new(config, recovered, node.disk.clone()).expect("the disk's state is sound");
        node.running = Some(Running {
            replica,
            machine,
            install: None,
            unsynced: VecDeque::new(),
            to_apply: VecDeque::new(),
            reads_ready: Vec::new(),
        });
    }

    fn crash(&mut self, at: usize) {
        let sound = |n: &SimNode| !n.torn && n.running.as_ref().is_none_or(|r| !r.replica.standing().suspect);
        let all_sound = self.nodes.iter().all(sound);
        let Some(running) = self.nodes[at].running.take() else { return };
        self.faults.crashes += 1;
        // Some of what was not synced may have reached the disk all the same.
        let kept = self.random.below(running.unsynced.len() as u64 + 1) as usize;
        self.faults.unsynced_lost += (running.unsynced.len() - kept) as u64;
        running.unsynced.iter().take(kept).for_each(|w| self.nodes[at].disk.write(w));
        let node = &mut self.nodes[at];
        node.torn = running.replica.standing().suspect;
        let disk = node.disk.0.borrow();
        let snapshot_index = disk.snapshot.as_ref().map_or(0, |s| s.get_metadata().index);
        // A snapshot is named by a record behind its entries: those are not the log's last.
        let ends_with_entry = disk.entries.last().is_some_and(|e| e.index > snapshot_index);
        drop(disk);
        if all_sound && ends_with_entry && self.random.chance(300) {
            // An acknowledged record is damaged; on one node at a time: with more, nobody could know.
            node.disk.0.borrow_mut().entries.pop();
            node.torn = true;
            self.faults.torn += 1;
        }
        if self.mutation == Mutation::AmnesiacVoter {
            node.disk.0.borrow_mut().hard_state.vote = 0;
            let last = node.disk.0.borrow().entries.last().map_or(0, |e| e.term);
            node.disk.0.borrow_mut().hard_state.term = last;
        }
        node.down_until = self.now + 5 + self.random.below(80);
        let id = node.id;
        self.proposals.retain(|(node, _), _| *node != id);
        self.reads.retain(|(node, _), _| *node != id);
    }

    fn faults(&mut self) {
        if self.healed {
            self.cut.clear();
            return;
        }
        let size = self.nodes.len() as u64;
        if self.random.chance(8) {
            let at = self.random.below(size) as usize;
            self.crash(at);
        }
        if self.random.chance(10) {
            self.cut.clear();
            if self.random.chance(700) {
                let alone = 1 + self.random.below(size);
                let one_way = self.random.chance(300);
                for other in (1..=size).filter(|o| *o != alone) {
                    self.cut.insert((alone, other));
                    if !one_way {
                        self.cut.insert((other, alone));
                    }
                }
                self.faults.partitions += 1;
            }
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let mark = message.term ^ (message.index << 8) ^ (message.to << 40) ^ message.msg_type as u64;
            self.trace = self.trace.rotate_left(7) ^ mark;
            let cut = self.cut.contains(&(message.from, message.to));
            if cut || (!self.healed && self.random.chance(20)) {
                self.faults.lost += 1;
                continue;
            }
            let copies = if !self.healed && self.random.chance(15) { 2 } else { 1 };
            self.faults.duplicated += copies - 1;
            for _ in 0..copies {
                self.sent += 1;
                let delay = if self.random.chance(50) { self.random.below(20) } else { self.random.below(2) };
                self.network.insert((self.now + delay, self.sent), message.clone());
            }
        }
    }

    fn deliver(&mut self) {
        let later = self.network.split_off(&(self.now + 1, 0));
        for (_, message) in std::mem::replace(&mut self.network, later) {
            let sender = self.nodes.iter().find(|n| n.id == message.from).and_then(|n| n.running.as_ref());
            let sender = sender.map(|r| r.replica.standing());
            let Some(running) =
                self.nodes.iter_mut().find(|n| n.id == message.to).and_then(|n| n.running.as_mut())
            else {
                continue;
            };
            // Stands for the pulse that goes over the same connection.
            if let Some(standing) = sender {
                if standing.role == StateRole::Leader {
                    running.replica.meet_leader(message.from, standing.term, standing.last);
                }
                if standing.suspect {
                    running.replica.meet_suspect(message.from, standing.last);
                }
            }
            running.replica.step(message);
        }
    }

    fn clients(&mut self) {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        let (now, id, highest) = (self.now, self.nodes[at].id, self.truth.highest_acked);
        let reads = self.random.chance(300);
        self.tags += 1;
        let tag = self.tags;
        let Some(running) = &mut self.nodes[at].running else { return };
        if reads && self.mutation == Mutation::UnsafeRead {
            self.reads.insert((id, tag), highest);
            running.reads_ready.push((running.machine.applied_index(), tag));
        } else if reads {
            self.reads.insert((id, tag), highest);
            running.replica.read(tag);
        } else {
            let task_id = format!("task-{tag}");
            let command = Command::Submit { tasks: vec![spec(&task_id)] };
            if running.replica.propose(&[command.encode()], now * 10, 0, tag).is_ok() {
                self.proposals.insert((id, tag), task_id);
            }
        }
    }

    fn step_node(&mut self, at: usize) {
        let id = self.nodes[at].id;
        let sync_now = self.random.chance(600);
        let apply_now = self.random.chance(800);
        let snapshot_now = self.random.chance(10);
        let skip_sync = self.mutation == Mutation::SkippedSync;
        let node = &mut self.nodes[at];
        let Some(running) = &mut node.running else {
            if node.down_until <= self.now || self.healed {
                self.boot(at);
            }
            return;
        };
        running.replica.tick();
        let mut released = Vec::new();
        let mut durable = None;
        if skip_sync {
            durable = running.unsynced.iter().map(|w| w.number).max();
            released.extend(running.unsynced.iter_mut().flat_map(|w| std::mem::take(&mut w.then_send)));
        }
        if sync_now {
            while let Some(write) = running.unsynced.pop_front() {
                node.disk.write(&write);
                durable = durable.max(Some(write.number));
                released.extend(write.then_send);
            }
        }
        if let Some(number) = durable {
            running.replica.on_durable(number);
            if let Some((_, snapshot)) = running.install.take_if(|(at, _)| *at <= number) {
                running.machine = Machine::decode_snapshot(snapshot.get_data()).expect("a sound snapshot");
                running.to_apply.clear();
                running.replica.on_applied(running.machine.applied_index());
                self.faults.installed += 1;
            }
        }
        let turn = running.replica.turn();
        if turn.install.is_some() {
            running.install = turn.install;
        }
        running.unsynced.extend(turn.writes);
        running.to_apply.extend(turn.apply);
        let ready =
            turn.reads.into_iter().flat_map(|(index, tags)| tags.into_iter().map(move |t| (index, t)));
        running.reads_ready.extend(ready);
        let standing = running.replica.standing();
        if standing.role == StateRole::Leader {
            let first = *self.truth.leaders.entry(standing.term).or_insert(id);
            assert_eq!(first, id, "two leaders in term {}", standing.term);
        }
        if apply_now {
            self.apply(at);
        }
        if snapshot_now {
            self.snapshot(at);
        }
        self.answer_reads(at);
        let mut send = turn.send;
        send.extend(released);
        self.send(send);
        turn.unknown.iter().for_each(|tag| {
            self.proposals.remove(&(id, *tag));
        });
        turn.expired_reads.iter().for_each(|tag| {
            self.reads.remove(&(id, *tag));
        });
    }

    /// Takes a snapshot, so that the log may begin behind it but for a few entries.
    fn snapshot(&mut self, at: usize) {
        let Some(running) = &mut self.nodes[at].running else { return };
        let index = running.machine.applied_index();
        let data = running.machine.encode_snapshot().into();
        let mut snapshot = Snapshot { data, ..Default::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, running.machine.applied_term());
        metadata.set_conf_state(running.replica.conf_state());
        if let Some(write) = running.replica.on_snapshot(snapshot, index.saturating_sub(5)) {
            running.unsynced.push_back(write);
            self.faults.compacted += 1;
        }
    }

    fn apply(&mut self, at: usize) {
        let id = self.nodes[at].id;
        let Some(running) = &mut self.nodes[at].running else { return };
        let mut last = None;
        while let Some(Committed { entry, tag, .. }) = running.to_apply.pop_front() {
            let known =
                self.truth.entries.entry(entry.index).or_insert_with(|| (entry.term, entry.data.to_vec()));
            let same = (known.0, &known.1[..]) == (entry.term, &entry.data[..]);
            assert!(same, "two entries at index {}", entry.index);
            if !entry.data.is_empty() {
                let batch = Batch::decode(&entry.data).unwrap();
                assert!(
                    batch.stamp.log_ms >= running.machine.log_ms(),
                    "log time went back at {}",
                    entry.index
                );
                for command in &batch.commands {
                    running.machine.apply(entry.index, entry.term, batch.stamp, command, &mut Vec::new());
                }
            }
            running.machine.finish_entry(entry.index, entry.term, &entry.data);
            last = Some(entry.index);
            if let Some(task_id) = tag.and_then(|t| self.proposals.remove(&(id, t))) {
                self.truth.highest_acked = self.truth.highest_acked.max(entry.index);
                self.truth.acked.insert(task_id, entry.index);
            }
        }
        if let Some(index) = last {
            running.replica.on_applied(index);
        }
    }

    fn answer_reads(&mut self, at: usize) {
        let id = self.nodes[at].id;
        let Some(running) = &mut self.nodes[at].running else { return };
        let applied = running.machine.applied_index();
        for (index, tag) in std::mem::take(&mut running.reads_ready) {
            if index > applied {
                running.reads_ready.push((index, tag));
            } else if let Some(floor) = self.reads.remove(&(id, tag)) {
                assert!(index >= floor, "a read answered index {index}; {floor} was acknowledged before it");
                self.reads_served += 1;
            }
        }
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.now += 1;
            self.faults();
            self.deliver();
            for at in 0..self.nodes.len() {
                self.step_node(at);
            }
            if !self.healed || self.now.is_multiple_of(5) {
                self.clients();
            }
        }
    }

    /// Heals everything; then all machines must come to stand together, with all that was acked.
    fn settle(&mut self) {
        self.healed = true;
        let before = self.truth.acked.len();
        self.run(600);
        assert!(self.truth.acked.len() > before, "no write went through in 600 steps after healing");
        let mut checks = BTreeMap::new();
        for node in &self.nodes {
            let running = node.running.as_ref().expect("every node runs after healing");
            assert!(!running.replica.standing().suspect, "node {} is still suspect", node.id);
            let applied = running.machine.applied_index();
            assert!(applied + 200 > self.truth.highest_acked, "node {} did not catch up", node.id);
            for point in running.machine.checkpoints() {
                let known = *checks.entry(point.index).or_insert((point.checksum, point.log_chain));
                assert_eq!(
                    known,
                    (point.checksum, point.log_chain),
                    "checksums differ at index {}",
                    point.index
                );
            }
            for (task_id, index) in self.truth.acked.iter().filter(|(_, index)| **index <= applied) {
                assert!(
                    running.machine.task(task_id).is_some(),
                    "{task_id} of index {index} is lost on node {}",
                    node.id
                );
            }
        }
    }
}

fn spec(task_id: &str) -> TaskSpec {
    TaskSpec {
        task_id: task_id.into(),
        kind: "noop".into(),
        priority: 5,
        config: "{}".into(),
        labels: BTreeMap::new(),
        resources: BTreeMap::new(),
        timeout_ms: 1000,
        max_retries: 0,
        retry_backoff_ms: 1000,
    }
}

fn run_seed(seed: u64, mutation: Mutation) -> World {
    let size = if seed.is_multiple_of(3) { 5 } else { 3 };
    let mut world = World::new(seed, size, mutation);
    (0..size as usize).for_each(|at| world.boot(at));
    world.run(1_500);
    world.settle();
    world
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn safety_and_progress_hold_in_every_seed() {
    let seeds = match setting("HOLDFAST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..setting("HOLDFAST_SEEDS").unwrap_or(100) + 1,
    };
    let mut total = Faults::default();
    let (mut acked, mut reads) = (0, 0);
    for seed in seeds {
        println!("seed {seed}");
        let world = run_seed(seed, Mutation::None);
        let f = &world.faults;
        total.lost += f.lost;
        total.duplicated += f.duplicated;
        total.crashes += f.crashes;
        total.unsynced_lost += f.unsynced_lost;
        total.torn += f.torn;
        total.partitions += f.partitions;
        total.compacted += f.compacted;
        total.installed += f.installed;
        acked += world.truth.acked.len();
        reads += world.reads_served;
    }
    println!("{acked} writes acknowledged, {reads} reads served, faults: {total:?}");
    assert!(acked > 0 && reads > 0 && total.crashes > 0 && total.installed > 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (a, b) = (run_seed(7, Mutation::None), run_seed(7, Mutation::None));
    assert_eq!((a.trace, a.sent, a.truth.acked), (b.trace, b.sent, b.truth.acked));
}

/// Seeds until the checks notice that something was taken away; none if they never do.
fn caught_within(seeds: u64, mutation: Mutation) -> Option<u64> {
    (1..=seeds).find(|seed| std::panic::catch_unwind(|| run_seed(*seed, mutation)).is_err())
}

/// The checks are worth something only if they notice what they are there for.
#[test]
fn mutations_are_caught() {
    let mutations =
        [Mutation::SkippedSync, Mutation::AmnesiacVoter, Mutation::TrustedTornLog, Mutation::UnsafeRead];
    for mutation in mutations {
        let caught = caught_within(500, mutation);
        println!("{mutation:?}: caught by seed {caught:?}");
        assert!(caught.is_some(), "{mutation:?} was not noticed in 500 seeds");
    }
}
