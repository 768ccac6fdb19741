//! PURE. What is remembered: every series' name, unit, meaning, and where a Prometheus has it.
//!
//! A metric is declared once, here. [`super::sample`] takes its value from a round; the query of a
//! Prometheus-compatible server stands beside it, so that both sources answer alike. Counters are
//! kept as rates: a total says nothing to a person, and it begins anew with every process.

use serde::{Serialize, Serializer};

/// What a metric is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The cluster: one series.
    Cluster,
    /// A node: one series each.
    Node,
    /// What a node says of a peer: one series for each ordered pair.
    Peer,
    /// The monitor itself: one series.
    Monitor,
}

/// How values of one metric are joined over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A figure; its mean, least and greatest mean something.
    Gauge,
    /// So much a second.
    Rate,
    /// One of several things; only the last of them means something.
    State,
}

/// A metric's declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Its name in `?metric=`.
    pub name: &'static str,
    /// Its unit, as it stands behind a figure; empty for a bare number.
    pub unit: &'static str,
    /// What it is of.
    pub scope: Scope,
    /// How it is joined over time.
    pub kind: Kind,
    /// One sentence for people.
    pub help: &'static str,
    /// For a state: the name of each value, from 0. Empty where the answer names them.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub states: &'static [&'static str],
    /// Its query on a Prometheus-compatible server.
    #[serde(rename = "prometheus", serialize_with = "is_there")]
    pub promql: Option<&'static str>,
}

/// Only whether the other source has it: the query is our own affair.
fn is_there<S: Serializer>(promql: &Option<&'static str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(promql.is_some())
}

const ROLES: &[&str] = &[
    "leader",
    "follower",
    "candidate",
    "learner",
    "uninitialised",
    "joining",
    "suspect",
    "failed",
    "removed",
];

macro_rules! metrics {
    ($( $id:ident = $name:literal $unit:literal $scope:ident $kind:ident [$states:expr] $promql:expr, $help:literal ; )*) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                unit: $unit,
                scope: Scope::$scope,
                kind: Kind::$kind,
                help: $help,
                states: $states,
                promql: $promql,
            };
        )*
        /// Every metric.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

