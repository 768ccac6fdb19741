//! Is the config sound? Faults keep the node from starting; warnings and notes don't.
//!
//! Every concern has its check, and all of them run, so that a config is mended in one go. The
//! recommended ranges are the guide's. A value outside one is a warning where it can cost
//! availability, a note where it is only unusual.

use super::{Config, Grade, Remark};
use crate::name;
use api::config::ConfigError;
use std::collections::BTreeSet;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What keeps the node from starting.
    pub faults: Vec<ConfigError>,
    /// What it should be told about.
    pub remarks: Vec<Remark>,
}

impl Findings {
    pub(crate) fn fault(&mut self, key: &str, why: impl Into<String>) {
        self.faults.push(ConfigError::invalid(key, why));
    }

    pub(crate) fn warn(&mut self, key: &'static str, text: impl Into<String>) {
        self.remarks.push(Remark { grade: Grade::Warning, key, text: text.into() });
    }

    pub(crate) fn note(&mut self, key: &'static str, text: impl Into<String>) {
        self.remarks.push(Remark { grade: Grade::Note, key, text: text.into() });
    }
}

/// Checks every value, also against the others.
pub fn check(config: &Config) -> Findings {
    let mut found = Findings::default();
    node(config, &mut found);
    peers(config, &mut found);
    timers(config, &mut found);
    limits(config, &mut found);
    logs(config, &mut found);
    access(config, &mut found);
    database(config, &mut found);
    network(config, &mut found);
    export(config, &mut found);
    found
}

fn node(config: &Config, found: &mut Findings) {
    let id = &config.node_id;
    if id.is_empty() || id.len() > 128 || id.contains(['/', ' ', '=', ',']) {
        found.fault("node_id", "must have 1 to 128 characters, none of them a space, comma, slash or =");
    } else if let Some(why) = name::fault(id, 128) {
        found.fault("node_id", why);
    } else if !id
        .rsplit_once('-')
        .is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    {
        found.note("node_id", format!("is {id}; a name and a number, as in node-1, are usual"));
    }
    if config.host.is_empty() {
        found.fault("host", "must not be empty");
    }
    if config.enable_redundancy && ["0.0.0.0", "::", "[::]"].contains(&config.host.as_str()) {
        found.fault(
            "host",
            format!(
                "is {}: peers are told this address and can't reach it; give the node's name, and bind with `listen`",
                config.host
            ),
        );
    }
    if config.port == 0 {
        found.fault("port", "must not be 0: peers are told this port");
    } else if !(8080..=8089).contains(&config.port) {
        found.note("port", format!("is {}; 8080 to 8089 are usual", config.port));
    }
    if config.enable_prometheus && config.prometheus_port == config.port {
        found.fault("prometheus_port", format!("is {} as `port` is; give it another", config.port));
    }
    if config.data_dir.as_os_str().is_empty() {
        found.fault("data_dir", "must not be empty");
    } else if config.data_dir.is_relative() {
        found.note("data_dir", "is relative: it depends on the directory in which the node is started");
    }
}

fn export(config: &Config, found: &mut Findings) {
    if !(0.0..=1.0).contains(&config.trace_sample_ratio) {
        found.fault("trace_sample_ratio", format!("is {}; must be 0 to 1", config.trace_sample_ratio));
    }
    if config.otlp_metrics_interval_seconds == 0 {
        found.fault("otlp_metrics_interval_seconds", "must be at least 1 s");
    }
    if let Err(error) = otlp::Signals::parse(&config.otlp_signals) {
        found.fault("otlp_signals", error.to_string());
    }
    let Some(endpoint) = &config.otlp_endpoint else {
        if config.trace_sample_ratio > 0.0 {
            found.note("trace_sample_ratio", "counts only with `otlp_endpoint`: nothing is exported");
        }
        return;
    };
    if let Err(error) = otlp::settings::check_endpoint(endpoint) {
        found.fault("otlp_endpoint", error.to_string());
    }
    if let Some(Err(error)) = config.otlp_headers_file.as_deref().map(otlp::settings::read_headers) {
        found.fault("otlp_headers_file", error.to_string());
    }
}

