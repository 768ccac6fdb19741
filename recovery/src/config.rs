//! `recovery_config.json`: the guide's keys, and ours beside them.
//!
//! The guide's file works as it stands: nodes, `recovery_dir` and `recovery_options`, from which
//! the default policy follows. Every fault of a file is reported at once. A file read again on
//! SIGHUP goes through the same checks; one that fails them changes nothing.

use crate::fault::FaultKind;
use crate::policy::{Policy, Rule};
use api::config::{ConfigError, from_object, nearest, read_object};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nodes that one daemon looks after at most.
pub const MAX_NODES: usize = 64;

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The nodes to look after.
    pub nodes: Vec<NodeConfig>,
    /// Where audit, logs and locks of the daemon lie.
    pub recovery_dir: PathBuf,
    /// The guide's options; without them, and without a policy, the daemon only observes.
    #[serde(default)]
    pub recovery_options: Option<RecoveryOptions>,
    /// Rules by failure; what it does not name follows from `recovery_options`.
    #[serde(default)]
    pub policy: Option<BTreeMap<String, PolicyConfig>>,
    /// The nodes serve TLS.
    #[serde(default)]
    pub enable_tls: bool,
    /// Authorities (PEM) to trust in place of the system's.
    #[serde(default)]
    pub ca_path: Option<PathBuf>,
    /// File with the token to show to the nodes; HOLDFAST_TOKEN holds one where there is no file.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A monitor to ask as one more witness.
    #[serde(default)]
    pub monitor_url: Option<String>,
    /// Where the daemon's own API listens, `host:port`.
    #[serde(default)]
    pub listen: Option<String>,
    /// File with the bearer token that Alertmanager sends.
    #[serde(default)]
    pub webhook_token_file: Option<PathBuf>,
}

/// One node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its node id.
    pub id: String,
    /// Its host.
    pub host: String,
    /// Its API port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Its data directory, on its host.
    pub data_dir: PathBuf,
    /// The coordinator's config file, on its host.
    #[serde(default)]
    pub config: Option<PathBuf>,
    /// How its process is started.
    #[serde(default)]
    pub actuator: Option<ActuatorConfig>,
    /// Where it stands: a rack, a zone, a region.
    #[serde(default)]
    pub zone: Option<String>,
}

impl NodeConfig {
    /// `host:port`.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

const fn default_port() -> u16 {
    8080
}

/// How a node's process is started. `type` is read as text, so that a type of a later version is
/// refused by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActuatorConfig {
    /// `process` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Program and arguments; `coordinator --config <config>` where it is missing.
    #[serde(default)]
    pub command: Vec<String>,
    /// Working directory; the daemon's own where it is missing.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Variables of the process, beside the few that every process gets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Receives its standard output and error; `{recovery_dir}/logs/<id>.log` where it is missing.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
}

/// The guide's `recovery_options`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryOptions {
    /// Restart dead processes. False observes only.
    #[serde(default)]
    pub auto_restart: bool,
    /// Copy what a repair replaces. No repair of this version replaces anything.
    #[serde(default = "yes")]
    pub backup_before_recovery: bool,
    /// Failed restarts in a row before the daemon stops and pages.
    #[serde(default = "default_attempts")]
    pub max_restart_attempts: u32,
    /// Seconds after a failed restart before the next; doubled for each further one.
    #[serde(default = "default_cooldown")]
    pub restart_cooldown: f64,
}

const fn yes() -> bool {
    true
}
const fn default_attempts() -> u32 {
    5
}
const fn default_cooldown() -> f64 {
    60.0
}

/// The rule of one failure.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// May it be repaired?
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Rounds in a row that have to show it.
    #[serde(default)]
    pub confirmations: Option<u32>,
    /// Seconds after a failed repair before the next.
    #[serde(default)]
    pub cooldown_seconds: Option<f64>,
    /// What may be done: `restart`.
    #[serde(default)]
    pub actions: Option<Vec<String>>,
    /// Page a person where it is not repaired.
    #[serde(default)]
    pub escalate: Option<bool>,
}

/// A config that was checked, and what became of it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file.
    pub config: Config,
    /// The rules that follow from it.
    pub policy: Policy,
    /// How each node's process is started, by node id.
    pub actuators: BTreeMap<String, Option<ProcessSpec>>,
    /// What a person should know, but nothing to stop for.
    pub warnings: Vec<String>,
}

