//! Settings: from flags, over those of a file, over the defaults. Every fault is reported at once.

use crate::access::{AccessConfig, AuthUser};
use crate::detectors::Limits;
use crate::discovery::MAX_NODES;
use crate::history;
use api::config::{self, ConfigError};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where it listens when it is not told.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8090";
/// The shortest and the longest interval, seconds.
const INTERVAL_SECONDS: std::ops::RangeInclusive<f64> = 0.05..=3_600.0;

/// What the command line may say.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "monitor", version, about = "Watches a Holdfast cluster and serves the cluster view.")]
pub struct Flags {
    /// The coordinators to watch, `host:port`, separated by spaces or commas.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "HOST:PORT")]
    pub nodes: Vec<String>,
    /// A file of further addresses, a JSON array or one a line; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub nodes_file: Option<PathBuf>,
    /// A name all of whose addresses are coordinators; looked up every 10 seconds.
    #[arg(long, value_name = "HOST:PORT")]
    pub dns: Option<String>,
    /// Seconds between two rounds; fractions are allowed. [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub interval: Option<f64>,
    /// Where to write snapshots.jsonl, events.jsonl and, at the end, report.html.
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Where to serve the cluster view. [default: 127.0.0.1:8090]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The recovery daemon, to show what it did last.
    #[arg(long, value_name = "URL")]
    pub recovery: Option<String>,
    /// A Prometheus-compatible server that scrapes the coordinators: history is read from it.
    #[arg(long, value_name = "URL")]
    pub prometheus: Option<String>,
    /// File with the token to show; HOLDFAST_TOKEN holds one where there is no file.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities to trust with https nodes, in place of the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A JSON file with the same keys, and `timeout_seconds`, `limits` and `history` beside them.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What the file may say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InFile {
    nodes: Vec<String>,
    nodes_file: Option<PathBuf>,
    dns: Option<String>,
    follow_members: Option<bool>,
    interval: Option<f64>,
    timeout_seconds: Option<f64>,
    output_dir: Option<PathBuf>,
    listen: Option<String>,
    recovery: Option<String>,
    prometheus: Option<String>,
    prometheus_selector: Option<String>,
    prometheus_token_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    ca_path: Option<PathBuf>,
    limits: Limits,
    history: history::Settings,
    enable_auth: bool,
    auth_users: Vec<AuthUser>,
    access_token_file: Option<PathBuf>,
    enable_tls: bool,
    cert_path: Option<PathBuf>,
    key_path: Option<PathBuf>,
    host_names: Vec<String>,
}

/// Which of a server's series are coordinators', where the config does not say.
const DEFAULT_SELECTOR: &str = "job=~\".*coordinator.*\"";

/// A Prometheus-compatible server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusConfig {
    /// Its address.
    pub url: String,
    /// The labels, in PromQL, that choose the coordinators' series.
    pub selector: String,
    /// File with the token to show it.
    pub token_file: Option<PathBuf>,
}

/// The settings in force.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorConfig {
    /// The nodes to ask, `host:port`, each once.
    pub nodes: Vec<String>,
    /// A file of further nodes.
    pub nodes_file: Option<PathBuf>,
    /// A name whose addresses are nodes.
    pub dns: Option<String>,
    /// True where members that the cluster's leader names are asked, too.
    pub follow_members: bool,
    /// True where they are asked by https.
    pub secure: bool,
    /// File with the token to show.
    pub token_file: Option<PathBuf>,
    /// Authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// Between two rounds.
    pub interval: Duration,
    /// How long a node may take to answer.
    pub timeout: Duration,
    /// Where files go, if anywhere.
    pub output_dir: Option<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The recovery daemon's URL without a slash at the end.
    pub recovery: Option<String>,
    /// A server that history is read from.
    pub prometheus: Option<PrometheusConfig>,
    /// The detectors' limits.
    pub limits: Limits,
    /// Who may look, and by TLS or not.
    pub access: AccessConfig,
    /// How long what is remembered.
    pub history: history::Settings,
}