fn peers(config: &Config, found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for peer in &config.peers {
        if peer.host.is_empty() || peer.port == 0 {
            found.fault("peers", format!("`{}` is no address that can be reached", peer.address()));
        }
        if !seen.insert(peer.address()) {
            found.fault("peers", format!("{} is named twice", peer.address()));
        }
    }
    let ids: Vec<_> = config.peers.iter().filter_map(|p| p.id.as_ref()).collect();
    for (i, id) in ids.iter().enumerate() {
        if ids[..i].contains(id) {
            found.fault("peers", format!("node id `{id}` is named twice"));
        }
    }
    if !config.enable_redundancy {
        if !config.peers.is_empty() {
            found.warn(
                "peers",
                "are not used: `enable_redundancy` is false, this node is a cluster of its own",
            );
        }
        return;
    }
    if config.peers.is_empty() {
        found.fault("peers", "is required with `enable_redundancy`: name the other nodes, or set enable_redundancy to false for a cluster of one");
        return;
    }
    let own = config.address();
    // An entry without an id that has another address may still be this node; it is asked later.
    let others = config.peers.iter().filter(|p| match &p.id {
        Some(id) => *id != config.node_id,
        None => p.address() != own,
    });
    let (mut remote, mut count) = (false, 1);
    for peer in others {
        count += 1;
        remote |= !is_loopback(&peer.host);
    }
    let known = config.peers.iter().all(|p| p.id.is_some() || p.address() == own);
    if known && count % 2 == 0 {
        found.note(
            "peers",
            format!("make a cluster of {count}, which survives no more failures than one of {}", count - 1),
        );
    }
    if remote && is_loopback(&config.host) {
        found.warn(
            "host",
            format!("is {}, but peers are on other machines: they are told this address and would reach themselves", config.host),
        );
    }
}

fn timers(config: &Config, found: &mut Findings) {
    let (least, most, beat) =
        (config.election_timeout_min, config.election_timeout_max, config.heartbeat_interval);
    if beat == 0 {
        found.fault("heartbeat_interval", "must be at least 1 ms");
        return;
    }
    if least < 2 * beat {
        found.fault(
            "election_timeout_min",
            format!("is {least} ms; must be at least twice `heartbeat_interval` ({beat} ms), or every late heartbeat starts an election"),
        );
    } else if least < 3 * beat {
        found.warn(
            "heartbeat_interval",
            format!("is {beat} ms, more than a third of `election_timeout_min` ({least} ms): two late heartbeats start an election"),
        );
    } else if least > 10 * beat {
        found.warn(
            "heartbeat_interval",
            format!("is {beat} ms, less than a tenth of `election_timeout_min` ({least} ms): more traffic than failover needs"),
        );
    }
    if most <= least {
        found.fault(
            "election_timeout_max",
            format!("is {most} ms; must be above `election_timeout_min` ({least} ms)"),
        );
    } else if most < least + least / 2 {
        found.warn(
            "election_timeout_max",
            format!("is {most} ms, close to `election_timeout_min` ({least} ms): nodes campaign at the same time and split their votes; twice as long is usual"),
        );
    }
    range(
        found,
        "election_timeout_min",
        least,
        150,
        600,
        "ms",
        "a slow disk or a busy machine looks like a dead leader",
        "a dead leader is noticed late",
    );
    range(
        found,
        "election_timeout_max",
        most,
        300,
        1200,
        "ms",
        "a slow disk or a busy machine looks like a dead leader",
        "a dead leader is noticed late",
    );
    range(
        found,
        "heartbeat_interval",
        beat,
        30,
        200,
        "ms",
        "more traffic than failover needs",
        "a dead leader is noticed late",
    );
    if beat % 10 != 0 {
        found.note(
            "heartbeat_interval",
            format!("is {beat} ms; the clock ticks every 10 ms, so it is rounded up"),
        );
    }
}

/// A warning for a timer outside what is recommended anywhere, for one place or several.
#[allow(clippy::too_many_arguments)]
fn range(
    found: &mut Findings,
    key: &'static str,
    value: u64,
    least: u64,
    most: u64,
    unit: &str,
    below: &str,
    above: &str,
) {
    let why = match value {
        v if v < least => below,
        v if v > most => above,
        _ => return,
    };
    found.warn(key, format!("is {value} {unit}; {least} to {most} {unit} are recommended: {why}"));
}

