//! `coordinator status` and `transfer`: the cluster and who leads it.

use super::{CliError, ClusterArgs, EXIT_NOT_SO, print};
use api::client::{Repeat, last_link};
use api::cluster::{PeerStatus, Role, Status};
use api::{Client, ClientError};
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long one node may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// How long a transfer is watched.
const TRANSFER_LIMIT: Duration = Duration::from_secs(10);

/// Show every coordinator: role, term, log, tasks.
///
/// Exit code 0: a node that was reached leads, or follows a leader. 1: nodes answer, but none
/// knows a leader. 2: no node answers.
#[derive(Debug, clap::Args)]
pub struct StatusCommand {
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What one address said.
#[derive(Debug, Serialize)]
struct Seen {
    address: String,
    /// Who is said to be there: by itself, else by the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// True where it answered, but not with its status.
    #[serde(skip)]
    refused: bool,
}

impl Seen {
    /// Why there is no status, for a table: the whole chain is in the JSON, its last link says enough.
    fn why(&self) -> String {
        let chain = self.error.as_deref().unwrap_or_default();
        match self.refused {
            true => format!("refused: {chain}"),
            false => format!("no answer: {}", last_link(chain)),
        }
    }
}

impl StatusCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let client = self.cluster.client()?;
        let seen = see_all(&client).await;
        if self.cluster.json {
            print::json(&json!({ "nodes": seen }));
        } else {
            show(&seen);
        }
        if seen.iter().all(|s| s.status.is_none()) {
            let answers = if seen.iter().any(|s| s.refused) { "tells how it stands" } else { "answers" };
            return Err(CliError::CouldNotTell(format!(
                "no coordinator {answers} (tried {})",
                seen.iter().map(|s| s.address.as_str()).collect::<Vec<_>>().join(", ")
            )));
        }
        let led = seen.iter().filter_map(|s| s.status.as_ref()).any(|s| s.current_leader.is_some());
        Ok(if led { 0 } else { EXIT_NOT_SO })
    }
}

/// Asks every address that was given, and then the peers they name.
async fn see_all(client: &Client) -> Vec<Seen> {
    let given: Vec<String> = client.addresses().to_vec();
    let mut seen = join_all(given.iter().map(|address| see(client, address))).await;
    let ids: Vec<String> = seen.iter().filter_map(|s| Some(s.status.as_ref()?.node_id.clone())).collect();
    let mut others: Vec<PeerStatus> = seen
        .iter()
        .filter_map(|s| s.status.as_ref())
        .flat_map(|s| s.peers.iter().cloned())
        .filter(|p| !ids.contains(&p.node_id) && !given.contains(&p.address))
        .collect();
    others.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    others.dedup_by(|a, b| a.node_id == b.node_id);
    seen.extend(join_all(others.iter().map(|peer| see(client, &peer.address))).await);
    let told: Vec<PeerStatus> =
        seen.iter().filter_map(|s| s.status.as_ref()).flat_map(|s| s.peers.iter().cloned()).collect();
    for silent in seen.iter_mut().filter(|s| s.node_id.is_none()) {
        silent.node_id = told.iter().find(|p| p.address == silent.address).map(|p| p.node_id.clone());
    }
    seen
}

async fn see(client: &Client, address: &str) -> Seen {
    match status_of(client, address).await {
        Ok(status) => {
            let node_id = Some(status.node_id.clone());
            Seen { address: address.to_owned(), node_id, status: Some(status), error: None, refused: false }
        }
        Err(error) => {
            let refused = matches!(error, ClientError::Problem(_));
            let error = Some(reason(&error));
            Seen { address: address.to_owned(), node_id: None, status: None, error, refused }
        }
    }
}

/// The status that the node at `address` gives of itself.
async fn status_of(client: &Client, address: &str) -> Result<Status, ClientError> {
    client.at(address).with_deadline(STATUS_LIMIT).get("/api/status").await
}

/// The failure without the client's own preface.
fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable { last, .. } => last.clone(),
        other => other.to_string(),
    }
}

