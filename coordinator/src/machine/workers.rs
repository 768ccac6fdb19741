//! Workers: what they can run, how much of it is taken, where they stand.
//!
//! Heartbeats are not here: they stay in the leader's memory, and only their absence is logged.

use super::checksum::Canon;
use super::effect::{Effect, EventKind};
use super::queue::Demand;
use super::{Machine, event, refused, unknown_worker, wall};
use crate::command::{ExpireReason, Reply, Stamp, WorkerSpec};
use api::ErrorCode;
use api::worker::{WorkerRecord, WorkerState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether a worker may be given work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It may.
    Active,
    /// It finishes what it has.
    Draining,
    /// It has been silent too long; it holds nothing.
    Lost,
}

/// A registered worker.
#[derive(Debug, Clone)]
pub struct Worker {
    pub(crate) id: Arc<str>,
    pub(crate) spec: WorkerSpec,
    pub(crate) standing: Standing,
    pub(crate) registered_wall_ms: i64,
    /// Log time of the last change of standing or registration.
    pub(crate) changed_log_ms: u64,
    /// What its leases take. Kept over a new registration.
    pub(crate) taken: BTreeMap<String, u64>,
    /// Token -> task of its leases.
    pub(crate) leases: BTreeSet<(u64, u64)>,
    pub(crate) hash: u128,
}

