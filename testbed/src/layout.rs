//! Who lies where: folders, ports and config files of a cluster on this machine.

use crate::Error;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The most coordinators a cluster has.
pub const MAX_NODES: usize = 7;

/// One coordinator's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// `node-1` and so on.
    pub id: String,
    /// API port on 127.0.0.1.
    pub port: u16,
    /// Port of its Prometheus endpoint.
    pub prometheus_port: u16,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Config file; also what its process is recognised by.
    pub config: PathBuf,
    /// Standard output and error of its process.
    pub log_file: PathBuf,
}

impl NodePlace {
    /// The place of node `index` (from 0) under `root`.
    pub fn new(root: &Path, index: usize, port: u16, prometheus_port: u16) -> NodePlace {
        let id = format!("node-{}", index + 1);
        NodePlace {
            port,
            prometheus_port,
            data_dir: root.join(&id),
            config: root.join(format!("{id}.json")),
            log_file: root.join("logs").join(format!("{id}.log")),
            id,
        }
    }

    /// `host:port` of its API.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a path of its API.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Writes a config that names `peers` (and perhaps the node itself) for this one place.
    pub fn write_config(&self, peers: &[NodePlace]) -> Result<(), Error> {
        if let Some(folder) = self.log_file.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(format!("create {}", folder.display())))?;
        }
        write_json(&self.config, &self.config_json(peers))
    }

    fn config_json(&self, all: &[NodePlace]) -> serde_json::Value {
        let peers: Vec<_> = all
            .iter()
            .filter(|other| other.id != self.id)
            .map(|other| json!({"id": other.id, "host": "127.0.0.1", "port": other.port}))
            .collect();
        json!({
            "node_id": self.id,
            "host": "127.0.0.1",
            "port": self.port,
            "data_dir": self.data_dir,
            "enable_redundancy": !peers.is_empty(),
            "peers": peers,
            "enable_prometheus": true,
            "prometheus_port": self.prometheus_port,
        })
    }
}

/// Writes the config file of every node.
pub fn write_node_configs(nodes: &[NodePlace]) -> Result<(), Error> {
    nodes.iter().try_for_each(|node| node.write_config(nodes))
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Error> {
    std::fs::write(path, format!("{value:#}\n")).map_err(Error::io(format!("write {}", path.display())))
}

/// The settings from which all places of `testbed up` follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Folder of everything, absolute.
    pub data: PathBuf,
    /// How many coordinators.
    pub nodes: usize,
    /// Port of the first; every other port follows from it.
    pub base_port: u16,
}

impl Layout {
    /// Checks that the cluster can be laid out so.
    pub fn check(&self) -> Result<(), Error> {
        if self.nodes == 0 || self.nodes > MAX_NODES {
            return Err(Error::Setting(format!(
                "--nodes {}: a cluster has 1 to {MAX_NODES} coordinators (3, 5 or 7 survive the loss of one or more)",
                self.nodes
            )));
        }
        if self.base_port < 1024 || self.base_port > 65_000 {
            return Err(Error::Setting(format!(
                "--base-port {}: give one from 1024 to 65000",
                self.base_port
            )));
        }
        Ok(())
    }

    /// The coordinators' places.
    pub fn node_places(&self) -> Vec<NodePlace> {
        (0..self.nodes)
            .map(|i| {
                let offset = u16::try_from(i).unwrap_or(u16::MAX);
                NodePlace::new(&self.data, i, self.base_port + offset, self.base_port + 100 + offset)
            })
            .collect()
    }

    /// Port of the monitor.
    pub fn monitor_port(&self) -> u16 {
        self.base_port + 10
    }

    /// Port of the recovery daemon.
    pub fn recovery_port(&self) -> u16 {
        self.base_port + 11
    }

    /// Port of Prometheus.
    pub fn prometheus_port(&self) -> u16 {
        self.base_port + 20
    }

    /// Port of Alertmanager.
    pub fn alertmanager_port(&self) -> u16 {
        self.base_port + 21
    }

    /// Config file of the recovery daemon.
    pub fn recovery_config(&self) -> PathBuf {
        self.data.join("recovery_config.json")
    }

    /// The log of a program other than the coordinators.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.data.join("logs").join(format!("{name}.log"))
    }

    /// Every port with what it is for.
    pub fn ports(&self, recovery: bool, observability: bool) -> Vec<(u16, String)> {
        let mut ports = Vec::new();
        for node in self.node_places() {
            ports.push((node.port, node.id.clone()));
            ports.push((node.prometheus_port, format!("the metrics of {}", node.id)));
        }
        ports.push((self.monitor_port(), "the monitor".into()));
        if recovery {
            ports.push((self.recovery_port(), "the recovery daemon".into()));
        }
        if observability {
            ports.push((self.prometheus_port(), "Prometheus".into()));
            ports.push((self.alertmanager_port(), "Alertmanager".into()));
        }
        ports
    }

    /// Writes the recovery daemon's config: it may start each coordinator's process again.
    ///
    /// With a token file, its webhook takes only who shows that token.
    pub fn write_recovery_config(&self, coordinator: &Path, token_file: Option<&Path>) -> Result<(), Error> {
        let nodes: Vec<_> = self
            .node_places()
            .into_iter()
            .map(|node| {
                json!({
                    "id": node.id,
                    "host": "127.0.0.1",
                    "port": node.port,
                    "data_dir": node.data_dir,
                    "config": node.config,
                    "actuator": {
                        "type": "process",
                        "command": [coordinator, "--config", node.config],
                        "log_file": node.log_file,
                    },
                })
            })
            .collect();
        let mut config = json!({
            "nodes": nodes,
            "recovery_dir": self.data.join("recovery"),
            "recovery_options": {
                "auto_restart": true,
                "max_restart_attempts": 5,
                "restart_cooldown": 5,
            },
            "monitor_url": format!("http://127.0.0.1:{}", self.monitor_port()),
            "listen": format!("127.0.0.1:{}", self.recovery_port()),
        });
        if let Some(file) = token_file {
            config["webhook_token_file"] = json!(file);
        }
        write_json(&self.recovery_config(), &config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn layout(nodes: usize) -> Layout {
        Layout { data: "/data".into(), nodes, base_port: 8080 }
    }

    #[test]
    fn the_largest_cluster_has_no_port_twice() {
        let ports = layout(MAX_NODES).ports(true, true);
        assert_eq!(ports.iter().map(|(p, _)| p).collect::<BTreeSet<_>>().len(), ports.len());
        assert!(
            ports.contains(&(8090, "the monitor".into()))
                && ports.contains(&(8091, "the recovery daemon".into()))
        );
        assert!(ports.contains(&(8180, "the metrics of node-1".into())));
    }

    #[test]
    fn a_node_is_told_of_the_others_only() {
        let places = layout(3).node_places();
        let config = places[1].config_json(&places);
        let peers: Vec<_> = config["peers"].as_array().unwrap().iter().map(|p| p["id"].clone()).collect();
        assert_eq!(peers, ["node-1", "node-3"]);
        let alone = layout(1).node_places();
        assert_eq!(alone[0].config_json(&alone)["enable_redundancy"], false);
    }

    #[test]
    fn impossible_layouts_are_refused() {
        assert!(layout(0).check().is_err());
        assert!(layout(8).check().is_err());
        assert!(Layout { base_port: 80, ..layout(3) }.check().is_err());
        assert!(layout(3).check().is_ok());
    }
}
