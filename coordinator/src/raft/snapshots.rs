//! Snapshot files: the machine as bytes, so that the log in front of it may go.
//!
//! A file is written beside, synced and renamed; it counts once a batch of the log engine names
//! it, together with the compaction that it allows. Files that no batch names are thrown away
//! at the next start.
//!
//! Invariant: what is installed was read whole, its hash and its own checksum verified, before
//! anything is replaced.

use crate::access::outbound::Outbound;
use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The path under which peers fetch a snapshot file.
pub const SNAPSHOT_PATH: &str = "/raft/snapshot/{file}";
/// The largest snapshot that is taken from a peer.
const MAX_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// How long a peer may be silent while it sends one.
const FETCH_SILENCE: Duration = Duration::from_secs(10);

/// Names a snapshot file; travels in Raft's snapshot message and in the log engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotName {
    /// The file's name in the snapshot folder.
    pub file: String,
    /// Index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Its length.
    pub bytes: u64,
    /// xxh3-128 of its bytes, hex.
    pub hash: String,
}

/// Why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file can't be read or written.
    #[error("snapshot {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not those that were named.
    #[error("snapshot {path}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// The peer did not give it.
    #[error("snapshot {file} from {address}: {why}")]
    Fetch {
        /// The file.
        file: String,
        /// Who was asked.
        address: String,
        /// What went wrong.
        why: String,
    },
}

/// The folder of snapshot files.
#[derive(Debug, Clone)]
pub struct Snapshots {
    folder: PathBuf,
}

impl Snapshots {
    /// Snapshots in `{data_dir}/snapshots`.
    pub fn new(data_dir: &Path) -> Snapshots {
        Snapshots { folder: data_dir.join("snapshots") }
    }

    /// Where a file of that name lies; none where the name is none of ours.
    pub fn path(&self, file: &str) -> Option<PathBuf> {
        let plain = file.ends_with(".snapshot")
            && file.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        (plain && !file.contains("..")).then(|| self.folder.join(file))
    }

    /// Writes a machine's bytes durably.
    pub fn write(&self, index: u64, term: u64, bytes: &[u8]) -> Result<SnapshotName, SnapshotError> {
        let name = SnapshotName {
            file: format!("{index:020}-{term}.snapshot"),
            index,
            term,
            bytes: bytes.len() as u64,
            hash: hash(bytes),
        };
        self.put(&name.file, bytes)?;
        Ok(name)
    }

    fn put(&self, file: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
        let path = self.folder.join(file);
        let error = |source| SnapshotError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(error)?;
        let part = path.with_extension("part");
        failpoint!("snapshot_before_write");
        let mut out = File::create(&part).map_err(error)?;
        out.write_all(bytes).and_then(|()| out.sync_all()).map_err(error)?;
        failpoint!("snapshot_before_rename");
        std::fs::rename(&part, &path).map_err(error)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(error)?;
        failpoint!("snapshot_after_rename");
        Ok(())
    }

    /// Reads and verifies a snapshot.
    pub fn read(&self, name: &SnapshotName) -> Result<Machine, SnapshotError> {
        let path = self.folder.join(&name.file);
        let bytes =
            std::fs::read(&path).map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        verify(name, &bytes).map_err(|why| SnapshotError::Damaged { path, why })
    }

    /// Fetches a snapshot from a peer, verifies it and keeps it durably.
    pub async fn fetch(
        &self,
        peers: &Outbound,
        address: &str,
        name: &SnapshotName,
    ) -> Result<(), SnapshotError> {
        let failed =
            |why: String| SnapshotError::Fetch { file: name.file.clone(), address: address.into(), why };
        if self.path(&name.file).is_none() || name.bytes > MAX_BYTES {
            return Err(failed("its name or size is not acceptable".into()));
        }
        let path = SNAPSHOT_PATH.replace("{file}", &name.file);
        let silence = |_| failed(format!("silent for {FETCH_SILENCE:?}"));
        let sent =
            tokio::time::timeout(FETCH_SILENCE, peers.get(address, &path, None)).await.map_err(silence)?;
        let mut answer = sent
            .map_err(|e| failed(e.to_string()))?
            .error_for_status()
            .map_err(|e| failed(api::client::error_chain(&e)))?;
        let mut bytes = Vec::with_capacity(name.bytes as usize);
        while let Some(chunk) = tokio::time::timeout(FETCH_SILENCE, answer.chunk())
            .await
            .map_err(silence)?
            .map_err(|e| failed(api::client::error_chain(&e)))?
        {
            if (bytes.len() + chunk.len()) as u64 > name.bytes {
                return Err(failed("longer than announced".into()));
            }
            bytes.extend_from_slice(&chunk);
        }
        let (snapshots, name) = (self.clone(), name.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let path = snapshots.folder.join(&name.file);
            verify(&name, &bytes).map_err(|why| SnapshotError::Damaged { path, why })?;
            snapshots.put(&name.file, &bytes)
        });
        kept.await.map_err(|e| failed(e.to_string()))?
    }

    /// Removes every file but the named one; they are superseded or were never named.
    pub fn keep_only(&self, file: Option<&str>) -> std::io::Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if Some(entry.file_name().to_string_lossy().as_ref()) != file {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}

fn verify(name: &SnapshotName, bytes: &[u8]) -> Result<Machine, String> {
    if bytes.len() as u64 != name.bytes || hash(bytes) != name.hash {
        return Err(format!("its {} bytes are not those that were named", bytes.len()));
    }
    let machine = Machine::decode_snapshot(bytes).map_err(|e| e.to_string())?;
    if machine.applied_index() != name.index {
        return Err(format!("holds index {}, not {}", machine.applied_index(), name.index));
    }
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_flipped_bit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(folder.path());
        let mut machine = Machine::new();
        machine.finish_entry(7, 2, &[]);
        let name = snapshots.write(7, 2, &machine.encode_snapshot()).unwrap();
        assert_eq!(snapshots.read(&name).unwrap().checksum(), machine.checksum());
        let path = snapshots.path(&name.file).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert!(snapshots.read(&name).unwrap_err().to_string().contains("not those that were named"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let snapshots = Snapshots::new(Path::new("/data"));
        for name in ["../identity.json", "a/b.snapshot", "..snapshot", "identity.json", ""] {
            assert_eq!(snapshots.path(name), None, "{name}");
        }
        assert!(snapshots.path("00000000000000000007-2.snapshot").is_some());
    }
}
