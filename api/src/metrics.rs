//! Every metric, declared once: name, unit, help, labels, boundaries.
//!
//! Names are given as OpenTelemetry takes them; [`Metric::prometheus_name`] says what becomes of
//! them in the Prometheus text. Labels are bounded: never a task id, never an address.

/// What kind of instrument a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A metric's declaration.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The instrument's name, dotted.
    pub name: &'static str,
    /// `s`, `By`, or a `{thing}` that leaves no suffix.
    pub unit: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// One sentence for people.
    pub help: &'static str,
    /// The labels it carries.
    pub labels: &'static [&'static str],
    /// Boundaries of a histogram.
    pub boundaries: &'static [f64],
}

impl Metric {
    /// The name in Prometheus text (a histogram's without `_bucket`, `_sum`, `_count`).
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        match self.unit {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            _ => {}
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

/// Boundaries for latencies from 50 us to 10 s, in seconds.
pub const LATENCY: &[f64] = &[
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// Boundaries for waits and run times from 5 ms to an hour, in seconds.
pub const DURATION: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0,
];
/// Boundaries for counts in a batch.
pub const COUNT: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0];

macro_rules! metrics {
    ($( $id:ident = $kind:ident $name:literal $unit:literal [$($label:literal),*] $help:literal $( , $bounds:expr )? ; )*) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                unit: $unit,
                kind: Kind::$kind,
                help: $help,
                labels: &[$($label),*],
                boundaries: { #[allow(unused_mut, unused_assignments)] let mut b: &'static [f64] = &[]; $( b = $bounds; )? b },
            };
        )*
        /// Every declared metric.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "holdfast.build.info" "{info}" ["version"] "Always 1; the labels name the build.";
    NODE_UPTIME = Gauge "holdfast.uptime" "s" [] "Seconds since the process started.";
    LOG_LINES_LOST = Counter "holdfast.log.lines.lost" "{line}" [] "Log lines that did not reach the log file: it could not be written, or not fast enough.";
    OTLP_ITEMS = Counter "holdfast.otlp.items" "{item}" ["signal", "outcome"] "Spans (traces), log records (logs) and collections of metrics (metrics) for the collector, by outcome: sent, failed (it did not take them), dropped (too many waited). All 0 where nothing is exported.";
    RAFT_TERM = Gauge "holdfast.raft.term" "{term}" [] "Raft term of this node.";
    RAFT_ROLE = Gauge "holdfast.raft.role" "{role}" ["state"] "1 for the node's present role, 0 for each other.";
    RAFT_HAS_LEADER = Gauge "holdfast.raft.has.leader" "{leader}" [] "1 while this node knows a leader.";
    RAFT_LEADER_CHANGES = Counter "holdfast.raft.leader.changes" "{change}" [] "Leader changes this node has seen.";
    RAFT_COMMIT_INDEX = Gauge "holdfast.raft.commit.index" "{entry}" [] "Highest index known to be committed.";
    RAFT_APPLIED_INDEX = Gauge "holdfast.raft.applied.index" "{entry}" [] "Highest index applied to the machine.";
    RAFT_LAST_INDEX = Gauge "holdfast.raft.last.index" "{entry}" [] "Last index of the log.";
    RAFT_SNAPSHOT_INDEX = Gauge "holdfast.raft.snapshot.index" "{entry}" [] "Index of the newest snapshot.";
    RAFT_PROPOSALS = Counter "holdfast.raft.proposals" "{command}" ["outcome"] "Proposed commands by outcome: applied, dropped (nothing was done), unknown (leadership or time ran out in flight).";
    RAFT_PROPOSAL_DURATION = Histogram "holdfast.raft.proposal.duration" "s" [] "From the first proposal in a log entry to the replies of all its commands, on the node that proposed it.", LATENCY;
    RAFT_COMMIT_DURATION = Histogram "holdfast.raft.commit.duration" "s" [] "From the first proposal in a log entry to its commit, on the node that proposed it.", LATENCY;
    RAFT_ENTRY_COMMANDS = Histogram "holdfast.raft.entry.commands" "{command}" [] "Commands packed into one log entry.", COUNT;
    RAFT_ELECTIONS = Counter "holdfast.raft.elections" "{election}" [] "Elections this node started because it heard no leader; leadership that is handed over needs none.";
    RAFT_READS = Counter "holdfast.raft.reads" "{read}" ["outcome"] "Linearizable reads by outcome: served, expired.";
    APPLY_DURATION = Histogram "holdfast.raft.apply.duration" "s" [] "Time to apply one batch of entries.", LATENCY;
    HEALTH_CHECK = Gauge "holdfast.health.check" "{check}" ["check", "state"] "1 for the present state of each check of `GET /api/health` (ok, degraded, failing), 0 for each other.";
    MAINTENANCE = Gauge "holdfast.maintenance" "{cluster}" [] "1 while the cluster is in maintenance: no task is accepted or assigned.";
    LOG_SYNC_DURATION = Histogram "holdfast.log.sync.duration" "s" [] "Time of one synced log write.", LATENCY;
    LOG_SYNC_ENTRIES = Histogram "holdfast.log.sync.entries" "{entry}" [] "Log entries made durable by one sync.", COUNT;
    PEER_RTT = Gauge "holdfast.peer.rtt" "s" ["peer"] "Smoothed round trip to a peer.";
    PEER_CLOCK_OFFSET = Gauge "holdfast.peer.clock.offset" "s" ["peer"] "A peer's wall clock minus ours.";
    PEER_LAST_CONTACT = Gauge "holdfast.peer.last.contact" "s" ["peer"] "Seconds since anything was heard of a peer.";
    PEER_LAG = Gauge "holdfast.peer.lag" "{entry}" ["peer"] "Entries a peer's log is behind, on the leader.";
    PEER_REACHABLE = Gauge "holdfast.peer.reachable" "{peer}" ["peer"] "1 while the connection to a peer is up.";
    MEMBERS = Gauge "holdfast.members" "{member}" ["state"] "Members of the cluster by what they are: voter, learner, forgotten (a voter that neither answers nor stands in this node's config).";
    PEER_MESSAGES = Counter "holdfast.peer.messages" "{message}" ["peer", "direction"] "Raft messages to and from a peer.";
    PEER_BYTES = Counter "holdfast.peer.transferred" "By" ["peer", "direction"] "Bytes of Raft messages to and from a peer.";
    TASKS = Gauge "holdfast.tasks" "{task}" ["state"] "Tasks in memory by state.";
    TASKS_SUBMITTED = Counter "holdfast.tasks.submitted" "{task}" [] "Tasks accepted.";
    TASKS_COMPLETED = Counter "holdfast.tasks.completed" "{task}" [] "Tasks completed.";
    TASKS_FAILED = Counter "holdfast.tasks.failed" "{task}" [] "Tasks failed for good.";
    TASKS_CANCELLED = Counter "holdfast.tasks.cancelled" "{task}" [] "Tasks cancelled.";
    TASKS_RETRIED = Counter "holdfast.tasks.retried" "{task}" [] "Attempts that will be followed by another.";
    TASKS_EXPIRED = Counter "holdfast.tasks.expired" "{lease}" [] "Leases ended because their worker fell silent or the time limit passed.";
    TASK_QUEUE_WAIT = Histogram "holdfast.task.queue.wait" "s" [] "From submission or retry time to assignment.", DURATION;
    TASK_RUN_TIME = Histogram "holdfast.task.run.time" "s" [] "From assignment to the accepted result.", DURATION;
    WORKERS = Gauge "holdfast.workers" "{worker}" ["state"] "Workers by state.";
    STATE_CHECKPOINT_INDEX = Gauge "holdfast.state.checkpoint.index" "{entry}" [] "Index of the newest checkpoint of the checksum.";
    SNAPSHOT_DURATION = Histogram "holdfast.snapshot.duration" "s" [] "Time to write one snapshot of the machine, beside its work.", DURATION;
    SNAPSHOT_SIZE = Gauge "holdfast.snapshot.size" "By" [] "Size of the newest snapshot.";
    SNAPSHOT_FAILURES = Counter "holdfast.snapshot.failures" "{snapshot}" [] "Snapshots that could not be written.";
    SNAPSHOT_FETCHES = Counter "holdfast.snapshot.fetches" "{snapshot}" ["outcome"] "Snapshots fetched from a peer by outcome: fetched, failed.";
    INTEGRITY_CHECKS = Counter "holdfast.integrity.checks" "{check}" ["part", "outcome"] "Whole checks of the log, the machine and the database, by outcome: sound, damaged.";
    INTEGRITY_DAMAGED = Gauge "holdfast.integrity.damaged" "{part}" ["part"] "1 while the last check of this part found damage.";
    INTEGRITY_LAST_CHECK = Gauge "holdfast.integrity.last.check.timestamp" "s" ["part"] "Unix time of the last whole check of this part, 0 before any.";
    MENDS = Counter "holdfast.mends" "{repair}" ["part", "outcome"] "What the node repaired of itself, unasked: its database (db) or its newest snapshot file (snapshot), by outcome: mended, failed.";
    BACKUPS = Counter "holdfast.backups" "{backup}" ["outcome"] "Backups asked of this node by outcome: sent (the archive went out whole), failed.";
    BACKUP_LAST = Gauge "holdfast.backup.last.timestamp" "s" [] "Unix time of the state in the last backup that this node sent whole; 0 before any. It outlives restarts.";
    STORE_APPLIED_INDEX = Gauge "holdfast.store.applied.index" "{entry}" [] "Highest log index whose effects DuckDB holds.";
    STORE_LAG = Gauge "holdfast.store.lag" "{entry}" [] "Entries DuckDB is behind the machine.";
    STORE_BATCH = Histogram "holdfast.store.batch" "{effect}" [] "Effects written to DuckDB in one transaction.", COUNT;
    STORE_DURATION = Histogram "holdfast.store.write.duration" "s" [] "Time of one DuckDB transaction.", LATENCY;
    STORE_BYTES = Gauge "holdfast.store.size" "By" [] "Size of the DuckDB file.";
    STORE_HEALTHY = Gauge "holdfast.store.healthy" "{store}" [] "1 while DuckDB takes writes.";
    HTTP_REQUEST_DURATION = Histogram "http.server.request.duration" "s" ["http_route", "http_request_method", "http_response_status_code"] "Time to answer an HTTP request.", LATENCY;
    HTTP_CONNECTIONS = Gauge "holdfast.http.connections" "{connection}" [] "Connections to the API port that are open, peers included.";
    HTTP_CONNECTIONS_REFUSED = Counter "holdfast.http.connections.refused" "{connection}" [] "Connections beyond max_concurrent_connections, told to come again or closed.";
    TLS_CERTIFICATE_END = Gauge "holdfast.tls.certificate.end.timestamp" "s" [] "Unix time at which the certificate of this node or monitor ends; missing without TLS.";
    PROCESS_CPU = Counter "holdfast.process.cpu.time" "s" [] "CPU time this process has used.";
    PROCESS_MEMORY = Gauge "holdfast.process.memory" "By" [] "Resident memory of this process.";
    PROCESS_FDS = Gauge "holdfast.process.open.fds" "{fd}" [] "Open file descriptors.";
    PROCESS_FDS_LIMIT = Gauge "holdfast.process.max.fds" "{fd}" [] "The limit on open file descriptors.";
    PROCESS_MEMORY_LIMIT = Gauge "holdfast.process.memory.limit" "By" [] "Resident memory at which this node refuses new tasks (max_memory_mb).";
    PROCESS_THREADS = Gauge "holdfast.process.threads" "{thread}" [] "Threads of this process.";
    DISK_FREE = Gauge "holdfast.disk.free" "By" [] "Free bytes on the data directory's file system.";
    DISK_SIZE = Gauge "holdfast.disk.size" "By" [] "Size of the data directory's file system, without what is reserved for the superuser.";
    DATA_SIZE = Gauge "holdfast.data.size" "By" [] "Bytes in the data directory.";
    MONITOR_SCRAPE_DURATION = Histogram "holdfast.monitor.scrape.duration" "s" ["node"] "Time to scrape one node.", LATENCY;
    MONITOR_SCRAPE_FAILURES = Counter "holdfast.monitor.scrape.failures" "{scrape}" ["node", "kind"] "Failed scrapes by node and kind of failure.";
    MONITOR_ANOMALIES = Gauge "holdfast.monitor.anomalies" "{anomaly}" ["kind", "node", "severity"] "Findings active now; a finding that ended leaves no series behind.";
    MONITOR_ROUND_DURATION = Histogram "holdfast.monitor.round.duration" "s" [] "Time of one round over all nodes.", LATENCY;
    MONITOR_NODES = Gauge "holdfast.monitor.nodes" "{node}" ["state"] "Nodes by what the monitor knows of them: reporting, unknown, down.";
    MONITOR_DETECTION_DELAY = Histogram "holdfast.monitor.detection.delay" "s" ["kind"] "From the first round that showed a fault to its finding.", DURATION;
    MONITOR_ROUND_LATE = Gauge "holdfast.monitor.round.late" "s" [] "How much later than planned the monitor's last round began.";
    MONITOR_ROUNDS_DROPPED = Counter "holdfast.monitor.rounds.dropped" "{round}" [] "Rounds of the monitor that were not held because one before them took too long.";
    MONITOR_HISTORY_SIZE = Gauge "holdfast.monitor.history.size" "By" [] "Size of the monitor's history file, 0 where history lies in memory.";
    MONITOR_HISTORY_LOST = Counter "holdfast.monitor.history.rounds.lost" "{round}" [] "Rounds that were not written to history: it was too slow or failed.";
    MONITOR_SOURCES_FAILING = Gauge "holdfast.monitor.discovery.failing" "{source}" [] "Sources of node addresses that could not be read last.";
    RECOVERY_ATTEMPTS = Counter "holdfast.recovery.attempts" "{repair}" ["kind"] "Repairs begun, by kind of fault.";
    RECOVERY_OUTCOMES = Counter "holdfast.recovery.outcomes" "{repair}" ["kind", "outcome"] "Repairs ended, by outcome: repaired, failed, gone, dry_run.";
    RECOVERY_DURATION = Histogram "holdfast.recovery.duration" "s" ["kind"] "From the first sight of a fault to its verified repair.", DURATION;
    RECOVERY_DENIALS = Counter "holdfast.recovery.gate.denials" "{denial}" ["gate"] "Plans that a gate of the policy denied.";
    RECOVERY_BRAKE = Gauge "holdfast.recovery.brake" "{brake}" [] "1 while the brake is on.";
    RECOVERY_HALTED = Gauge "holdfast.recovery.halted" "{daemon}" [] "1 while the audit can't be written, and therefore nothing is repaired.";
    RECOVERY_FAULTS = Gauge "holdfast.recovery.faults" "{fault}" ["kind"] "Faults that the last round left open.";
    RECOVERY_ROUND_DURATION = Histogram "holdfast.recovery.round.duration" "s" [] "Time of one round: look, decide, write down, act.", DURATION;
    RECOVERY_LAST_ACTION = Gauge "holdfast.recovery.last.action.timestamp" "s" [] "Unix time of the last step taken, 0 before any.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let names: BTreeSet<_> = ALL.iter().map(|m| m.prometheus_name()).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(
                metric.name.starts_with("holdfast.") || metric.name.starts_with("http."),
                "{}",
                metric.name
            );
            assert_eq!(metric.kind == Kind::Histogram, !metric.boundaries.is_empty(), "{}", metric.name);
            assert!(metric.boundaries.windows(2).all(|w| w[0] < w[1]), "{}", metric.name);
            assert!(
                metric.unit == "s" || metric.unit == "By" || metric.unit.starts_with('{'),
                "{}",
                metric.unit
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
