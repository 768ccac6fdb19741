//! From an archive to data directories that a new cluster starts from.
//!
//! Every node of the cluster gets the same snapshot, the same log that begins behind it, the same
//! history, and a founding record that all share; each gets an incarnation of its own. Cluster id
//! and incarnations come from the archive's hash and a restore id, so that hosts which restore
//! one archive under one id, each for itself, come to the same cluster.
//!
//! Invariant: nothing is touched before the archive was verified and every directory was looked
//! at; and the identity is written last, so that a restore that broke off is no node.

use super::archive::{Verified, verify};
use super::{BackupError, io};
use crate::config::Config;
use crate::quarantine::quarantine;
use crate::raft::identity::{Founding, Identity, Member, random_hex};
use crate::raft::log::RaftLog;
use crate::raft::snapshots::{SnapshotName, Snapshots};
use crate::store::{Rebuild, Store, StoreOptions};
use raft::eraftpb::Snapshot;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

/// Where the archive is unpacked, with the process's id.
const SCRATCH: &str = ".restore-";
/// How long one step of the database may take.
const STORE_LIMIT: Duration = Duration::from_secs(3600);

/// How a restore is asked for.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The archive.
    pub archive: PathBuf,
    /// The configs of the nodes whose directories are on this host.
    pub configs: Vec<Config>,
    /// What the hosts of one cluster share; a new one where it is missing.
    pub restore_id: Option<String>,
    /// Move what lies in the directories into their quarantine instead of refusing.
    pub quarantine_existing: bool,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// The new cluster's id.
    pub cluster_id: String,
    /// What other hosts have to give to come to the same cluster.
    pub restore_id: String,
    /// Node ids of its voters.
    pub voters: Vec<String>,
    /// Node ids whose directories were written.
    pub written: Vec<String>,
    /// Tasks in the machine.
    pub tasks: u64,
    /// The log index it begins with.
    pub index: u64,
    /// Where what was there before went.
    pub quarantined: Vec<PathBuf>,
}

/// Restores; blocks the calling thread.
pub fn restore(options: &RestoreOptions) -> Result<Restored, BackupError> {
    let refused = |why: String| BackupError::Refused(why);
    let first =
        options.configs.first().ok_or_else(|| refused("give the config of at least one node".into()))?;
    let voters = voters(&options.configs).map_err(refused)?;
    for config in &options.configs {
        look(config, options.quarantine_existing).map_err(refused)?;
    }
    // A directory that is there may be a file system of its own; one that is not is made last.
    let inside = first.data_dir.exists();
    let beside = first.data_dir.parent().filter(|_| !inside).unwrap_or(&first.data_dir).to_owned();
    std::fs::create_dir_all(&beside).map_err(io(&beside))?;
    let scratch = beside.join(format!("{SCRATCH}{}", std::process::id()));
    let outcome = verify(&options.archive, &scratch)
        .and_then(|archive| write_all(options, &archive, &voters, &scratch));
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

fn write_all(
    options: &RestoreOptions,
    archive: &Verified,
    voters: &BTreeMap<String, String>,
    scratch: &Path,
) -> Result<Restored, BackupError> {
    let restore_id = match &options.restore_id {
        Some(id) => id.clone(),
        None => random_hex().map_err(|e| BackupError::Refused(e.to_string()))?,
    };
    let derived = |what: &str| {
        format!("{:032x}", xxh3_128(format!("{restore_id}\0{:032x}\0{what}", archive.hash).as_bytes()))
    };
    let members = voters.iter().map(|(node_id, address)| Member {
        node_id: node_id.clone(),
        incarnation: derived(&format!("node {node_id}")),
        address: address.clone(),
    });
    let mut machine = archive.machine()?;
    let founding = Founding {
        cluster_id: derived("cluster"),
        members: members.collect(),
        machine_version: machine.version(),
    };
    let now_ms = archive.manifest.created_at.as_millisecond();
    machine.begin_anew(now_ms, founding.membership()).map_err(BackupError::Refused)?;
    let files = Snapshots::new(scratch);
    let name = files.write_machine(&mut machine).map_err(|e| BackupError::Refused(e.to_string()))?;
    let effects = machine.effects_for_rebuild();
    let mut quarantined = Vec::new();
    for config in &options.configs {
        let data_dir = &config.data_dir;
        std::fs::create_dir_all(data_dir).map_err(io(data_dir))?;
        failpoint!("restore_before_clear");
        quarantined.extend(clear(config, archive)?);
        failpoint!("restore_after_clear");
        let from = files.path(&name.file).unwrap_or_default();
        write_one(config, &founding, &name, &from)?;
        failpoint!("restore_after_log");
        let store = history(config, archive)?;
        store.rebuild(name.index, effects.clone(), Rebuild::Merge);
        let failed = |e: crate::store::StoreError| {
            BackupError::Refused(format!("{}: {e}", config.db_path().display()))
        };
        store.wait_for(name.index, STORE_LIMIT).map_err(failed)?;
        store.flush(STORE_LIMIT).map_err(failed)?;
        // It came with the archive.
        store.history_complete().map_err(failed)?;
        store.close();
        let own = founding.members.iter().find(|member| member.node_id == config.node_id);
        let own = own.ok_or_else(|| BackupError::Refused(format!("{} is no voter", config.node_id)))?;
        failpoint!("restore_before_identity");
        Identity::write_restored(data_dir, own, &founding)
            .map_err(|e| BackupError::Refused(e.to_string()))?;
        failpoint!("restore_after_identity");
    }
    Ok(Restored {
        cluster_id: founding.cluster_id.clone(),
        restore_id,
        voters: voters.keys().cloned().collect(),
        written: options.configs.iter().map(|config| config.node_id.clone()).collect(),
        tasks: archive.tasks,
        index: name.index,
        quarantined,
    })
}

/// Node ids and addresses of all nodes that the configs name.
fn voters(configs: &[Config]) -> Result<BTreeMap<String, String>, String> {
    let mut voters: BTreeMap<String, String> =
        configs.iter().map(|config| (config.node_id.clone(), config.address())).collect();
    if voters.len() < configs.len() {
        return Err("two of the configs have one node_id".into());
    }
    for config in configs.iter().filter(|config| config.enable_redundancy) {
        for peer in &config.peers {
            match &peer.id {
                Some(id) => {
                    voters.entry(id.clone()).or_insert_with(|| peer.address());
                }
                None if voters.values().any(|address| *address == peer.address()) => {}
                None => {
                    return Err(format!(
                        "the peer {} of {} has no id: write it as id={} or give its config, too",
                        peer.address(),
                        config.node_id,
                        peer.address()
                    ));
                }
            }
        }
    }
    Ok(voters)
}

/// Is the directory free to be written?
fn look(config: &Config, quarantine_existing: bool) -> Result<(), String> {
    let shown = config.data_dir.display();
    if config.data_dir.join("LOCK").exists() {
        // Taking it is the only way to know; it is given back at once.
        match Identity::is_free(&config.data_dir) {
            Ok(()) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let db_outside = config.db_path().exists() && !config.db_path().starts_with(&config.data_dir);
    let left = leaving(config);
    if (!left.is_empty() || db_outside) && !quarantine_existing {
        return Err(format!(
            "{shown} is not empty: restore into an empty directory, or move what is there into its quarantine with --quarantine-existing; nothing was touched"
        ));
    }
    Ok(())
}

/// What lies in the directory, but the quarantine.
fn leaving(config: &Config) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&config.data_dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name != "quarantine" && !name.starts_with(SCRATCH)
        })
        .collect()
}

