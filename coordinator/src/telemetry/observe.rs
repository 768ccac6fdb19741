//! Gauges of what stands somewhere anyway: read when somebody asks for `/metrics`, never before.

use super::instruments::{counter, counter_f64, gauge, gauge_f64, plain};
use crate::health::{self, Sampler};
use crate::http::App;
use crate::http::node_health::vitals;
use crate::live::Live;
use crate::members::steward::forgotten;
use crate::node::{Node, RaftView};
use crate::store::Store;
use api::cluster::{Check, HealthStatus, PeerStatus, Role};
use api::metrics::{self, Metric};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use std::sync::Arc;

/// Registers every gauge of the node.
pub fn register(app: &App) {
    let meter = app.telemetry.meter();
    let started_at = app.started_at;
    gauge(meter, &metrics::BUILD_INFO, || vec![(1, vec![KeyValue::new("version", api::VERSION)])]);
    gauge_f64(meter, &metrics::NODE_UPTIME, move || plain(started_at.elapsed().as_secs_f64()));
    let logs = app.logs.clone();
    counter(meter, &metrics::LOG_LINES_LOST, move || plain(logs.lost_lines()));
    connections(meter, app);
    raft(meter, &app.node);
    peers(meter, &app.node);
    members(meter, &app.node, &app.live);
    machine(meter, &app.node);
    store(meter, &app.node, &app.store);
    process(meter, &app.sampler);
    verdicts(meter, app);
    crate::backup::last::recall(&app.config.data_dir, &app.telemetry);
}

/// What the node says of its own health, and what it has been told.
fn verdicts(meter: &Meter, app: &App) {
    let checked = app.downgrade();
    gauge(meter, &metrics::HEALTH_CHECK, move || {
        let checks = checked.get().map(|app| health::overall(&vitals(&app)).checks).unwrap_or_default();
        let one_hot = |check: &Check, state: HealthStatus| {
            let labels =
                vec![KeyValue::new("check", check.name.clone()), KeyValue::new("state", state.as_str())];
            (u64::from(check.status == state), labels)
        };
        checks.iter().flat_map(|check| HealthStatus::ALL.map(|state| one_hot(check, state))).collect()
    });
    let limited = app.live.clone();
    gauge(meter, &metrics::PROCESS_MEMORY_LIMIT, move || plain(limited.config().max_memory_mb * 1024 * 1024));
    let maintained = app.node.clone();
    gauge(meter, &metrics::MAINTENANCE, move || plain(u64::from(maintained.machine().maintenance().enabled)));
}

fn connections(meter: &Meter, app: &App) {
    let limit = Arc::clone(&app.connections);
    gauge(meter, &metrics::HTTP_CONNECTIONS, move || plain(limit.open() as u64));
    let limit = Arc::clone(&app.connections);
    counter(meter, &metrics::HTTP_CONNECTIONS_REFUSED, move || plain(limit.refused()));
    if let Some(tls) = app.access.tls().cloned() {
        gauge_f64(meter, &metrics::TLS_CERTIFICATE_END, move || plain(tls.not_after_s() as f64));
    }
}

fn raft(meter: &Meter, node: &Node) {
    let of_view = |metric: &'static Metric, read: fn(&RaftView) -> u64| {
        let node = node.clone();
        gauge(meter, metric, move || plain(read(&node.view())));
    };
    of_view(&metrics::RAFT_TERM, |view| view.term);
    of_view(&metrics::RAFT_HAS_LEADER, |view| u64::from(view.leader.is_some()));
    of_view(&metrics::RAFT_COMMIT_INDEX, |view| view.commit_index);
    of_view(&metrics::RAFT_LAST_INDEX, |view| view.last_index);
    of_view(&metrics::RAFT_SNAPSHOT_INDEX, |view| view.snapshot_index);

    let applied = node.clone();
    gauge(meter, &metrics::RAFT_APPLIED_INDEX, move || plain(applied.applied_index()));
    let changes = node.clone();
    counter(meter, &metrics::RAFT_LEADER_CHANGES, move || plain(changes.view().leader_changes));
    let roles = node.clone();
    gauge(meter, &metrics::RAFT_ROLE, move || {
        let present = roles.view().role;
        let one_hot = |role: Role| (u64::from(role == present), vec![KeyValue::new("state", role.as_str())]);
        Role::ALL.into_iter().map(one_hot).collect()
    });
}

