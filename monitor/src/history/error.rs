//! What can go wrong with history.

use std::path::PathBuf;

/// Why history can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file can't be opened.
    #[error("history {path} can't be opened: {why}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// DuckDB refused something.
    #[error("history: can't {tried}: {why}")]
    Database {
        /// What was tried.
        tried: &'static str,
        /// What DuckDB said.
        why: String,
    },
    /// A file beside it can't be written.
    #[error("history: can't write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Too many ask at once.
    #[error("history is asked by too many at once; ask again in a moment")]
    Busy,
    /// A question took too long.
    #[error("history: no answer within {limit_seconds} s; ask for less time or a wider step")]
    Slow {
        /// The limit.
        limit_seconds: u64,
    },
    /// An answer would be too long.
    #[error("history: more than {most} points; ask for fewer metrics, one node, less time or a wider step")]
    TooLong {
        /// The most there may be.
        most: usize,
    },
    /// The server that keeps history can't be asked.
    #[error("history: {url} can't be asked: {why}")]
    Server {
        /// Its address.
        url: String,
        /// Why.
        why: String,
    },
    /// This source of history can't do that.
    #[error("history: {0}")]
    Unsupported(String),
    /// It ended.
    #[error("history has ended")]
    Ended,
}

/// Names what was tried.
pub(super) trait Tried<T> {
    fn tried(self, what: &'static str) -> Result<T, HistoryError>;
}

impl<T> Tried<T> for duckdb::Result<T> {
    fn tried(self, tried: &'static str) -> Result<T, HistoryError> {
        self.map_err(|error| HistoryError::Database { tried, why: error.to_string() })
    }
}