fn clear(config: &Config, archive: &Verified) -> Result<Option<PathBuf>, BackupError> {
    let mut paths = leaving(config);
    let db = config.db_path();
    if !db.starts_with(&config.data_dir) {
        for suffix in ["", ".wal", ".owner", ".history-wanted"] {
            let mut name = db.as_os_str().to_owned();
            name.push(suffix);
            paths.push(PathBuf::from(name));
        }
    }
    let why = format!(
        "replaced by the backup of {} at index {}",
        archive.manifest.created_at, archive.manifest.index
    );
    quarantine(&paths, &config.data_dir.join("quarantine"), "restore", &why).map_err(io(&config.data_dir))
}

/// Snapshot and log.
fn write_one(
    config: &Config,
    founding: &Founding,
    name: &SnapshotName,
    from: &Path,
) -> Result<(), BackupError> {
    let own = Snapshots::new(&config.data_dir);
    let to = own.path(&name.file).unwrap_or_default();
    let folder = config.data_dir.join("snapshots");
    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
    std::fs::copy(from, &to).map_err(io(&to))?;
    std::fs::File::open(&to).and_then(|file| file.sync_all()).map_err(io(&to))?;
    std::fs::File::open(&folder).and_then(|file| file.sync_all()).map_err(io(&folder))?;
    own.check(name).map_err(|e| BackupError::Refused(e.to_string()))?;
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (name.index, name.term);
    metadata.set_conf_state(founding.membership().conf_state());
    snapshot.data = serde_json::to_vec(name).unwrap_or_default().into();
    let log =
        RaftLog::open(&config.data_dir.join("raft")).map_err(|e| BackupError::Refused(e.to_string()))?;
    log.replace_state(&snapshot).map_err(BackupError::Refused)
}

/// A database with the archive's history in it.
fn history(config: &Config, archive: &Verified) -> Result<Store, BackupError> {
    let path = config.db_path();
    let failed = |e: crate::store::StoreError| BackupError::Refused(format!("{}: {e}", path.display()));
    let options = StoreOptions { memory_limit_mb: config.db_memory_limit, ..StoreOptions::default() };
    let (store, _) = Store::open(&path, options).map_err(failed)?;
    for (table, file) in archive.history() {
        store.import(table, &file, STORE_LIMIT).map_err(failed)?;
    }
    Ok(store)
}