impl MonitorConfig {
    /// Puts the settings together.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let in_file: InFile = match &flags.config {
            Some(path) => config::from_object(config::read_object(path)?)?,
            None => InFile::default(),
        };
        let mut faults = Vec::new();
        let given = if flags.nodes.is_empty() { in_file.nodes } else { flags.nodes };
        let secure = match api::http::addresses(given.iter().cloned()) {
            Ok((_, secure)) => secure,
            Err(error) => {
                faults.push(ConfigError::invalid("nodes", error.to_string()));
                false
            }
        };
        let nodes_file = flags.nodes_file.or(in_file.nodes_file);
        let dns = flags.dns.or(in_file.dns);
        let dns = dns.map(|name| {
            node_address(&name).unwrap_or_else(|why| {
                faults.push(ConfigError::invalid("dns", format!("`{name}`: {why}")));
                String::new()
            })
        });
        let is_elsewhere = nodes_file.is_some() || dns.is_some();
        let nodes = check_nodes(&given, is_elsewhere, &mut faults);
        let interval_seconds = flags.interval.or(in_file.interval).unwrap_or(1.0);
        if !INTERVAL_SECONDS.contains(&interval_seconds) {
            let (least, most) = (INTERVAL_SECONDS.start(), INTERVAL_SECONDS.end());
            faults.push(ConfigError::invalid(
                "interval",
                format!("{interval_seconds} s is not between {least} and {most} s"),
            ));
        }
        let timeout_seconds =
            in_file.timeout_seconds.unwrap_or_else(|| (interval_seconds * 0.8).clamp(0.25, 2.0));
        if !(0.01..=60.0).contains(&timeout_seconds) {
            let message = format!("{timeout_seconds} s is not between 0.01 and 60 s");
            faults.push(ConfigError::invalid("timeout_seconds", message));
        }
        let listen = flags.listen.or(in_file.listen).unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        let listen = listen.parse::<SocketAddr>().map_err(|_| {
            let message = format!("`{listen}` is not an IP address and a port, such as {DEFAULT_LISTEN}");
            faults.push(ConfigError::invalid("listen", message));
        });
        let recovery = flags.recovery.or(in_file.recovery).map(|url| check_url(&url, &mut faults));
        let prometheus = flags.prometheus.or(in_file.prometheus).map(|url| PrometheusConfig {
            url,
            selector: in_file.prometheus_selector.unwrap_or_else(|| DEFAULT_SELECTOR.to_owned()),
            token_file: in_file.prometheus_token_file,
        });
        let access = AccessConfig {
            enable_auth: in_file.enable_auth,
            auth_users: in_file.auth_users,
            access_token_file: in_file.access_token_file,
            enable_tls: in_file.enable_tls,
            cert_path: in_file.cert_path,
            key_path: in_file.key_path,
            host_names: in_file.host_names,
        };
        for (key, why) in access.faults() {
            faults.push(ConfigError::invalid(key, why));
        }
        for (key, why) in in_file.limits.faults() {
            faults.push(ConfigError::invalid(format!("limits.{key}"), why));
        }
        if let Some(why) = in_file.history.fault() {
            faults.push(ConfigError::invalid("history", why));
        }
        match (listen, faults.len()) {
            (Ok(listen), 0) => Ok(MonitorConfig {
                nodes,
                nodes_file,
                dns,
                follow_members: in_file.follow_members.unwrap_or(true),
                secure,
                token_file: flags.token_file.or(in_file.token_file),
                ca: flags.ca.or(in_file.ca_path),
                interval: Duration::from_secs_f64(interval_seconds),
                timeout: Duration::from_secs_f64(timeout_seconds),
                output_dir: flags.output_dir.or(in_file.output_dir),
                listen,
                recovery,
                prometheus,
                limits: in_file.limits,
                access,
                history: in_file.history,
            }),
            (_, 1) => Err(faults.remove(0)),
            _ => Err(ConfigError::Many(faults)),
        }
    }
}

/// The usable addresses, each once.
fn check_nodes(given: &[String], is_elsewhere: bool, faults: &mut Vec<ConfigError>) -> Vec<String> {
    let mut nodes: Vec<String> = Vec::new();
    for text in given.iter().map(|n| n.trim()).filter(|n| !n.is_empty()) {
        match node_address(text) {
            Ok(node) if nodes.contains(&node) => {}
            Ok(node) => nodes.push(node),
            Err(why) => faults.push(ConfigError::invalid("nodes", format!("`{text}`: {why}"))),
        }
    }
    if !is_elsewhere && given.iter().all(|n| n.trim().is_empty()) {
        let message =
            "no node to watch; give --nodes host:port …, --nodes-file, --dns, or `nodes` in the config file";
        faults.push(ConfigError::invalid("nodes", message));
    }
    if nodes.len() > MAX_NODES {
        let message = format!("{} nodes, at most {MAX_NODES} can be watched", nodes.len());
        faults.push(ConfigError::invalid("nodes", message));
    }
    nodes
}

