//! What must hold, checked all the time.
//!
//! Raft: one leader a term; a log entry is named by its index and term, and so is everything
//! before it; a leader has every committed entry; one entry an index is committed. The machine:
//! one state an index on all nodes, equal also when recomputed; log time never goes back and
//! never outruns the fastest clock; a lease has one holder, a result is accepted once. For
//! clients: an outcome is told once, a refusal means nothing happened, nothing acknowledged is
//! lost, a read sees what was acknowledged before it.

use crate::disk::Record;
use crate::node::{SimNode, log_term, written_term};
use crate::world::{STEP_MS, World};
use coordinator::command::{Batch, Command, Reply, Stamp};
use coordinator::machine::Machine;
use coordinator::machine::members::{MemberChange, Membership};
use coordinator::replica::{Committed, Turn};
use raft::StateRole;
use raft::eraftpb::{Entry, EntryType};
use std::collections::{BTreeMap, BTreeSet};

/// The fastest that a clock of this world runs, per mille of true time.
const FASTEST_CLOCK_PER_MILLE: u64 = 1600;

/// What is known of the whole world.
#[derive(Default)]
pub struct Truth {
    leaders: BTreeMap<u64, u64>,
    /// (index, term) of every entry ever written: its hash, and the term before it.
    written: BTreeMap<(u64, u64), (u64, Option<u64>)>,
    /// Every entry known to be committed.
    committed: BTreeMap<u64, CommittedEntry>,
    /// State and chain at every index that was applied somewhere.
    states: BTreeMap<u64, (u128, u128)>,
    replies: BTreeMap<u64, Vec<Reply>>,
    /// Acknowledged tasks with the index of each.
    pub acknowledged: BTreeMap<String, u64>,
    pub highest_acknowledged: u64,
    /// Tasks of every entry that any node has applied.
    pub submitted: BTreeSet<String>,
    /// The newest members that any node has applied, and every number that was ever one.
    pub members: Membership,
    pub members_seen: BTreeSet<u64>,
    leases: Leases,
}

struct CommittedEntry {
    term: u64,
    data: Vec<u8>,
    /// The term of the replica that first knew it to be committed: the leader that committed it.
    committed_in: u64,
}

/// What the log as a whole says of leases; followed at the first application of each entry.
#[derive(Default)]
struct Leases {
    /// Live leases by task: token and worker.
    live: BTreeMap<String, (u64, String)>,
    last_token: u64,
    /// Tokens given out by the present entry.
    fresh: BTreeSet<u64>,
    /// Tokens whose result was accepted.
    reported: BTreeSet<u64>,
    /// Tasks that succeeded.
    completed: BTreeSet<String>,
    /// Named leases: holder, epoch, expiry in log time.
    named: BTreeMap<String, (String, u64, u64)>,
}

impl Truth {
    /// Log matching: whoever writes an entry of this index and term writes the same one, behind
    /// an entry of the same term.
    pub fn written(&mut self, record: &Record, node: &SimNode) {
        // What stands before an entry may itself be new, in this write or in one before it.
        let mut last: Option<(u64, u64)> = None;
        for write in record {
            for entry in &write.entries {
                let before = match last {
                    Some((index, term)) if index + 1 == entry.index => Some(term),
                    _ => written_term(node, entry.index - 1).flatten(),
                };
                last = Some((entry.index, entry.term));
                let hash = hash_of(entry);
                let known = self.written.entry((entry.index, entry.term)).or_insert((hash, before));
                assert_eq!(known.0, hash, "two entries of index {} and term {}", entry.index, entry.term);
                if let (Some(was), Some(is)) = (known.1, before) {
                    assert_eq!(was, is, "logs differ before index {} of term {}", entry.index, entry.term);
                }
                known.1 = known.1.or(before);
            }
        }
    }

    pub fn highest_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// The members as a node has them now.
    pub fn see_members(&mut self, members: &Membership) {
        self.members_seen.extend(members.all());
        if members.changed_index >= self.members.changed_index {
            self.members = members.clone();
        }
    }

    /// A replica of that term takes the entry for committed.
    fn commit(&mut self, entry: &Entry, committed_in: u64) {
        let known = self.committed.entry(entry.index).or_insert_with(|| CommittedEntry {
            term: entry.term,
            data: entry.data.to_vec(),
            committed_in,
        });
        let same = (known.term, &known.data[..]) == (entry.term, &entry.data[..]);
        assert!(
            same,
            "two entries are committed at index {}: terms {} and {}",
            entry.index, known.term, entry.term
        );
    }
}

fn hash_of(entry: &Entry) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ entry.get_entry_type() as u64;
    for byte in entry.data.iter() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

