//! PURE. Joins the answers of one round into one picture of the cluster.
//!
//! Invariants:
//! - "Unknown" is never "down". A node is down only when its host refused the connection *and* no
//!   reporting peer hears it. Everything else that is not a report is unknown.
//! - Replicas are never added up. Tasks and workers come from one node, and the picture says which.
//! - A leader is named only if a reporting node claims to lead the highest term that anybody
//!   reported, in the only cluster there is. Otherwise there is none, whatever followers believe.
//! - Checksums are compared only at an index that both nodes passed.

mod absence;
mod checksums;
mod places;
mod verdict;

pub use checksums::{Agreement, Dissent, DissentIn, PairComparison, dissent};

use crate::report::{NodeReport, seconds_between};
use api::cluster::{Maintenance, Report, Role};
use api::task::TaskState;
use api::worker::WorkerState;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Someone should look at it by day.
    Warning,
    /// Someone should look at it now.
    Critical,
}

impl Severity {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum NodeState {
    /// It gave its report.
    Reporting,
    /// It gave none, and that does not say what has become of it.
    Unknown {
        /// What was seen instead.
        why: String,
    },
    /// Nothing listens on its port, and no reporting peer hears it.
    Down {
        /// What was seen.
        why: String,
    },
}

impl NodeState {
    /// The name, for labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            NodeState::Reporting => "reporting",
            NodeState::Unknown { .. } => "unknown",
            NodeState::Down { .. } => "down",
        }
    }
}

/// A node in the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id: from its report, else as remembered, else as its peers name that address.
    pub node_id: Option<String>,
    /// Where it was asked.
    pub address: String,
    /// What is known of it.
    pub state: NodeState,
    /// Milliseconds its answer took, or the time until it was given up.
    pub took_ms: f64,
    /// When it last gave a report; none where it never did since the observer started.
    pub last_report_at: Option<Timestamp>,
    /// Why there is no report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<crate::report::ScrapeFailure>,
    /// When it said that it stops on purpose; none while it reports, or once another process of it
    /// was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
    /// Its report.
    pub report: Option<Report>,
}

impl NodeView {
    /// Its id where it is known, else its address.
    pub fn name(&self) -> &str {
        self.node_id.as_deref().unwrap_or(&self.address)
    }

    /// Its role, if it reported.
    pub fn role(&self) -> Option<Role> {
        self.report.as_ref().map(|r| r.status.role)
    }

    /// True where it reported a role that votes.
    pub fn votes(&self) -> bool {
        matches!(self.role(), Some(Role::Leader | Role::Follower | Role::Candidate))
    }

    /// True where it reported a role that takes part in replication.
    pub fn takes_part(&self) -> bool {
        self.votes() || self.role() == Some(Role::Learner)
    }
}

/// A node's claim to lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderClaim {
    /// Who claims it.
    pub node_id: String,
    /// Where.
    pub address: String,
    /// For which term.
    pub term: u64,
    /// Of which cluster.
    pub cluster_id: Option<String>,
    /// The process that claims it.
    pub boot_nonce: String,
}

/// Who votes, and how many may still be lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// The voters, as the leader names them; without one, as the node furthest ahead does.
    pub voters: Vec<String>,
    /// How many votes make a majority.
    pub majority: usize,
    /// Voters that reported a role that votes.
    pub reporting: Vec<String>,
    /// Voters that no configured address leads to.
    pub unwatched: Vec<String>,
    /// How many of those that report may be lost before writes stop.
    pub can_lose: usize,
}

impl Quorum {
    /// True where the voters that report are a majority.
    pub fn is_met(&self) -> bool {
        !self.voters.is_empty() && self.reporting.len() >= self.majority
    }
}

/// Tasks and workers, as one node holds them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Whose figures these are.
    pub from: String,
    /// True where that node leads; else it is the one furthest ahead.
    pub from_leader: bool,
    /// Live tasks by state.
    pub tasks: BTreeMap<TaskState, u64>,
    /// Workers by state.
    pub workers: BTreeMap<WorkerState, u64>,
    /// Totals since that process started.
    pub totals: BTreeMap<String, u64>,
    /// Maintenance mode.
    pub maintenance: Maintenance,
}

/// Does one node hear another?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hearing {
    /// Its connection is up and answers.
    Hears,
    /// It is not.
    Silent,
    /// Nobody said.
    Unknown,
}

