//! What is wrong, from what the nodes said. PURE.
//!
//! A node that does not answer is unknown, not dead: what the others see of it is said beside it.
//! Causes stand before what follows from them.

use super::collect::NodeSeen;
use crate::cli::print;
use api::ErrorCode;
use api::client::last_link;
use api::cluster::{HealthStatus, PeerStatus, Report, Role};
use api::task::TaskState;
use api::worker::WorkerState;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The cluster does not serve, or may lose or contradict something.
    Fault,
    /// It serves, but something needs attention.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Fault => "FAULT",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// How bad it is.
    pub severity: Severity,
    /// Which nodes it is about; empty where it is about the cluster.
    pub nodes: Vec<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
}

fn complain(severity: Severity, nodes: &[&str], what: impl Into<String>, advice: &str) -> Complaint {
    let nodes = nodes.iter().map(|n| (*n).to_owned()).collect();
    Complaint { severity, nodes, what: what.into(), advice: advice.to_owned() }
}

/// Entries that a follower may be behind.
const MAX_LAG_ENTRIES: u64 = 1000;
/// How far a clock may be off, ms.
const MAX_CLOCK_OFFSET_MS: i64 = 250;
/// Leader changes in an hour that are worth a look.
const MAX_LEADER_CHANGES_PER_HOUR: f64 = 6.0;

/// Everything that is wrong, the worst first.
pub fn diagnose(nodes: &[NodeSeen]) -> Vec<Complaint> {
    let reports: Vec<&Report> = nodes.iter().filter_map(|node| node.report.as_ref()).collect();
    let mut found = silent(nodes, &reports);
    found.extend(clusters(&reports));
    found.extend(leadership(&reports));
    found.extend(divergence(&reports));
    let missing: Vec<&str> =
        nodes.iter().filter(|node| node.report.is_none()).map(|node| node.address.as_str()).collect();
    for node in nodes {
        if let Some(report) = &node.report {
            found.extend(of_node(report, &missing));
            found.extend(timers(node, report));
        }
    }
    found.extend(versions(&reports));
    found.extend(work(&reports));
    found.sort_by_key(|complaint| complaint.severity);
    found
}

fn silent(nodes: &[NodeSeen], reports: &[&Report]) -> Vec<Complaint> {
    let mut found = Vec::new();
    for node in nodes.iter().filter(|node| node.report.is_none()) {
        if let Some(refusal) = &node.refusal {
            let advice = match refusal.code {
                ErrorCode::Unauthorized => {
                    "show a token that counts: --token-file or HOLDFAST_TOKEN, from POST /api/auth/login or `coordinator token`"
                }
                ErrorCode::Forbidden => "show a token of a role that may look: viewer, operator or admin",
                _ => "it answers, but not with its report; its log says more",
            };
            found.push(complain(
                Severity::Fault,
                &[&node.address],
                format!("answers, and refuses to tell: {refusal}"),
                advice,
            ));
            continue;
        }
        // The last link of the chain says enough here; the whole is in the archive.
        let why = node.error.as_deref().map_or("no answer", last_link);
        let sights = reports.iter().flat_map(|r| r.status.peers.iter()).filter(|p| p.address == node.address);
        let (reached, asked) = sights.fold((0, 0), |(yes, all), p| (yes + usize::from(p.reachable), all + 1));
        let others = match asked {
            0 => String::new(),
            _ => format!("; {reached} of {asked} other nodes reach it"),
        };
        let advice = match reached {
            0 => {
                "look whether its process runs and its host is up (`systemctl status`, its log); a node that was removed on purpose needs nothing"
            }
            _ => {
                "the other nodes reach it, so the way from here to it is cut: look at firewalls and names on this machine"
            }
        };
        found.push(complain(
            Severity::Fault,
            &[&node.address],
            format!("does not answer: {why}{others}"),
            advice,
        ));
    }
    found
}

fn clusters(reports: &[&Report]) -> Vec<Complaint> {
    let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for report in reports {
        if let Some(id) = &report.status.cluster_id {
            ids.entry(id).or_default().push(&report.status.node_id);
        }
    }
    if ids.len() < 2 {
        return Vec::new();
    }
    let each: Vec<String> = ids.iter().map(|(id, nodes)| format!("{id}: {}", nodes.join(", "))).collect();
    vec![complain(
        Severity::Fault,
        &[],
        format!("the nodes belong to different clusters ({})", each.join("; ")),
        "these are two clusters: give --coordinators of one, or bring the node that was founded by mistake back with an empty data directory",
    )]
}

