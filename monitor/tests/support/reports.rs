//! Reports as a healthy cluster of nodes `node-1` … would give them, to be bent by tests.

use api::cluster::*;
use api::task::TaskState;
use api::worker::WorkerState;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// When the staged cluster's time begins.
pub fn epoch() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

/// `seconds` later.
pub fn after(seconds: f64) -> Timestamp {
    epoch() + SignedDuration::from_secs_f64(seconds)
}

pub fn name(n: usize) -> String {
    format!("node-{n}")
}

/// Log index that the cluster has reached at a time: 200 entries a second.
pub fn index_at(at: Timestamp) -> u64 {
    1_000 + (at.duration_since(epoch()).as_secs_f64() * 200.0) as u64
}

/// A hash that depends on what it is of and where.
pub fn hash(of: &str, index: u64) -> String {
    let word = |seed: u64| {
        let mut h = seed;
        for byte in of.bytes().chain(index.to_le_bytes()) {
            h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        }
        h
    };
    format!("{:016x}{:016x}", word(0xcbf2_9ce4_8422_2325), word(0x9e37_79b9_7f4a_7c15))
}

/// The report of node `n` of `of`, with `leader` leading `term`.
pub fn healthy(n: usize, of: usize, leader: usize, term: u64, at: Timestamp) -> Report {
    let commit = index_at(at);
    // A follower learns of the commit a little later.
    let applied = if n == leader { commit } else { commit - commit.min(3) };
    let peers = (1..=of).filter(|p| *p != n).map(|p| PeerStatus {
        node_id: name(p),
        address: format!("127.0.0.1:{}", 8_000 + p),
        reachable: true,
        last_contact_ms: Some(12),
        rtt_ms: Some(0.3 + 0.1 * (n + p) as f64),
        match_index: (n == leader).then_some(applied),
        clock_offset_ms: Some(1),
        error: None,
        goodbye: None,
    });
    let newest = applied / 256 * 256;
    let checkpoints = (0..8).rev().filter_map(|back| newest.checked_sub(back * 256)).filter(|i| *i > 0);
    let healthy_part = || PartHealth { healthy: true, details: BTreeMap::new() };
    let tasks = [412, 8, 24, 10_377, 61, 2];
    Report {
        now: at,
        status: Status {
            node_id: name(n),
            cluster_id: Some("01JCHV6Z4Q0000000000000000".into()),
            role: if n == leader { Role::Leader } else { Role::Follower },
            role_detail: None,
            current_leader: Some(name(leader)),
            leader_address: None,
            term,
            commit_index: commit,
            applied_index: applied,
            first_log_index: 1,
            last_log_index: commit,
            snapshot_index: 0,
            voters: (1..=of).map(name).collect(),
            learners: vec![],
            peers: peers.collect(),
            tasks: TaskState::ALL.into_iter().zip(tasks).collect(),
            workers: BTreeMap::from([
                (WorkerState::Active, 2),
                (WorkerState::Busy, 4),
                (WorkerState::Draining, 0),
                (WorkerState::Lost, 1),
            ]),
            maintenance: Maintenance::default(),
            uptime_seconds: 7_300.0 + at.duration_since(epoch()).as_secs_f64(),
            version: "0.1.0".into(),
            pid: 4_000 + n as u32,
            boot_nonce: format!("boot-{n}"),
            leader_changes: 1,
            elections: Some(1),
            forced_handovers: 0,
            warnings: Vec::new(),
        },
        health: Health {
            status: HealthStatus::Ok,
            checks: ["raft", "apply", "log", "db", "leader", "disk"]
                .map(|check| Check {
                    name: check.into(),
                    status: HealthStatus::Ok,
                    detail: "as it should be".into(),
                })
                .into(),
        },
        db: healthy_part(),
        log: healthy_part(),
        state_checksum: StateChecksum {
            integrity: None,
            checksum: hash("state", applied),
            applied_index: applied,
            term,
            log_chain: hash("log", applied),
            checkpoints: checkpoints
                .map(|index| CheckpointRecord {
                    index,
                    checksum: hash("state", index),
                    log_chain: hash("log", index),
                })
                .collect(),
        },
        resources: Resources {
            cpu_usage: 6.5 + n as f64,
            memory_usage: 1.2,
            disk_usage: 41.3,
            memory_bytes: 96 << 20,
            memory_total_bytes: 8 << 30,
            disk_free_bytes: 40 << 30,
            disk_total_bytes: 70 << 30,
            data_dir_bytes: 310 << 20,
            open_fds: 64,
            max_fds: 1_024,
            threads: 21,
        },
        operations: Operations::default(),
        progress: Progress {
            raft_turns: commit * 3,
            log_syncs: commit,
            log_busy_ms: 0,
            applied_entries: applied,
            apply_busy_ms: 0,
        },
        totals: BTreeMap::from([
            ("submitted".into(), 10_884),
            ("completed".into(), 10_377),
            ("failed".into(), 61),
        ]),
        performance: performance(commit),
        config: api::cluster::ConfigStanding::default(),
        config_differs: vec![],
    }
}

/// A write of 2 ms and a sync of 300 us for every entry.
pub fn performance(entries: u64) -> api::performance::Performance {
    let all_in = |seconds: f64| {
        let boundaries = api::metrics::LATENCY;
        let mut buckets = vec![0; boundaries.len() + 1];
        buckets[boundaries.partition_point(|b| *b < seconds)] = entries;
        api::performance::Latency { sum_seconds: seconds * entries as f64, buckets }
    };
    api::performance::Performance {
        writes: entries,
        writes_failed: 0,
        reads: entries / 2,
        requests: entries * 3,
        requests_failed: 0,
        commit: all_in(0.002),
        log_sync: all_in(0.000_3),
    }
}
