//! A node's config: the guide's keys with the guide's names and defaults.
//!
//! Every key may also come from the environment in upper case. [`Config::validate`] reports every
//! fault at once, so that a config is mended in one go.

use api::config::{ConfigError, from_object, overlay_env, read_object};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every key, as file and environment (in upper case) name it.
pub const KEYS: &[&str] = &[
    "node_id",
    "host",
    "port",
    "listen",
    "data_dir",
    "db_path",
    "log_level",
    "enable_redundancy",
    "peers",
    "election_timeout_min",
    "election_timeout_max",
    "heartbeat_interval",
    "snapshot_threshold",
    "max_log_size",
    "enable_prometheus",
    "prometheus_port",
    "enable_auth",
    "auth_type",
    "jwt_secret",
    "jwt_secret_file",
    "auth_users",
    "enable_tls",
    "cert_path",
    "key_path",
    "ca_path",
    "cluster_secret_file",
    "max_batch_size",
    "max_memory_mb",
    "connection_timeout",
    "connection_retry_limit",
    "max_concurrent_connections",
    "db_memory_limit",
    "db_pragma",
    "log_file",
    "log_max_size",
    "log_backup_count",
    "log_raft_events",
    "allow_insecure_network",
    "zone",
];

/// Keys that are text even where they look like a number.
const TEXT_KEYS: &[&str] = &[
    "node_id",
    "host",
    "listen",
    "data_dir",
    "db_path",
    "log_level",
    "auth_type",
    "jwt_secret",
    "jwt_secret_file",
    "cert_path",
    "key_path",
    "ca_path",
    "cluster_secret_file",
    "log_file",
    "zone",
];

/// A peer as the config names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its node id; PEERS in the environment may leave it out, then the peer is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its host.
    pub host: String,
    /// Its API port.
    #[serde(default = "default_port")]
    pub port: u16,
}

impl Peer {
    /// `host:port`.
    pub fn address(&self) -> String {
        join_host_port(&self.host, self.port)
    }

