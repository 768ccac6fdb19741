//! What can go wrong outside of the cluster: files, locks, processes, sockets.

use api::config::ConfigError;
use std::io;
use std::path::PathBuf;

/// A failure of the daemon's own work. None of them is ever taken for a fact about a node.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The config is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or folder of the daemon's own can't be used.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was tried, as a verb: `can't open`.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon works on the same `recovery_dir`.
    #[error(
        "{path}: another recovery daemon (pid {pid}) works here; end it first, or use --dry-run to look beside it"
    )]
    SecondDaemon {
        /// The lock file.
        path: PathBuf,
        /// The pid it names.
        pid: String,
    },
    /// A node must not be started, or could not be.
    #[error("{node}: not started: {why}")]
    NotStarted {
        /// The node.
        node: String,
        /// What forbids it.
        why: String,
    },
    /// The process of a node could not be run, or ended before it had its data directory.
    #[error("{node}: `{command}` {why}")]
    StartFailed {
        /// The node.
        node: String,
        /// The command line.
        command: String,
        /// What happened.
        why: String,
    },
    /// The address to listen on can't be bound.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// `host:port`.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A part that has to be there can't be set up.
    #[error("{what}: {why}")]
    Setup {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
}

impl RecoveryError {
    /// A file error: what was tried on which path.
    pub fn file(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        RecoveryError::File { doing, path: path.into(), source }
    }
}