fn limits(config: &Config, found: &mut Findings) {
    for (key, value, least) in [
        ("max_batch_size", config.max_batch_size as u64, 1),
        ("max_memory_mb", config.max_memory_mb, 64),
        ("max_concurrent_connections", config.max_concurrent_connections as u64, 8),
        ("db_memory_limit", config.db_memory_limit, 16),
        ("snapshot_threshold", config.snapshot_threshold, 1),
        ("connection_timeout", config.connection_timeout, 1),
        ("log_max_size", config.log_max_size, 4096),
        ("db_retention_days", config.db_retention_days, 1),
        ("db_retention_rows", config.db_retention_rows, 1),
        ("scrub_cpu_percent", config.scrub_cpu_percent, 1),
        ("disk_floor_percent", config.disk_floor_percent, 1),
    ] {
        if value < least {
            found.fault(key, format!("is {value}; must be at least {least}"));
        }
    }
    for (key, value) in
        [("scrub_cpu_percent", config.scrub_cpu_percent), ("disk_floor_percent", config.disk_floor_percent)]
    {
        if value > 100 {
            found.fault(key, format!("is {value}; must be at most 100"));
        }
    }
    if config.max_log_size < config.snapshot_threshold {
        found.fault(
            "max_log_size",
            format!(
                "is {}; must not be below `snapshot_threshold` ({})",
                config.max_log_size, config.snapshot_threshold
            ),
        );
    }
    if !(1000..=10_000).contains(&config.snapshot_threshold) {
        found.note(
            "snapshot_threshold",
            format!("is {}; 1000 to 10000 are recommended", config.snapshot_threshold),
        );
    }
    if !(10_000..=100_000).contains(&config.max_log_size) {
        found.note("max_log_size", format!("is {}; 10000 to 100000 are recommended", config.max_log_size));
    }
    if config.db_memory_limit >= config.max_memory_mb {
        found.warn(
            "db_memory_limit",
            format!(
                "is {} MiB, as much as the whole node may use (`max_memory_mb` {}): at most half is recommended",
                config.db_memory_limit, config.max_memory_mb
            ),
        );
    }
    if (1..60).contains(&config.dead_node_cleanup_seconds) {
        found.fault(
            "dead_node_cleanup_seconds",
            format!(
                "is {}; must be 0 (never) or at least 60: a restart must not cost a member",
                config.dead_node_cleanup_seconds
            ),
        );
    }
    if config.connection_timeout > 60 {
        found.warn(
            "connection_timeout",
            format!("is {} s: it is in seconds; 1 to 10 are usual", config.connection_timeout),
        );
    }
}

fn logs(config: &Config, found: &mut Findings) {
    let level = config.log_level.to_uppercase();
    if !["ERROR", "WARN", "WARNING", "INFO", "DEBUG", "TRACE"].contains(&level.as_str()) {
        found
            .fault("log_level", format!("`{}` is none of ERROR, WARN, INFO, DEBUG, TRACE", config.log_level));
    }
    if ["DEBUG", "TRACE"].contains(&level.as_str()) {
        found.note(
            "log_level",
            format!("is {level}: every step of every task makes a line; INFO is for production"),
        );
    }
}

fn access(config: &Config, found: &mut Findings) {
    crate::access::settings::check(config, found);
}

fn database(config: &Config, found: &mut Findings) {
    for (key, value) in &config.db_pragma {
        match key.as_str() {
            "journal_mode" | "synchronous" => found.warn("db_pragma", format!("`{key}` is a setting of SQLite, ignored: DuckDB always writes ahead and syncs")),
            "cache_size" => found.warn("db_pragma", "`cache_size` is a setting of SQLite, ignored: DuckDB's memory is `db_memory_limit`"),
            "threads" | "temp_directory" | "max_temp_directory_size" | "checkpoint_threshold" | "wal_autocheckpoint" | "preserve_insertion_order" => {
                if !(value.is_string() || value.is_number() || value.is_boolean()) {
                    found.fault("db_pragma", format!("`{key}` is {value}; must be text, a number, true or false"));
                }
            }
            other => found.fault("db_pragma", format!("`{other}` is no setting that can be passed to DuckDB here; known are threads, temp_directory, max_temp_directory_size, checkpoint_threshold, wal_autocheckpoint, preserve_insertion_order")),
        }
    }
}

fn network(config: &Config, found: &mut Findings) {
    if !config.allow_insecure_network && !config.enable_auth && !is_loopback(config.bind_host()) {
        found.warn(
            "allow_insecure_network",
            format!(
                "is false, and the node listens on {} without authentication: anyone who reaches port {} can run commands on every worker; true silences this",
                config.bind_host(),
                config.port
            ),
        );
    }
}

fn is_loopback(host: &str) -> bool {
    host.starts_with("127.") || host == "localhost" || host == "::1"
}
