//! Who this node is: the files that say so, and the lock on them.
//!
//! `identity.json` holds node id, incarnation (random, made at first start), boot counter and,
//! once the cluster is founded, the founding record. It is replaced whole: written beside,
//! synced, renamed, directory synced.
//!
//! Invariant: an incarnation is never used again once its log is lost; the Raft id is derived
//! from it, so a wiped node can't vote under its old name.

use super::DataError;
use crate::machine::members::{MemberRecord, Membership};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// The machine version that every founder knew.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub machine_version: u32,
}

const fn first_version() -> u32 {
    1
}

const fn is_first_version(version: &u32) -> bool {
    *version <= 1
}

impl Founding {
    /// The founders as the machine begins with them.
    pub fn membership(&self) -> Membership {
        let record = |m: &Member| MemberRecord {
            node_id: m.node_id.clone(),
            incarnation: m.incarnation.clone(),
            address: m.address.clone(),
            replaces: None,
            wants_vote: true,
        };
        Membership::founded(self.members.iter().map(|m| (m.raft_id(), record(m))).collect())
    }
}

/// The members as this node saw them last: whom to ask after a restart, before the log is
/// replayed. A hint, never the truth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Log index of the change that made them.
    pub index: u64,
    /// The members.
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
    /// The members as they were seen last.
    #[serde(default)]
    known: Known,
    /// The highest start number seen of each peer, by Raft id.
    #[serde(default)]
    boots: BTreeMap<u64, u64>,
    /// The cluster an earlier incarnation was in: this one joins it and founds no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejoins: Option<String>,
    /// A change of incarnation that has not come to its end; nothing starts before it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewing: Option<Renewing>,
}

