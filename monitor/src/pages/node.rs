//! PURE. The page of one node.

use super::format::{grouped, milliseconds, percent};
use super::{Seen, escape_path, findings, links, table};
use crate::report::{Span, bytes, shorten};
use crate::snapshot::{ClusterSnapshot, NodeView};
use api::cluster::{HealthStatus, PartHealth, Report};
use serde_json::Value;
use web::fragments::{CheckRow, CheckpointRow, Fact, FactGroup, Mark, Node, Tone};

/// Checkpoints a page shows.
const SHOWN_CHECKPOINTS: usize = 8;
/// Facts of a free-form group, and operations.
const SHOWN_FACTS: usize = 24;

/// The page's content.
pub(super) fn page(seen: &Seen, node: &NodeView) -> Node {
    let snapshot = &seen.snapshot;
    let concerned = seen.findings.iter().filter(|f| f.nodes.iter().any(|n| n == node.name()));
    let others = links::shown(snapshot).into_iter().filter(|to| to.address != node.address);
    let report = node.report.as_ref();
    Node {
        row: table::row(snapshot, node),
        checks: report.map(checks).unwrap_or_default(),
        groups: report.map(|r| groups(snapshot, node, r)).unwrap_or_default(),
        links: others.map(|to| links::cell(snapshot, node, to)).collect(),
        checkpoints: report.map(|r| checkpoints(snapshot, node, r)).unwrap_or_default(),
        findings: findings::findings(seen, concerned, "Nothing is wrong with it as far as can be seen."),
        warnings: report
            .map(|r| r.status.warnings.iter().take(SHOWN_FACTS).map(|w| shorten(w, 400)).collect())
            .unwrap_or_default(),
        elsewhere: vec![("Its log lines".into(), format!("/logs?node={}", escape_path(node.name())))],
    }
}

fn checks(report: &Report) -> Vec<CheckRow> {
    report
        .health
        .checks
        .iter()
        .take(SHOWN_FACTS)
        .map(|check| CheckRow {
            name: check.name.clone(),
            mark: match check.status {
                HealthStatus::Ok => Mark::new(Tone::Good, "ok"),
                HealthStatus::Degraded => Mark::new(Tone::Warn, "degraded"),
                HealthStatus::Failing => Mark::new(Tone::Bad, "failing"),
            },
            detail: shorten(&check.detail, 300),
        })
        .collect()
}

fn fact(name: &str, value: impl ToString) -> Fact {
    Fact { name: name.to_owned(), value: value.to_string() }
}

fn groups(snapshot: &ClusterSnapshot, node: &NodeView, report: &Report) -> Vec<FactGroup> {
    let mut groups = vec![
        raft(snapshot, report),
        process(snapshot, node, report),
        resources(report),
        progress(report),
        part("Database", &report.db),
        part("Log", &report.log),
    ];
    let running = &report.operations.operations;
    let operations = running.iter().take(SHOWN_FACTS).map(|o| {
        let text = format!("{}, {}", Span(o.duration_seconds), o.detail);
        fact(&shorten(&o.kind, 60), shorten(&text, 200))
    });
    groups.push(FactGroup { title: "Operations".into(), facts: operations.collect() });
    if !report.config_differs.is_empty() {
        let differing =
            report.config_differs.iter().take(SHOWN_FACTS).map(|d| fact("differs", shorten(d, 200)));
        groups.push(FactGroup { title: "Config against membership".into(), facts: differing.collect() });
    }
    groups.retain(|group| !group.facts.is_empty());
    groups
}

fn raft(snapshot: &ClusterSnapshot, report: &Report) -> FactGroup {
    let status = &report.status;
    let mut facts = vec![fact("Role", status.role)];
    if let Some(detail) = &status.role_detail {
        facts.push(fact("Why", shorten(detail, 300)));
    }
    facts.extend([
        fact("Follows", status.current_leader.as_deref().unwrap_or("nobody")),
        fact("Term", grouped(status.term)),
        fact("Commit index", grouped(status.commit_index)),
        fact("Applied index", grouped(status.applied_index)),
        fact("Behind", grouped(snapshot.highest_commit.saturating_sub(status.applied_index))),
        fact("Log", format!("{} to {}", grouped(status.first_log_index), grouped(status.last_log_index))),
        fact("Snapshot at", grouped(status.snapshot_index)),
        fact("Voters", status.voters.join(", ")),
        fact("Learners", if status.learners.is_empty() { "none".into() } else { status.learners.join(", ") }),
        fact("Leader changes", grouped(status.leader_changes)),
    ]);
    FactGroup { title: "Raft".into(), facts }
}

