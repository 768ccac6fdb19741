//! Eviction: finished tasks leave memory, oldest first, and stay in DuckDB.
//!
//! What leaves is folded, in the order in which it leaves, into a running hash that is part of
//! the checksum: two nodes that evicted different tasks differ for ever, and are seen to.

use super::checksum::Canon;
use super::effect::{Effect, EventKind};
use super::workers::Standing;
use super::{Machine, event};
use crate::command::{Reply, Stamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Tasks that leave because one more ended.
const MAX_SURPLUS: usize = 64;

/// What has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Evicted {
    /// How many tasks.
    pub(crate) tasks: u64,
    /// The hash over all of them.
    pub(crate) hash: u128,
}

impl Machine {
    pub(super) fn evict(
        &mut self,
        before_log_ms: u64,
        limit: u32,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let mut count = 0;
        while count < limit as usize
            && (self.tasks.finished_len() > self.limits.finished_tasks
                || self.tasks.first_finished().is_some_and(|(ended, _)| ended < before_log_ms))
        {
            self.evict_first();
            count += 1;
        }
        self.forget_workers(at, effects);
        self.forget_named_leases(at);
        self.forget_keys(at);
        Reply::Count(count)
    }

    /// Keeps the bound on finished tasks. After the bound was lowered much has to go, a little with
    /// each task that ends: one command may not hold up everything.
    pub(super) fn evict_surplus(&mut self) {
        for _ in 0..MAX_SURPLUS {
            if self.tasks.finished_len() <= self.limits.finished_tasks {
                return;
            }
            self.evict_first();
        }
    }

    fn evict_first(&mut self) {
        let Some((_, seq)) = self.tasks.first_finished() else { return };
        let Some(task) = self.tasks.remove(seq) else { return };
        self.queue.release(&task.spec.demand);
        self.records = self.records.wrapping_sub(task.hash);
        self.evicted.tasks += 1;
        self.evicted.hash = Canon::new(5).u128(self.evicted.hash).u128(task.hash).hash();
    }

    fn forget_workers(&mut self, at: Stamp, effects: &mut Vec<Effect>) {
        let limit_ms = self.limits.lost_worker_ms;
        let old: Vec<Arc<str>> = (self.workers.values())
            .filter(|w| w.standing == Standing::Lost)
            .filter(|w| w.changed_log_ms.saturating_add(limit_ms) <= at.log_ms)
            .map(|w| Arc::clone(&w.id))
            .collect();
        for id in old {
            if let Some(worker) = self.workers.remove(&id) {
                self.records = self.records.wrapping_sub(worker.hash);
                effects.push(event(EventKind::WorkerForgotten, &id, String::new(), at));
            }
        }
    }

    /// True where an `Evict` with this time would find something to do. Also lost workers that
    /// changed before it count: in an idle cluster the log's own time stands still.
    pub fn evictable(&self, before_log_ms: u64) -> bool {
        let old = self.tasks.first_finished().is_some_and(|(ended, _)| ended < before_log_ms);
        let surplus = self.tasks.finished_len() > self.limits.finished_tasks;
        let lost = self.workers.values().any(|w| {
            w.standing == Standing::Lost
                && (w.changed_log_ms < before_log_ms
                    || w.changed_log_ms.saturating_add(self.limits.lost_worker_ms) <= self.log_ms)
        });
        let keys = self.keys.any_before(self.log_ms.saturating_sub(self.limits.request_key_ttl_ms));
        old || surplus || lost || keys
    }
}