impl Worker {
    pub(crate) fn new(spec: WorkerSpec, wall_ms: i64, log_ms: u64) -> Self {
        let mut worker = Worker {
            id: Arc::from(spec.worker_id.as_str()),
            spec,
            standing: Standing::Active,
            registered_wall_ms: wall_ms,
            changed_log_ms: log_ms,
            taken: BTreeMap::new(),
            leases: BTreeSet::new(),
            hash: 0,
        };
        worker.hash = worker.compute_hash();
        worker
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it registered as.
    pub fn spec(&self) -> &WorkerSpec {
        &self.spec
    }

    /// Whether it may be given work.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// When it registered last, Unix milliseconds.
    pub fn registered_wall_ms(&self) -> i64 {
        self.registered_wall_ms
    }

    /// How many leases it holds.
    pub fn running(&self) -> u32 {
        self.leases.len() as u32
    }

    /// How many more tasks it may be given; 0 while it is draining or lost.
    pub fn free_slots(&self) -> u32 {
        match self.standing {
            Standing::Active => self.spec.slots.saturating_sub(self.running()),
            Standing::Draining | Standing::Lost => 0,
        }
    }

    /// How much of a resource is left.
    pub fn free_resource(&self, name: &str) -> u64 {
        let have = self.spec.resources.get(name).copied().unwrap_or(0);
        have.saturating_sub(self.taken.get(name).copied().unwrap_or(0))
    }

    /// True where type and labels fit and it has the resources at all, be they taken or not.
    pub fn could_run(&self, demand: &Demand) -> bool {
        self.spec.types.contains(&demand.kind)
            && carries(&self.spec.labels, &demand.labels)
            && (demand.any_of.is_empty() || demand.any_of.iter().any(|set| carries(&self.spec.labels, set)))
            && demand.resources.iter().all(|(k, n)| self.spec.resources.get(k).is_some_and(|have| have >= n))
    }

    /// True where it may be given a task of this demand now.
    pub fn can_take(&self, demand: &Demand) -> bool {
        self.free_slots() > 0
            && self.could_run(demand)
            && demand.resources.iter().all(|(k, n)| self.free_resource(k) >= *n)
    }

    /// Where it stands, as the wire says it.
    pub fn state(&self) -> WorkerState {
        match self.standing {
            Standing::Lost => WorkerState::Lost,
            Standing::Draining => WorkerState::Draining,
            Standing::Active if self.running() >= self.spec.slots => WorkerState::Busy,
            Standing::Active => WorkerState::Active,
        }
    }

    /// As the wire shows it; `last_seen_ms` is the leader's to fill.
    pub fn record(&self) -> WorkerRecord {
        WorkerRecord {
            worker_id: self.id.to_string(),
            state: self.state(),
            labels: self.spec.labels.clone(),
            resources: self.spec.resources.clone(),
            slots: self.spec.slots,
            running: self.running(),
            types: self.spec.types.clone(),
            host: self.spec.host.clone(),
            registered_at: wall(self.registered_wall_ms),
            last_seen_ms: None,
        }
    }

    pub(crate) fn take(&mut self, token: u64, seq: u64, demand: &Demand) {
        self.leases.insert((token, seq));
        for (name, amount) in &demand.resources {
            let taken = self.taken.entry(name.clone()).or_default();
            *taken = taken.saturating_add(*amount);
        }
    }

    pub(crate) fn give_back(&mut self, token: u64, seq: u64, demand: &Demand) {
        if !self.leases.remove(&(token, seq)) {
            return;
        }
        for (name, amount) in &demand.resources {
            if let Some(taken) = self.taken.get_mut(name) {
                *taken = taken.saturating_sub(*amount);
                if *taken == 0 {
                    self.taken.remove(name);
                }
            }
        }
    }

    /// Leases are hashed with their tasks, not here.
    pub(crate) fn compute_hash(&self) -> u128 {
        let mut canon = Canon::new(2);
        canon.text(&self.id).texts(&self.spec.labels).amounts(&self.spec.resources);
        canon.u64(u64::from(self.spec.slots)).u64(self.spec.types.len() as u64);
        for kind in &self.spec.types {
            canon.text(kind);
        }
        canon.maybe_text(self.spec.host.as_deref());
        canon.u8(match self.standing {
            Standing::Active => 0,
            Standing::Draining => 1,
            Standing::Lost => 2,
        });
        canon.i64(self.registered_wall_ms).u64(self.changed_log_ms).hash()
    }
}

/// True where `labels` has every one of `wanted`.
fn carries(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Machine {
    pub(super) fn register_worker(
        &mut self,
        spec: &WorkerSpec,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let known = self.workers.remove(spec.worker_id.as_str());
        if known.is_none() && self.workers.len() >= self.limits.workers as usize {
            let detail = format!("{} workers are registered, which is the limit", self.limits.workers);
            return refused(ErrorCode::Overloaded, detail);
        }
        let mut worker = Worker::new(spec.clone(), at.wall_ms, at.log_ms);
        if let Some(known) = known {
            self.records = self.records.wrapping_sub(known.hash);
            worker.id = known.id;
            worker.taken = known.taken;
            worker.leases = known.leases;
        }
        self.records = self.records.wrapping_add(worker.hash);
        let detail = format!("{} slots, types {}", spec.slots, spec.types.join(", "));
        effects.push(Effect::WorkerChanged { worker: Box::new(worker.clone()), wall_ms: at.wall_ms });
        effects.push(event(EventKind::WorkerRegistered, &worker.id, detail, at));
        self.workers.insert(Arc::clone(&worker.id), worker);
        Reply::Done
    }

    /// A lost worker stays lost: it gets nothing new either.
    pub(super) fn drain_worker(&mut self, id: &str, at: Stamp, effects: &mut Vec<Effect>) -> Reply {
        let Some(worker) = self.workers.get(id) else { return unknown_worker(id) };
        if worker.standing == Standing::Active {
            self.set_standing(id, Standing::Draining, at, effects);
            effects.push(event(EventKind::WorkerDraining, id, String::new(), at));
        }
        Reply::Done
    }

    pub(super) fn worker_lost(&mut self, id: &str, at: Stamp, effects: &mut Vec<Effect>) -> Reply {
        let Some(worker) = self.workers.get(id) else { return unknown_worker(id) };
        if worker.standing == Standing::Lost {
            return Reply::Done;
        }
        let leases: Vec<(u64, u64)> = worker.leases.iter().copied().collect();
        self.set_standing(id, Standing::Lost, at, effects);
        let detail = format!("held {} leases", leases.len());
        effects.push(event(EventKind::WorkerLost, id, detail, at));
        for (_, seq) in leases {
            self.expire_lease(seq, ExpireReason::Silent, at, effects);
        }
        Reply::Done
    }

    fn set_standing(&mut self, id: &str, standing: Standing, at: Stamp, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let old = worker.hash;
        worker.standing = standing;
        worker.changed_log_ms = at.log_ms;
        worker.hash = worker.compute_hash();
        let new = worker.hash;
        effects.push(Effect::WorkerChanged { worker: Box::new(worker.clone()), wall_ms: at.wall_ms });
        self.replace_hash(old, new);
    }
}
