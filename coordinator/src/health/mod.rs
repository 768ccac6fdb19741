//! Health: verdicts from what was measured.
//!
//! The verdicts are pure: [`Vitals`] in, [`Health`] out. Measuring is the business of the node
//! (progress of its threads), the store, and the [`sampler`] (processor, memory, disk).
//!
//! Three questions are kept apart, since different people act on them. *Live*: do the threads make
//! progress? If not, the process may be restarted; the answer never depends on a quorum, or losing
//! one would restart the rest. *Ready*: are reads and writes served? *Health*: the sum for people,
//! with what degrades it.

pub mod sampler;

pub use sampler::Sampler;

use crate::node::RaftView;
use crate::room::DiskLevel;
use crate::store::StoreHealth;
use api::cluster::{Check, Health, HealthStatus, PartHealth, Progress, Resources, Role};
use serde_json::Value;
use std::collections::BTreeMap;

/// A thread that has been in one piece of work for longer is stuck.
const STUCK_MS: u64 = 10_000;
/// A thread that has been in one piece of work for longer deserves a look.
const SLOW_MS: u64 = 1_000;
/// A node whose machine is further behind the commit index does not serve current reads in time.
const MAX_APPLY_LAG_ENTRIES: u64 = 1_000;
/// A peer's clock that is farther away is worth a warning.
const CLOCK_WARN_MS: u64 = 250;
/// Disk use that is worth a warning, percent.
const DISK_WARN_PERCENT: f64 = 85.0;
/// Resident memory that is worth a warning, percent of the limit.
const MEMORY_WARN_PERCENT: u64 = 90;

/// Everything a verdict is made from.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// What Raft says.
    pub view: RaftView,
    /// Highest applied index.
    pub applied_index: u64,
    /// Progress of the threads.
    pub progress: Progress,
    /// How long the Raft thread has not turned.
    pub raft_still_ms: u64,
    /// What the store says.
    pub db: PartHealth,
    /// Damage that checks of integrity found.
    pub findings: Vec<String>,
    /// What the process uses.
    pub resources: Resources,
    /// What it may use.
    pub max_memory_bytes: u64,
    /// Whether the disk has room for writes.
    pub disk_level: DiskLevel,
    /// Peers with their clocks' distance from ours, milliseconds.
    pub clock_offsets_ms: Vec<(String, i64)>,
}

/// `GET /api/health`.
pub fn overall(vitals: &Vitals) -> Health {
    sum(vec![
        raft(vitals),
        log_thread(vitals),
        apply_thread(vitals),
        leader(vitals),
        db(vitals),
        integrity(vitals),
        disk(vitals),
        memory(vitals),
        clocks(vitals),
    ])
}

/// `GET /api/health/live`: never asks for a leader or a quorum.
pub fn live(vitals: &Vitals) -> Health {
    sum(vec![raft(vitals), log_thread(vitals), apply_thread(vitals)])
}

/// `GET /api/health/ready`.
pub fn ready(vitals: &Vitals) -> Health {
    sum(vec![leader(vitals), role(vitals), apply_lag(vitals)])
}

/// `GET /api/health/log`.
pub fn log(vitals: &Vitals) -> PartHealth {
    let (view, progress) = (&vitals.view, &vitals.progress);
    let details = BTreeMap::from([
        ("first_index".to_owned(), Value::from(view.first_index)),
        ("last_index".to_owned(), Value::from(view.last_index)),
        ("commit_index".to_owned(), Value::from(view.commit_index)),
        ("applied_index".to_owned(), Value::from(vitals.applied_index)),
        ("snapshot_index".to_owned(), Value::from(view.snapshot_index)),
        ("entries".to_owned(), Value::from((view.last_index + 1).saturating_sub(view.first_index))),
        ("syncs".to_owned(), Value::from(progress.log_syncs)),
        ("busy_ms".to_owned(), Value::from(progress.log_busy_ms)),
        ("role".to_owned(), Value::from(view.role.as_str())),
        ("role_detail".to_owned(), view.role_detail.clone().map_or(Value::Null, Value::from)),
    ]);
    let sound = !matches!(view.role, Role::Suspect | Role::Failed);
    PartHealth { healthy: sound && log_thread(vitals).status != HealthStatus::Failing, details }
}

