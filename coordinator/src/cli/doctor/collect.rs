//! Asking every node for everything that helps, each on its own.

use crate::config::effective::remove_secrets;
use api::cluster::Report;
use api::{Client, Problem};
use futures_util::future::join_all;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one question to one node may take.
const LIMIT: Duration = Duration::from_secs(3);
/// Bytes of metrics that are kept.
const MAX_METRICS_BYTES: usize = 8 * 1024 * 1024;

/// What goes into the archive beside the report: file name and path of the API.
const PARTS: &[(&str, &str)] = &[
    ("health.json", "/api/health"),
    ("config.json", "/api/config"),
    ("members.json", "/api/cluster/members?consistency=local"),
    ("workers.json", "/api/workers?consistency=local"),
    ("logs.json", "/api/logs?limit=2000"),
    ("raft_log.json", "/api/debug/raft_log?limit=200"),
];

/// What one node said.
#[derive(Debug, Clone, Default)]
pub struct NodeSeen {
    /// `host:port`.
    pub address: String,
    /// Its report; none where it did not answer.
    pub report: Option<Report>,
    /// Why there is no report.
    pub error: Option<String>,
    /// What it answered instead of its report, where it answered.
    pub refusal: Option<Problem>,
    /// The other documents by file name.
    pub documents: BTreeMap<&'static str, Value>,
    /// What it could not be asked, by file name.
    pub missing: BTreeMap<&'static str, String>,
    /// Its metrics.
    pub metrics: Option<String>,
}

impl NodeSeen {
    /// Its id, where it is known.
    pub fn node_id(&self) -> Option<&str> {
        self.report.as_ref().map(|report| report.status.node_id.as_str())
    }

    /// Its id, else its address.
    pub fn name(&self) -> String {
        self.node_id().unwrap_or(&self.address).to_owned()
    }

    /// A number of its config.
    pub fn config_number(&self, key: &str) -> Option<f64> {
        self.documents.get("config.json")?.get(key)?.as_f64()
    }
}

/// Asks the nodes that are named, and those they name.
pub async fn collect(client: &Client) -> Vec<NodeSeen> {
    let mut given: Vec<String> = client.addresses().to_vec();
    given.sort();
    given.dedup();
    let mut nodes = join_all(given.iter().map(|address| look_at(client, address))).await;
    let ids: Vec<String> = nodes.iter().filter_map(|n| n.node_id().map(str::to_owned)).collect();
    let mut others: Vec<(String, String)> = nodes
        .iter()
        .filter_map(|n| n.report.as_ref())
        .flat_map(|report| report.status.peers.iter())
        .filter(|peer| !ids.contains(&peer.node_id) && !given.contains(&peer.address))
        .map(|peer| (peer.node_id.clone(), peer.address.clone()))
        .collect();
    others.sort();
    others.dedup_by(|a, b| a.0 == b.0);
    nodes.extend(join_all(others.iter().map(|(_, address)| look_at(client, address))).await);
    nodes
}

async fn look_at(client: &Client, address: &str) -> NodeSeen {
    let mut seen = NodeSeen { address: address.to_owned(), ..NodeSeen::default() };
    let client = client.at(address).with_deadline(LIMIT);
    match client.get::<Report>("/api/report").await {
        Ok(report) => seen.report = Some(report),
        Err(error) => {
            seen.error = Some(match &error {
                api::ClientError::Unreachable { last, .. } => last.clone(),
                other => other.to_string(),
            });
            if let api::ClientError::Problem(problem) = error {
                seen.refusal = Some(problem);
            }
            return seen;
        }
    }
    let asked = PARTS.iter().map(|(file, path)| {
        let client = client.clone();
        async move { (*file, client.get::<Value>(path).await) }
    });
    for (file, answer) in join_all(asked).await {
        match answer {
            Ok(mut document) => {
                clean(file, &mut document);
                seen.documents.insert(file, document);
            }
            Err(error) => drop(seen.missing.insert(file, error.to_string())),
        }
    }
    seen.metrics = metrics(&client, &seen).await;
    seen
}

/// Takes out what nobody else may read: secrets, and what tasks carry.
fn clean(file: &str, document: &mut Value) {
    remove_secrets("", document);
    if file == "raft_log.json" {
        let entries = document["entries"].as_array_mut().into_iter().flatten();
        for command in entries.flat_map(|entry| entry["commands"].as_array_mut().into_iter().flatten()) {
            command["body"] = Value::from(crate::config::effective::REMOVED);
        }
    }
}

/// The Prometheus endpoint asks for the same token and shows the same certificate as the API.
async fn metrics(client: &Client, seen: &NodeSeen) -> Option<String> {
    let config = seen.documents.get("config.json")?;
    if config["enable_prometheus"] != true {
        return None;
    }
    let host = seen.address.rsplit_once(':').map(|(host, _)| host)?;
    let port = config["prometheus_port"].as_u64()?;
    let answer = client.at(&format!("{host}:{port}")).download("/metrics", LIMIT).await.ok()?;
    let text = tokio::time::timeout(LIMIT, answer.text()).await.ok()?.ok()?;
    (text.len() <= MAX_METRICS_BYTES).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_tasks_carry_stays_where_it_is() {
        let mut document = json!({"entries": [{"index": 3, "commands": [{"command": "submit", "body": {"Submit": {"env": "TOKEN=x"}}}]}]});
        clean("raft_log.json", &mut document);
        let text = document.to_string();
        assert!(!text.contains("TOKEN") && text.contains("submit"), "{text}");
    }
}
