//! Leases: views of the tasks' leases, and the named leases that others fence with.
//!
//! A named lease is a lock with an epoch. The epoch comes from the counter that also gives the
//! tokens, grows with every change of holder and after every expiry, and stays while the holder
//! renews in time; so whoever acts under an old one can be told apart.

use super::checksum::Canon;
use super::effect::{Effect, EventKind};
use super::tasks::Task;
use super::{Machine, event, refused};
use crate::command::{Reply, Stamp};
use api::ErrorCode;
use serde::{Deserialize, Serialize};

/// A task's live lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// The fencing token.
    pub token: u64,
    /// The task.
    pub task_id: String,
    /// Who has it.
    pub worker_id: String,
    /// True once the worker confirmed that it has it.
    pub delivered: bool,
    /// Assignment, log time.
    pub assigned_log_ms: u64,
    /// Milliseconds the attempt may run.
    pub timeout_ms: u64,
}

impl LeaseView {
    pub(super) fn of(task: &Task) -> Option<LeaseView> {
        let attempt = task.present()?;
        Some(LeaseView {
            token: attempt.token,
            task_id: task.spec.id.to_string(),
            worker_id: attempt.worker_id.to_string(),
            delivered: attempt.delivered,
            assigned_log_ms: attempt.assigned_log_ms,
            timeout_ms: task.spec.timeout_ms,
        })
    }
}

/// A named lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamedLease {
    pub(crate) holder: String,
    pub(crate) epoch: u64,
    /// Log time at which it is free again.
    pub(crate) expires_log_ms: u64,
}

impl NamedLease {
    pub(crate) fn compute_hash(&self, name: &str) -> u128 {
        Canon::new(3).text(name).text(&self.holder).u64(self.epoch).u64(self.expires_log_ms).hash()
    }
}

impl Machine {
    pub(super) fn named_lease(
        &mut self,
        name: &str,
        holder: &str,
        ttl_ms: u64,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let live = self.named.get(name).filter(|lease| lease.expires_log_ms > at.log_ms).cloned();
        if let Some(lease) = &live
            && lease.holder != holder
        {
            let left_ms = lease.expires_log_ms - at.log_ms;
            let detail = format!("lease `{name}` is held by `{}` for another {left_ms} ms", lease.holder);
            return refused(ErrorCode::LeaseHeld, detail);
        }
        if ttl_ms == 0 {
            self.remove_named(name);
            return match live {
                Some(lease) => {
                    effects.push(event(EventKind::NamedLeaseReleased, name, format!("by {holder}"), at));
                    Reply::Lease { epoch: lease.epoch }
                }
                None => Reply::Done,
            };
        }
        if live.is_none() && !self.room_for_named_lease(name, at) {
            let detail = format!("there are {} named leases, which is the limit", self.limits.named_leases);
            return refused(ErrorCode::Overloaded, detail);
        }
        self.remove_named(name);
        let epoch = live.as_ref().map_or_else(|| self.next_token(), |lease| lease.epoch);
        if live.is_none() {
            let detail = format!("by {holder}, epoch {epoch}");
            effects.push(event(EventKind::NamedLeaseTaken, name, detail, at));
        }
        let expires_log_ms = at.log_ms.saturating_add(ttl_ms);
        let lease = NamedLease { holder: holder.to_owned(), epoch, expires_log_ms };
        self.records = self.records.wrapping_add(lease.compute_hash(name));
        self.named.insert(name.to_owned(), lease);
        Reply::Lease { epoch }
    }

    fn room_for_named_lease(&mut self, name: &str, at: Stamp) -> bool {
        let limit = self.limits.named_leases as usize;
        if self.named.len() >= limit && !self.named.contains_key(name) {
            self.forget_named_leases(at);
        }
        self.named.len() < limit || self.named.contains_key(name)
    }

    fn remove_named(&mut self, name: &str) {
        if let Some(lease) = self.named.remove(name) {
            self.records = self.records.wrapping_sub(lease.compute_hash(name));
        }
    }

    /// Expired named leases leave; their epochs never come again.
    pub(super) fn forget_named_leases(&mut self, at: Stamp) {
        let expired = |lease: &NamedLease| lease.expires_log_ms <= at.log_ms;
        let names: Vec<String> =
            self.named.iter().filter(|(_, lease)| expired(lease)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.remove_named(&name);
        }
    }
}