fn show(seen: &[Seen]) {
    let rows = seen.iter().map(|node| match &node.status {
        Some(status) => [
            status.node_id.clone(),
            node.address.clone(),
            role(status),
            status.term.to_string(),
            status.commit_index.to_string(),
            status.applied_index.to_string(),
            print::or_dash(status.current_leader.as_ref()),
            print::duration(Duration::try_from_secs_f64(status.uptime_seconds).unwrap_or_default()),
            status.version.clone(),
        ],
        None => {
            let dash = || "-".to_owned();
            [
                node.node_id.clone().unwrap_or_else(|| "?".into()),
                node.address.clone(),
                node.why(),
                dash(),
                dash(),
                dash(),
                dash(),
                dash(),
                dash(),
            ]
        }
    });
    print::table(["NODE", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "LEADER", "UP", "VERSION"], rows);
    // The leader's counts are the newest; any other node's are a moment old.
    let newest = seen.iter().filter_map(|s| s.status.as_ref()).max_by_key(|s| s.applied_index);
    if let Some(status) = newest {
        print::out("");
        print::out(&format!("tasks    {}", counts(status.tasks.iter().map(|(s, n)| (s.as_str(), *n)))));
        print::out(&format!("workers  {}", counts(status.workers.iter().map(|(s, n)| (s.as_str(), *n)))));
        for warning in &status.warnings {
            print::out(&format!("warning: {warning}"));
        }
        if status.maintenance.enabled {
            let since = super::maintenance::since(&status.maintenance);
            print::out(&format!("maintenance is on{since}: no new tasks are accepted or assigned"));
        }
    }
}

fn role(status: &Status) -> String {
    match &status.role_detail {
        Some(why) => format!("{} ({why})", status.role),
        None => status.role.to_string(),
    }
}

fn counts<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> String {
    counts.map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
}

/// The leader's status; where no leader can be asked, that of a node that answers.
///
/// Every address is tried: a node that was removed or has failed answers, but knows no leader.
pub async fn leader_status(client: &Client) -> Result<Status, CliError> {
    let asked = client.addresses().iter().map(|address| status_of(client, address));
    let (mut seen, mut failure) = (Vec::new(), None);
    for answer in join_all(asked).await {
        match answer {
            Ok(status) => seen.push(status),
            Err(error) => failure = Some(error),
        }
    }
    // Of several that believe to lead, the one of the newest term is right.
    let leads = seen.iter().filter(|s| s.role == Role::Leader).max_by_key(|s| s.term);
    if let Some(leader) = leads {
        return Ok(leader.clone());
    }
    for address in seen.iter().filter_map(|s| s.leader_address.as_ref()) {
        if let Ok(status) = status_of(client, address).await
            && status.role == Role::Leader
        {
            return Ok(status);
        }
    }
    match (seen.into_iter().max_by_key(|s| s.term), failure) {
        (Some(status), _) => Ok(status),
        (None, Some(error)) => Err(CliError::CouldNotTell(format!(
            "no coordinator answers (tried {}): {}",
            client.addresses().join(", "),
            reason(&error)
        ))),
        (None, None) => Err(ClientError::NoAddress.into()),
    }
}

/// Move leadership to another node.
///
/// Exit code 0: the other node leads. 1: refused, or another one leads. 2: it could not be told.
#[derive(Debug, clap::Args)]
pub struct TransferCommand {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Node id of the new leader; the most caught-up voter where it is missing.
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
}

impl TransferCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let client = self.cluster.client()?;
        let before = leader_status(&client).await?;
        let from = before.current_leader.clone().ok_or_else(|| CliError::NotSo("no node leads".into()))?;
        if self.to.as_deref() != Some(&from) {
            let body = match &self.to {
                Some(to) => json!({ "to": to }),
                None => json!({}),
            };
            let _: serde_json::Value = client.post("/api/cluster/transfer", &body, Repeat::Never).await?;
        }
        let leader = self.watch(&client, &from, before.term).await?;
        match self.cluster.json {
            true => print::json(&json!({ "from": from, "leader": leader })),
            false => print::out(&format!("{leader} leads (before: {from})")),
        }
        let wanted = self.to.as_ref().is_none_or(|to| *to == leader);
        Ok(if wanted { 0 } else { EXIT_NOT_SO })
    }

    /// Waits for the new leader.
    async fn watch(&self, client: &Client, from: &str, term: u64) -> Result<String, CliError> {
        let started = Instant::now();
        loop {
            if let Ok(now) = leader_status(client).await
                && now.role == Role::Leader
            {
                let moved = now.term > term || now.node_id != from;
                if moved || self.to.as_deref() == Some(from) {
                    return Ok(now.node_id);
                }
            }
            if started.elapsed() >= TRANSFER_LIMIT {
                return Err(CliError::CouldNotTell(format!(
                    "no new leader was seen within {} s",
                    TRANSFER_LIMIT.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