/// One cell of who hears whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Who listens.
    pub from: String,
    /// Whom it would hear.
    pub to: String,
    /// Does it?
    pub hearing: Hearing,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Milliseconds since it heard anything.
    pub last_contact_ms: Option<u64>,
    /// Why it does not hear it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What outlives a round: names and times, never figures.
///
/// A remembered figure would be shown long after it stopped being true, so there is none here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    nodes: BTreeMap<String, Remembered>,
    led_at: Option<Timestamp>,
    began_at: Option<Timestamp>,
    /// Who led last in which term, and since when where that was seen.
    #[serde(default)]
    led: Option<(String, u64, Option<Timestamp>)>,
    /// True where anybody reported in the last round.
    #[serde(default)]
    heard: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    node_id: String,
    last_report_at: Timestamp,
    /// The process that gave it.
    #[serde(default)]
    boot_nonce: String,
    /// When that process said that it stops.
    #[serde(default)]
    stopped_at: Option<Timestamp>,
}

impl Memory {
    /// Takes from `snapshot` what is worth keeping. Bounded by the configured addresses.
    pub fn learn(&mut self, snapshot: &ClusterSnapshot) {
        self.nodes.retain(|address, _| snapshot.nodes.iter().any(|n| n.address == *address));
        self.began_at.get_or_insert(snapshot.at);
        self.heard = snapshot.reporting().next().is_some();
        if let Some(leader) = &snapshot.leader {
            self.led_at = Some(snapshot.at);
            self.led = Some((leader.clone(), snapshot.highest_term, snapshot.leader_since));
        }
        for node in &snapshot.nodes {
            if let (Some(node_id), Some(last_report_at)) = (&node.node_id, node.last_report_at) {
                let boot_nonce = match &node.report {
                    Some(report) => report.status.boot_nonce.clone(),
                    None => self.nodes.remove(&node.address).map(|r| r.boot_nonce).unwrap_or_default(),
                };
                let (node_id, stopped_at) = (node_id.clone(), node.stopped_at);
                let kept = Remembered { node_id, last_report_at, boot_nonce, stopped_at };
                self.nodes.insert(node.address.clone(), kept);
            }
        }
    }
}

impl Memory {
    /// Since when that node leads that term; none where the change was not seen.
    fn leads_since(&self, leader: &str, term: u64, now: Timestamp) -> Option<Timestamp> {
        match &self.led {
            Some((led, led_term, since)) if led == leader && *led_term == term => *since,
            _ => self.heard.then_some(now),
        }
    }
}

/// The cluster in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterSnapshot {
    /// Counts up with every round of this observer.
    pub round: u64,
    /// When the round was joined; the observer's clock.
    pub at: Timestamp,
    /// One sentence for people.
    pub verdict: String,
    /// How bad it is.
    pub severity: Severity,
    /// The nodes, in the order in which they are configured.
    pub nodes: Vec<NodeView>,
    /// Node id of the leader, if one is certain.
    pub leader: Option<String>,
    /// Since when it leads; none where the observer did not see the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_since: Option<Timestamp>,
    /// Everyone who claims to lead.
    pub leaders: Vec<LeaderClaim>,
    /// Seconds since a leader was last seen; none while there is one.
    pub leaderless_seconds: Option<f64>,
    /// The highest term anybody reported.
    pub highest_term: u64,
    /// The highest commit index anybody reported.
    pub highest_commit: u64,
    /// Every cluster id reported. More than one is never well.
    pub cluster_ids: Vec<String>,
    /// Who votes.
    pub quorum: Quorum,
    /// Checksums, pair by pair.
    pub checksums: Vec<PairComparison>,
    /// Tasks and workers.
    pub work: Option<Work>,
    /// Who hears whom: one entry for each ordered pair of nodes; among very many, only what a node
    /// says of a peer.
    pub links: Vec<Link>,
    /// Where all of them stand.
    #[serde(skip)]
    pub places: places::Places,
}