// In a query `$w` stands for the width of a rate's window. Every vector keeps `instance`; the
// reader turns it into a node's id. `{$j}` stands for the labels that choose the coordinators.
metrics! {
    WRITES = "writes" "writes/s" Node Rate [&[]] Some("sum by (instance) (rate(holdfast_raft_proposals_total{outcome=\"applied\",$j}[$w]))"), "Writes that this node saw through, a second.";
    WRITES_FAILED = "writes_failed" "writes/s" Node Rate [&[]] Some("sum by (instance) (rate(holdfast_raft_proposals_total{outcome!=\"applied\",$j}[$w]))"), "Writes that this node could not see through, a second.";
    READS = "reads" "reads/s" Node Rate [&[]] Some("sum by (instance) (rate(holdfast_raft_reads_total{outcome=\"served\",$j}[$w]))"), "Linearizable reads served, a second.";
    REQUESTS = "requests" "requests/s" Node Rate [&[]] Some("sum by (instance) (rate(http_server_request_duration_seconds_count{$j}[$w]))"), "HTTP requests answered, a second, those of peers and of the monitor included.";
    REQUESTS_FAILED = "requests_failed" "requests/s" Node Rate [&[]] Some("sum by (instance) (rate(http_server_request_duration_seconds_count{http_response_status_code=~\"5..\",$j}[$w]))"), "HTTP requests answered with a status of 500 or more, a second.";
    COMMIT_P50 = "commit_p50" "ms" Node Gauge [&[]] Some("1000 * histogram_quantile(0.5, sum by (instance, le) (rate(holdfast_raft_proposal_duration_seconds_bucket{$j}[$w])))"), "Half of the writes were answered within this time of their proposal.";
    COMMIT_P99 = "commit_p99" "ms" Node Gauge [&[]] Some("1000 * histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_raft_proposal_duration_seconds_bucket{$j}[$w])))"), "99 of 100 writes were answered within this time of their proposal.";
    LOG_SYNC_P99 = "log_sync_p99" "ms" Node Gauge [&[]] Some("1000 * histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_log_sync_duration_seconds_bucket{$j}[$w])))"), "99 of 100 synced writes of the log took at most this time.";
    LOG_SYNCS = "log_syncs" "syncs/s" Node Rate [&[]] Some("sum by (instance) (rate(holdfast_log_sync_duration_seconds_count{$j}[$w]))"), "Synced writes of the log, a second.";
    APPLIED = "applied" "entries/s" Node Rate [&[]] Some("rate(holdfast_raft_applied_index{$j}[$w])"), "Log entries applied, a second.";
    LAG = "lag" "entries" Node Gauge [&[]] Some("clamp_min(scalar(max(holdfast_raft_commit_index{$j})) - holdfast_raft_applied_index{$j}, 0)"), "Entries by which the node's machine is behind the highest commit that any node reported.";
    DB_LAG = "db_lag" "entries" Node Gauge [&[]] Some("holdfast_store_lag{$j}"), "Entries by which the node's database is behind its machine.";
    TERM = "term" "" Node Gauge [&[]] Some("holdfast_raft_term{$j}"), "Raft term.";
    ROLE = "role" "" Node State [ROLES] None, "The node's role.";
    STANDING = "standing" "" Node State [&["down", "unknown", "reporting"]] None, "What the monitor knew of the node.";
    APPLIED_INDEX = "applied_index" "" Node Gauge [&[]] Some("holdfast_raft_applied_index{$j}"), "Highest log index applied to the machine.";
    COMMIT_INDEX = "commit_index" "" Node Gauge [&[]] Some("holdfast_raft_commit_index{$j}"), "Highest log index known to be committed.";
    DISK = "disk" "%" Node Gauge [&[]] None, "Use of the data directory's file system.";
    DISK_FREE = "disk_free" "bytes" Node Gauge [&[]] Some("holdfast_disk_free_bytes{$j}"), "Free bytes on the data directory's file system.";
    MEMORY = "memory" "bytes" Node Gauge [&[]] Some("holdfast_process_memory_bytes{$j}"), "Resident memory of the node's process.";
    CPU = "cpu" "%" Node Gauge [&[]] Some("100 * rate(holdfast_process_cpu_time_seconds_total{$j}[$w])"), "Processor time of the node's process, percent of one core.";
    OPEN_FDS = "open_fds" "" Node Gauge [&[]] Some("holdfast_process_open_fds{$j}"), "Open file descriptors of the node's process.";
    SCRAPE = "scrape" "ms" Node Gauge [&[]] None, "Time the node's answer to the monitor took.";
    RTT = "rtt" "ms" Peer Gauge [&[]] Some("1000 * holdfast_peer_rtt_seconds{$j}"), "Smoothed round trip from a node to a peer.";
    CLOCK_OFFSET = "clock_offset" "ms" Peer Gauge [&[]] Some("1000 * holdfast_peer_clock_offset_seconds{$j}"), "A peer's clock minus the node's.";
    LEADER = "leader" "" Cluster State [&[]] None, "Who leads; a gap while nobody certainly does.";
    REPORTING = "reporting" "nodes" Cluster Gauge [&[]] Some("sum(up{$j})"), "Nodes that gave their report.";
    PENDING = "pending" "tasks" Cluster Gauge [&[]] Some("max(holdfast_tasks{state=\"pending\",$j})"), "Tasks that wait for a worker.";
    RUNNING = "running" "tasks" Cluster Gauge [&[]] Some("max(holdfast_tasks{state=\"running\",$j})"), "Tasks that run.";
    SUBMITTED = "submitted" "tasks/s" Cluster Rate [&[]] Some("max(rate(holdfast_tasks_submitted_total{$j}[$w]))"), "Tasks accepted, a second.";
    COMPLETED = "completed" "tasks/s" Cluster Rate [&[]] Some("max(rate(holdfast_tasks_completed_total{$j}[$w]))"), "Tasks completed, a second.";
    FAILED = "failed" "tasks/s" Cluster Rate [&[]] Some("max(rate(holdfast_tasks_failed_total{$j}[$w]))"), "Tasks failed for good, a second.";
    WORKERS = "workers" "workers" Cluster Gauge [&[]] Some("max(sum by (instance) (holdfast_workers{state=~\"active|busy\",$j}))"), "Workers that are active or busy.";
    FINDINGS = "findings" "findings" Cluster Gauge [&[]] None, "Findings above info that were active.";
    ROUND = "monitor_round" "ms" Monitor Gauge [&[]] None, "Time that one round of the monitor took.";
    LATE = "monitor_late" "ms" Monitor Gauge [&[]] None, "How much later than planned a round of the monitor began.";
}

/// The metric of that name.
pub fn named(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_every_help_is_a_sentence() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            assert_eq!(named(metric.name), Some(metric));
        }
        assert_eq!(ROLES, api::cluster::Role::ALL.map(api::cluster::Role::as_str));
    }

    #[test]
    fn every_query_names_metrics_that_are_declared() {
        let declared: Vec<String> = api::metrics::ALL.iter().map(|m| m.prometheus_name()).collect();
        for metric in ALL {
            let Some(promql) = metric.promql else { continue };
            assert!(promql.contains("$j"), "{}: chooses no coordinators", metric.name);
            let words = promql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for word in words.filter(|w| w.starts_with("holdfast_") || w.starts_with("http_server_")) {
                let bare = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
                let known = |name: &str| declared.iter().any(|d| d == name);
                assert!(known(word) || bare.is_some_and(known), "{}: no metric {word}", metric.name);
            }
        }
    }
}
