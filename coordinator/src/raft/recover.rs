//! Founding a new cluster from what a survivor holds, when a quorum is gone for good.
//!
//! Raft can't tell here what was committed, so a person decides: the survivors' log ends are
//! shown, and the one whose end is the best becomes the only voter of a *new* cluster. All it
//! holds counts from then on, also entries of which nobody knows whether they were committed.
//! What only the lost nodes had is lost; nothing is made up.
//!
//! Invariants:
//! - Nothing is changed by looking: a copy of the log is read.
//! - The new cluster has an id of its own and the node a new incarnation, so that a lost node
//!   which turns up again can't mix with it.
//! - The old log and snapshots go into quarantine. The new ones are written whole beside them
//!   first; a crash at any point is finished at the next start (see [`super::identity`]).
//! - Fencing tokens jump ahead, since the lost nodes may have given out some that nobody here saw.

use crate::command::Batch;
use crate::machine::Machine;
use crate::raft::DataError;
use crate::raft::identity::{Founding, Identity, Member, random_hex};
use crate::raft::log::RaftLog;
use crate::raft::log_end::{self, LogEnd};
use crate::raft::snapshots::{SnapshotName, Snapshots};
use crate::replica::Truncated;
use raft::eraftpb::{ConfState, EntryType, HardState, Snapshot};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Where the new log and snapshot are written before they take the old ones' place.
pub const STAGE: &str = "recovered";
/// Where the log is copied to be looked at.
const COPY: &str = "recover-copy";
/// Tokens that are skipped, more than a lost log end can have given out.
const SKIPPED_TOKENS: u64 = 1_000_000;
/// Entries read at a time.
const PAGE_ENTRIES: usize = 1_000;

/// What one survivor holds.
#[derive(Debug, Clone, Serialize)]
pub struct Survivor {
    /// Its directory.
    pub data_dir: PathBuf,
    /// Its node id.
    pub node_id: String,
    /// The cluster it was in.
    pub cluster_id: String,
    /// Term of the last entry of its log.
    pub last_term: u64,
    /// Index of that entry.
    pub last_index: u64,
    /// Up to here it knows the entries to be committed.
    pub commit_index: u64,
    /// True where the log's last record was torn: something may be missing behind the end.
    pub torn: bool,
    /// Tasks in memory at its end.
    pub tasks: u64,
    /// The members it knew last, `id=host:port`.
    pub members: Vec<String>,
}

/// Why a survivor can't be read, or a cluster not be founded from it.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Its files can't be used; also where a process still runs on them.
    #[error(transparent)]
    Files(#[from] DataError),
    /// What is in them can't be used.
    #[error("{path}: {why}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
}

/// A survivor, its directory locked, with the machine at the end of its log.
pub struct Examined {
    /// What it holds.
    pub survivor: Survivor,
    identity: Identity,
    machine: Machine,
    own: Member,
}

/// Reads a survivor's directory, which no process may use. Nothing in it is changed.
pub fn examine(data_dir: &Path) -> Result<Examined, RecoverError> {
    let unusable = |why: String| RecoverError::Unusable { path: data_dir.into(), why };
    let identity = Identity::take(data_dir)?;
    let founding = identity
        .founding()
        .filter(|_| identity.founded())
        .cloned()
        .ok_or_else(|| unusable("holds no member of a cluster: there is nothing to recover".into()))?;
    let copy =
        room_for_copy(data_dir).map_err(|e| unusable(format!("no room for a copy of the log: {e}")))?;
    let raft = copy.path().join("raft");
    copy_folder(&data_dir.join("raft"), &raft)
        .map_err(|e| unusable(format!("its log can't be copied: {e}")))?;
    let torn = match log_end::check(&raft, &copy.path().join("cut"))? {
        LogEnd::Whole => false,
        LogEnd::Torn { .. } => true,
        LogEnd::Damaged { offset, why, .. } => {
            return Err(unusable(format!(
                "its log is damaged at byte {offset}: {why}; use another survivor"
            )));
        }
    };
    let log = RaftLog::open(&raft)?;
    let recovered = log.recovered(founding.membership().conf_state()).map_err(unusable)?;
    let machine = replay(data_dir, &founding, &log, recovered.snapshot.as_ref()).map_err(unusable)?;
    if machine.applied_index() != recovered.last.index {
        return Err(unusable(format!(
            "its log ends at {}, but could be replayed only to {}",
            recovered.last.index,
            machine.applied_index()
        )));
    }
    let known = &identity.known().members;
    let mut members: Vec<String> = if known.is_empty() { &founding.members } else { known }
        .iter()
        .map(|m| format!("{}={}", m.node_id, m.address))
        .collect();
    members.sort();
    let own_address = known
        .iter()
        .chain(&founding.members)
        .find(|m| m.node_id == identity.node_id())
        .map(|m| m.address.clone())
        .ok_or_else(|| unusable("does not know its own address".into()))?;
    let own = Member { node_id: identity.node_id().into(), incarnation: random_hex()?, address: own_address };
    let survivor = Survivor {
        data_dir: data_dir.into(),
        node_id: identity.node_id().into(),
        cluster_id: founding.cluster_id,
        last_term: recovered.last.term,
        last_index: recovered.last.index,
        commit_index: recovered.hard_state.commit,
        torn,
        tasks: machine.task_counts().values().sum(),
        members,
    };
    Ok(Examined { survivor, identity, machine, own })
}