impl ClusterSnapshot {
    /// Joins `reports` into one picture. `memory` gives names to nodes that do not answer.
    pub fn join(reports: &[NodeReport], memory: &Memory, round: u64, at: Timestamp) -> Self {
        let nodes: Vec<NodeView> =
            reports.iter().map(|report| absence::view(report, reports, memory)).collect();
        let cluster_ids: BTreeSet<String> =
            reporting(&nodes).filter_map(|(_, r)| r.status.cluster_id.clone()).collect();
        let highest_term = reporting(&nodes).map(|(_, r)| r.status.term).max().unwrap_or(0);
        let highest_commit = reporting(&nodes).map(|(_, r)| r.status.commit_index).max().unwrap_or(0);
        let leaders = claims(&nodes);
        let leader = match leaders.iter().filter(|c| c.term == highest_term).collect::<Vec<_>>()[..] {
            [only] if cluster_ids.len() <= 1 => Some(only.node_id.clone()),
            _ => None,
        };
        let leader_since = leader.as_deref().and_then(|l| memory.leads_since(l, highest_term, at));
        let spokesman = spokesman(&nodes, leader.as_deref());
        let quorum = spokesman.map(|(_, report)| quorum(&nodes, report)).unwrap_or_default();
        let work = spokesman.map(|(node, report)| Work {
            from: node.name().to_owned(),
            from_leader: leader.as_deref() == Some(node.name()),
            tasks: report.status.tasks.clone(),
            workers: report.status.workers.clone(),
            totals: report.totals.clone(),
            maintenance: report.status.maintenance.clone(),
        });
        let leaderless_seconds = match leader {
            Some(_) => None,
            None => memory.led_at.or(memory.began_at).map(|since| seconds_between(since, at)),
        };
        let links = links(&nodes);
        let checksums = checksums::compare_all(&nodes, spokesman.map(|(node, _)| node.name()));
        let mut snapshot = ClusterSnapshot {
            round,
            at,
            verdict: String::new(),
            severity: Severity::Info,
            nodes,
            leader,
            leader_since,
            leaders,
            leaderless_seconds,
            highest_term,
            highest_commit,
            cluster_ids: cluster_ids.into_iter().collect(),
            quorum,
            checksums,
            work,
            links,
            places: places::Places::default(),
        };
        (snapshot.verdict, snapshot.severity) = verdict::judge(&snapshot, &[]);
        snapshot
    }

    /// Lets the verdict speak of what the detectors found in this snapshot.
    pub fn note_findings(&mut self, findings: &[crate::detectors::Finding]) {
        (self.verdict, self.severity) = verdict::judge(self, findings);
    }

    /// The nodes that reported, with their reports.
    pub fn reporting(&self) -> impl Iterator<Item = (&NodeView, &Report)> {
        reporting(&self.nodes)
    }

    /// The node of that name (node id, else address).
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.places.node(&self.nodes, &self.links, name)
    }

    /// The node at that address.
    pub fn node_at(&self, address: &str) -> Option<&NodeView> {
        self.places.node_at(&self.nodes, &self.links, address)
    }

    /// The report of the node of that name, if it gave one.
    pub fn report_of(&self, name: &str) -> Option<&Report> {
        self.node(name).and_then(|n| n.report.as_ref())
    }

    /// The cell of who hears whom.
    pub fn link(&self, from: &str, to: &str) -> Option<&Link> {
        self.places.link(&self.nodes, &self.links, from, to)
    }

    /// Reporting nodes that hear `name`.
    pub fn heard_by<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.links
            .iter()
            .filter(move |l| l.to == name && l.hearing == Hearing::Hears)
            .map(|l| l.from.as_str())
    }

    /// True where the node is a voter.
    pub fn is_voter(&self, name: &str) -> bool {
        self.quorum.voters.iter().any(|v| v == name)
    }

    /// Entries by which a reporting node's machine is behind the highest commit anybody reported.
    pub fn lag_entries(&self, name: &str) -> Option<u64> {
        self.report_of(name).map(|r| self.highest_commit.saturating_sub(r.status.applied_index))
    }

    /// The same picture without what only this round needs: long lists are cut, free-form details
    /// dropped. This is what windows and files keep.
    pub fn compact(&self) -> Self {
        let mut copy = self.clone();
        for report in copy.nodes.iter_mut().filter_map(|n| n.report.as_mut()) {
            report.db.details.clear();
            report.log.details.clear();
            let checkpoints = &mut report.state_checksum.checkpoints;
            let surplus = checkpoints.len().saturating_sub(2);
            checkpoints.drain(..surplus);
            report.operations.operations.truncate(16);
            report.config_differs.truncate(16);
            if self.nodes.len() > MAX_PAIRED_NODES {
                report.health.checks.clear();
                report.totals.clear();
                report.config = api::cluster::ConfigStanding::default();
            }
        }
        copy
    }
}

