//! Who this node is: the files that say so, and the lock on them.
//!
//! `identity.json` holds node id, incarnation (random, made at first start), boot counter and,
//! once the cluster is founded, the founding record. It is replaced whole: written beside,
//! synced, renamed, directory synced.
//!
//! Invariant: an incarnation is never used again once its log is lost; the Raft id is derived
//! from it, so a wiped node can't vote under its old name.

use super::DataError;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A member of the cluster as the founding record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its node id.
    pub node_id: String,
    /// Its incarnation.
    pub incarnation: String,
    /// `host:port`, as it told.
    pub address: String,
}

impl Member {
    /// The Raft id: derived from node id and incarnation, never 0.
    pub fn raft_id(&self) -> u64 {
        raft_id(&self.node_id, &self.incarnation)
    }
}

/// The Raft id of a node's incarnation.
pub fn raft_id(node_id: &str, incarnation: &str) -> u64 {
    let hash = xxhash_rust::xxh3::xxh3_64(format!("{node_id}\0{incarnation}").as_bytes());
    hash.max(1)
}

/// The cluster as it was founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster's id.
    pub cluster_id: String,
    /// The first voters, by node id.
    pub members: Vec<Member>,
}

/// What `identity.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    version: u32,
    node_id: String,
    incarnation: String,
    boot_counter: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    founding: Option<Founding>,
    /// True once every member has accepted the founding record.
    #[serde(default)]
    founded: bool,
}

/// This node's identity, and the lock that keeps a second process away.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    stored: Stored,
    /// Random, new with every start of the process.
    pub boot_nonce: u64,
    _lock: File,
}

impl Identity {
    /// Takes the data directory for this process, making it at first start.
    pub fn open(folder: &Path, node_id: &str) -> Result<Identity, DataError> {
        let directory = |source| DataError::Directory { path: folder.into(), source };
        std::fs::create_dir_all(folder).map_err(directory)?;
        let lock = lock(folder)?;
        let path = folder.join("identity.json");
        let mut stored = match std::fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if folder.join("raft").exists() {
                    return Err(DataError::Damaged {
                        path,
                        why: "is missing beside an existing log: the node's identity is lost; move the directory away and let the node start anew".into(),
                    });
                }
                Stored {
                    version: 1,
                    node_id: node_id.into(),
                    incarnation: random_hex()?,
                    boot_counter: 0,
                    founding: None,
                    founded: false,
                }
            }
            Err(source) => return Err(directory(source)),
        };
        if stored.node_id != node_id {
            return Err(DataError::Foreign {
                path: folder.into(),
                owner: stored.node_id,
                node_id: node_id.into(),
            });
        }
        stored.boot_counter += 1;
        let boot_nonce = u64::from_str_radix(&random_hex()?[..16], 16).unwrap_or(1).max(1);
        let identity = Identity { folder: folder.into(), stored, boot_nonce, _lock: lock };
        identity.save()?;
        Ok(identity)
    }

    /// Writes the identity of a node whose log and state were restored, as a founded member.
    pub fn write_restored(folder: &Path, own: &Member, founding: &Founding) -> Result<(), DataError> {
        let stored = Stored {
            version: 1,
            node_id: own.node_id.clone(),
            incarnation: own.incarnation.clone(),
            boot_counter: 0,
            founding: Some(founding.clone()),
            founded: true,
        };
        Identity { folder: folder.into(), stored, boot_nonce: 0, _lock: lock(folder)? }.save()
    }

    /// Says who uses the directory, if a process does.
    pub fn is_free(folder: &Path) -> Result<(), DataError> {
        lock(folder).map(drop)
    }

    /// The node's id.
    pub fn node_id(&self) -> &str {
        &self.stored.node_id
    }

    /// Its incarnation.
    pub fn incarnation(&self) -> &str {
        &self.stored.incarnation
    }

    /// How often it was started.
    pub fn boot_counter(&self) -> u64 {
        self.stored.boot_counter
    }

    /// The founding record, accepted or founded.
    pub fn founding(&self) -> Option<&Founding> {
        self.stored.founding.as_ref()
    }

    /// True once every member has accepted that record.
    pub fn founded(&self) -> bool {
        self.stored.founded
    }

    /// Durably accepts a founding record. Another one than was accepted before is refused.
    pub fn accept(&mut self, founding: &Founding) -> Result<(), String> {
        match &self.stored.founding {
            Some(had) if had == founding => Ok(()),
            Some(had) => Err(format!(
                "node {} has already accepted the founding of cluster {}",
                self.stored.node_id, had.cluster_id
            )),
            None => {
                self.stored.founding = Some(founding.clone());
                failpoint!("founding_before_accept");
                self.save().map_err(|e| {
                    self.stored.founding = None;
                    e.to_string()
                })?;
                failpoint!("founding_after_accept");
                Ok(())
            }
        }
    }

    /// Durably notes that the cluster is founded.
    pub fn set_founded(&mut self) -> Result<(), DataError> {
        self.stored.founded = true;
        failpoint!("founding_before_founded");
        self.save()?;
        failpoint!("founding_after_founded");
        Ok(())
    }

    fn save(&self) -> Result<(), DataError> {
        let error = |source| DataError::Directory { path: self.folder.clone(), source };
        let bytes = serde_json::to_vec_pretty(&self.stored).map_err(|e| error(e.into()))?;
        let part = self.folder.join("identity.json.part");
        failpoint!("identity_before_write");
        let mut file = File::create(&part).map_err(error)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(error)?;
        failpoint!("identity_before_rename");
        std::fs::rename(&part, self.folder.join("identity.json")).map_err(error)?;
        File::open(&self.folder).and_then(|d| d.sync_all()).map_err(error)?;
        failpoint!("identity_after_rename");
        Ok(())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Stored, DataError> {
    let damaged = |why: String| DataError::Damaged { path: path.into(), why };
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| damaged(format!("can't be read: {e}")))?;
    if stored.version != 1 {
        return Err(damaged(format!(
            "has version {}, this program knows 1: update the program",
            stored.version
        )));
    }
    Ok(stored)
}