fn process(snapshot: &ClusterSnapshot, node: &NodeView, report: &Report) -> FactGroup {
    let status = &report.status;
    let skew_seconds = report.now.duration_since(snapshot.at).as_secs_f64();
    let facts = vec![
        fact("Cluster", status.cluster_id.as_deref().unwrap_or("not founded")),
        fact("Version", &status.version),
        fact("Process", status.pid),
        fact("Uptime", Span(status.uptime_seconds.round())),
        fact("Answer took", milliseconds(node.took_ms)),
        fact("Its clock", report.now.strftime("%H:%M:%S%.3f")),
        fact("Against ours", offset(skew_seconds)),
    ];
    FactGroup { title: "Process".into(), facts }
}

fn resources(report: &Report) -> FactGroup {
    let r = &report.resources;
    let facts = vec![
        fact("CPU", percent(r.cpu_usage)),
        fact("Memory", format!("{} of {}", bytes(r.memory_bytes), bytes(r.memory_total_bytes))),
        fact("Disk", format!("{} used, {} free", percent(r.disk_usage), bytes(r.disk_free_bytes))),
        fact("Data directory", bytes(r.data_dir_bytes)),
        fact("Descriptors", format!("{} of {}", grouped(r.open_fds), grouped(r.max_fds))),
        fact("Threads", grouped(r.threads)),
    ];
    FactGroup { title: "Resources".into(), facts }
}

fn progress(report: &Report) -> FactGroup {
    let p = &report.progress;
    let busy =
        |ms: u64| if ms == 0 { "idle".to_owned() } else { format!("busy for {}", milliseconds(ms as f64)) };
    let facts = vec![
        fact("Raft turns", grouped(p.raft_turns)),
        fact("Log writes", grouped(p.log_syncs)),
        fact("Log writer", busy(p.log_busy_ms)),
        fact("Entries applied", grouped(p.applied_entries)),
        fact("Applier", busy(p.apply_busy_ms)),
    ];
    FactGroup { title: "Progress".into(), facts }
}

/// How far another clock is ahead (`+`) or behind, the way of the answer included.
fn offset(seconds: f64) -> String {
    match (seconds * 1e3).round() {
        ms if ms.abs() < 1e3 => format!("{:+} ms", ms + 0.0),
        _ => format!("{seconds:+.1} s"),
    }
}

fn part(title: &str, part: &PartHealth) -> FactGroup {
    let mut facts = vec![fact("Healthy", if part.healthy { "yes" } else { "no" })];
    for (key, value) in &part.details {
        match value {
            Value::Object(inner) => {
                facts.extend(inner.iter().map(|(name, value)| detail(&format!("{key}: {name}"), value)));
            }
            value => facts.push(detail(key, value)),
        }
    }
    facts.truncate(SHOWN_FACTS);
    FactGroup { title: title.into(), facts }
}

/// What a node says of one of its parts, by the unit that the name ends in.
fn detail(key: &str, value: &Value) -> Fact {
    let (name, text) = match (value, value.as_u64()) {
        (_, Some(count)) if key.ends_with("_bytes") => (key.trim_end_matches("_bytes"), bytes(count)),
        (_, Some(count)) if key.ends_with("_ms") => (key.trim_end_matches("_ms"), milliseconds(count as f64)),
        (_, Some(count)) => (key, grouped(count)),
        (Value::Null, _) => (key, "none".to_owned()),
        (Value::Bool(yes), _) => (key, if *yes { "yes" } else { "no" }.to_owned()),
        (Value::String(text), _) => (key, text.clone()),
        (other, _) => (key, other.to_string()),
    };
    fact(&super::format::capital(&shorten(&name.replace('_', " "), 60)), shorten(&text, 200))
}

/// The newest checkpoints, each against the other nodes that hold one at the same index.
fn checkpoints(snapshot: &ClusterSnapshot, node: &NodeView, report: &Report) -> Vec<CheckpointRow> {
    let own = report.state_checksum.checkpoints.iter().rev().take(SHOWN_CHECKPOINTS);
    own.map(|checkpoint| {
        let others = snapshot
            .reporting()
            .filter(|(other, r)| {
                other.address != node.address && r.status.cluster_id == report.status.cluster_id
            })
            .filter_map(|(_, r)| r.state_checksum.checkpoints.iter().find(|c| c.index == checkpoint.index));
        let (mut equal, mut unequal) = (0, 0);
        for other in others {
            match other == checkpoint {
                true => equal += 1,
                false => unequal += 1,
            }
        }
        let agreement = match (equal, unequal) {
            (0, 0) => Mark::new(Tone::Idle, "no other has it"),
            (equal, 0) => Mark::new(Tone::Good, format!("= equal to {equal}")),
            (equal, unequal) => Mark::new(Tone::Bad, format!("≠ unequal to {unequal}, equal to {equal}")),
        };
        CheckpointRow {
            index: grouped(checkpoint.index),
            checksum: checkpoint.checksum.clone(),
            log_chain: checkpoint.log_chain.clone(),
            agreement,
        }
    })
    .collect()
}
