//! What can go wrong with the store, and what to do about it.

use std::path::{Path, PathBuf};

/// An operation of the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another store of this one, has the file open.
    #[error("database {path} is in use by another process ({detail}): stop it, or set another `db_path`")]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who has it, as far as is known.
        detail: String,
    },
    /// The file was made by another program.
    #[error("{path} is not a database of this program ({why}): it was left as it is; set another `db_path`")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Another version of this program made the file.
    #[error(
        "database {path} has schema version {found}, this program knows {known}: use the program that wrote it, or move the file away and let it be rebuilt"
    )]
    SchemaVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The file is ours and can't be read.
    #[error("database {path} is damaged ({why}): it has to be quarantined and rebuilt")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// DuckDB did not open the file, and not because it is damaged.
    #[error("database {path} can't be opened: {why}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What DuckDB says.
        why: String,
    },
    /// A file operation failed.
    #[error("can't {tried} {path}: {source}")]
    Io {
        /// What was tried.
        tried: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A transaction or query failed.
    #[error("database: can't {tried}: {source}")]
    DuckDb {
        /// What was tried.
        tried: &'static str,
        /// Why not.
        source: duckdb::Error,
    },
    /// The store is not there.
    #[error("the database is not available: {why}")]
    Absent {
        /// Why.
        why: String,
    },
    /// The effects of an index did not come in within the time.
    #[error("the database is at index {applied_index} and did not reach {index} in time")]
    Behind {
        /// What was waited for.
        index: u64,
        /// Where it is.
        applied_index: u64,
    },
}

impl StoreError {
    /// True where the file is another program's or another version's.
    pub(super) fn is_not_ours(&self) -> bool {
        matches!(self, StoreError::Foreign { .. } | StoreError::SchemaVersion { .. })
    }

    /// True where a file that can be opened can't be worked with, and neither disk nor memory is why.
    pub(super) fn blames_the_content(&self) -> bool {
        let StoreError::DuckDb { source, .. } = self else { return false };
        let text = source.to_string().to_lowercase();
        !["no space", "out of memory", "interrupt", "too many open files"].iter().any(|no| text.contains(no))
    }

    pub(super) fn io(tried: &'static str, path: &Path, source: std::io::Error) -> Self {
        StoreError::Io { tried, path: path.to_owned(), source }
    }
}

/// Names what was tried when DuckDB fails.
pub(super) trait Tried<T> {
    fn tried(self, tried: &'static str) -> Result<T, StoreError>;
}

impl<T> Tried<T> for Result<T, duckdb::Error> {
    fn tried(self, tried: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::DuckDb { tried, source })
    }
}
