//! `coordinator recover-quorum`: offline, for a person, when a quorum is gone for good.

use super::{CliError, print};
use crate::raft::founding::{IDENTITY_PATH, IdentityCard};
use crate::raft::recover::{Examined, RecoverError, best, examine, found};
use futures_util::future::join_all;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// How long a member may take to answer before it counts as gone.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Found a new cluster from a survivor's directory, when a quorum is gone for good.
///
/// Without --found it only looks: run it on every survivor (or give it all their directories) and
/// compare where their logs end; the best is the one with the highest last term, then index.
/// With --found that survivor becomes the only node of a new cluster. Everything that only the
/// lost nodes had is lost. Start it, then start the others with empty data directories and their
/// configs as they are: they join it.
///
/// It refuses while a member of the old cluster runs. Exit code 0: done. 1: refused. 2: it could
/// not be told.
#[derive(Debug, clap::Args)]
pub struct RecoverQuorumCommand {
    /// A survivor's data directory; may be given several times.
    #[arg(long = "data-dir", value_name = "DIR", required = true)]
    data_dirs: Vec<PathBuf>,
    /// Found the new cluster, from the best of the directories given.
    #[arg(long)]
    found: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

impl RecoverQuorumCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let dirs = self.data_dirs.clone();
        let examined = tokio::task::spawn_blocking(move || {
            dirs.iter().map(|dir| examine(dir)).collect::<Result<Vec<_>, _>>()
        });
        let mut examined = ended(examined.await)?;
        let Some(chosen) = best(&examined) else {
            return Err(CliError::Usage("give --data-dir".into()));
        };
        let cluster_id = examined[chosen].survivor.cluster_id.clone();
        if let Some(other) = examined.iter().find(|e| e.survivor.cluster_id != cluster_id) {
            return Err(CliError::Usage(format!(
                "{} is of cluster {}, {} of cluster {cluster_id}: give survivors of one cluster",
                other.survivor.data_dir.display(),
                other.survivor.cluster_id,
                examined[chosen].survivor.data_dir.display()
            )));
        }
        if !self.found {
            self.show(&examined, chosen);
            return Ok(0);
        }
        refuse_while_one_runs(&examined, &cluster_id).await?;
        let survivor = examined[chosen].survivor.clone();
        let chosen = examined.swap_remove(chosen);
        let new_id = ended(tokio::task::spawn_blocking(move || found(chosen)).await)?;
        match self.json {
            true => {
                print::json(&json!({ "node_id": survivor.node_id, "cluster_id": new_id, "from": survivor }))
            }
            false => print::out(&format!(
                "{} is the only node of the new cluster {new_id}, with everything up to index {} of term {}.\nStart it; then start the others with empty data directories: they join it.",
                survivor.node_id, survivor.last_index, survivor.last_term
            )),
        }
        Ok(0)
    }

    fn show(&self, examined: &[Examined], chosen: usize) {
        if self.json {
            let survivors: Vec<_> = examined.iter().map(|e| &e.survivor).collect();
            print::json(&json!({ "survivors": survivors, "best": examined[chosen].survivor.node_id }));
            return;
        }
        let rows = examined.iter().map(|e| {
            let s = &e.survivor;
            [
                s.node_id.clone(),
                s.last_term.to_string(),
                s.last_index.to_string(),
                s.commit_index.to_string(),
                if s.torn { "torn" } else { "whole" }.to_owned(),
                s.tasks.to_string(),
                s.data_dir.display().to_string(),
            ]
        });
        print::table(["NODE", "LAST TERM", "LAST INDEX", "COMMIT", "END", "TASKS", "DIRECTORY"], rows);
        let best = &examined[chosen].survivor;
        print::say(&format!("cluster {}, members {}", best.cluster_id, best.members.join(", ")));
        print::say(&format!(
            "nothing was changed. {} has the best end of these. If no other survivor has a better one, and a quorum is gone for good:\n  coordinator recover-quorum --data-dir {} --found",
            best.node_id,
            best.data_dir.display()
        ));
    }
}

fn ended<T>(outcome: Result<Result<T, RecoverError>, tokio::task::JoinError>) -> Result<T, CliError> {
    let outcome = outcome.map_err(|e| CliError::CouldNotTell(e.to_string()))?;
    outcome.map_err(|e| CliError::NotSo(e.to_string()))
}

/// Whatever listens where a member was is taken for one, unless it says that it is none.
async fn refuse_while_one_runs(examined: &[Examined], cluster_id: &str) -> Result<(), CliError> {
    let members: std::collections::BTreeSet<&String> =
        examined.iter().flat_map(|e| &e.survivor.members).collect();
    let asked = members.into_iter().map(|member| async move {
        let address = member.split_once('=').map_or(member.as_str(), |(_, address)| address);
        let connected = tokio::time::timeout(ASK_LIMIT, tokio::net::TcpStream::connect(address)).await;
        if !matches!(connected, Ok(Ok(_))) {
            return None;
        }
        let url = format!("http://{address}{IDENTITY_PATH}");
        let card = async {
            let client = api::http::builder().timeout(ASK_LIMIT).build().ok()?;
            client.get(url).send().await.ok()?.json::<IdentityCard>().await.ok()
        };
        match card.await {
            Some(card) if card.founding.as_ref().is_none_or(|f| f.cluster_id != cluster_id) => None,
            _ => Some(member.clone()),
        }
    });
    let running: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
    if running.is_empty() {
        return Ok(());
    }
    Err(CliError::NotSo(format!(
        "still running: {}. While a member of cluster {cluster_id} runs, a second cluster would split it: stop it first, and compare its log end too. Nothing was done",
        running.join(", ")
    )))
}
