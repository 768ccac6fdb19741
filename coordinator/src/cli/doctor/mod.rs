//! `coordinator doctor`: looks at every node, says what is wrong and what to do, and packs what it
//! saw into one archive for whoever has to look closer.
//!
//! [`collect`] asks each node on its own, so that a node which is missing, or a cluster without a
//! leader, takes nothing away from the rest. [`diagnose`] is pure. [`archive`] writes the file.
//! Secrets are removed by the nodes and once more here.

mod archive;
mod collect;
mod diagnose;

use super::{CliError, ClusterArgs, EXIT_NOT_SO, print};
use jiff::Timestamp;
use serde_json::json;
use std::path::PathBuf;

pub use diagnose::{Complaint, Severity, diagnose};

/// Look at every node, say what is wrong and what to do, and pack what was seen into an archive.
///
/// The archive holds each node's report, health, config, members, last log lines, log entries
/// (without their contents) and metrics; secrets are removed. Nodes that are missing are named.
///
/// Exit code 0: nothing is wrong. 1: something is. 2: no node answers, or the archive can't be
/// written.
#[derive(Debug, clap::Args)]
pub struct DoctorCommand {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The archive; by default holdfast-doctor-TIME.tar.gz in this directory. A file that is there
    /// is not overwritten.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write no archive.
    #[arg(long, conflicts_with = "output")]
    pub no_archive: bool,
}

impl DoctorCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let nodes = collect::collect(&self.cluster.client()?).await;
        let complaints = diagnose(&nodes);
        let file = match self.no_archive {
            true => None,
            false => {
                let at = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
                let path =
                    self.output.clone().unwrap_or_else(|| format!("holdfast-doctor-{at}.tar.gz").into());
                archive::write(&path, &nodes, &verdict(&complaints, &nodes))
                    .map_err(|source| CliError::Io { what: format!("writing {}", path.display()), source })?;
                Some(path)
            }
        };
        if self.cluster.json {
            print::json(&json!({
                "complaints": complaints,
                "nodes": nodes.iter().map(|n| json!({"address": n.address, "node_id": n.node_id(), "error": n.error})).collect::<Vec<_>>(),
                "archive": file.as_ref().map(|f| f.display().to_string()),
            }));
        } else {
            print::out(verdict(&complaints, &nodes).trim_end());
            if let Some(file) = &file {
                print::out(&format!("\nwhat was seen lies in {}", file.display()));
            }
        }
        if nodes.iter().all(|node| node.report.is_none()) {
            let tried: Vec<_> = nodes.iter().map(|node| node.address.as_str()).collect();
            return Err(CliError::CouldNotTell(format!(
                "no coordinator answers (tried {})",
                tried.join(", ")
            )));
        }
        let wrong = complaints.iter().any(|complaint| complaint.severity != Severity::Note);
        Ok(if wrong { EXIT_NOT_SO } else { 0 })
    }
}

/// The verdict as text.
fn verdict(complaints: &[Complaint], nodes: &[collect::NodeSeen]) -> String {
    let answered = nodes.iter().filter(|node| node.report.is_some()).count();
    let mut text = format!("{answered} of {} nodes answer", nodes.len());
    if complaints.is_empty() {
        text.push_str("; nothing is wrong\n");
        return text;
    }
    text.push('\n');
    for complaint in complaints {
        let about = if complaint.nodes.is_empty() {
            String::new()
        } else {
            format!(" [{}]", complaint.nodes.join(", "))
        };
        text.push_str(&format!(
            "\n{}{about}: {}\n",
            complaint.severity.as_str(),
            print::visible(&complaint.what)
        ));
        if !complaint.advice.is_empty() {
            text.push_str(&format!("  do: {}\n", complaint.advice));
        }
    }
    text
}
