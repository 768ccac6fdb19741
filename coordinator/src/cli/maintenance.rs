//! `coordinator maintenance`.

use super::cluster::leader_status;
use super::{CliError, ClusterArgs, EXIT_NOT_SO, print};
use api::Client;
use api::client::Repeat;
use api::cluster::Maintenance;
use api::task::TaskState;
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
        /// the limit is reached.
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
                    if cluster.json {
                        print::json(&json!({ "maintenance": now, "unfinished": left,
                            "waited_seconds": started.elapsed().as_secs_f64() }));
                    } else {
                        show(&now);
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
    let _: Value = client.post(&format!("/api/maintenance/{to}"), &json!({}), Repeat::Idempotent).await?;
    Ok(client.get("/api/maintenance").await?)
}

fn present(cluster: &ClusterArgs, now: &Maintenance) {
    if cluster.json { print::json(now) } else { show(now) }
}

fn show(now: &Maintenance) {
    let since = now.since.map(|t| format!(" since {t}")).unwrap_or_default();
    print::out(&match now.enabled {
        true => format!("maintenance is on{since}"),
        false => "maintenance is off".into(),
    });
}

/// Waits until nothing is assigned or running; how many tasks still are at the limit.
async fn settle(client: &Client, limit: Duration, quiet: bool) -> Result<u64, CliError> {
    let started = Instant::now();
    let mut said = u64::MAX;
    loop {
        let tasks = leader_status(client).await?.tasks;
        let left = [TaskState::Assigned, TaskState::Running].iter().filter_map(|s| tasks.get(s)).sum();
        if left == 0 || started.elapsed() >= limit {
            return Ok(left);
        }
        if left != said && !quiet {
            print::say(&format!("{left} tasks still run"));
            said = left;
        }
        tokio::time::sleep(Duration::from_millis(500).min(limit)).await;
    }
}
