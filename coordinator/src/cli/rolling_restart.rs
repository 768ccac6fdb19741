//! `coordinator rolling-restart`: every coordinator once, one after another.
//!
//! Before each node it asks the leader whether the cluster can lose it, and waits until it can.
//! It goes on only when the node is back as another process, has caught up, and the cluster could
//! lose the next one. Followers come first; the leader hands its office over and comes last.

use super::members::of_leader;
use super::{CliError, ClusterArgs, print};
use api::Client;
use api::client::Repeat;
use api::cluster::{CanLose, Leadership, Member, Status, Transfer};
use serde_json::json;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one look at one node may take.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// Restart every coordinator, one after another, never more than the cluster can lose.
///
/// With --command the given shell command restarts each node; {node} and {address} in it stand for
/// the node's id and host:port, e.g. --command 'ssh {node} sudo systemctl restart coordinator'.
/// Without it, it says which node is to be restarted by hand and waits until that has happened.
/// Exit code 0: all were restarted. 1: a command failed. 2: a node did not come back in time.
#[derive(Debug, clap::Args)]
pub struct RollingRestartCommand {
    /// Restarts one node; {node} and {address} are filled in.
    #[arg(long, value_name = "SHELL COMMAND")]
    command: Option<String>,
    /// Only these nodes, by node id.
    #[arg(long, value_delimiter = ',', value_name = "NODE,…")]
    nodes: Vec<String>,
    /// How long a node may take: until the cluster can lose it, and until it is back.
    #[arg(long, value_name = "N", default_value_t = 300)]
    timeout_seconds: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl RollingRestartCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let client = self.cluster.client()?;
        let mut nodes = of_leader(&client).await?.members;
        for wanted in &self.nodes {
            if !nodes.iter().any(|m| m.node_id == *wanted) {
                return Err(CliError::Usage(format!("--nodes: {wanted} is no member of this cluster")));
            }
        }
        nodes.retain(|m| self.nodes.is_empty() || self.nodes.contains(&m.node_id));
        nodes.sort_by_key(|m| m.leader);
        if nodes.len() == 1 && nodes[0].leader && self.nodes.is_empty() {
            return Err(CliError::NotSo(
                "the cluster has one node: it can't be restarted without an outage; restart it by itself"
                    .into(),
            ));
        }
        let mut restarted = Vec::new();
        for node in &nodes {
            let seconds = self.restart(&client, node).await?;
            restarted.push(json!({ "node_id": node.node_id, "seconds": seconds }));
        }
        match self.cluster.json {
            true => print::json(&json!({ "restarted": restarted })),
            false => print::out(&format!("{} coordinators were restarted", restarted.len())),
        }
        Ok(0)
    }

    async fn restart(&self, client: &Client, node: &Member) -> Result<f64, CliError> {
        let address = node.address.clone().unwrap_or_default();
        self.wait(&format!("the cluster can lose {}", node.node_id), || async {
            let path = format!("/api/cluster/can_lose?node={}", node.node_id);
            let verdict: CanLose =
                client.with_deadline(LOOK_LIMIT).get(&path).await.map_err(|e| e.to_string())?;
            if verdict.can_lose { Ok(()) } else { Err(verdict.why) }
        })
        .await?;
        let before = look(client, &address).await.map_err(|why| {
            CliError::CouldNotTell(format!("{} at {address} does not say how it is: {why}", node.node_id))
        })?;
        if before.current_leader.as_ref() == Some(&node.node_id) && before.voters.len() > 1 {
            print::say(&format!("{} leads: leadership moves first", node.node_id));
            self.wait("another node leads", || async {
                let moved = client.with_deadline(LOOK_LIMIT);
                let moved: Leadership = moved
                    .post("/api/cluster/transfer", &Transfer::default(), Repeat::Never)
                    .await
                    .map_err(|e| e.to_string())?;
                match moved.leader {
                    Some(leader) if leader != node.node_id => Ok(()),
                    other => Err(format!("leader is {other:?}")),
                }
            })
            .await?;
        }
        let started = Instant::now();
        match &self.command {
            Some(command) => run(command, &node.node_id, &address).await?,
            None => {
                print::say(&format!("restart {} (at {address}) now; waiting until it is back", node.node_id))
            }
        }
        self.wait(&format!("{} is back and has caught up", node.node_id), || async {
            let now = look(client, &address).await?;
            if now.boot_nonce == before.boot_nonce {
                return Err("it has not been restarted yet".into());
            }
            if now.current_leader.is_none() {
                return Err(format!("it is {}", now.role));
            }
            let members = of_leader(client).await.map_err(|e| e.to_string())?;
            let seen = members.members.into_iter().find(|m| m.node_id == node.node_id);
            match seen.and_then(|m| m.lag_entries) {
                Some(lag) if lag <= crate::members::checks::CAUGHT_UP_ENTRIES => Ok(()),
                Some(lag) => Err(format!("{lag} entries behind")),
                None => Err("the leader does not know its log yet".into()),
            }
        })
        .await?;
        let seconds = started.elapsed().as_secs_f64();
        print::say(&format!("{} is back after {seconds:.1} s", node.node_id));
        Ok(seconds)
    }

    /// Looks until it is so; what was seen last goes into the error.
    async fn wait<F>(&self, what: &str, mut so: impl FnMut() -> F) -> Result<(), CliError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let started = Instant::now();
        let mut told = String::new();
        loop {
            let Err(why) = so().await else { return Ok(()) };
            if why != told {
                print::say(&format!("waiting until {what}: {why}"));
                told.clone_from(&why);
            }
            if started.elapsed() >= Duration::from_secs(self.timeout_seconds) {
                return Err(CliError::CouldNotTell(format!(
                    "after {} s it is still not so that {what}: {why}",
                    self.timeout_seconds
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn look(client: &Client, address: &str) -> Result<Status, String> {
    client.at(address).with_deadline(LOOK_LIMIT).get("/api/status").await.map_err(|e| e.to_string())
}

async fn run(command: &str, node: &str, address: &str) -> Result<(), CliError> {
    let filled = command.replace("{node}", node).replace("{address}", address);
    print::say(&format!("running: {filled}"));
    let status = tokio::process::Command::new("sh").arg("-c").arg(&filled).status().await;
    let status = status.map_err(|source| CliError::Io { what: format!("run {filled:?}"), source })?;
    if status.success() {
        return Ok(());
    }
    Err(CliError::NotSo(format!(
        "{filled:?} ended with {status}; {node} and those behind it were left as they are"
    )))
}
