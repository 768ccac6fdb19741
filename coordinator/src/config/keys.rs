//! The keys: the guide's, with the guide's names and defaults, and a few of our own.

use super::declare::{Key, KeyType, Reload, config_keys, or, required, take};
use super::peer::{AuthUser, Peer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

config_keys! {
    "The node" {
        /// Unique identifier of the node: 1 to 128 characters, none of them a space, comma, slash or `=`.
        node_id: String = required(), Restart, recommended "`node-N`";
        /// Host name or address that peers and clients are told.
        host: String = required(), Restart, recommended "a name that every node resolves, or a static address";
        /// Port of the API; peers talk on it too.
        port: u16 = or(8080), Restart, recommended "8080 to 8089";
        /// Address to bind. Without it `host` is bound.
        listen: Option<String> = or(None), Restart;
        /// Where the node stands: a rack, a zone, a region. Shown in the report.
        zone: Option<String> = or(None), Live;
        /// Directory of the node's log, identity and snapshots. One node, one directory.
        data_dir: PathBuf = required(), Restart, recommended "a directory of its own on a local disk";
        /// The DuckDB file. Without it `{data_dir}/coordinator.duckdb`.
        db_path: Option<PathBuf> = or(None), Restart, recommended "the default";
    }
    "The cluster" {
        /// False runs a cluster of one node, which needs no peers.
        enable_redundancy: bool = or(true), Restart, recommended "true";
        /// The other nodes; the list may name the node itself. At the first start it founds the cluster, or joins the one that the others are in; later it only says where the members are reached. In the environment: `host:port,host:port` or `id=host:port,…`.
        peers: Vec<Peer> = or(Vec::new()), Live, recommended "all other nodes; 3, 5 or 7 nodes in all";
        /// Seconds after which the leader takes a silent member out of the cluster by itself; 0 never does. A quorum and one spare of sound voters always stay.
        dead_node_cleanup_seconds: u64 = or(0), Live, recommended "0, or 3600 and more in clusters of five and seven";
        /// Shortest election time-out, ms.
        election_timeout_min: u64 = or(150), Restart, recommended "150 to 300 in one place, 300 to 600 between places";
        /// Longest election time-out, ms.
        election_timeout_max: u64 = or(300), Restart, recommended "300 to 600 in one place, 600 to 1200 between places";
        /// Heartbeat interval of the leader, ms; rounded up to a multiple of 10.
        heartbeat_interval: u64 = or(50), Restart, recommended "50 in one place, 100 to 200 between places; a tenth to a third of `election_timeout_min`";
        /// Log entries after which a snapshot is wished for; taken when the log has outgrown a quarter of the state, at most every 10 s.
        snapshot_threshold: u64 = or(1000), Live, recommended "1000 to 10000";
        /// Log entries at which a snapshot is taken in any case.
        max_log_size: u64 = or(10_000), Live, recommended "10000 to 100000";
    }
    "Limits" {
        /// Commands packed into one log entry at most.
        max_batch_size: usize = or(1000), Live, recommended "100 to 10000";
        /// Memory the process may use, MiB; beyond it a leader refuses new tasks and workers, and from nine tenths on its health is degraded.
        max_memory_mb: u64 = or(1024), Live, recommended "512 or more";
        /// Used space on the data directory's file system at which the node turns read-only, percent; it counts where less than 16 times `disk_reserve_mb` is free.
        disk_floor_percent: u64 = or(95), Live, recommended "90 to 97";
        /// Free space at which the node turns read-only, MiB (a tenth of a small disk at most). A file of this size, the ballast, is kept for what has to be written even so.
        disk_reserve_mb: u64 = or(64), Live, recommended "64 or more";
        /// Open client connections at most; the others wait.
        max_concurrent_connections: usize = or(10_000), Live, recommended "100 or more";
        /// Seconds to wait for a peer's connection.
        connection_timeout: u64 = or(5), Restart, recommended "1 to 10";
        /// Attempts to connect that fail in a row before the log says that a peer can't be reached; it is tried on and on.
        connection_retry_limit: u32 = or(3), Restart, recommended "3";
    }
    "Database" {
        /// DuckDB's memory limit, MiB.
        db_memory_limit: u64 = or(512), Restart, recommended "at most half of `max_memory_mb`";
        /// Settings for DuckDB: `threads`, `temp_directory`, `max_temp_directory_size`, `checkpoint_threshold`, `wal_autocheckpoint`, `preserve_insertion_order`. The names `journal_mode`, `synchronous` and `cache_size` are SQLite's: taken with a warning, without effect.
        db_pragma: BTreeMap<String, Value> = or(BTreeMap::new()), Restart;
        /// Days that finished tasks stay in DuckDB.
        db_retention_days: u64 = or(30), Restart, recommended "30";
        /// Finished tasks that stay in DuckDB at most, the newest.
        db_retention_rows: u64 = or(50_000_000), Restart;
    }
    "Integrity" {
        /// Seconds in which log, machine and DuckDB are each checked once by the scrub. 0 turns it off.
        scrub_interval_seconds: u64 = or(3600), Restart, recommended "3600";
        /// The most that the scrub may take, percent of one core.
        scrub_cpu_percent: u64 = or(2), Restart, recommended "2";
    }
    "Logs and metrics" {
        /// ERROR, WARN, INFO, DEBUG or TRACE. DEBUG has a line for every step of every task.
        log_level: String = or("INFO".into()), Live, recommended "INFO; DEBUG to look for a fault";
        /// Log file, one JSON object a line. Without it the log goes to standard error, readable.
        log_file: Option<PathBuf> = or(None), Restart;
        /// Bytes at which the log file is rotated.
        log_max_size: u64 = or(10 * 1024 * 1024), Live, recommended "10485760";
        /// Rotated files that are kept.
        log_backup_count: u32 = or(10), Live, recommended "10";
        /// Log what Raft does in detail: votes, elections, snapshots, peers.
        log_raft_events: bool = or(false), Live;
        /// Serve `/metrics` for Prometheus on `prometheus_port`.
        enable_prometheus: bool = or(true), Restart, recommended "true";
        /// Port of `/metrics`.
        prometheus_port: u16 = or(9090), Restart;
    }
    "Export by OTLP" {
        /// Base address of an OpenTelemetry collector that takes OTLP over HTTP (protobuf), `http://host:4318`. Without it nothing is exported and no connection is made. Where neither file nor `OTLP_ENDPOINT` has it, the standard variable `OTEL_EXPORTER_OTLP_ENDPOINT` counts.
        otlp_endpoint: Option<String> = or(None), Restart, recommended "a collector on the same host or in the same network";
        /// What is exported: some of `traces`, `metrics`, `logs`, with commas between.
        otlp_signals: String = or("traces,metrics,logs".into()), Restart;
        /// File with headers for the collector, one `name: value` a line: a token, a tenant.
        otlp_headers_file: Option<PathBuf> = or(None), Restart;
        /// Certificate authority of a collector with `https://`, PEM. Without it the system's are trusted.
        otlp_ca_path: Option<PathBuf> = or(None), Restart;
        /// Seconds between two exports of metrics.
        otlp_metrics_interval_seconds: u64 = or(otlp::settings::METRICS_INTERVAL_SECONDS), Restart, recommended "10 to 60";
        /// Share of writes and worker calls that begin a trace, 0 to 1. A request that comes with a `traceparent` is traced where that says so, and else not, whatever this is.
        trace_sample_ratio: f64 = or(0.0), Restart, recommended "0 to 0.01; 1 to look for a fault";
    }
    "Access" {
        /// Ask for a login.
        enable_auth: bool = or(false), Restart;
        /// `jwt`, the one kind there is; any other is refused.
        auth_type: Option<String> = or(None), Restart;
        /// Secret that signs tokens.
        jwt_secret: Option<String> = or(None), Restart;
        /// File with that secret.
        jwt_secret_file: Option<PathBuf> = or(None), Restart;
        /// Users and their password hashes.
        auth_users: Vec<AuthUser> = or(Vec::new()), Restart;
        /// Serve TLS.
        enable_tls: bool = or(false), Restart;
        /// Certificate chain, PEM.
        cert_path: Option<PathBuf> = or(None), Restart;
        /// Private key, PEM.
        key_path: Option<PathBuf> = or(None), Restart;
        /// Certificate authority of clients and peers, PEM.
        ca_path: Option<PathBuf> = or(None), Restart;
        /// File with the secret that peers share.
        cluster_secret_file: Option<PathBuf> = or(None), Restart;
        /// Silences the warning about an open network.
        allow_insecure_network: bool = or(false), Live;
    }
}