/// `GET /api/health/db`.
pub fn db_part(store: &StoreHealth) -> PartHealth {
    let text = |value: &Option<String>| value.clone().map_or(Value::Null, Value::from);
    let details = BTreeMap::from([
        ("detail".to_owned(), Value::from(store.detail.as_str())),
        ("applied_index".to_owned(), Value::from(store.applied_index)),
        ("durable_index".to_owned(), Value::from(store.durable_index)),
        ("lag_entries".to_owned(), Value::from(store.appended_index.saturating_sub(store.applied_index))),
        ("backlog_effects".to_owned(), Value::from(store.backlog_effects)),
        ("backlog_bound".to_owned(), Value::from(store.backlog_bound)),
        ("needs_rebuild".to_owned(), Value::from(store.needs_rebuild)),
        ("dropped_effects".to_owned(), Value::from(store.dropped_effects)),
        ("rows".to_owned(), store.rows.iter().map(|(table, n)| (table.clone(), Value::from(*n))).collect()),
        ("file_bytes".to_owned(), Value::from(store.file_bytes)),
        ("transactions".to_owned(), Value::from(store.transactions)),
        ("last_error".to_owned(), text(&store.last_error)),
        ("quarantined".to_owned(), text(&store.quarantined)),
    ]);
    PartHealth { healthy: store.healthy, details }
}

fn sum(checks: Vec<Check>) -> Health {
    let rank = |status: HealthStatus| match status {
        HealthStatus::Ok => 0,
        HealthStatus::Degraded => 1,
        HealthStatus::Failing => 2,
    };
    let worst = checks.iter().map(|check| check.status).max_by_key(|status| rank(*status));
    Health { status: worst.unwrap_or(HealthStatus::Ok), checks }
}

fn check(name: &str, status: HealthStatus, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), status, detail: detail.into() }
}

fn by_duration(name: &str, busy_ms: u64, idle: String, busy: &str) -> Check {
    match busy_ms {
        ms if ms > STUCK_MS => check(name, HealthStatus::Failing, format!("{busy} for {ms} ms: stuck")),
        ms if ms > SLOW_MS => check(name, HealthStatus::Degraded, format!("{busy} for {ms} ms")),
        _ => check(name, HealthStatus::Ok, idle),
    }
}

/// The Raft thread. A node that waits to be founded or taken in has none yet, one that was removed has
/// none any more: neither hangs, and a restart would help neither.
fn raft(vitals: &Vitals) -> Check {
    let (view, turns) = (&vitals.view, vitals.progress.raft_turns);
    let why = || view.role_detail.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    match view.role {
        Role::Uninitialised | Role::Joining if turns == 0 => {
            return check("raft", HealthStatus::Ok, format!("does not run yet, {}{}", view.role, why()));
        }
        Role::Removed => {
            return check("raft", HealthStatus::Ok, format!("runs no more, {}{}", view.role, why()));
        }
        Role::Failed => {
            return check("raft", HealthStatus::Failing, format!("does not run, {}{}", view.role, why()));
        }
        _ => {}
    }
    by_duration("raft", vitals.raft_still_ms, format!("{turns} turns"), "the Raft thread has not turned")
}

fn log_thread(vitals: &Vitals) -> Check {
    let syncs = vitals.progress.log_syncs;
    by_duration("log", vitals.progress.log_busy_ms, format!("{syncs} syncs"), "one write of the log goes on")
}