fn reporting(nodes: &[NodeView]) -> impl Iterator<Item = (&NodeView, &Report)> {
    nodes.iter().filter_map(|n| n.report.as_ref().map(|r| (n, r)))
}

fn claims(nodes: &[NodeView]) -> Vec<LeaderClaim> {
    reporting(nodes)
        .filter(|(_, r)| r.status.role == Role::Leader)
        .map(|(node, r)| LeaderClaim {
            node_id: r.status.node_id.clone(),
            address: node.address.clone(),
            term: r.status.term,
            cluster_id: r.status.cluster_id.clone(),
            boot_nonce: r.status.boot_nonce.clone(),
        })
        .collect()
}

/// Whose word on voters, tasks and workers is taken: the leader's, else that of the node furthest
/// ahead (highest applied index, then term).
fn spokesman<'a>(nodes: &'a [NodeView], leader: Option<&str>) -> Option<(&'a NodeView, &'a Report)> {
    reporting(nodes)
        .find(|(node, r)| Some(node.name()) == leader && r.status.role == Role::Leader)
        .or_else(|| reporting(nodes).max_by_key(|(_, r)| (r.status.applied_index, r.status.term)))
}

fn quorum(nodes: &[NodeView], spokesman: &Report) -> Quorum {
    let voters = spokesman.status.voters.clone();
    let reporting: Vec<String> = voters
        .iter()
        .filter(|v| nodes.iter().any(|n| n.name() == v.as_str() && n.votes()))
        .cloned()
        .collect();
    let unwatched =
        voters.iter().filter(|v| !nodes.iter().any(|n| n.name() == v.as_str())).cloned().collect();
    let majority = if voters.is_empty() { 0 } else { voters.len() / 2 + 1 };
    let can_lose = reporting.len().saturating_sub(majority);
    Quorum { voters, majority, reporting, unwatched, can_lose }
}

/// Up to so many nodes, each pair has its entry. Among more, only what a node says of a peer.
const MAX_PAIRED_NODES: usize = 16;

/// One entry for each ordered pair of nodes, in configured order.
fn links(nodes: &[NodeView]) -> Vec<Link> {
    if nodes.len() > MAX_PAIRED_NODES {
        return said_links(nodes);
    }
    let mut links = Vec::with_capacity(nodes.len() * nodes.len().saturating_sub(1));
    for from in nodes {
        for to in nodes.iter().filter(|to| to.address != from.address) {
            let peer = from.report.as_ref().and_then(|r| {
                let of_id = r.status.peers.iter().find(|p| p.node_id == to.name());
                of_id.or_else(|| {
                    r.status.peers.iter().find(|p| to.node_id.is_none() && p.address == to.address)
                })
            });
            links.push(Link {
                from: from.name().to_owned(),
                to: to.name().to_owned(),
                hearing: match peer {
                    Some(p) if p.reachable => Hearing::Hears,
                    Some(_) => Hearing::Silent,
                    None => Hearing::Unknown,
                },
                rtt_ms: peer.and_then(|p| p.rtt_ms),
                last_contact_ms: peer.and_then(|p| p.last_contact_ms),
                error: peer.and_then(|p| p.error.clone()),
            });
        }
    }
    links
}

/// What nodes say of their peers, as far as these are watched.
fn said_links(nodes: &[NodeView]) -> Vec<Link> {
    let watched: BTreeSet<&str> = nodes.iter().map(NodeView::name).collect();
    let mut links = Vec::new();
    for (from, report) in reporting(nodes) {
        for peer in report.status.peers.iter().filter(|p| watched.contains(p.node_id.as_str())) {
            links.push(Link {
                from: from.name().to_owned(),
                to: peer.node_id.clone(),
                hearing: if peer.reachable { Hearing::Hears } else { Hearing::Silent },
                rtt_ms: peer.rtt_ms,
                last_contact_ms: peer.last_contact_ms,
                error: peer.error.clone(),
            });
        }
    }
    links
}

#[cfg(test)]
mod tests;