fn leadership(reports: &[&Report]) -> Vec<Complaint> {
    let leaders: Vec<&&Report> = reports.iter().filter(|r| r.status.role == Role::Leader).collect();
    let mut terms = BTreeMap::<u64, Vec<&str>>::new();
    for leader in &leaders {
        terms.entry(leader.status.term).or_default().push(&leader.status.node_id);
    }
    if let Some((term, twins)) = terms.iter().find(|(_, nodes)| nodes.len() > 1) {
        return vec![complain(
            Severity::Fault,
            twins,
            format!("several nodes lead in term {term}"),
            "stop writing; keep every node's data directory; two data directories with one identity (a copy) are the likely cause",
        )];
    }
    if leaders.len() > 1 {
        let names: Vec<&str> = leaders.iter().map(|l| l.status.node_id.as_str()).collect();
        return vec![complain(
            Severity::Warning,
            &names,
            "several nodes say that they lead, in different terms",
            "the one of the lower term steps down by itself within an election time-out; look again",
        )];
    }
    if !leaders.is_empty() || reports.is_empty() {
        return Vec::new();
    }
    let voters: BTreeSet<&str> =
        reports.iter().flat_map(|r| r.status.voters.iter().map(String::as_str)).collect();
    if let Some(leader) = reports.iter().find_map(|r| r.status.current_leader.as_deref()) {
        return vec![complain(
            Severity::Warning,
            &[leader],
            format!("{leader} leads as the others say, but did not answer here"),
            "look at this node first",
        )];
    }
    let up =
        reports.iter().filter(|r| voters.contains(r.status.node_id.as_str()) && votes(r.status.role)).count();
    let quorum = voters.len() / 2 + 1;
    let advice = if up < quorum {
        "start the voters that are down; their data directories must be the old ones. Nothing is lost while a majority of the disks is there"
    } else {
        "enough voters answer, so they don't reach each other or their timers don't fit the network: see the other complaints, and `coordinator --check-peers` on each"
    };
    vec![complain(
        Severity::Fault,
        &[],
        format!("no node leads: {up} of {} voters answer, {quorum} are needed", voters.len()),
        advice,
    )]
}

fn votes(role: Role) -> bool {
    matches!(role, Role::Leader | Role::Follower | Role::Candidate)
}

/// Checksums are compared only at an index that both nodes passed.
fn divergence(reports: &[&Report]) -> Vec<Complaint> {
    for (i, one) in reports.iter().enumerate() {
        for other in &reports[i + 1..] {
            if one.status.cluster_id != other.status.cluster_id {
                continue;
            }
            let theirs = &other.state_checksum.checkpoints;
            let differs = one.state_checksum.checkpoints.iter().find_map(|a| {
                let b = theirs.iter().find(|b| b.index == a.index)?;
                (a.checksum != b.checksum || a.log_chain != b.log_chain).then_some((a, b))
            });
            if let Some((a, b)) = differs {
                let kind = if a.log_chain == b.log_chain {
                    "the same log led to different states"
                } else {
                    "the logs themselves differ"
                };
                return vec![complain(
                    Severity::Fault,
                    &[&one.status.node_id, &other.status.node_id],
                    format!("the states differ at index {}: {kind}", a.index),
                    "keep every data directory as evidence and compare with a third node: the minority is wrong; bring it back with a fresh copy of the state",
                )];
            }
        }
    }
    Vec::new()
}

/// `missing` are the addresses that do not answer: that a node does not reach them is no news.
fn of_node(report: &Report, missing: &[&str]) -> Vec<Complaint> {
    let status = &report.status;
    let node = status.node_id.as_str();
    let mut found = Vec::new();
    if !matches!(status.role, Role::Leader | Role::Follower | Role::Candidate | Role::Learner) {
        let why = status.role_detail.as_deref().unwrap_or("it does not say why");
        let severity = if status.role == Role::Failed { Severity::Fault } else { Severity::Warning };
        found.push(complain(
            severity,
            &[node],
            format!("is {}: {why}", status.role),
            "the reason says what it waits for or what is damaged",
        ));
    }
    for check in &report.health.checks {
        // Whether anybody leads is a question to the cluster, answered above.
        let severity = match check.status {
            HealthStatus::Ok => continue,
            _ if check.name == "leader" => continue,
            // That Raft does not run on a failed node is said above, with the reason.
            _ if check.name == "raft" && status.role == Role::Failed => continue,
            HealthStatus::Degraded => Severity::Warning,
            HealthStatus::Failing => Severity::Fault,
        };
        found.push(complain(
            severity,
            &[node],
            format!("{}: {}", check.name, check.detail),
            advice_on(&check.name),
        ));
    }
    let unreached = |peer: &&PeerStatus| !peer.reachable && !missing.contains(&peer.address.as_str());
    for peer in status.peers.iter().filter(unreached) {
        let why = peer.error.as_deref().unwrap_or("not connected");
        found.push(complain(
            Severity::Warning,
            &[node],
            format!("does not reach {} at {}: {why}", peer.node_id, peer.address),
            "is that node up, is its address right in `peers`, does a firewall stand between?",
        ));
    }
    for peer in &status.peers {
        if let Some(offset) = peer.clock_offset_ms.filter(|ms| ms.abs() > MAX_CLOCK_OFFSET_MS) {
            found.push(complain(
                Severity::Warning,
                &[node, &peer.node_id],
                format!("their clocks are {} ms apart", offset.abs()),
                "run NTP or chrony on both",
            ));
        }
        if let Some(lag) = peer
            .match_index
            .map(|at| status.last_log_index.saturating_sub(at))
            .filter(|lag| *lag > MAX_LAG_ENTRIES)
        {
            found.push(complain(
                Severity::Warning,
                &[&peer.node_id],
                format!("is {lag} entries behind the leader"),
                "it catches up by itself if its disk and link can keep up; look at its resources",
            ));
        }
    }
    for differs in &report.config_differs {
        found.push(complain(
            Severity::Warning,
            &[node],
            format!("its config and the membership differ: {differs}"),
            "`coordinator members` adds and removes members; or mend `peers` and send SIGHUP",
        ));
    }
    if let Some(reload) = &report.config.last_reload {
        if !reload.faults.is_empty() {
            found.push(complain(
                Severity::Warning,
                &[node],
                format!("its config file has faults and was not taken: {}", reload.faults.join("; ")),
                "mend the file and send SIGHUP; with these faults the node would not start again",
            ));
        } else if !reload.needs_restart.is_empty() {
            found.push(complain(
                Severity::Note,
                &[node],
                format!("changed keys wait for a restart: {}", reload.needs_restart.join(", ")),
                "",
            ));
        }
    }
    let hours = status.uptime_seconds / 3600.0;
    let up = Duration::try_from_secs_f64(status.uptime_seconds).unwrap_or_default();
    let changes = status.leader_changes as f64;
    if changes > 3.0 && changes / hours.max(0.1) > MAX_LEADER_CHANGES_PER_HOUR {
        found.push(complain(Severity::Warning, &[node], format!("has seen {} leader changes in {}", status.leader_changes, print::duration(up)), "look at round trips and disk syncs (`coordinator --check-peers`); raise the election time-outs if they are slow"));
    }
    found
}

