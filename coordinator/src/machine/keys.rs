//! Idempotency keys: a request that was sent twice is done once.
//!
//! A key stands for one request: what was asked (as a hash), and what it was answered. It is
//! remembered for a time of the log, not of any clock, and up to a number; at the number a new key
//! is refused, since forgetting an old one early would let its request be done twice.
//!
//! A request that was refused is not remembered: nothing was done, and it may succeed later.

use super::checksum::Canon;
use super::effect::Effect;
use super::tasks::state_index;
use super::{Machine, refused};
use crate::command::{KeyedWrite, Reply, RequestKey, Stamp};
use api::ErrorCode;
use api::task::TaskState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that one command forgets at most: it is applied in one go.
const MAX_FORGOTTEN: usize = 1000;

/// What a request was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Submitted(u64),
    Task(TaskState),
    Retried { count: u64, more: bool },
}

/// A request that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoneRequest {
    request_hash: u128,
    salt: u128,
    index: u64,
    done_log_ms: u64,
    answer: Answer,
}

impl DoneRequest {
    pub(super) fn compute_hash(&self, key: &str) -> u128 {
        let mut canon = Canon::new(8);
        canon.text(key).u128(self.request_hash).u128(self.salt).u64(self.index).u64(self.done_log_ms);
        match &self.answer {
            Answer::Submitted(count) => canon.u8(0).u64(*count),
            Answer::Task(state) => canon.u8(1).u8(state_index(*state) as u8),
            Answer::Retried { count, more } => canon.u8(2).u64(*count).u8(u8::from(*more)),
        };
        canon.hash()
    }

    fn reply(&self) -> Reply {
        let reply = match &self.answer {
            Answer::Submitted(count) => Reply::Submitted { created: *count as usize },
            Answer::Task(state) => Reply::Task { state: *state },
            Answer::Retried { count, more } => Reply::Retried { count: *count as usize, more: *more },
        };
        Reply::Repeated { salt: self.salt, index: self.index, reply: Box::new(reply) }
    }
}

/// The keys that are remembered.
#[derive(Debug, Default)]
pub(super) struct Keys {
    done: BTreeMap<String, DoneRequest>,
    /// (done, key), the oldest first.
    order: BTreeSet<(u64, String)>,
}

impl Keys {
    fn insert(&mut self, key: &str, done: DoneRequest) -> u128 {
        let hash = done.compute_hash(key);
        self.order.insert((done.done_log_ms, key.to_owned()));
        self.done.insert(key.to_owned(), done);
        hash
    }

    fn remove(&mut self, key: &str) -> Option<u128> {
        let done = self.done.remove(key)?;
        self.order.remove(&(done.done_log_ms, key.to_owned()));
        Some(done.compute_hash(key))
    }

    pub(super) fn sum(&self) -> u128 {
        self.done.iter().map(|(key, done)| done.compute_hash(key)).fold(0, u128::wrapping_add)
    }

    pub(super) fn to_body(&self) -> BTreeMap<String, DoneRequest> {
        self.done.clone()
    }

    pub(super) fn from_body(body: BTreeMap<String, DoneRequest>) -> Self {
        let order = body.iter().map(|(key, done)| (done.done_log_ms, key.clone())).collect();
        Keys { done: body, order }
    }

    /// True where one was done before this log time.
    pub(super) fn any_before(&self, log_ms: u64) -> bool {
        self.order.first().is_some_and(|(done, _)| *done < log_ms)
    }
}

impl Machine {
    pub(super) fn keyed(
        &mut self,
        index: u64,
        key: &RequestKey,
        write: &KeyedWrite,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let live_from = at.log_ms.saturating_sub(self.limits.request_key_ttl_ms);
        match self.keys.done.get(&key.key).filter(|done| done.done_log_ms >= live_from) {
            Some(done) if done.request_hash == key.request_hash => return done.reply(),
            Some(done) => {
                let detail = format!(
                    "Idempotency-Key `{}` was used for another request, at index {}; use a new key for a new request",
                    key.key, done.index
                );
                return refused(ErrorCode::IdempotencyKeyReused, detail);
            }
            None => {}
        }
        let over = self.keys.order.iter().take(MAX_FORGOTTEN).filter(|(done, _)| *done < live_from).count();
        if (self.keys.done.len() - over) as u64 >= self.limits.request_keys {
            let detail = format!(
                "{} idempotency keys are remembered, which is the limit; wait, or send it without one",
                self.keys.done.len()
            );
            return refused(ErrorCode::Overloaded, detail);
        }
        let reply = match write {
            KeyedWrite::Submit { tasks } => self.submit(tasks, at, effects),
            KeyedWrite::Retry { task_id } => self.retry(task_id, at, effects),
            KeyedWrite::RetryMany { filter } => self.retry_many(filter, at, effects),
        };
        let answer = match &reply {
            Reply::Submitted { created } => Answer::Submitted(*created as u64),
            Reply::Task { state } => Answer::Task(*state),
            Reply::Retried { count, more } => Answer::Retried { count: *count as u64, more: *more },
            _ => return reply,
        };
        self.forget_keys(at);
        self.forget_key(&key.key);
        let (request_hash, salt) = (key.request_hash, key.salt);
        let done = DoneRequest { request_hash, salt, index, done_log_ms: at.log_ms, answer };
        let hash = self.keys.insert(&key.key, done);
        self.records = self.records.wrapping_add(hash);
        reply
    }

    fn forget_key(&mut self, key: &str) {
        if let Some(hash) = self.keys.remove(key) {
            self.records = self.records.wrapping_sub(hash);
        }
    }

    /// Keys whose time is over leave, the oldest first.
    pub(super) fn forget_keys(&mut self, at: Stamp) {
        let live_from = at.log_ms.saturating_sub(self.limits.request_key_ttl_ms);
        for _ in 0..MAX_FORGOTTEN {
            match self.keys.order.first() {
                Some((done, key)) if *done < live_from => {
                    let key = key.clone();
                    self.forget_key(&key);
                }
                _ => return,
            }
        }
    }

    /// How many idempotency keys are remembered.
    pub fn request_keys(&self) -> usize {
        self.keys.done.len()
    }
}