/// Everything the process actuator has to know of a node.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// The node's id.
    pub node: String,
    /// `host:port` of its API.
    pub address: String,
    /// Its data directory, absolute.
    pub data_dir: PathBuf,
    /// Its config file, absolute, where it is known.
    pub config: Option<PathBuf>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Variables of the process.
    pub env: BTreeMap<String, String>,
    /// Its log file.
    pub log_file: PathBuf,
}

impl Loaded {
    /// Reads and checks the file at `path`; every fault at once.
    pub fn read(path: &Path) -> Result<Loaded, ConfigError> {
        let config: Config = from_object(read_object(path)?)?;
        config.check()
    }
}

impl Config {
    /// Checks the whole and works out policy and actuators.
    pub fn check(mut self) -> Result<Loaded, ConfigError> {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        self.recovery_dir = absolute(&self.recovery_dir);
        for node in &mut self.nodes {
            node.data_dir = absolute(&node.data_dir);
            node.config = node.config.as_deref().map(absolute);
        }
        self.check_nodes(&mut faults);
        self.check_services(&mut faults);
        let policy = self.policy(&mut faults, &mut warnings);
        let mut actuators = BTreeMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let spec = node.process_spec(i, &self.recovery_dir, &mut faults, &mut warnings);
            actuators.insert(node.id.clone(), spec);
        }
        match faults.len() {
            0 => Ok(Loaded { config: self, policy, actuators, warnings }),
            1 => Err(faults.remove(0)),
            _ => Err(ConfigError::Many(faults)),
        }
    }

    fn check_nodes(&self, faults: &mut Vec<ConfigError>) {
        if self.nodes.is_empty() || self.nodes.len() > MAX_NODES {
            faults.push(ConfigError::invalid("nodes", format!("must name 1 to {MAX_NODES} nodes")));
        }
        let (mut ids, mut addresses, mut folders) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (i, node) in self.nodes.iter().enumerate() {
            let key = |name: &str| format!("nodes[{i}].{name}");
            if node.id.is_empty() || node.id.len() > 128 || node.id.contains(['/', ' ', '=', ',']) {
                let why = "must have 1 to 128 characters, none of them a space, comma, slash or =";
                faults.push(ConfigError::invalid(key("id"), why));
            }
            if node.host.is_empty() || node.host == "0.0.0.0" || node.host == "::" {
                let why =
                    format!("`{}` is no host that can be asked; name the one that peers use", node.host);
                faults.push(ConfigError::invalid(key("host"), why));
            }
            if node.port == 0 {
                faults.push(ConfigError::invalid(key("port"), "must not be 0"));
            }
            if !ids.insert(&node.id) {
                faults.push(ConfigError::invalid(key("id"), format!("`{}` is named twice", node.id)));
            }
            if !addresses.insert(node.address()) {
                let why = format!("{} is the address of another node", node.address());
                faults.push(ConfigError::invalid(key("port"), why));
            }
            if !folders.insert((&node.host, &node.data_dir)) {
                let why = format!("{} is the folder of another node", node.data_dir.display());
                faults.push(ConfigError::invalid(key("data_dir"), why));
            }
        }
    }

    fn check_services(&self, faults: &mut Vec<ConfigError>) {
        if let Some(listen) = &self.listen
            && listen.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            faults.push(ConfigError::invalid("listen", format!("`{listen}` is not host:port")));
        }
        if let Some(url) = &self.monitor_url
            && !url.starts_with("http://")
        {
            faults.push(ConfigError::invalid("monitor_url", format!("`{url}` must start with http://")));
        }
        if let Some(path) = &self.webhook_token_file {
            match std::fs::read_to_string(path) {
                Ok(text) if text.trim().is_empty() => {
                    faults.push(ConfigError::invalid("webhook_token_file", "the file is empty"));
                }
                Ok(_) => {}
                Err(e) => faults.push(ConfigError::invalid(
                    "webhook_token_file",
                    format!("can't read {}: {e}", path.display()),
                )),
            }
        }
    }

    /// The policy: what `recovery_options` imply, overlaid by `policy`.
    fn policy(&self, faults: &mut Vec<ConfigError>, warnings: &mut Vec<String>) -> Policy {
        let options = self.recovery_options.clone().unwrap_or(RecoveryOptions {
            auto_restart: false,
            backup_before_recovery: true,
            max_restart_attempts: default_attempts(),
            restart_cooldown: default_cooldown(),
        });
        let cooldown = seconds("recovery_options.restart_cooldown", options.restart_cooldown, faults)
            .unwrap_or_default();
        if options.max_restart_attempts == 0 || options.max_restart_attempts > 1000 {
            faults.push(ConfigError::invalid(
                "recovery_options.max_restart_attempts",
                "must be 1 to 1000; to restart nothing, set auto_restart to false",
            ));
        }
        let base = Rule { cooldown_ms: cooldown, ..Rule::default() };
        let mut policy = Policy::observe_only(base.clone(), options.max_restart_attempts);
        policy.rule_mut(FaultKind::ProcessCrash).enabled = options.auto_restart;
        for (name, wish) in self.policy.iter().flatten() {
            let Some(kind) = FaultKind::parse(name) else {
                let known: Vec<String> = FaultKind::ALL.iter().map(|k| k.as_str().to_owned()).collect();
                let key = format!("policy.{name}");
                faults.push(ConfigError::UnknownKey { key, nearest: nearest(name, &known) });
                continue;
            };
            overlay(policy.rule_mut(kind), kind, wish, faults, warnings);
        }
        if !policy.rule(FaultKind::ProcessCrash).enabled {
            warnings.push(
                "observing only: neither recovery_options.auto_restart nor policy.process_crash.enabled is true"
                    .into(),
            );
        }
        policy
    }
}

