//! `coordinator snapshot`, `backup` and `restore`.

use super::{CliError, ClusterArgs, print};
use crate::backup::{RestoreOptions, restore, verify};
use crate::config::Config;
use api::admin::{AdminCall, SnapshotTaken};
use api::client::Repeat;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How long one node may take for a snapshot.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a node may be silent while it sends a backup; it puts it together first.
const SILENCE: Duration = Duration::from_secs(600);

/// Have every coordinator write a snapshot of its state now, which lets it shorten its log.
#[derive(Debug, clap::Args)]
pub struct SnapshotCommand {
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl SnapshotCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let mut rows = Vec::new();
        let mut failed = None;
        let client = self.cluster.client()?;
        for address in client.addresses() {
            let one = client.at(address).with_deadline(SNAPSHOT_LIMIT);
            let taken: Result<SnapshotTaken, _> =
                one.post("/api/admin/snapshot", &AdminCall::default(), Repeat::Idempotent).await;
            match taken {
                Ok(taken) => rows.push((address.clone(), taken)),
                Err(error) => {
                    print::say(&format!("{address}: {error}"));
                    failed = Some(error);
                }
            }
        }
        if self.cluster.json {
            let rows: Vec<_> =
                rows.iter().map(|(node, taken)| json!({"node": node, "snapshot": taken})).collect();
            print::json(&rows);
        } else {
            let row = |(node, taken): &(String, SnapshotTaken)| {
                [node.clone(), taken.index.to_string(), taken.term.to_string(), taken.bytes.to_string()]
            };
            print::table(["NODE", "INDEX", "TERM", "BYTES"], rows.iter().map(row));
        }
        failed.map_or(Ok(0), |error| Err(error.into()))
    }
}

/// Fetch a consistent backup of the serving cluster, and verify it.
#[derive(Debug, clap::Args)]
pub struct BackupCommand {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The file to write; one that exists is not overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl BackupCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let io = |path: &Path| {
            let what = path.display().to_string();
            move |source| CliError::Io { what, source }
        };
        if self.out.exists() {
            return Err(CliError::Usage(format!(
                "{} exists already; give another --out",
                self.out.display()
            )));
        }
        let mut name = self.out.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let outcome = self.fetch(&part).await;
        let verified = match outcome {
            Ok(()) => {
                let (archive, scratch) = (part.clone(), part.with_extension("verify"));
                let verified = tokio::task::spawn_blocking(move || {
                    let verified = verify(&archive, &scratch).map(|v| (v.manifest.clone(), v.tasks));
                    let _ = std::fs::remove_dir_all(&scratch);
                    verified
                });
                let verified = verified.await.map_err(|e| CliError::CouldNotTell(e.to_string()))?;
                verified.map_err(|e| CliError::NotSo(e.to_string()))
            }
            Err(error) => Err(error),
        };
        let (manifest, tasks) = match verified {
            Ok(verified) => verified,
            Err(error) => {
                let _ = std::fs::remove_file(&part);
                return Err(error);
            }
        };
        std::fs::File::open(&part).and_then(|file| file.sync_all()).map_err(io(&part))?;
        std::fs::rename(&part, &self.out).map_err(io(&self.out))?;
        let bytes = std::fs::metadata(&self.out).map_or(0, |found| found.len());
        if self.cluster.json {
            print::json(&json!({"file": self.out, "bytes": bytes, "tasks": tasks, "manifest": manifest}));
        } else {
            print::out(&format!(
                "{}: {bytes} bytes, verified: {tasks} tasks in memory and the history up to index {}",
                self.out.display(),
                manifest.index
            ));
        }
        Ok(0)
    }

    /// The first coordinator that gives one.
    async fn fetch(&self, to: &Path) -> Result<(), CliError> {
        let client = self.cluster.client()?;
        let io = |source| CliError::Io { what: to.display().to_string(), source };
        let mut answer = client.download("/api/backup", SILENCE).await?;
        let mut out = tokio::fs::File::create(to).await.map_err(io)?;
        loop {
            let piece = tokio::time::timeout(SILENCE, answer.chunk()).await;
            let piece = piece.map_err(|_| CliError::CouldNotTell("the backup fell silent".into()))?;
            match piece.map_err(|e| CliError::CouldNotTell(format!("the backup broke off: {e}")))? {
                Some(piece) => out.write_all(&piece).await.map_err(io)?,
                None => break,
            }
        }
        out.flush().await.map_err(io)
    }
}

/// Make the data directories of a new cluster from a backup. Nothing is touched before the backup
/// is verified; the nodes must not run.
#[derive(Debug, clap::Args)]
pub struct RestoreCommand {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    backup: PathBuf,
    /// Configs of the nodes whose directories are on this host.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    config: Vec<PathBuf>,
    /// On the other hosts of the cluster: what the first one printed.
    #[arg(long, value_name = "ID")]
    restore_id: Option<String>,
    /// Move what lies in the directories into their quarantine.
    #[arg(long)]
    quarantine_existing: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl RestoreCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let mut configs = Vec::new();
        for path in &self.config {
            let loaded = Config::load(Some(path), |_| None);
            let (config, _) = loaded.map_err(|e| CliError::Usage(format!("{}: {e}", path.display())))?;
            configs.push(config);
        }
        let options = RestoreOptions {
            archive: self.backup,
            configs,
            restore_id: self.restore_id,
            quarantine_existing: self.quarantine_existing,
        };
        let restored = tokio::task::spawn_blocking(move || restore(&options)).await;
        let restored = restored
            .map_err(|e| CliError::CouldNotTell(e.to_string()))?
            .map_err(|e| CliError::NotSo(e.to_string()))?;
        if self.json {
            print::json(&restored);
            return Ok(0);
        }
        print::out(&format!(
            "restored {} tasks at index {} as cluster {} of {}",
            restored.tasks,
            restored.index,
            restored.cluster_id,
            restored.voters.join(", ")
        ));
        for folder in &restored.quarantined {
            print::out(&format!("what was there before is in {}", folder.display()));
        }
        if restored.written.len() < restored.voters.len() {
            print::out(&format!(
                "written here: {}; on the hosts of the others give the same backup and --restore-id {}",
                restored.written.join(", "),
                restored.restore_id
            ));
        }
        Ok(0)
    }
}