/// How far a change of incarnation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Renewing {
    /// The old log and snapshots still have to go into quarantine, for this reason.
    Quarantine(String),
    /// What was recovered still has to be put in their place.
    Place,
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
                    known: Known::default(),
                    boots: BTreeMap::new(),
                    rejoins: None,
                    renewing: None,
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
        let mut identity = Identity { folder: folder.into(), stored, boot_nonce, _lock: lock };
        identity.finish_renewal()?;
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
            known: Known::default(),
            boots: BTreeMap::new(),
            rejoins: None,
            renewing: None,
        };
        Identity { folder: folder.into(), stored, boot_nonce: 0, _lock: lock(folder)? }.save()
    }

    /// Says who uses the directory, if a process does.
    pub fn is_free(folder: &Path) -> Result<(), DataError> {
        lock(folder).map(drop)
    }

    /// Takes a directory that is there, without starting a node on it: nothing is counted up.
    pub fn take(folder: &Path) -> Result<Identity, DataError> {
        let path = folder.join("identity.json");
        if !path.exists() {
            return Err(DataError::Damaged {
                path,
                why: "is missing: this is no node's data directory".into(),
            });
        }
        let lock = lock(folder)?;
        let bytes = std::fs::read(&path);
        let bytes = bytes.map_err(|source| DataError::Directory { path: folder.into(), source })?;
        let stored = parse(&path, &bytes)?;
        let mut identity = Identity { folder: folder.into(), stored, boot_nonce: 0, _lock: lock };
        identity.finish_renewal()?;
        Ok(identity)
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

    /// The cluster that an earlier incarnation of this node was in.
    pub fn rejoins(&self) -> Option<&str> {
        self.stored.rejoins.as_deref()
    }

    /// Begins a new incarnation, which joins the old one's cluster as a new member. Log and
    /// snapshots of the old one go into quarantine; the database stays. Raft must not run.
    ///
    /// The new incarnation is durable first: a crash in between finds `renewing` set and moves
    /// the rest at the next start. The other way round, an empty log could vote under the old one.
    pub fn renew(&mut self, why: &str) -> Result<(), DataError> {
        let cluster = self.stored.founding.take().map(|f| f.cluster_id);
        self.stored.rejoins = cluster.or_else(|| self.stored.rejoins.take());
        self.stored.founded = false;
        self.stored.incarnation = random_hex()?;
        self.stored.renewing = Some(Renewing::Quarantine(why.to_owned()));
        self.save()?;
        self.finish_renewal()
    }

    /// Takes the place of a recovered node: a new cluster whose log and snapshot lie ready in
    /// [`super::recover::STAGE`].
    pub fn begin_recovered(
        &mut self,
        incarnation: &str,
        founding: Founding,
        why: &str,
    ) -> Result<(), DataError> {
        self.stored.incarnation = incarnation.to_owned();
        self.stored.founding = Some(founding);
        (self.stored.founded, self.stored.rejoins) = (true, None);
        self.stored.known = Known::default();
        self.stored.renewing = Some(Renewing::Quarantine(why.to_owned()));
        self.save()?;
        self.finish_renewal()
    }

    fn finish_renewal(&mut self) -> Result<(), DataError> {
        const FOLDERS: [&str; 2] = ["raft", "snapshots"];
        let stage = self.folder.join(super::recover::STAGE);
        if let Some(Renewing::Quarantine(why)) = self.stored.renewing.clone() {
            failpoint!("renewal_before_quarantine");
            let moved = FOLDERS.map(|name| self.folder.join(name));
            crate::quarantine::folders(&moved, &self.folder.join("quarantine"), &why)
                .map_err(|(path, source)| DataError::Directory { path, source })?;
            failpoint!("renewal_after_quarantine");
            self.stored.renewing = Some(Renewing::Place);
            self.save()?;
        }
        if self.stored.renewing == Some(Renewing::Place) {
            for name in FOLDERS.into_iter().filter(|name| stage.join(name).exists()) {
                let moved = std::fs::rename(stage.join(name), self.folder.join(name));
                moved.map_err(|source| DataError::Directory { path: stage.clone(), source })?;
            }
            // Empty by now; a folder that stays does no harm.
            let _ = std::fs::remove_dir(&stage);
            failpoint!("renewal_before_end");
            self.stored.renewing = None;
            self.save()?;
        }
        Ok(())
    }

    /// The members as they were seen last.
    pub fn known(&self) -> &Known {
        &self.stored.known
    }

    /// Durably notes the members.
    pub fn set_known(&mut self, known: Known) -> Result<(), DataError> {
        if self.stored.known == known {
            return Ok(());
        }
        // What was seen of those that are gone is of no use; their Raft ids never come back.
        self.stored.boots.retain(|id, _| known.members.iter().any(|m| m.raft_id() == *id));
        self.stored.known = known;
        self.save()
    }

    /// The highest start number seen of a peer, also before this process began.
    pub fn boot_of(&self, raft_id: u64) -> Option<u64> {
        self.stored.boots.get(&raft_id).copied()
    }

    /// Durably notes a peer's start number.
    pub fn note_boot(&mut self, raft_id: u64, boot_counter: u64) -> Result<(), DataError> {
        let seen = self.stored.boots.entry(raft_id).or_default();
        if *seen >= boot_counter {
            return Ok(());
        }
        *seen = boot_counter;
        self.save()
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
    let unread = |e: serde_json::Error| damaged(format!("can't be read: {e}"));
    // The version first: what a newer program wrote may have another shape.
    let Version { version } = serde_json::from_slice(bytes).map_err(unread)?;
    if version != 1 {
        return Err(damaged(format!("has version {version}, this program knows 1: update the program")));
    }
    serde_json::from_slice(bytes).map_err(unread)
}

#[derive(Deserialize)]
struct Version {
    version: u32,
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
        let mut founding = Founding { cluster_id: "a".into(), members: vec![], machine_version: 1 };
        identity.accept(&founding).unwrap();
        identity.accept(&founding).unwrap();
        founding.cluster_id = "b".into();
        assert!(identity.accept(&founding).unwrap_err().contains("cluster a"));
        drop(identity);
        assert_eq!(Identity::open(folder.path(), "node-1").unwrap().founding().unwrap().cluster_id, "a");
    }

    #[test]
    fn a_new_incarnation_leaves_the_old_log_in_quarantine() {
        let folder = tempfile::tempdir().unwrap();
        let mut identity = Identity::open(folder.path(), "node-1").unwrap();
        let old = identity.incarnation().to_owned();
        let founding = Founding { cluster_id: "c".into(), members: vec![], machine_version: 2 };
        identity.accept(&founding).unwrap();
        identity.set_founded().unwrap();
        std::fs::create_dir(folder.path().join("raft")).unwrap();
        std::fs::write(folder.path().join("raft/1.raftlog"), b"log").unwrap();
        // A crash after the new incarnation was written: the next start moves the log.
        identity.stored.renewing = Some(Renewing::Quarantine("rolled back".into()));
        identity.save().unwrap();
        drop(identity);
        let mut identity = Identity::open(folder.path(), "node-1").unwrap();
        assert!(!folder.path().join("raft").exists());
        identity.renew("again").unwrap();
        assert_ne!(identity.incarnation(), old);
        assert_eq!((identity.rejoins(), identity.founding(), identity.founded()), (Some("c"), None, false));
        identity.renew("and again").unwrap();
        assert_eq!(identity.rejoins(), Some("c"));
        let kept =
            std::fs::read_dir(folder.path().join("quarantine")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(std::fs::read(kept.join("raft/1.raftlog")).unwrap(), b"log");
        let manifest = std::fs::read_to_string(kept.join("manifest.json")).unwrap();
        assert!(manifest.contains("rolled back") && manifest.contains("1.raftlog"), "{manifest}");
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let folder = tempfile::tempdir().unwrap();
        drop(Identity::open(folder.path(), "node-1").unwrap());
        std::fs::write(folder.path().join("identity.json"), "{\"version\": 1, ").unwrap();
        let error = Identity::open(folder.path(), "node-1").unwrap_err().to_string();
        assert!(error.contains("identity.json: can't be read"), "{error}");
    }

    #[test]
    fn an_identity_of_a_newer_program_is_named_whatever_its_shape() {
        let folder = tempfile::tempdir().unwrap();
        drop(Identity::open(folder.path(), "node-1").unwrap());
        std::fs::write(folder.path().join("identity.json"), r#"{"version": 9, "node": {"name": "node-1"}}"#)
            .unwrap();
        let error = Identity::open(folder.path(), "node-1").unwrap_err().to_string();
        assert!(error.contains("has version 9") && error.contains("update the program"), "{error}");
    }
}