/// Lays one failure's rule over its default.
fn overlay(
    rule: &mut Rule,
    kind: FaultKind,
    wish: &PolicyConfig,
    faults: &mut Vec<ConfigError>,
    warnings: &mut Vec<String>,
) {
    let key = |field: &str| format!("policy.{}.{field}", kind.as_str());
    if let Some(enabled) = wish.enabled {
        rule.enabled = enabled;
        if enabled && kind != FaultKind::ProcessCrash {
            warnings.push(format!("{}: this version reports it and does not repair it", key("enabled")));
        }
    }
    match wish.confirmations {
        Some(n) if !(1..=100).contains(&n) => {
            faults.push(ConfigError::invalid(key("confirmations"), "must be 1 to 100 rounds"));
        }
        Some(n) => rule.confirmations_rounds = n,
        None => {}
    }
    if let Some(value) = wish.cooldown_seconds
        && let Some(ms) = seconds(&key("cooldown_seconds"), value, faults)
    {
        rule.cooldown_ms = ms;
    }
    for action in wish.actions.iter().flatten() {
        if kind != FaultKind::ProcessCrash || action != "restart" {
            let why = format!("`{action}` is not available in this version; process_crash has `restart`");
            faults.push(ConfigError::invalid(key("actions"), why));
        }
    }
    if wish.actions.as_ref().is_some_and(Vec::is_empty) {
        rule.enabled = false;
    }
    if let Some(escalate) = wish.escalate {
        rule.escalate = escalate;
    }
}

/// Seconds from a config as milliseconds: at most a week.
fn seconds(key: &str, value: f64, faults: &mut Vec<ConfigError>) -> Option<u64> {
    match Duration::try_from_secs_f64(value) {
        Ok(d) if d <= Duration::from_secs(7 * 24 * 3600) => Some(d.as_millis() as u64),
        _ => {
            faults.push(ConfigError::invalid(key, format!("{value} must be 0 to 604800 seconds")));
            None
        }
    }
}