impl World {
    pub fn check_turn(&mut self, at: usize, turn: &Turn) {
        let id = self.nodes[at].id;
        let Some(running) = &self.nodes[at].running else { return };
        let standing = running.replica.standing();
        turn.apply.iter().for_each(|c| self.truth.commit(&c.entry, standing.term));
        if standing.role != StateRole::Leader {
            return;
        }
        let first = *self.truth.leaders.entry(standing.term).or_insert(id);
        assert_eq!(first, id, "two leaders in term {}", standing.term);
        if self.leads_anew(at, standing.term) {
            self.trace.tell(self.now, || format!("node {id} leads term {}", standing.term));
            self.check_completeness(at, standing.term, turn);
        }
    }

    /// A new leader has every entry that was committed in a term before its own. (Votes may be so
    /// long on their way that it begins after later terms have; then it commits nothing.)
    fn check_completeness(&self, at: usize, term: u64, turn: &Turn) {
        let node = &self.nodes[at];
        let fresh = |index: u64| {
            let mut entries = turn.writes.iter().flat_map(|w| &w.entries);
            entries.find(|e| e.index == index).map(|e| Some(e.term))
        };
        for (index, entry) in self.truth.committed.iter().filter(|(_, entry)| entry.committed_in < term) {
            match fresh(*index).or_else(|| log_term(node, *index)) {
                Some(None) => {}
                Some(Some(had)) => {
                    assert_eq!(
                        had, entry.term,
                        "leader {} has another entry at committed index {index}",
                        node.id
                    )
                }
                None => panic!("leader {} lacks the committed entry {index}: {}", node.id, self.standings()),
            }
        }
    }

    /// Applies an entry as the node's applier does.
    pub fn apply_entry(&mut self, at: usize, committed: Committed) {
        let id = self.nodes[at].id;
        let Committed { entry, tag, conf } = committed;
        let Some(running) = &mut self.nodes[at].running else { return };
        self.truth.commit(&entry, running.replica.standing().term);
        let machine = &mut running.machine;
        let mut replies = Vec::new();
        let mut commands = Vec::new();
        if entry.get_entry_type() != EntryType::EntryNormal {
            let change = MemberChange::decode(&entry.data).expect("a change of ours");
            let outcome = conf.expect("Raft says what a change made of its sets");
            if outcome.refused.is_none() {
                replies.push(machine.change_members(entry.index, &change, &outcome.state, &mut Vec::new()));
                self.truth.see_members(machine.members());
            }
        } else if !entry.data.is_empty() {
            let batch = Batch::decode(&entry.data).expect("an entry of ours");
            assert!(
                batch.stamp.log_ms >= machine.log_ms(),
                "log time goes back at index {}: {} after {}",
                entry.index,
                batch.stamp.log_ms,
                machine.log_ms()
            );
            for command in &batch.commands {
                replies.push(machine.apply(entry.index, entry.term, batch.stamp, command, &mut Vec::new()));
            }
            commands = batch.commands;
            if !self.truth.replies.contains_key(&entry.index) {
                self.truth.leases.follow(
                    machine,
                    batch.stamp,
                    &commands,
                    &replies,
                    self.now,
                    &mut self.clients,
                );
            }
        }
        machine.finish_entry(entry.index, entry.term, &entry.data);
        let first = self.truth.replies.entry(entry.index).or_insert_with(|| replies.clone());
        assert_eq!(*first, replies, "nodes answer differently at index {}", entry.index);
        for task in commands.iter().filter_map(submitted).flatten() {
            assert!(!self.clients.refused.contains(task), "{task} was refused, and is in the log");
            self.truth.submitted.insert(task.clone());
        }
        self.trace.mark(entry.index << 16 ^ entry.term);
        self.check_state(at);
        if let Some(asked) = tag.and_then(|tag| self.clients.answered(id, tag)) {
            assert_eq!(asked, commands, "the waiters of index {} asked for something else", entry.index);
            self.truth.highest_acknowledged = self.truth.highest_acknowledged.max(entry.index);
            for task in asked.iter().filter_map(submitted).flatten() {
                self.truth.acknowledged.insert(task.clone(), entry.index);
            }
        }
    }

    /// State machine safety: one state an index.
    pub fn check_state(&mut self, at: usize) {
        let Some(running) = &self.nodes[at].running else { return };
        let machine = &running.machine;
        let state = (machine.checksum(), machine.log_chain());
        let known = *self.truth.states.entry(machine.applied_index()).or_insert(state);
        assert_eq!(known, state, "states differ at index {}", machine.applied_index());
    }

