//! Backups: a consistent archive of the serving cluster, and its way back.
//!
//! An archive is a tar of `manifest.json`, `machine.snapshot` and the history as Parquet, all of
//! one log index. The manifest names every file with its length and hash. There are neither
//! secrets nor identities in it: no config, no incarnation, no vote, no cluster id. What is
//! restored from it is another cluster that happens to have the same tasks.

mod archive;
pub mod last;
mod restore;

pub use archive::{Stage, Verified, stream, verify};
pub use restore::{RestoreOptions, Restored, restore};

use serde::{Deserialize, Serialize};

/// What the manifest begins with.
const FORMAT: &str = "holdfast-backup";
/// The version this program writes, and the only one it reads.
pub const BACKUP_VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
const MACHINE: &str = "machine.snapshot";

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: u32,
    /// The program that wrote it.
    pub program: String,
    /// When.
    pub created_at: jiff::Timestamp,
    /// The log index of everything in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The machine's checksum there.
    pub checksum: String,
    /// Version of the columns of the history.
    schema_version: u32,
    /// Every other file, in the archive's order.
    pub files: Vec<ManifestFile>,
}

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its path in the archive.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its hash, hex.
    pub xxh3_128: String,
}

/// Why a backup can't be made, or is none.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The archive is not what its manifest says.
    #[error("the backup is damaged or none of ours: {0}; nothing was touched")]
    Damaged(String),
    /// Another version of the program wrote it.
    #[error(
        "{part} has version {found}, this program reads version {known}: use the program that wrote it; nothing was touched"
    )]
    Version {
        /// What of it.
        part: &'static str,
        /// Its version.
        found: u32,
        /// The one that this program reads.
        known: u32,
    },
    /// Its machine can't be read by this program.
    #[error("the backup's machine: {0}; nothing was touched")]
    Machine(crate::machine::SnapshotError),
    /// It can't be made now.
    #[error("no backup: {0}")]
    NotNow(String),
    /// It can't be restored there.
    #[error("{0}")]
    Refused(String),
}

pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> BackupError + '_ {
    |source| BackupError::Io { path: path.to_owned(), source }
}