impl NodeConfig {
    /// How this node's process is started; none where nobody said, or it stands on another host.
    fn process_spec(
        &self,
        position: usize,
        recovery_dir: &Path,
        faults: &mut Vec<ConfigError>,
        warnings: &mut Vec<String>,
    ) -> Option<ProcessSpec> {
        let key = |name: &str| format!("nodes[{position}].actuator.{name}");
        let wish = match &self.actuator {
            Some(wish) if wish.kind == "none" => return None,
            Some(wish) if wish.kind == "process" => wish.clone(),
            Some(wish) => {
                let why = match wish.kind.as_str() {
                    "systemd" | "docker" | "kubernetes" | "command" => "is not available in this version",
                    _ => "is unknown",
                };
                let why = format!("`{}` {why}; use `process` or `none`", wish.kind);
                faults.push(ConfigError::invalid(key("type"), why));
                return None;
            }
            None => match self.default_actuator() {
                Ok(wish) => wish,
                Err(why) => {
                    warnings.push(format!("{}: no actuator: {why}", self.id));
                    return None;
                }
            },
        };
        let command = if wish.command.is_empty() { self.default_command() } else { wish.command.clone() };
        let Some(command) = command.first().is_some_and(|p| !p.is_empty()).then_some(command) else {
            let why = "is required: program and arguments (or give the node's `config`)";
            faults.push(ConfigError::invalid(key("command"), why));
            return None;
        };
        if let Err(why) = self.check_node_config() {
            faults.push(ConfigError::invalid(format!("nodes[{position}].config"), why));
        }
        let log_file = wish.log_file.as_deref().map(absolute);
        Some(ProcessSpec {
            node: self.id.clone(),
            address: self.address(),
            data_dir: self.data_dir.clone(),
            config: self.config.clone(),
            command,
            cwd: wish.cwd.as_deref().map(absolute),
            env: wish.env,
            log_file: log_file.unwrap_or_else(|| recovery_dir.join("logs").join(format!("{}.log", self.id))),
        })
    }

    /// The actuator of a node that names none: a process, where its config is known and it stands
    /// on this host.
    fn default_actuator(&self) -> Result<ActuatorConfig, String> {
        if self.config.is_none() {
            return Err("neither `actuator` nor the coordinator's `config` says how to start it".into());
        }
        if !is_this_host(&self.host, self.port) {
            return Err(format!("{} is not this host, and no `actuator` is named", self.host));
        }
        let kind = "process".to_owned();
        Ok(ActuatorConfig { kind, command: Vec::new(), cwd: None, env: BTreeMap::new(), log_file: None })
    }

    /// `coordinator --config F`, with the program beside this one, else from PATH.
    fn default_command(&self) -> Vec<String> {
        let Some(config) = &self.config else { return Vec::new() };
        let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("coordinator"));
        let program = beside.filter(|p| p.is_file()).unwrap_or_else(|| "coordinator".into());
        [program.as_path(), Path::new("--config"), config].map(|p| p.display().to_string()).to_vec()
    }

    /// The coordinator's own config must speak of the same node, or the wrong lock is watched.
    fn check_node_config(&self) -> Result<(), String> {
        let Some(path) = &self.config else { return Ok(()) };
        let object = read_object(path).map_err(|e| e.to_string())?;
        let text = |key: &str| object.get(key).and_then(|v| v.as_str());
        if let Some(id) = text("node_id")
            && id != self.id
        {
            return Err(format!("{} is the config of node `{id}`", path.display()));
        }
        if let Some(folder) = text("data_dir")
            && Path::new(folder).is_absolute()
            && normal(Path::new(folder)) != normal(&self.data_dir)
        {
            let here = self.data_dir.display();
            return Err(format!("{} says data_dir {folder}, this file says {here}", path.display()));
        }
        Ok(())
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The path without links where it exists, as it stands where it does not.
pub fn normal(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| absolute(path))
}

