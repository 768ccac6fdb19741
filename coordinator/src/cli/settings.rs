//! `coordinator settings`.

use super::{CliError, ClusterArgs, print};
use api::client::Repeat;
use api::cluster::Settings;
use std::collections::BTreeMap;

/// Replicated settings: read and change what all nodes keep alike.
#[derive(Debug, clap::Subcommand)]
pub enum SettingsCommand {
    /// Show all settings, or those named.
    Get {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Their names.
        names: Vec<String>,
    },
    /// Change settings, all of those named or none.
    Set {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// What to change.
        #[arg(required = true, value_parser = super::amount, value_name = "NAME=NUMBER")]
        changes: Vec<(String, u64)>,
    },
}

impl SettingsCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        match self {
            SettingsCommand::Get { cluster, names } => {
                let mut found: Settings = cluster.client()?.get("/api/settings").await?;
                if let Some(name) = names.iter().find(|name| !found.settings.iter().any(|s| s.name == **name))
                {
                    let known: Vec<&str> = found.settings.iter().map(|s| &*s.name).collect();
                    let why = format!("there is no setting `{name}`; there are {}", known.join(", "));
                    return Err(CliError::Usage(why));
                }
                found.settings.retain(|setting| names.is_empty() || names.contains(&setting.name));
                show(&cluster, &found);
            }
            SettingsCommand::Set { cluster, changes } => {
                let changes: BTreeMap<String, u64> = changes.into_iter().collect();
                let mut now: Settings =
                    cluster.client()?.post("/api/settings", &changes, Repeat::Idempotent).await?;
                now.settings.retain(|setting| changes.contains_key(&setting.name));
                show(&cluster, &now);
            }
        }
        Ok(0)
    }
}

fn show(cluster: &ClusterArgs, found: &Settings) {
    if cluster.json {
        return print::json(found);
    }
    let rows = found.settings.iter().map(|setting| {
        [
            setting.name.clone(),
            setting.value.to_string(),
            setting.default.to_string(),
            format!("{} to {}", setting.min, setting.max),
            setting.help.clone(),
        ]
    });
    print::table(["SETTING", "VALUE", "DEFAULT", "MAY BE", "WHAT IT IS"], rows);
}