fn apply_thread(vitals: &Vitals) -> Check {
    let entries = vitals.progress.applied_entries;
    let busy_ms = vitals.progress.apply_busy_ms;
    by_duration("apply", busy_ms, format!("{entries} entries applied"), "one batch is being applied")
}

fn leader(vitals: &Vitals) -> Check {
    match (&vitals.view.leader, vitals.view.role) {
        (Some(_), Role::Leader) if !vitals.view.leader_ready => {
            check("leader", HealthStatus::Failing, "leads, but has not committed in its term yet")
        }
        (Some(leader), _) => {
            check("leader", HealthStatus::Ok, format!("{leader} leads term {}", vitals.view.term))
        }
        (None, _) => check("leader", HealthStatus::Failing, "no leader is known"),
    }
}

fn role(vitals: &Vitals) -> Check {
    let role = vitals.view.role;
    match role {
        Role::Leader | Role::Follower | Role::Learner => check("role", HealthStatus::Ok, role.as_str()),
        _ => {
            let why = vitals.view.role_detail.as_deref().unwrap_or("does not serve");
            check("role", HealthStatus::Failing, format!("{role}: {why}"))
        }
    }
}

fn apply_lag(vitals: &Vitals) -> Check {
    let lag_entries = vitals.view.commit_index.saturating_sub(vitals.applied_index);
    let status = if lag_entries > MAX_APPLY_LAG_ENTRIES { HealthStatus::Failing } else { HealthStatus::Ok };
    check("applied", status, format!("{lag_entries} entries behind the commit index"))
}

fn db(vitals: &Vitals) -> Check {
    // Writes never wait for DuckDB, so a broken one degrades the node and no more.
    if vitals.db.healthy {
        return check("db", HealthStatus::Ok, "takes writes");
    }
    let why = vitals.db.details.get("detail").and_then(Value::as_str).unwrap_or("does not take writes");
    check("db", HealthStatus::Degraded, why)
}

fn integrity(vitals: &Vitals) -> Check {
    match vitals.findings.is_empty() {
        true => check("integrity", HealthStatus::Ok, "no damage was found"),
        false => check("integrity", HealthStatus::Degraded, vitals.findings.join("; ")),
    }
}

fn disk(vitals: &Vitals) -> Check {
    let resources = &vitals.resources;
    let (used, free_mb) = (resources.disk_usage, resources.disk_free_bytes / (1024 * 1024));
    let seen = format!("{used:.1} % used, {free_mb} MiB free");
    if resources.disk_total_bytes == 0 {
        return check("disk", HealthStatus::Degraded, "could not be measured");
    }
    match vitals.disk_level {
        DiskLevel::Open => {}
        DiskLevel::ReadOnly => {
            let why = format!("{seen}: at the floor; the node takes no writes until there is room");
            return check("disk", HealthStatus::Failing, why);
        }
        DiskLevel::Closed => {
            return check("disk", HealthStatus::Failing, format!("{seen}: the log can't grow; make room"));
        }
    }
    match used {
        used if used >= DISK_WARN_PERCENT => check("disk", HealthStatus::Degraded, seen),
        _ => check("disk", HealthStatus::Ok, seen),
    }
}

/// Only people read the wall clock, so nothing breaks; but logs of several nodes no longer agree.
fn clocks(vitals: &Vitals) -> Check {
    let worst = vitals.clock_offsets_ms.iter().max_by_key(|(_, offset_ms)| offset_ms.unsigned_abs());
    match worst {
        Some((peer, offset_ms)) if offset_ms.unsigned_abs() > CLOCK_WARN_MS => {
            let why =
                format!("the clock of {peer} is {offset_ms} ms from ours; is time synchronised on both?");
            check("clock", HealthStatus::Degraded, why)
        }
        Some((peer, offset_ms)) => {
            check("clock", HealthStatus::Ok, format!("{offset_ms} ms from {peer}, the farthest"))
        }
        None => check("clock", HealthStatus::Ok, "no peer was compared"),
    }
}