/// True where `host` is this machine: an address of it is one that can be bound here.
pub fn is_this_host(host: &str, port: u16) -> bool {
    let Ok(addresses) = (host, port).to_socket_addrs() else { return false };
    addresses.into_iter().any(|address| UdpSocket::bind((address.ip(), 0)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn load(value: &Value) -> Result<Loaded, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), value.to_string()).unwrap();
        Loaded::read(file.path()).map_err(|e| e.to_string())
    }

    fn guide() -> Value {
        let node = |n: u8| {
            json!({"id": format!("node-{n}"), "host": format!("coordinator{n}.example.com"), "port": 8080,
                "data_dir": format!("/home/coordinator/distributed_testing/node{n}")})
        };
        json!({
            "nodes": [node(1), node(2), node(3)],
            "recovery_dir": "/home/coordinator/distributed_testing/recovery",
            "recovery_options": {"auto_restart": true, "backup_before_recovery": true,
                "max_restart_attempts": 5, "restart_cooldown": 60}
        })
    }

    #[test]
    fn the_guides_file_works_as_it_stands() {
        let loaded = load(&guide()).unwrap();
        let rule = loaded.policy.rule(FaultKind::ProcessCrash);
        assert!(rule.enabled);
        assert_eq!((rule.confirmations_rounds, rule.cooldown_ms, loaded.policy.max_attempts), (2, 60_000, 5));
        assert!(FaultKind::ALL.iter().filter(|kind| loaded.policy.rule(**kind).enabled).count() == 1);
        assert!(loaded.actuators.values().all(Option::is_none));
        assert!(
            loaded.warnings.iter().any(|w| w.starts_with("node-1: no actuator")),
            "{:?}",
            loaded.warnings
        );
    }

    #[test]
    fn without_a_policy_it_only_observes() {
        let mut file = guide();
        file.as_object_mut().unwrap().remove("recovery_options");
        let loaded = load(&file).unwrap();
        assert!(FaultKind::ALL.iter().all(|kind| !loaded.policy.rule(*kind).enabled));
        file["policy"] =
            json!({"process_crash": {"enabled": true, "confirmations": 3, "cooldown_seconds": 0.5}});
        let loaded = load(&file).unwrap();
        let rule = loaded.policy.rule(FaultKind::ProcessCrash);
        assert_eq!((rule.enabled, rule.confirmations_rounds, rule.cooldown_ms), (true, 3, 500));
    }

    #[test]
    fn every_fault_of_a_file_is_named_at_once() {
        let mut file = guide();
        file["nodes"][1]["id"] = json!("node-1");
        file["nodes"][2]["actuator"] = json!({"type": "systemd"});
        file["nodes"][0]["actuator"] = json!({"type": "process"});
        file["policy"] = json!({"proces_crash": {}, "deadlock": {"actions": ["restart"]}});
        file["recovery_options"]["restart_cooldown"] = json!(-1);
        file["listen"] = json!("8070");
        let error = load(&file).unwrap_err();
        for part in [
            "`nodes[1].id`: `node-1` is named twice",
            "`nodes[2].actuator.type`: `systemd` is not available in this version; use `process` or `none`",
            "`nodes[0].actuator.command`: is required",
            "unknown key `policy.proces_crash`; did you mean `process_crash`?",
            "`policy.deadlock.actions`: `restart` is not available in this version",
            "`recovery_options.restart_cooldown`: -1 must be 0 to 604800 seconds",
            "`listen`: `8070` is not host:port",
        ] {
            assert!(error.contains(part), "{part}\nis not in\n{error}");
        }
        let mut file = guide();
        file["recovery_optoins"] = json!({});
        assert!(load(&file).unwrap_err().contains("did you mean `recovery_options`"));
    }

    #[test]
    fn a_node_on_this_host_with_a_config_is_run_by_the_coordinator() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("n1.json");
        let data_dir = dir.path().join("n1");
        std::fs::write(&config, json!({"node_id": "n1", "data_dir": data_dir}).to_string()).unwrap();
        let file = |id: &str, host: &str, data_dir: &Path| {
            json!({"nodes": [{"id": id, "host": host, "port": 1, "data_dir": data_dir, "config": config}],
                "recovery_dir": dir.path()})
        };
        let loaded = load(&file("n1", "127.0.0.1", &data_dir)).unwrap();
        let spec = loaded.actuators["n1"].as_ref().unwrap();
        assert!(spec.command[0].ends_with("coordinator"), "{:?}", spec.command);
        assert_eq!(spec.command[1..], ["--config".to_owned(), config.display().to_string()]);
        assert_eq!(spec.log_file, dir.path().join("logs/n1.log"));
        // 192.0.2.0/24 belongs to documentation: no host has it.
        assert!(load(&file("n1", "192.0.2.1", &data_dir)).unwrap().actuators["n1"].is_none());
        let error = load(&file("n2", "127.0.0.1", &data_dir)).unwrap_err();
        assert!(error.contains("is the config of node `n1`"), "{error}");
        let error = load(&file("n1", "127.0.0.1", dir.path())).unwrap_err();
        assert!(error.contains("says data_dir"), "{error}");
    }
}
