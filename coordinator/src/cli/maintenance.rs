//! `coordinator maintenance`.

use super::{CliError, ClusterArgs, EXIT_NOT_SO, print};
use api::Client;
use api::client::Repeat;
use api::cluster::{Maintenance, SwitchMaintenance};
use api::task::{PAGE_MAX, TaskPage, TaskState};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Maintenance mode: no new tasks are accepted or assigned; running ones finish.
#[derive(Debug, clap::Subcommand)]
pub enum MaintenanceCommand {
    /// Turn it on.
    Enable {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Wait until no task is assigned or running any more. Exit code 1 if some still are when
        /// the limit is reached, or if somebody turned maintenance off meanwhile; 2 if it could not
        /// be told.
        #[arg(long)]
        wait: bool,
        /// The limit of `--wait`.
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        wait_seconds: u64,
    },
    /// Turn it off.
    Disable {
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Say whether it is on: exit code 0 if it is, 1 if not.
    Status {
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

impl MaintenanceCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        match self {
            MaintenanceCommand::Enable { cluster, wait, wait_seconds } => {
                let client = cluster.client()?;
                let now = switch(&client, "enable").await?;
                if wait {
                    let started = Instant::now();
                    let left = settle(&client, Duration::from_secs(wait_seconds), cluster.json).await?;
                    let now: Maintenance = client.get("/api/maintenance").await?;
                    if cluster.json {
                        print::json(&json!({ "maintenance": now, "unfinished": left,
                            "waited_seconds": started.elapsed().as_secs_f64() }));
                    } else {
                        show(&now);
                    }
                    if !now.enabled {
                        return Err(CliError::NotSo("somebody turned maintenance off meanwhile".into()));
                    }
                    if left > 0 {
                        print::say(&format!("{left} tasks still run after {wait_seconds} s"));
                        return Ok(EXIT_NOT_SO);
                    }
                    return Ok(0);
                }
                present(&cluster, &now);
                Ok(if now.enabled { 0 } else { EXIT_NOT_SO })
            }
            MaintenanceCommand::Disable { cluster } => {
                let now = switch(&cluster.client()?, "disable").await?;
                present(&cluster, &now);
                Ok(if now.enabled { EXIT_NOT_SO } else { 0 })
            }
            MaintenanceCommand::Status { cluster } => {
                let now: Maintenance = cluster.client()?.get("/api/maintenance").await?;
                present(&cluster, &now);
                Ok(if now.enabled { 0 } else { EXIT_NOT_SO })
            }
        }
    }
}

async fn switch(client: &Client, to: &str) -> Result<Maintenance, CliError> {
    let body = SwitchMaintenance { by: Some(author()) };
    let _: Value = client.post(&format!("/api/maintenance/{to}"), &body, Repeat::Idempotent).await?;
    Ok(client.get("/api/maintenance").await?)
}

/// `user@host`, for those who find maintenance on and wonder.
fn author() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let user = user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    let name = format!("{user}@{}", crate::worker::host_name());
    name.chars().filter(|c| !c.is_control()).take(32).collect()
}

fn present(cluster: &ClusterArgs, now: &Maintenance) {
    if cluster.json { print::json(now) } else { show(now) }
}

fn show(now: &Maintenance) {
    print::out(&match now.enabled {
        true => format!("maintenance is on{}", since(now)),
        false => "maintenance is off".into(),
    });
}

/// Since when and by whom.
pub(super) fn since(now: &Maintenance) -> String {
    let since = now.since.map(|t| format!(" since {t}")).unwrap_or_default();
    let by = now.by.as_ref().map(|by| format!(", by {}", print::visible(by))).unwrap_or_default();
    format!("{since}{by}")
}

/// Waits until nothing is assigned or running; how many tasks still are at the limit.
///
/// The lists are asked for, not a node's count: they are read behind the change, so that an
/// answer of a node that lags can't end the wait too early. A leader that is lost on the way is
/// waited for.
async fn settle(client: &Client, limit: Duration, quiet: bool) -> Result<u64, CliError> {
    let started = Instant::now();
    let mut said = u64::MAX;
    loop {
        let left = unfinished(client).await;
        match left {
            Ok(0) => return Ok(0),
            _ if started.elapsed() >= limit => return left,
            Ok(left) if left != said && !quiet => {
                let more = if left >= PAGE_MAX as u64 { " or more" } else { "" };
                print::say(&format!("{left}{more} tasks still run"));
                said = left;
            }
            Err(error) if !quiet => print::say(&format!("can't tell at the moment: {error}")),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(500).min(limit)).await;
    }
}

/// How many tasks are assigned or running, counted up to a page each.
async fn unfinished(client: &Client) -> Result<u64, CliError> {
    let mut count = 0;
    for state in [TaskState::Assigned, TaskState::Running] {
        let path = format!("/api/tasks?status={state}&limit={PAGE_MAX}");
        let page: TaskPage = client.get(&path).await?;
        count += page.tasks.len() as u64;
    }
    Ok(count)
}