fn memory(vitals: &Vitals) -> Check {
    let (used, most) = (vitals.resources.memory_bytes, vitals.max_memory_bytes);
    let seen = format!("{} of {} MiB", used / (1024 * 1024), most / (1024 * 1024));
    let high = used.saturating_mul(100) > most.saturating_mul(MEMORY_WARN_PERCENT);
    check("memory", if high { HealthStatus::Degraded } else { HealthStatus::Ok }, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Vitals {
        Vitals {
            view: RaftView {
                role: Role::Follower,
                role_detail: None,
                leader: Some("n2".into()),
                leader_ready: false,
                term: 4,
                commit_index: 100,
                first_index: 1,
                last_index: 100,
                snapshot_index: 0,
                leader_changes: 1,
            },
            applied_index: 100,
            progress: Progress { raft_turns: 10, log_syncs: 5, applied_entries: 100, ..Progress::default() },
            raft_still_ms: 0,
            db: PartHealth { healthy: true, details: BTreeMap::new() },
            findings: Vec::new(),
            resources: Resources {
                cpu_usage: 1.0,
                memory_usage: 1.0,
                disk_usage: 40.0,
                memory_bytes: 100 << 20,
                memory_total_bytes: 8 << 30,
                disk_free_bytes: 60 << 30,
                disk_total_bytes: 100 << 30,
                data_dir_bytes: 1 << 20,
                open_fds: 20,
                max_fds: 1024,
                threads: 12,
            },
            max_memory_bytes: 1 << 30,
            disk_level: DiskLevel::Open,
            clock_offsets_ms: vec![("n2".into(), -3)],
        }
    }

    fn with(change: impl FnOnce(&mut Vitals)) -> Vitals {
        let mut vitals = sound();
        change(&mut vitals);
        vitals
    }

    #[test]
    fn a_sound_node_is_ok_live_and_ready() {
        for health in [overall(&sound()), live(&sound()), ready(&sound())] {
            assert_eq!(health.status, HealthStatus::Ok, "{health:?}");
        }
        assert!(log(&sound()).healthy);
    }

    #[test]
    fn live_probe_sees_stuck_raft_loop() {
        for stuck in [
            with(|v| v.raft_still_ms = 10_001),
            with(|v| v.progress.log_busy_ms = 10_001),
            with(|v| v.progress.apply_busy_ms = 10_001),
        ] {
            assert_eq!(live(&stuck).status, HealthStatus::Failing, "{stuck:?}");
            assert_eq!(overall(&stuck).status, HealthStatus::Failing);
        }
        assert!(!log(&with(|v| v.progress.log_busy_ms = 10_001)).healthy);
    }

    #[test]
    fn liveness_does_not_restart_a_node_whose_raft_is_not_to_run() {
        for (role, turns) in [(Role::Uninitialised, 0), (Role::Joining, 0), (Role::Removed, 10)] {
            let waiting = with(|v| {
                (v.view.role, v.view.leader, v.view.role_detail) = (role, None, Some("the reason".into()));
                (v.progress.raft_turns, v.raft_still_ms) = (turns, 60_000);
            });
            assert_eq!(live(&waiting).status, HealthStatus::Ok, "{role}");
            assert!(live(&waiting).checks[0].detail.contains("the reason"), "{role}");
            assert_eq!(overall(&waiting).status, HealthStatus::Failing, "{role}");
            assert_eq!(ready(&waiting).status, HealthStatus::Failing, "{role}");
        }
        // One that failed is not well, but nothing of it hangs.
        let failed = with(|v| (v.view.role, v.raft_still_ms) = (Role::Failed, 60_000));
        assert_eq!(live(&failed).status, HealthStatus::Failing);
        assert_eq!(live(&failed).checks[0].detail, "does not run, failed");
        // A thread that ran and stands still is stuck in any other role.
        let stuck = with(|v| (v.view.role, v.raft_still_ms) = (Role::Joining, 60_000));
        assert_eq!(live(&stuck).status, HealthStatus::Failing);
    }

    #[test]
    fn liveness_does_not_restart_a_busy_node() {
        assert_eq!(live(&with(|v| v.progress.log_busy_ms = 5_000)).status, HealthStatus::Degraded);
        // Without a leader there is no service, but a restart would not help.
        let alone = with(|v| (v.view.role, v.view.leader) = (Role::Candidate, None));
        assert_eq!(live(&alone).status, HealthStatus::Ok);
        assert_eq!(overall(&alone).status, HealthStatus::Failing);
        assert_eq!(ready(&alone).status, HealthStatus::Failing);
    }

    #[test]
    fn a_node_that_must_not_serve_is_not_ready_and_says_why() {
        let failed = with(|v| {
            v.view.role = Role::Failed;
            v.view.role_detail = Some("the log is damaged".into());
        });
        let health = ready(&failed);
        assert_eq!(health.status, HealthStatus::Failing);
        assert!(health.checks.iter().any(|c| c.detail.contains("the log is damaged")), "{health:?}");
        assert!(!log(&failed).healthy);
    }

    #[test]
    fn a_leader_serves_once_it_has_committed_in_its_term() {
        let fresh = with(|v| (v.view.role, v.view.leader) = (Role::Leader, Some("n1".into())));
        assert_eq!(ready(&fresh).status, HealthStatus::Failing);
        assert_eq!(
            ready(&Vitals { view: RaftView { leader_ready: true, ..fresh.view.clone() }, ..fresh }).status,
            HealthStatus::Ok
        );
    }

    #[test]
    fn a_node_far_behind_is_not_ready() {
        assert_eq!(ready(&with(|v| v.view.commit_index = 1100)).status, HealthStatus::Ok);
        assert_eq!(ready(&with(|v| v.view.commit_index = 1101)).status, HealthStatus::Failing);
    }

    #[test]
    fn disk_full_is_named() {
        let worst = |vitals: &Vitals| {
            let health = overall(vitals);
            let disk = health.checks.iter().find(|c| c.name == "disk").cloned().unwrap();
            (disk.status, disk.detail)
        };
        assert_eq!(worst(&with(|v| v.resources.disk_usage = 86.0)).0, HealthStatus::Degraded);
        let (status, detail) = worst(&with(|v| v.disk_level = DiskLevel::ReadOnly));
        assert_eq!(status, HealthStatus::Failing);
        assert!(detail.contains("no writes until there is room"), "{detail}");
        let (_, detail) = worst(&with(|v| v.disk_level = DiskLevel::Closed));
        assert!(detail.contains("the log can't grow"), "{detail}");
    }

    #[test]
    fn a_broken_database_degrades_and_no_more() {
        let broken = with(|v| {
            v.db.healthy = false;
            v.db.details.insert("detail".into(), "disk I/O".into());
        });
        let health = overall(&broken);
        assert_eq!(health.status, HealthStatus::Degraded);
        assert!(health.checks.iter().any(|c| c.detail.contains("disk I/O")));
        assert_eq!(ready(&broken).status, HealthStatus::Ok);
    }

    #[test]
    fn a_clock_far_away_is_a_warning_that_names_the_peer() {
        let off = with(|v| v.clock_offsets_ms = vec![("n2".into(), 20), ("n3".into(), -3_600_000)]);
        let clock = overall(&off).checks.into_iter().find(|c| c.name == "clock").unwrap();
        assert_eq!(clock.status, HealthStatus::Degraded);
        assert!(clock.detail.contains("n3") && clock.detail.contains("-3600000 ms"), "{}", clock.detail);
    }

    #[test]
    fn much_memory_is_a_warning() {
        assert_eq!(overall(&with(|v| v.resources.memory_bytes = 950 << 20)).status, HealthStatus::Degraded);
    }
}