/// The best end: what Raft would elect.
pub fn best(survivors: &[Examined]) -> Option<usize> {
    let end = |e: &Examined| (e.survivor.last_term, e.survivor.last_index, e.survivor.commit_index);
    (0..survivors.len()).max_by_key(|at| (end(&survivors[*at]), std::cmp::Reverse(*at)))
}

/// Founds a new cluster of one from this survivor; gives its id.
pub fn found(examined: Examined) -> Result<String, RecoverError> {
    let Examined { survivor, mut identity, mut machine, own } = examined;
    let data_dir = survivor.data_dir;
    let unusable = |why: String| RecoverError::Unusable { path: data_dir.clone(), why };
    let cluster_id = random_hex()?;
    let founding = Founding {
        cluster_id: cluster_id.clone(),
        members: vec![own.clone()],
        machine_version: machine.version(),
    };
    machine.skip_tokens(SKIPPED_TOKENS);
    let mut members = founding.membership();
    members.changed_index = survivor.last_index;
    let version = machine.version();
    machine.found(members.clone(), version);

    let stage = data_dir.join(STAGE);
    if stage.exists() {
        // Left by an attempt that did not come to its end.
        std::fs::remove_dir_all(&stage).map_err(|e| unusable(e.to_string()))?;
    }
    let name = Snapshots::new(&stage).write_machine(&mut machine).map_err(|e| unusable(e.to_string()))?;
    let snapshot = snapshot_message(&name, members.conf_state());
    let hard_state = HardState {
        // Beyond every term that a lost node may have begun with what it had.
        term: survivor.last_term + 1,
        commit: survivor.last_index,
        ..HardState::default()
    };
    let at = Truncated { index: survivor.last_index, term: survivor.last_term };
    failpoint!("recover_before_log");
    let log = RaftLog::open(&stage.join("raft"))?;
    log.begin_at(&snapshot, at, &hard_state).map_err(unusable)?;
    drop(log);
    failpoint!("recover_before_identity");
    identity.begin_recovered(
        &own.incarnation,
        founding,
        "a new cluster was founded from this node (recover-quorum)",
    )?;
    Ok(cluster_id)
}

fn snapshot_message(name: &SnapshotName, conf_state: ConfState) -> Snapshot {
    let mut snapshot =
        Snapshot { data: serde_json::to_vec(name).unwrap_or_default().into(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (name.index, name.term);
    metadata.set_conf_state(conf_state);
    snapshot
}

/// The machine at the end of the log: the snapshot, and every entry behind it.
fn replay(
    data_dir: &Path,
    founding: &Founding,
    log: &RaftLog,
    snapshot: Option<&Snapshot>,
) -> Result<Machine, String> {
    let mut machine = match snapshot {
        None => {
            let mut machine = Machine::new();
            machine.found(founding.membership(), founding.machine_version);
            machine
        }
        Some(snapshot) => {
            let name = serde_json::from_slice(snapshot.get_data())
                .map_err(|e| format!("the snapshot's name in the log can't be read: {e}"))?;
            Snapshots::new(data_dir).read(&name).map_err(|e| e.to_string())?
        }
    };
    loop {
        let entries = log.page(machine.applied_index() + 1, PAGE_ENTRIES)?;
        if entries.is_empty() {
            return Ok(machine);
        }
        for entry in entries {
            if entry.index != machine.applied_index() + 1 {
                return Err(format!("entry {} is missing", machine.applied_index() + 1));
            }
            // Changes of the members count no more: the new cluster has members of its own.
            if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                let batch = Batch::decode(&entry.data).map_err(|e| format!("entry {}: {e}", entry.index))?;
                for command in &batch.commands {
                    machine.admit(command)?;
                    machine.apply(entry.index, entry.term, batch.stamp, command, &mut Vec::new());
                }
            }
            machine.finish_entry(entry.index, entry.term, &entry.data);
        }
    }
}

/// A folder of its own, empty. One that was left by an attempt that broke off is gone then.
fn room_for_copy(data_dir: &Path) -> std::io::Result<tempfile::TempDir> {
    match std::fs::remove_dir_all(data_dir.join(COPY)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    tempfile::Builder::new().prefix(COPY).rand_bytes(0).tempdir_in(data_dir)
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
