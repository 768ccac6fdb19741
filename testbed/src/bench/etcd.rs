//! etcd beside Holdfast: as many nodes, on the same machine and disk, from Debian's `etcd-server`.

use crate::ports::Ports;
use crate::process::{Lifetime, Started, last_lines};
use crate::{Error, wait};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// How long it may take to elect a leader.
const START_LIMIT: Duration = Duration::from_secs(20);
const PROGRAM: &str = "etcd";

/// etcd nodes.
pub struct Etcd {
    nodes: Vec<Started>,
    addresses: Vec<String>,
    /// What `etcd --version` says.
    pub version: String,
    _folder: TempDir,
    _ports: Ports,
}

#[derive(Deserialize)]
struct StatusAnswer {
    header: Header,
    leader: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    member_id: String,
}

impl Etcd {
    /// The version of the etcd on this machine; an error says how to get one.
    pub fn version() -> Result<String, Error> {
        let output = std::process::Command::new(PROGRAM).arg("--version").output().map_err(|e| {
            Error::Setting(format!(
                "--peers needs etcd, which can't be run ({e}); apt-get install etcd-server"
            ))
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or("etcd, version unknown").to_owned())
    }

    /// Starts `count` nodes with heartbeats of 50 ms and elections of 300 ms, and waits for a leader.
    pub async fn start(count: usize) -> Result<Etcd, Error> {
        let version = Etcd::version()?;
        let folder = tempfile::Builder::new()
            .prefix("holdfast-etcd-")
            .tempdir()
            .map_err(Error::io("create a temporary folder"))?;
        let ports = Ports::take(2 * count)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = ports.as_slice().split_at(count);
        let members: Vec<_> = (0..count).map(|i| format!("n{i}={}", url(peer[i]))).collect();
        let mut nodes = Vec::new();
        for i in 0..count {
            let name = format!("n{i}");
            let data = folder.path().join(&name);
            let arguments: Vec<String> = [
                ("--name", name.clone()),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", url(client[i])),
                ("--advertise-client-urls", url(client[i])),
                ("--listen-peer-urls", url(peer[i])),
                ("--initial-advertise-peer-urls", url(peer[i])),
                ("--initial-cluster", members.join(",")),
                ("--heartbeat-interval", "50".into()),
                ("--election-timeout", "300".into()),
                ("--log-level", "error".into()),
            ]
            .into_iter()
            .flat_map(|(key, value)| [key.to_owned(), value])
            .collect();
            let log = folder.path().join(format!("{name}.log"));
            let started =
                Started::spawn(&name, &PathBuf::from(PROGRAM), &arguments, &log, Lifetime::WithParent)?;
            nodes.push(started);
        }
        let addresses = client.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut etcd = Etcd { nodes, addresses, version, _folder: folder, _ports: ports };
        etcd.lead_from_the_front().await?;
        Ok(etcd)
    }

    /// Puts the leader's address first.
    async fn lead_from_the_front(&mut self) -> Result<(), Error> {
        let http = wait::http();
        let found = wait::until("a leader of etcd", START_LIMIT, || async {
            for (place, address) in self.addresses.iter().enumerate() {
                let url = format!("http://{address}/v3/maintenance/status");
                let answer = http.post(&url).body("{}").send().await.map_err(|e| e.to_string())?;
                let body = answer.bytes().await.map_err(|e| e.to_string())?;
                let status: StatusAnswer = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
                if status.leader.as_deref() == Some(&status.header.member_id) {
                    return Ok(place);
                }
            }
            Err("no node says that it leads".to_owned())
        })
        .await;
        match found {
            Ok(leader) => {
                self.addresses.swap(0, leader);
                Ok(())
            }
            Err(Error::TimedOut { what, waited_s, last, .. }) => {
                let tail = self.nodes.iter().flat_map(|n| last_lines(&n.log_file, 5)).collect();
                Err(Error::TimedOut { what, waited_s, last, tail })
            }
            Err(other) => Err(other),
        }
    }

    /// `host:port` of the nodes, the leader first.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.pid).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Started::kill9);
    }
}
