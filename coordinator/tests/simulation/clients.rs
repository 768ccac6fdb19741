//! Clients and workers: what they ask, and what they were told.

use crate::mutations::Mutation;
use crate::world::World;
use coordinator::command::{Command, ExpireReason, TaskSpec, WorkerSpec};
use coordinator::replica::Tag;
use coordinator::scheduler::{Offer, plan};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Tokens that workers remember, stale ones among them.
const REMEMBERED_TOKENS: usize = 40;
const WORKERS: u64 = 4;
/// Tags of changes of the membership begin here; nobody waits for them.
pub const CHANGE_TAGS: Tag = 1 << 40;

/// A read that waits: every write acknowledged before it was asked must be in its answer.
struct Read {
    floor: u64,
}

#[derive(Default)]
pub struct Clients {
    /// Commands of the proposals that wait, by node and tag.
    proposals: BTreeMap<(u64, Tag), Vec<Command>>,
    reads: BTreeMap<(u64, Tag), Read>,
    last_tag: Tag,
    /// Proposals that were told an outcome.
    settled: BTreeSet<Tag>,
    /// (task, worker, token) of leases that were given out.
    pub tokens: VecDeque<(String, String, u64)>,
    /// Tasks of proposals that were refused: nothing of them may ever be seen.
    pub refused: BTreeSet<String>,
    pub reads_answered: u64,
}

impl Clients {
    fn tag(&mut self) -> Tag {
        self.last_tag += 1;
        self.last_tag
    }

    /// The node ended: nobody knows what became of what it was asked.
    pub fn forget(&mut self, node: u64) {
        self.proposals.retain(|(n, _), _| *n != node);
        self.reads.retain(|(n, _), _| *n != node);
    }

    pub fn unknown(&mut self, node: u64, tag: Tag) {
        assert!(self.settled.insert(tag), "proposal {tag} was told two outcomes");
        self.proposals.remove(&(node, tag));
    }

    pub fn expired(&mut self, node: u64, tag: Tag) {
        self.reads.remove(&(node, tag));
    }

    /// The commands of a proposal whose entry was applied on the node that proposed it.
    pub fn answered(&mut self, node: u64, tag: Tag) -> Option<Vec<Command>> {
        assert!(self.settled.insert(tag), "proposal {tag} was told two outcomes");
        self.proposals.remove(&(node, tag))
    }

    pub fn read_answered(&mut self, node: u64, tag: Tag, index: u64) {
        let Some(read) = self.reads.remove(&(node, tag)) else { return };
        assert!(
            index >= read.floor,
            "a read on node {node} answered index {index}; {} was acknowledged before it was asked",
            read.floor
        );
        self.reads_answered += 1;
    }

    pub fn remember_token(&mut self, task: String, worker: String, token: u64) {
        self.tokens.push_back((task, worker, token));
        if self.tokens.len() > REMEMBERED_TOKENS {
            self.tokens.pop_front();
        }
    }
}

impl World {
    /// One client asks one node something.
    pub fn ask(&mut self) {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        let id = self.nodes[at].id;
        let reads = self.random.chance(300);
        let tag = self.clients.tag();
        if self.nodes[at].paused_until > self.now && !reads {
            return;
        }
        let floor = self.truth.highest_acknowledged;
        let Some(running) = &mut self.nodes[at].running else { return };
        if reads {
            self.clients.reads.insert((id, tag), Read { floor });
            if self.mutation == Mutation::UnsafeRead {
                running.reads_ready.push((running.machine.applied_index(), tag));
            } else {
                running.replica.read(tag);
            }
            return;
        }
        let commands: Vec<Command> =
            (0..1 + self.random.below(3)).filter_map(|n| self.command(at, tag * 10 + n)).collect();
        if commands.is_empty() {
            return;
        }
        let encoded: Vec<Vec<u8>> = commands.iter().map(Command::encode).collect();
        let (mono_ms, wall_ms) = self.clocks(at);
        let Some(running) = &mut self.nodes[at].running else { return };
        if running.replica.propose(&encoded, mono_ms, wall_ms, tag).is_ok() {
            self.clients.proposals.insert((id, tag), commands);
        } else {
            for command in commands {
                if let Command::Submit { tasks } = command {
                    self.clients.refused.extend(tasks.into_iter().map(|t| t.task_id));
                }
            }
        }
    }

    fn command(&mut self, at: usize, number: u64) -> Option<Command> {
        let running = self.nodes[at].running.as_ref()?;
        let machine = &running.machine;
        let worker_id = format!("w{}", self.random.below(WORKERS));
        Some(match self.random.below(20) {
            0..8 => Command::Submit { tasks: vec![task(&format!("task-{number}"))] },
            8 | 9 if machine.worker(&worker_id).is_none() => {
                Command::RegisterWorker { worker: worker(worker_id) }
            }
            8..13 => {
                let slots = 2;
                let offers: Vec<Offer> =
                    machine.workers().into_iter().map(|w| Offer { worker_id: w.worker_id, slots }).collect();
                let pairs = plan(machine, machine.log_ms(), &offers, 3);
                (!pairs.is_empty()).then_some(Command::Assign { pairs })?
            }
            13..17 => {
                let tokens: Vec<_> = self.clients.tokens.iter().cloned().collect();
                let (task_id, worker_id, token) = self.random.pick(&tokens)?.clone();
                Command::Complete {
                    task_id,
                    worker_id,
                    token,
                    success: self.random.chance(700),
                    result: None,
                    error: None,
                    started_ms: 0,
                    finished_ms: 0,
                    resources: BTreeMap::new(),
                }
            }
            17 => {
                let tokens: Vec<_> = self.clients.tokens.iter().cloned().collect();
                let (task_id, _, token) = self.random.pick(&tokens)?.clone();
                Command::Expire { leases: vec![(task_id, token, ExpireReason::Silent)] }
            }
            18 => Command::Checkpoint,
            _ => Command::NamedLease {
                name: format!("lease-{}", self.random.below(2)),
                holder: format!("holder-{}", self.random.below(3)),
                ttl_ms: self.random.below(5) * 100,
            },
        })
    }
}

fn task(task_id: &str) -> TaskSpec {
    TaskSpec {
        task_id: task_id.into(),
        kind: "noop".into(),
        priority: 5,
        config: "{}".into(),
        labels: BTreeMap::new(),
        resources: BTreeMap::new(),
        timeout_ms: 1000,
        max_retries: 2,
        retry_backoff_ms: 100,
        any_of: Vec::new(),
    }
}

fn worker(worker_id: String) -> WorkerSpec {
    WorkerSpec {
        worker_id,
        labels: BTreeMap::new(),
        resources: BTreeMap::new(),
        slots: 2,
        types: vec!["noop".into()],
        host: None,
    }
}