    /// Everything stands still: all nodes are equal and hold what was acknowledged.
    pub fn judge_the_end(&mut self) {
        let fastest_ms = self.now * STEP_MS * FASTEST_CLOCK_PER_MILLE / 1000;
        for node in &self.nodes {
            let machine = &node.running.as_ref().expect("every node runs").machine;
            assert_eq!(
                machine.checksum(),
                machine.recompute_checksum(),
                "node {}: the sum is wrong",
                node.id
            );
            assert!(
                machine.log_ms() <= fastest_ms,
                "log time {} ms outran the fastest clock, {fastest_ms} ms",
                machine.log_ms()
            );
            for (task, index) in &self.truth.acknowledged {
                assert!(machine.task(task).is_some(), "{task} of index {index} is lost on node {}", node.id);
            }
        }
    }
}

fn submitted(command: &Command) -> Option<impl Iterator<Item = &String>> {
    match command {
        Command::Submit { tasks } => Some(tasks.iter().map(|t| &t.task_id)),
        _ => None,
    }
}

impl Leases {
    /// Follows one entry; `machine` has applied its commands.
    fn follow(
        &mut self,
        machine: &Machine,
        stamp: Stamp,
        commands: &[Command],
        replies: &[Reply],
        now: u64,
        clients: &mut crate::clients::Clients,
    ) {
        assert!(
            machine.log_ms() <= now * STEP_MS * FASTEST_CLOCK_PER_MILLE / 1000,
            "log time {} ms outran the fastest clock at step {now}",
            machine.log_ms()
        );
        let mut ended = BTreeSet::new();
        for (command, reply) in commands.iter().zip(replies) {
            match (command, reply) {
                (Command::Complete { task_id, worker_id, token, success, .. }, Reply::Task { .. }) => {
                    let holder = (*token, worker_id.clone());
                    if self.live.get(task_id) == Some(&holder) {
                        self.live.remove(task_id);
                        self.reported.insert(*token);
                        ended.insert(*token);
                        if *success {
                            assert!(self.completed.insert(task_id.clone()), "{task_id} was completed twice");
                        }
                    } else {
                        // The same result again is answered alike, and changes nothing.
                        assert!(
                            self.reported.contains(token),
                            "{task_id}: a result of lease {token}, not of a live one"
                        );
                    }
                }
                (Command::NamedLease { name, holder, ttl_ms }, reply) => {
                    self.named_lease(name, holder, *ttl_ms, stamp.log_ms, reply);
                }
                _ => {}
            }
        }
        let leases = machine.all_leases();
        let mut live = BTreeMap::new();
        for lease in &leases {
            assert!(!ended.contains(&lease.token), "{}: lease {} lives on", lease.task_id, lease.token);
            assert!(!self.completed.contains(&lease.task_id), "{} is completed and leased", lease.task_id);
            let known = self.live.get(&lease.task_id).is_some_and(|(token, _)| *token == lease.token);
            if !known {
                self.give_out(lease.token);
                clients.remember_token(lease.task_id.clone(), lease.worker_id.clone(), lease.token);
            }
            let before = live.insert(lease.task_id.clone(), (lease.token, lease.worker_id.clone()));
            assert!(before.is_none(), "{} has two leases", lease.task_id);
        }
        self.last_token = self.last_token.max(self.fresh.last().copied().unwrap_or_default());
        self.fresh.clear();
        self.live = live;
    }

    /// Tokens and epochs come from one counter, and none comes twice.
    fn give_out(&mut self, token: u64) {
        let new = token > self.last_token && self.fresh.insert(token);
        assert!(new, "token {token} was given out before");
    }

    fn named_lease(&mut self, name: &str, holder: &str, ttl_ms: u64, log_ms: u64, reply: &Reply) {
        let held = self.named.get(name).filter(|(_, _, expires)| *expires > log_ms).cloned();
        match (held, reply) {
            (Some((by, _, _)), Reply::Refused { .. }) => {
                assert_ne!(by, holder, "{name} was refused to its holder")
            }
            (Some((by, epoch, _)), Reply::Lease { epoch: given }) => {
                assert_eq!(by, holder, "{name} has two holders");
                assert_eq!(epoch, *given, "{name}: the epoch changed under its holder");
                self.named.insert(name.into(), (holder.into(), epoch, log_ms + ttl_ms));
            }
            (None, Reply::Lease { epoch }) => {
                self.give_out(*epoch);
                self.named.insert(name.into(), (holder.into(), *epoch, log_ms + ttl_ms));
            }
            (None, Reply::Done) => assert_eq!(ttl_ms, 0, "{name} was taken without an epoch"),
            (held, reply) => panic!("{name}: {holder} was told {reply:?} while it was held by {held:?}"),
        }
    }
}
