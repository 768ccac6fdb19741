//! Replicated settings: which of the [`Limits`] can be changed, by which name, how far.
//!
//! A change is a logged command, so that all nodes have the same settings at the same index. The
//! machine checks it again when it applies it: what a leader of another version let through is
//! refused alike everywhere. Names are never used again for something else.

use super::effect::{Effect, EventKind};
use super::{Limits, Machine, event, refused};
use crate::command::{Reply, Stamp};
use api::ErrorCode;
use std::collections::BTreeMap;

/// A setting.
pub struct Setting {
    /// Its name on the wire.
    pub name: &'static str,
    /// What it is, for people.
    pub help: &'static str,
    /// The least it may be.
    pub min: u64,
    /// The most it may be.
    pub max: u64,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

impl Setting {
    /// Its value.
    pub fn value(&self, limits: &Limits) -> u64 {
        (self.get)(limits)
    }
}

macro_rules! settings {
    ($( $name:ident = $field:ident : $type:ty, $min:literal ..= $max:literal, $help:literal; )*) => {
        /// Every setting, by name.
        pub const SETTINGS: &[Setting] = &[$(
            Setting {
                name: stringify!($name),
                help: $help,
                min: $min,
                max: $max,
                get: |limits| limits.$field as u64,
                set: |limits, value| limits.$field = value as $type,
            },
        )*];
    };
}

const DAY_MS: u64 = 86_400_000;

settings! {
    attempts_per_task = attempts_per_task: u32, 1 ..= 1000, "Attempts kept with a task in memory; older ones are in DuckDB only.";
    batch_tasks = batch_tasks: u64, 1 ..= 10000, "Tasks in one batch.";
    default_max_retries = default_max_retries: u64, 0 ..= 1000, "Retries of a task that does not say.";
    default_priority = default_priority: u64, 0 ..= 9, "Priority of a task that names none, 0 to 9, higher first.";
    default_retry_backoff_ms = default_retry_backoff_ms: u64, 0 ..= 86400000, "Before the first retry of a task that does not say; doubled for each further one.";
    default_timeout_ms = default_timeout_ms: u64, 1 ..= 604800000, "How long an attempt may run where the task does not say.";
    finished_retention_ms = finished_retention_ms: u64, 1000 ..= 86400000, "How long a finished task stays in memory; DuckDB keeps it longer.";
    finished_tasks = finished_tasks: u64, 100 ..= 10000000, "Finished tasks in memory; beyond it the oldest leaves.";
    heartbeat_interval_ms = heartbeat_interval_ms: u64, 100 ..= 60000, "Between a worker's heartbeats; a worker learns it when it registers.";
    lease_ttl_ms = lease_ttl_ms: u64, 1000 ..= 3600000, "A task's lease lasts this long without its worker naming it.";
    lost_worker_ms = lost_worker_ms: u64, 1000 ..= 86400000, "How long a lost worker is remembered.";
    named_leases = named_leases: u32, 1 ..= 1000000, "Named leases at once.";
    request_key_ttl_ms = request_key_ttl_ms: u64, 60000 ..= 604800000, "How long an Idempotency-Key is remembered.";
    request_keys = request_keys: u64, 1 ..= 1000000, "Idempotency keys remembered at once; beyond it a request with a new one is refused.";
    retry_backoff_cap_ms = backoff_cap_ms: u64, 1 ..= 86400000, "The longest pause before a retry.";
    timeout_grace_ms = timeout_grace_ms: u64, 0 ..= 3600000, "What an attempt gets beyond its limit before the leader ends it.";
    unfinished_tasks = unfinished_tasks: u64, 1 ..= 100000000, "Tasks that have not ended; beyond it submissions are refused.";
    worker_lost_ms = worker_lost_ms: u64, 1000 ..= 3600000, "A worker is given up after this silence.";
    workers = workers: u32, 1 ..= 1000000, "Registered workers, lost ones included.";
}

impl Limits {
    /// These limits with some settings changed, or everything that is wrong with the changes.
    pub fn with_changes(&self, changes: &BTreeMap<String, u64>) -> Result<Limits, Vec<String>> {
        let mut faults = Vec::new();
        let mut changed = self.clone();
        if changes.is_empty() {
            faults.push("no setting is named".to_owned());
        }
        for (name, value) in changes {
            match SETTINGS.iter().find(|setting| setting.name == name) {
                None => faults.push(format!("there is no setting `{name}`")),
                Some(setting) if (setting.min..=setting.max).contains(value) => {
                    (setting.set)(&mut changed, *value);
                }
                Some(Setting { min, max, .. }) => {
                    faults.push(format!("`{name}` is {value}; must be {min} to {max}"));
                }
            }
        }
        let beats = changed.heartbeat_interval_ms.saturating_mul(2);
        for (name, value) in
            [("lease_ttl_ms", changed.lease_ttl_ms), ("worker_lost_ms", changed.worker_lost_ms)]
        {
            if value < beats {
                faults.push(format!(
                    "`{name}` would be {value}, less than two heartbeats of {} ms: one that is late would end leases",
                    changed.heartbeat_interval_ms
                ));
            }
        }
        debug_assert!(changed.finished_retention_ms <= DAY_MS);
        if faults.is_empty() { Ok(changed) } else { Err(faults) }
    }
}

impl Machine {
    pub(super) fn change_settings(
        &mut self,
        changes: &BTreeMap<String, u64>,
        at: Stamp,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let changed = match self.limits.with_changes(changes) {
            Ok(changed) => changed,
            Err(faults) => return refused(ErrorCode::Validation, faults.join("; ")),
        };
        for setting in SETTINGS {
            let (old, new) = (setting.value(&self.limits), setting.value(&changed));
            if old != new {
                let detail = format!("{new}, was {old}");
                effects.push(event(EventKind::SettingChanged, setting.name, detail, at));
            }
        }
        self.limits = changed;
        Reply::Done
    }
}
