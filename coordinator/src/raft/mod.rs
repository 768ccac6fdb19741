//! The IO round the replica: threads, disk, sockets, identity.
//!
//! - `driver`: the one thread that owns the replica. Everything reaches it by its inbox.
//! - `stall`, `handover`: a leader whose own threads or disk fail it gives leadership away.
//! - `clocks`: how far the peers' clocks are from ours.
//! - `log`: raft-engine, and the writer thread that makes many writes durable with one sync.
//! - `log_end`: decides, before the engine opens, whether the log is whole, torn or damaged.
//! - `applier`: applies committed entries to the machine and answers the waiters.
//! - `greeting`: how a connection to a peer is opened, and what both sides prove.
//! - `transport`, `frames`, `handshake`: one long-lived connection a direction to every peer.
//! - `snapshots`: the machine as files, written behind the applier and fetched by peers.
//! - `history`: finished history between peers; `force_sync`: the majority's state in place of ours.
//! - `identity`, `founding`: who this node is, and how a cluster comes to be.
//! - `recover`: a new cluster from a survivor's directory, when a quorum is gone for good.
//! - `roster`: who is who at the moment, as the log made it.

pub mod applier;
pub mod clocks;
pub mod driver;
pub mod election_lines;
pub mod force_sync;
pub mod founding;
mod frames;
pub mod greeting;
pub mod handover;
pub(crate) mod handshake;
pub mod history;
pub mod identity;
pub mod limits;
pub mod log;
pub mod log_end;
mod log_replace;
pub mod lost_state;
pub mod peer_http;
pub mod publish;
mod pulses;
pub mod recover;
pub mod roster;
pub mod routes;
pub mod snapshots;
pub mod stall;
pub mod transport;

/// Why the node's own files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The directory can't be created or written.
    #[error(
        "data directory {path}: {source}; check that it exists on a mounted disk and that this user may write to it"
    )]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error(
        "data directory {path}: in use by process {pid}; stop that one first, or give this node a directory of its own"
    )]
    InUse {
        /// The directory.
        path: std::path::PathBuf,
        /// The process that holds its lock, as the lock file says.
        pid: String,
    },
    /// It belongs to another node.
    #[error(
        "data directory {path}: belongs to node `{owner}`, this node is `{node_id}`; check data_dir and node_id"
    )]
    Foreign {
        /// The directory.
        path: std::path::PathBuf,
        /// Whose it is.
        owner: String,
        /// Who asks.
        node_id: String,
    },
    /// A file in it is damaged.
    #[error("{path}: {why}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The log engine failed.
    #[error("log in {path}: {why}")]
    Engine {
        /// The log's directory.
        path: std::path::PathBuf,
        /// What it said.
        why: String,
    },
}