fn advice_on(check: &str) -> &'static str {
    match check {
        "disk" => {
            "make room on the file system of data_dir; old log files of other programs are often the cause"
        }
        "memory" => "raise max_memory_mb if the machine has more, or give the node fewer tasks at once",
        "db" => {
            "the node serves without its history; it rebuilds the file by itself, or say what the detail names"
        }
        "raft" | "log" | "apply" => {
            "a thread hangs: look at the disk (`iostat`, `dmesg`), then restart this one node"
        }
        _ => "",
    }
}

fn timers(node: &NodeSeen, report: &Report) -> Option<Complaint> {
    let least = node.config_number("election_timeout_min")?;
    let slowest = report
        .status
        .peers
        .iter()
        .filter_map(|peer| Some((peer.rtt_ms?, &peer.node_id)))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (slowest.0 > least / 10.0).then(|| {
        complain(Severity::Warning, &[&report.status.node_id], format!("the round trip to {} takes {:.1} ms, more than a tenth of election_timeout_min ({least} ms)", slowest.1, slowest.0), "raise election_timeout_min, election_timeout_max and heartbeat_interval on every node; docs/configuration.md has the ranges")
    })
}

fn versions(reports: &[&Report]) -> Vec<Complaint> {
    let versions: BTreeSet<&str> = reports.iter().map(|r| r.status.version.as_str()).collect();
    if versions.len() < 2 {
        return Vec::new();
    }
    let list: Vec<&str> = versions.into_iter().collect();
    vec![complain(
        Severity::Note,
        &[],
        format!("the nodes run different versions: {}", list.join(", ")),
        "finish the update",
    )]
}

fn work(reports: &[&Report]) -> Vec<Complaint> {
    let mut found = Vec::new();
    let Some(newest) = reports.iter().max_by_key(|r| r.status.applied_index) else { return found };
    let status = &newest.status;
    if status.maintenance.enabled {
        let since = super::super::maintenance::since(&status.maintenance);
        found.push(complain(
            Severity::Warning,
            &[],
            format!("maintenance is on{since}: no new tasks are accepted or assigned"),
            "`coordinator maintenance disable` ends it",
        ));
    }
    let count = |states: &[TaskState]| -> u64 { states.iter().filter_map(|s| status.tasks.get(s)).sum() };
    let pending = count(&[TaskState::Pending]);
    let hands: u64 =
        [WorkerState::Active, WorkerState::Busy].iter().filter_map(|s| status.workers.get(s)).sum();
    if pending > 0 && hands == 0 {
        found.push(complain(
            Severity::Warning,
            &[],
            format!("{pending} tasks wait and no worker is there"),
            "start workers: `coordinator worker --coordinators …`",
        ));
    }
    if status.voters.len() > 1 && status.voters.len().is_multiple_of(2) {
        found.push(complain(
            Severity::Note,
            &[],
            format!(
                "{} voters survive no more failures than {}",
                status.voters.len(),
                status.voters.len() - 1
            ),
            "",
        ));
    }
    found
}

#[cfg(test)]
mod tests;