/// `host:port`, where a scheme before it and a slash behind it do no harm.
pub(crate) fn node_address(text: &str) -> Result<String, &'static str> {
    let bare = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let (host, port) = bare.rsplit_once(':').ok_or("has no port; give host:port")?;
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("the port must be a number from 1 to 65535");
    }
    let in_brackets = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_host = match in_brackets {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    };
    if is_host { Ok(bare.to_owned()) } else { Err("the host is no name and no IP address") }
}

/// An `http://` URL of a host and port, without a path.
fn check_url(text: &str, faults: &mut Vec<ConfigError>) -> String {
    if text.starts_with("https://") {
        let why = format!("`{text}`: the recovery daemon speaks http; give host:port");
        faults.push(ConfigError::invalid("recovery", why));
        return String::new();
    }
    match node_address(text) {
        Ok(address) => format!("http://{address}"),
        Err(why) => {
            faults.push(ConfigError::invalid("recovery", format!("`{text}`: {why}")));
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn load(arguments: &[&str]) -> Result<MonitorConfig, String> {
        let flags = Flags::try_parse_from(["monitor"].iter().chain(arguments)).map_err(|e| e.to_string())?;
        MonitorConfig::load(flags).map_err(|e| e.to_string())
    }

    #[test]
    fn nodes_come_with_spaces_or_commas_and_each_once() {
        let config = load(&["--nodes", "a:1", "http://b:2/", "c:3,a:1", "--interval", "0.2"]).unwrap();
        assert_eq!(config.nodes, ["a:1", "b:2", "c:3"]);
        assert_eq!(config.interval, Duration::from_millis(200));
        assert_eq!(config.timeout, Duration::from_millis(250));
        assert_eq!(config.listen.port(), 8090);
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let error = load(&["--nodes", "a:0", "b", "--interval", "0", "--listen", "here", "--recovery", "x"]);
        let error = error.unwrap_err();
        for part in ["`a:0`", "`b`: has no port", "interval", "`here` is not", "`x`: has no port"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }

    #[test]
    fn no_node_is_an_error_that_says_what_to_do() {
        let error = load(&[]).unwrap_err();
        assert!(error.contains("give --nodes host:port"), "{error}");
        let error = load(&["--nodes", " , "]).unwrap_err();
        assert!(error.contains("no node to watch"), "{error}");
        assert!(load(&["--dns", "coordinators.internal:8080"]).unwrap().nodes.is_empty());
        assert!(load(&["--nodes-file", "nodes.txt"]).is_ok());
        assert!(load(&["--dns", "coordinators"]).unwrap_err().contains("has no port"));
    }

    #[test]
    fn a_host_with_anything_odd_in_it_is_refused() {
        for odd in ["a b:1", "a/b:1", "user@h:1", "[::g]:1", "h?:1", "h#:1", ":1", "h:99999"] {
            assert!(load(&["--nodes", odd]).is_err(), "{odd}");
        }
        assert_eq!(load(&["--nodes", "[::1]:8080"]).unwrap().nodes, ["[::1]:8080"]);
    }

    #[test]
    fn flags_lie_over_the_file_and_unknown_keys_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, r#"{"nodes": ["f:1"], "interval": 5, "limits": {"confirmations": 3}}"#).unwrap();
        let config = load(&["--config", path, "--nodes", "g:1"]).unwrap();
        assert_eq!((config.nodes[0].as_str(), config.interval.as_secs()), ("g:1", 5));
        assert_eq!(config.limits.confirmations, 3);
        assert_eq!(config.timeout, Duration::from_secs(2));
        std::fs::write(path, r#"{"nodes": ["f:1"], "intervall": 5}"#).unwrap();
        let error = load(&["--config", path]).unwrap_err();
        assert!(error.contains("did you mean `interval`?"), "{error}");
    }
}