fn peers(meter: &Meter, node: &Node) {
    let label = |peer: &PeerStatus| vec![KeyValue::new("peer", peer.node_id.clone())];
    let seconds = |metric: &'static Metric, read: fn(&PeerStatus) -> Option<f64>| {
        let node = node.clone();
        gauge_f64(meter, metric, move || {
            node.peers().iter().filter_map(|peer| Some((read(peer)?, label(peer)))).collect()
        });
    };
    seconds(&metrics::PEER_RTT, |peer| Some(peer.rtt_ms? / 1000.0));
    seconds(&metrics::PEER_CLOCK_OFFSET, |peer| Some(peer.clock_offset_ms? as f64 / 1000.0));
    seconds(&metrics::PEER_LAST_CONTACT, |peer| Some(peer.last_contact_ms? as f64 / 1000.0));

    let reach = node.clone();
    gauge(meter, &metrics::PEER_REACHABLE, move || {
        reach.peers().iter().map(|peer| (u64::from(peer.reachable), label(peer))).collect()
    });
    let lag = node.clone();
    gauge(meter, &metrics::PEER_LAG, move || {
        let last_index = lag.view().last_index;
        let behind = |peer: &PeerStatus| Some((last_index.saturating_sub(peer.match_index?), label(peer)));
        lag.peers().iter().filter_map(behind).collect()
    });
}

fn members(meter: &Meter, node: &Node, live: &Live) {
    let (node, live) = (node.clone(), live.clone());
    gauge(meter, &metrics::MEMBERS, move || {
        let standings = node.member_standings();
        let voters = standings.iter().filter(|m| m.voter).count();
        let counts = [
            ("voter", voters),
            ("learner", standings.len() - voters),
            ("forgotten", forgotten(&live.config(), &standings).len()),
        ];
        counts.map(|(state, n)| (n as u64, vec![KeyValue::new("state", state)])).to_vec()
    });
}

fn machine(meter: &Meter, node: &Node) {
    let tasks = node.clone();
    gauge(meter, &metrics::TASKS, move || {
        let counts = tasks.machine().task_counts();
        counts.into_iter().map(|(state, n)| (n, vec![KeyValue::new("state", state.as_str())])).collect()
    });
    let workers = node.clone();
    gauge(meter, &metrics::WORKERS, move || {
        let counts = workers.machine().worker_counts();
        counts.into_iter().map(|(state, n)| (n, vec![KeyValue::new("state", state.as_str())])).collect()
    });
    let newest = node.clone();
    gauge(meter, &metrics::STATE_CHECKPOINT_INDEX, move || {
        plain(newest.machine().checkpoints().last().map_or(0, |checkpoint| checkpoint.index))
    });
}

fn store(meter: &Meter, node: &Node, store: &Arc<Store>) {
    let applied = Arc::clone(store);
    gauge(meter, &metrics::STORE_APPLIED_INDEX, move || plain(applied.applied_index()));
    let (behind, machine) = (Arc::clone(store), node.clone());
    gauge(meter, &metrics::STORE_LAG, move || {
        plain(machine.applied_index().saturating_sub(behind.applied_index()))
    });
    let health = Arc::clone(store);
    gauge(meter, &metrics::STORE_HEALTHY, move || plain(u64::from(health.health().healthy)));
    let size = Arc::clone(store);
    gauge(meter, &metrics::STORE_BYTES, move || plain(size.health().file_bytes));
}

fn process(meter: &Meter, sampler: &Sampler) {
    let cpu = sampler.clone();
    counter_f64(meter, &metrics::PROCESS_CPU, move || Some(cpu.cpu_seconds()));
    let of_process = |metric: &'static Metric, read: fn(&api::cluster::Resources) -> u64| {
        let sampler = sampler.clone();
        gauge(meter, metric, move || plain(read(&sampler.resources())));
    };
    of_process(&metrics::PROCESS_MEMORY, |resources| resources.memory_bytes);
    of_process(&metrics::PROCESS_FDS, |resources| resources.open_fds);
    of_process(&metrics::PROCESS_THREADS, |resources| resources.threads);
    of_process(&metrics::PROCESS_FDS_LIMIT, |resources| resources.max_fds);
    of_process(&metrics::DISK_FREE, |resources| resources.disk_free_bytes);
    of_process(&metrics::DISK_SIZE, |resources| resources.disk_total_bytes);
    of_process(&metrics::DATA_SIZE, |resources| resources.data_dir_bytes);
}
