//! `coordinator members`: who belongs to the cluster, who comes and who goes.

use super::{CliError, ClusterArgs, EXIT_NOT_SO, print};
use api::Client;
use api::client::Repeat;
use api::cluster::{AddMember, Member, MemberChanged, Members, Rejoin, RejoinStarted, Role, Status};
use api::http::Access;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long a change may take to be committed.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// How long a node may take to begin anew: the threads of its old incarnation have to end.
const REJOIN_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// List, add, remove and replace members; without a subcommand: list.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MembersCommand {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListCommand,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the members as the leader sees them.
    List(ListCommand),
    /// Take a node in, and wait until it votes.
    Add(AddCommand),
    /// Take a member out; a leader hands its office over first.
    Remove(RemoveCommand),
    /// Let a new node take a voter's place, in one change.
    Replace(ReplaceCommand),
    /// Let a failed or removed node begin anew as a new member.
    Rejoin(RejoinCommand),
}

/// Show the members as the leader sees them.
///
/// Exit code 0: every member is reachable. 1: one is not. 2: nobody could tell.
#[derive(Debug, clap::Args)]
pub struct ListCommand {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Take a node in, and wait until it votes.
///
/// The node must run, with a config whose `peers` name members of the cluster. (Such a node joins
/// by itself; this adds the wait, and --learner.) Exit code 0: it is a member as asked. 1: refused.
/// 2: it could not be told.
#[derive(Debug, clap::Args)]
pub struct AddCommand {
    /// host:port of the new node.
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// It follows without ever getting a vote.
    #[arg(long)]
    learner: bool,
    /// How long to wait until it votes; 0 does not wait.
    #[arg(long, value_name = "N", default_value_t = 300)]
    wait_seconds: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Take a member out; a leader hands its office over first.
///
/// The node itself stays up, in role removed. Exit code 0: it is out. 1: refused. 2: it could not
/// be told.
#[derive(Debug, clap::Args)]
pub struct RemoveCommand {
    /// Its node id.
    #[arg(value_name = "NODE")]
    node_id: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Let a new node take a voter's place, in one change.
///
/// Exit code 0: done. 1: refused. 2: it could not be told.
#[derive(Debug, clap::Args)]
pub struct ReplaceCommand {
    /// Node id of the voter that goes.
    #[arg(value_name = "OLD")]
    old: String,
    /// host:port of the new node.
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// How long to wait until it is done.
    #[arg(long, value_name = "N", default_value_t = 300)]
    wait_seconds: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Let a failed or removed node begin anew as a new member.
///
/// Its log and snapshots go into its quarantine folder; it gets a new incarnation and catches up
/// from the others.
#[derive(Debug, clap::Args)]
pub struct RejoinCommand {
    /// host:port of the node itself.
    #[arg(long, value_name = "HOST:PORT")]
    node: String,
    /// The node's id, so that it is not done to another one by mistake.
    #[arg(value_name = "NODE")]
    node_id: String,
    /// File with the token to show; HOLDFAST_TOKEN holds one where there is no file.
    #[arg(long, env = "HOLDFAST_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,
    /// Certificates (PEM) of the authorities to trust with https, in place of the system's.
    #[arg(long, env = "HOLDFAST_CA", value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

impl MembersCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        match self.action {
            None => self.list.run().await,
            Some(Action::List(command)) => command.run().await,
            Some(Action::Add(command)) => command.run().await,
            Some(Action::Remove(command)) => command.run().await,
            Some(Action::Replace(command)) => command.run().await,
            Some(Action::Rejoin(command)) => command.run().await,
        }
    }
}

/// The members as the leader has them; it alone knows how far the others are.
pub(super) async fn of_leader(client: &Client) -> Result<Members, CliError> {
    let status = super::cluster::leader_status(client).await?;
    let address = status.leader_address.clone().unwrap_or_default();
    let from_leader = async {
        let client = client.at(&address).with_deadline(Duration::from_secs(3));
        client.get::<Members>("/api/cluster/members?consistency=local").await
    };
    match from_leader.await {
        Ok(members) => Ok(members),
        Err(_) => Ok(client.get("/api/cluster/members?consistency=local").await?),
    }
}

impl ListCommand {
    async fn run(self) -> Result<u8, CliError> {
        let members = of_leader(&self.cluster.client()?).await?;
        if self.cluster.json {
            print::json(&members);
        } else {
            print::table(
                ["NODE", "KIND", "ADDRESS", "REACHABLE", "CONTACT MS", "BEHIND"],
                members.members.iter().map(row),
            );
            if members.joint {
                print::say("a change of the members is half-way through");
            }
        }
        let led = members.members.iter().any(|m| m.leader);
        if !led {
            print::say("no leader is known");
        }
        Ok(if led && members.members.iter().all(|m| m.reachable) { 0 } else { EXIT_NOT_SO })
    }
}

fn row(member: &Member) -> [String; 6] {
    let mut kind = if member.voter { "voter" } else { "learner" }.to_owned();
    if member.leader {
        kind.push_str(", leader");
    }
    if let Some(old) = &member.takes_place_of {
        kind.push_str(&format!(", takes the place of {old}"));
    }
    [
        member.node_id.clone(),
        kind,
        print::or_dash(member.address.as_ref()),
        if member.reachable { "yes" } else { "no" }.to_owned(),
        print::or_dash(member.last_contact_ms),
        print::or_dash(member.lag_entries),
    ]
}

impl AddCommand {
    async fn run(self) -> Result<u8, CliError> {
        let body = AddMember { address: self.address, replaces: None, learner: self.learner };
        let client = self.cluster.client()?.with_deadline(CHANGE_LIMIT);
        let added: MemberChanged = client.post("/api/cluster/members", &body, Repeat::Idempotent).await?;
        if !self.learner && self.wait_seconds > 0 {
            print::say(&format!("{} is a learner and catches up", added.node_id));
            wait_for_vote(&client, &added.node_id, self.wait_seconds, None).await?;
        }
        match self.cluster.json {
            true => print::json(&added),
            false => print::out(&format!("{} is a {}", added.node_id, kind(self.learner, self.wait_seconds))),
        }
        Ok(0)
    }
}

fn kind(learner: bool, wait_seconds: u64) -> &'static str {
    if learner || wait_seconds == 0 { "learner" } else { "voter" }
}

/// Waits until `node` votes, and `gone`, where one is named, is no member any more.
async fn wait_for_vote(
    client: &Client,
    node: &str,
    wait_seconds: u64,
    gone: Option<&str>,
) -> Result<(), CliError> {
    let started = Instant::now();
    loop {
        let seen = match of_leader(client).await {
            Ok(members) => {
                let votes = members.members.iter().any(|m| m.node_id == node && m.voter);
                let left = gone.is_some_and(|old| members.members.iter().any(|m| m.node_id == old));
                if votes && !left && !members.joint {
                    return Ok(());
                }
                let lag = members.members.iter().find(|m| m.node_id == node).and_then(|m| m.lag_entries);
                lag.map_or_else(|| "its log is not known".to_owned(), |n| format!("{n} entries behind"))
            }
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= Duration::from_secs(wait_seconds) {
            return Err(CliError::CouldNotTell(format!(
                "{node} does not vote after {wait_seconds} s ({seen}); it goes on catching up: coordinator members list"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl RemoveCommand {
    async fn run(self) -> Result<u8, CliError> {
        let client = self.cluster.client()?.with_deadline(CHANGE_LIMIT);
        let path = format!("/api/cluster/members/{}", self.node_id);
        let removed: MemberChanged =
            client.call(reqwest::Method::DELETE, &path, None::<&()>, Repeat::Never).await?;
        match self.cluster.json {
            true => print::json(&removed),
            false => print::out(&format!(
                "{} is no member any more; where its process still runs, it can be stopped",
                removed.node_id
            )),
        }
        Ok(0)
    }
}

impl ReplaceCommand {
    async fn run(self) -> Result<u8, CliError> {
        let client = self.cluster.client()?.with_deadline(CHANGE_LIMIT);
        let body = AddMember { address: self.address, replaces: Some(self.old.clone()), learner: false };
        let added: MemberChanged = client.post("/api/cluster/members", &body, Repeat::Idempotent).await?;
        print::say(&format!("{} catches up to take the place of {}", added.node_id, self.old));
        wait_for_vote(&client, &added.node_id, self.wait_seconds, Some(&self.old)).await?;
        match self.cluster.json {
            true => print::json(&json!({ "node_id": added.node_id, "replaced": self.old })),
            false => print::out(&format!("{} has taken the place of {}", added.node_id, self.old)),
        }
        Ok(0)
    }
}

impl RejoinCommand {
    async fn run(self) -> Result<u8, CliError> {
        let client = {
            let access = Access::from_flags(self.token_file.as_deref(), self.ca.as_deref())
                .map_err(api::ClientError::from)?;
            Client::with_access([self.node.clone()], access)?.with_deadline(CHANGE_LIMIT)
        };
        let body = Rejoin { node_id: self.node_id.clone() };
        let _: RejoinStarted = client.post("/api/admin/rejoin", &body, Repeat::Idempotent).await?;
        let deadline = Instant::now() + REJOIN_LIMIT;
        loop {
            let status: Status = client.get("/api/status").await?;
            if !matches!(status.role, Role::Failed | Role::Removed) {
                print::out(&format!(
                    "{} has a new incarnation and joins anew; its old log is in quarantine",
                    self.node_id
                ));
                return Ok(0);
            }
            if Instant::now() >= deadline {
                print::say(&format!(
                    "{} has not begun anew yet: {}",
                    self.node_id,
                    status.role_detail.unwrap_or_default()
                ));
                return Ok(EXIT_NOT_SO);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