    /// Reads `host:port` or `id=host:port`.
    fn parse(text: &str) -> Result<Peer, String> {
        let (id, address) = match text.split_once('=') {
            Some((id, address)) => (Some(id.trim().to_owned()), address),
            None => (None, text),
        };
        let (host, port) = address
            .trim()
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` is not host:port or id=host:port"))?;
        let port = port.parse().map_err(|_| format!("`{text}`: `{port}` is not a port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || id.as_deref() == Some("") {
            return Err(format!("`{text}` is not host:port or id=host:port"));
        }
        Ok(Peer { id, host, port })
    }
}

/// `host:port`, with brackets round an IPv6 address.
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

const fn default_port() -> u16 {
    8080
}

/// A node's config.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unique identifier of the node.
    pub node_id: String,
    /// Host name or address that peers and clients are told.
    pub host: String,
    /// API port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Address to bind; `host` where it is missing.
    #[serde(default)]
    pub listen: Option<String>,
    /// Directory of the node's data.
    pub data_dir: PathBuf,
    /// The DuckDB file; `{data_dir}/coordinator.duckdb` where it is missing.
    #[serde(default)]
    pub db_path: Option<PathBuf>,
    /// ERROR, WARN, INFO, DEBUG or TRACE.
    #[serde(default = "default_log_level")]
    pub log_level: String,
    /// False runs a cluster of one.
    #[serde(default = "yes")]
    pub enable_redundancy: bool,
    /// The other nodes; used when the cluster is founded.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Shortest election time-out, ms.
    #[serde(default = "default_election_timeout_min")]
    pub election_timeout_min: u64,
    /// Longest election time-out, ms.
    #[serde(default = "default_election_timeout_max")]
    pub election_timeout_max: u64,
    /// Heartbeat interval, ms.
    #[serde(default = "default_heartbeat_interval")]
    pub heartbeat_interval: u64,
    /// Log entries before a snapshot (a wish).
    #[serde(default = "default_snapshot_threshold")]
    pub snapshot_threshold: u64,
    /// Log entries at most (a bound).
    #[serde(default = "default_max_log_size")]
    pub max_log_size: u64,
    /// Serve `/metrics` on `prometheus_port`.
    #[serde(default = "yes")]
    pub enable_prometheus: bool,
    /// Port of `/metrics`.
    #[serde(default = "default_prometheus_port")]
    pub prometheus_port: u16,
    /// Ask for a login.
    #[serde(default)]
    pub enable_auth: bool,
    /// `jwt`.
    #[serde(default)]
    pub auth_type: Option<String>,
    /// Secret that signs tokens.
    #[serde(default)]
    pub jwt_secret: Option<String>,
    /// File with that secret.
    #[serde(default)]
    pub jwt_secret_file: Option<PathBuf>,
    /// Users and their password hashes.
    #[serde(default)]
    pub auth_users: Vec<AuthUser>,
    /// Serve TLS.
    #[serde(default)]
    pub enable_tls: bool,
    /// Certificate chain, PEM.
    #[serde(default)]
    pub cert_path: Option<PathBuf>,
    /// Private key, PEM.
    #[serde(default)]
    pub key_path: Option<PathBuf>,
    /// Certificate authority of clients and peers, PEM.
    #[serde(default)]
    pub ca_path: Option<PathBuf>,
    /// File with the secret that peers share.
    #[serde(default)]
    pub cluster_secret_file: Option<PathBuf>,
    /// Commands packed into one log entry at most.
    #[serde(default = "default_max_batch_size")]
    pub max_batch_size: usize,
    /// Memory the node may use, MiB.
    #[serde(default = "default_max_memory_mb")]
    pub max_memory_mb: u64,
    /// Seconds to wait for a peer's connection.
    #[serde(default = "default_connection_timeout")]
    pub connection_timeout: u64,
    /// Attempts before a peer is reported unreachable.
    #[serde(default = "default_connection_retry_limit")]
    pub connection_retry_limit: u32,
    /// Open client connections at most.
    #[serde(default = "default_max_concurrent_connections")]
    pub max_concurrent_connections: usize,
    /// DuckDB's memory limit, MiB.
    #[serde(default = "default_db_memory_limit")]
    pub db_memory_limit: u64,
    /// Settings for DuckDB.
    #[serde(default)]
    pub db_pragma: BTreeMap<String, Value>,
    /// Log file; standard error where it is missing.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// Bytes before the log file is rotated.
    #[serde(default = "default_log_max_size")]
    pub log_max_size: u64,
    /// Rotated files kept.
    #[serde(default = "default_log_backup_count")]
    pub log_backup_count: u32,
    /// Log elections and other Raft events.
    #[serde(default)]
    pub log_raft_events: bool,
    /// Silences the warning about an open network.
    #[serde(default)]
    pub allow_insecure_network: bool,
    /// Where the node stands: a rack, a zone, a region.
    #[serde(default)]
    pub zone: Option<String>,
}

/// A user of the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthUser {
    /// The login name.
    pub username: String,
    /// Its argon2id hash.
    pub password_hash: String,
    /// What it may do; without it, the role it is called after, else `viewer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<api::AccessRole>,
}

const fn yes() -> bool {
    true
}
fn default_log_level() -> String {
    "INFO".into()
}
const fn default_election_timeout_min() -> u64 {
    150
}
const fn default_election_timeout_max() -> u64 {
    300
}
const fn default_heartbeat_interval() -> u64 {
    50
}
const fn default_snapshot_threshold() -> u64 {
    1000
}
const fn default_max_log_size() -> u64 {
    10_000
}
const fn default_prometheus_port() -> u16 {
    9090
}
const fn default_max_batch_size() -> usize {
    1000
}
const fn default_max_memory_mb() -> u64 {
    1024
}
const fn default_connection_timeout() -> u64 {
    5
}
const fn default_connection_retry_limit() -> u32 {
    3
}
const fn default_max_concurrent_connections() -> usize {
    10_000
}
const fn default_db_memory_limit() -> u64 {
    512
}
const fn default_log_max_size() -> u64 {
    10 * 1024 * 1024
}
const fn default_log_backup_count() -> u32 {
    10
}

impl Config {
    /// Reads the file, lays the environment over it and checks the whole.
    ///
    /// Returns the config and its warnings.
    pub fn load(
        path: Option<&Path>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<(Config, Vec<String>), ConfigError> {
        let mut object = path.map(read_object).transpose()?.unwrap_or_default();
        overlay_env(&mut object, KEYS, TEXT_KEYS, env);
        expand_peers(&mut object)?;
        let config: Config = from_object(object)?;
        let warnings = config.validate()?;
        Ok((config, warnings))
    }

    /// Checks every value against the others; all faults at once. Returns the warnings.
    pub fn validate(&self) -> Result<Vec<String>, ConfigError> {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        let mut fault = |key: &str, why: String| faults.push(ConfigError::invalid(key, why));
        if self.node_id.is_empty() || self.node_id.len() > 128 || self.node_id.contains(['/', ' ', '=', ','])
        {
            fault("node_id", "must have 1 to 128 characters, none of them a space, comma, slash or =".into());
        }
        if self.host.is_empty() {
            fault("host", "must not be empty".into());
        }
        if self.port == 0 {
            fault("port", "must not be 0: peers are told this port".into());
        }
        if self.enable_prometheus && self.prometheus_port == self.port {
            fault("prometheus_port", format!("is {} as `port` is; give it another", self.port));
        }
        if self.heartbeat_interval == 0 {
            fault("heartbeat_interval", "must be at least 1 ms".into());
        }
        if self.election_timeout_min < 2 * self.heartbeat_interval {
            fault(
                "election_timeout_min",
                format!(
                    "is {} ms; must be at least twice `heartbeat_interval` ({} ms), or every late heartbeat starts an election",
                    self.election_timeout_min, self.heartbeat_interval
                ),
            );
        }
        if self.election_timeout_max <= self.election_timeout_min {
            fault(
                "election_timeout_max",
                format!(
                    "is {} ms; must be above `election_timeout_min` ({} ms)",
                    self.election_timeout_max, self.election_timeout_min
                ),
            );
        }
        if !["ERROR", "WARN", "WARNING", "INFO", "DEBUG", "TRACE"]
            .contains(&self.log_level.to_uppercase().as_str())
        {
            fault("log_level", format!("`{}` is none of ERROR, WARN, INFO, DEBUG, TRACE", self.log_level));
        }
        for (key, value, least) in [
            ("max_batch_size", self.max_batch_size as u64, 1),
            ("max_memory_mb", self.max_memory_mb, 64),
            ("max_concurrent_connections", self.max_concurrent_connections as u64, 8),
            ("db_memory_limit", self.db_memory_limit, 16),
            ("snapshot_threshold", self.snapshot_threshold, 1),
            ("connection_timeout", self.connection_timeout, 1),
            ("log_max_size", self.log_max_size, 4096),
        ] {
            if value < least {
                fault(key, format!("is {value}; must be at least {least}"));
            }
        }
        if self.max_log_size < self.snapshot_threshold {
            fault(
                "max_log_size",
                format!(
                    "is {}; must not be below `snapshot_threshold` ({})",
                    self.max_log_size, self.snapshot_threshold
                ),
            );
        }
        let mut seen = std::collections::BTreeSet::new();
        for peer in &self.peers {
            if !seen.insert(peer.address()) {
                fault("peers", format!("{} is named twice", peer.address()));
            }
        }
        let ids: Vec<_> = self.peers.iter().filter_map(|p| p.id.as_ref()).collect();
        for (i, id) in ids.iter().enumerate() {
            if ids[..i].contains(id) {
                fault("peers", format!("node id `{id}` is named twice"));
            }
        }
        if self.enable_redundancy && self.peers.is_empty() {
            fault("peers", "is required with `enable_redundancy`: name the other nodes, or set enable_redundancy to false for a cluster of one".into());
        }
        crate::access::settings::check(self, &mut fault, &mut warnings);
        if self.enable_tls || self.cert_path.is_some() || self.ca_path.is_some() {
            fault("enable_tls", "not available in this version: TLS is refused rather than ignored".into());
        }
        for key in self.db_pragma.keys() {
            match key.as_str() {
                "journal_mode" | "synchronous" | "cache_size" => warnings.push(format!(
                    "db_pragma.{key} is a setting of SQLite; DuckDB always writes ahead and syncs, its memory is `db_memory_limit`; ignored"
                )),
                "threads" | "temp_directory" | "max_temp_directory_size" | "checkpoint_threshold" | "wal_autocheckpoint" | "preserve_insertion_order" => {}
                other => fault("db_pragma", format!("`{other}` is no setting that can be passed to DuckDB here")),
            }
        }
        if !self.allow_insecure_network
            && !self.enable_auth
            && !self.bind_host().starts_with("127.")
            && self.bind_host() != "localhost"
            && self.bind_host() != "::1"
        {
            warnings.push(format!(
                "listening on {} without authentication: anyone who reaches port {} can run commands on every worker; set allow_insecure_network to silence this",
                self.bind_host(), self.port
            ));
        }
        match faults.len() {
            0 => Ok(warnings),
            1 => Err(faults.remove(0)),
            _ => Err(ConfigError::Many(faults)),
        }
    }

    /// Where the DuckDB file lies.
    pub fn db_path(&self) -> PathBuf {
        self.db_path.clone().unwrap_or_else(|| self.data_dir.join("coordinator.duckdb"))
    }

    /// The host to bind.
    pub fn bind_host(&self) -> &str {
        self.listen.as_deref().unwrap_or(&self.host)
    }

    /// What peers and clients are told: `host:port`.
    pub fn address(&self) -> String {
        join_host_port(&self.host, self.port)
    }
}

/// `PEERS=host:port,id=host:port` becomes the list the file would have.
fn expand_peers(object: &mut Map<String, Value>) -> Result<(), ConfigError> {
    let Some(Value::String(text)) = object.get("peers") else { return Ok(()) };
    let peers = text
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let peer = Peer::parse(part).map_err(|why| ConfigError::invalid("peers", why))?;
            serde_json::to_value(peer).map_err(|e| ConfigError::invalid("peers", e.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    object.insert("peers".into(), Value::Array(peers));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn load(value: Value, env: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), value.to_string()).unwrap();
        let env = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        Config::load(Some(file.path()), env).map_err(|e| e.to_string())
    }

    fn guide() -> Value {
        json!({
            "node_id": "node-1", "host": "coordinator1.example.com", "port": 8080,
            "data_dir": "/home/coordinator/distributed_testing/node1",
            "db_path": "/home/coordinator/distributed_testing/node1/coordinator.duckdb",
            "log_level": "INFO", "enable_redundancy": true,
            "peers": [
                {"id": "node-2", "host": "coordinator2.example.com", "port": 8080},
                {"id": "node-3", "host": "coordinator3.example.com", "port": 8080}
            ],
            "election_timeout_min": 150, "election_timeout_max": 300, "heartbeat_interval": 50,
            "snapshot_threshold": 1000, "max_log_size": 10000
        })
    }

    #[test]
    fn the_guides_config_is_read_as_it_stands() {
        let (config, warnings) = load(guide(), &[]).unwrap();
        assert_eq!(config.peers.len(), 2);
        assert!(warnings.iter().any(|w| w.contains("can run commands")), "{warnings:?}");
    }

    #[test]
    fn the_key_list_is_the_structs() {
        let (config, _) = load(guide(), &[]).unwrap();
        let Value::Object(map) = serde_json::to_value(config).unwrap() else { panic!() };
        let mut fields: Vec<_> = map.keys().map(String::as_str).collect();
        let mut keys = KEYS.to_vec();
        fields.sort_unstable();
        keys.sort_unstable();
        assert_eq!(fields, keys);
    }

    #[test]
    fn the_guides_compose_environment_is_a_whole_config() {
        let env = [
            ("NODE_ID", "node-1"),
            ("HOST", "coordinator-node1"),
            ("PORT", "8080"),
            ("DATA_DIR", "/data"),
            ("DB_PATH", "/data/coordinator.duckdb"),
            ("ENABLE_REDUNDANCY", "true"),
            ("PEERS", "coordinator-node2:8080,node-3=coordinator-node3:8080"),
        ];
        let (config, _) = load(json!({}), &env).unwrap();
        assert_eq!(config.peers[0].id, None);
        assert_eq!(config.peers[1].id.as_deref(), Some("node-3"));
        assert_eq!(config.peers[1].address(), "coordinator-node3:8080");
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let mut bad = guide();
        bad["election_timeout_min"] = json!(60);
        bad["prometheus_port"] = json!(8080);
        bad["db_pragma"] = json!({"encoding": "utf8"});
        bad["enable_tls"] = json!(true);
        let error = load(bad, &[]).unwrap_err();
        for key in ["election_timeout_min", "prometheus_port", "`encoding`", "enable_tls"] {
            assert!(error.contains(key), "{key} is missing in:\n{error}");
        }
    }

    #[test]
    fn a_guide_pragma_of_sqlite_is_a_warning() {
        let mut config = guide();
        config["db_pragma"] = json!({"journal_mode": "WAL", "synchronous": "NORMAL", "cache_size": 10000});
        let (_, warnings) = load(config, &[]).unwrap();
        assert_eq!(warnings.iter().filter(|w| w.contains("DuckDB")).count(), 3);
    }

    #[test]
    fn peers_that_are_no_addresses_are_named() {
        let error =
            load(json!({"node_id": "a", "host": "h", "data_dir": "/d"}), &[("PEERS", "b:80x")]).unwrap_err();
        assert!(error.contains("`80x` is not a port"), "{error}");
    }
}