/// Locks the directory; the lock file holds the owner's process id for whoever looks.
fn lock(folder: &Path) -> Result<File, DataError> {
    let error = |source| DataError::Directory { path: folder.into(), source };
    let path = folder.join("LOCK");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(error)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
        return Err(DataError::InUse { path: folder.into(), pid });
    }
    file.set_len(0).map_err(error)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(error)?;
    Ok(file)
}

/// 32 random hex digits.
pub fn random_hex() -> Result<String, DataError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| DataError::Damaged {
        path: "/dev/urandom".into(),
        why: format!("the system gives no random bytes: {e}"),
    })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_the_incarnation_and_counts() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::open(folder.path(), "node-1").unwrap();
        let (incarnation, nonce) = (first.incarnation().to_owned(), first.boot_nonce);
        drop(first);
        let second = Identity::open(folder.path(), "node-1").unwrap();
        assert_eq!(second.incarnation(), incarnation);
        assert_eq!(second.boot_counter(), 2);
        assert_ne!(second.boot_nonce, nonce);
    }

    #[test]
    fn a_second_process_is_refused_with_the_firsts_id() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Identity::open(folder.path(), "node-1").unwrap();
        let error = Identity::open(folder.path(), "node-1").unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_foreign_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Identity::open(folder.path(), "node-1").unwrap());
        let error = Identity::open(folder.path(), "node-2").unwrap_err().to_string();
        assert!(error.contains("belongs to node `node-1`"), "{error}");
    }

    #[test]
    fn a_second_founding_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut identity = Identity::open(folder.path(), "node-1").unwrap();
        let mut founding = Founding { cluster_id: "a".into(), members: vec![] };
        identity.accept(&founding).unwrap();
        identity.accept(&founding).unwrap();
        founding.cluster_id = "b".into();
        assert!(identity.accept(&founding).unwrap_err().contains("cluster a"));
        drop(identity);
        assert_eq!(Identity::open(folder.path(), "node-1").unwrap().founding().unwrap().cluster_id, "a");
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let folder = tempfile::tempdir().unwrap();
        drop(Identity::open(folder.path(), "node-1").unwrap());
        std::fs::write(folder.path().join("identity.json"), "{\"version\": 1, ").unwrap();
        let error = Identity::open(folder.path(), "node-1").unwrap_err().to_string();
        assert!(error.contains("identity.json: can't be read"), "{error}");
    }
}
