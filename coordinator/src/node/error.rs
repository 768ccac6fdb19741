//! Why a proposal or a read did not go through.

use crate::replica::ProposeRefused;
use api::cluster::Role;

/// Why a proposal or a read did not go through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// This node does not lead; nothing was done.
    #[error("this node is not the leader")]
    NotLeader,
    /// No leader is known, or it has not committed in its term; nothing was done.
    #[error("no leader is known")]
    NoLeader,
    /// A queue is full; nothing was done.
    #[error("the queue of proposals is full")]
    Overloaded,
    /// The node's role does not let it take part; nothing was done.
    #[error("the node is {role}: {why}")]
    Unavailable {
        /// The role.
        role: Role,
        /// Why it has it.
        why: String,
    },
    /// The disk is at its floor, here or on a majority; nothing was done.
    #[error("the disk is full: {why}")]
    DiskFull {
        /// What was measured.
        why: String,
    },
    /// The process uses more memory than it may; nothing was done.
    #[error("the node uses {used_mb} MiB of memory, more than its limit of {limit_mb} MiB")]
    OutOfMemory {
        /// Resident memory.
        used_mb: u64,
        /// `max_memory_mb`.
        limit_mb: u64,
    },
    /// Another change of the membership is under way; nothing was done.
    #[error("another change of the membership is under way")]
    ChangePending,
    /// The members as they are don't allow it; nothing was done.
    #[error("the members as they are don't allow it: {0}")]
    Impossible(String),
    /// Nobody is ready to take leadership over; this node leads on.
    #[error("nobody is ready to take leadership over: {0}")]
    NoSuccessor(String),
    /// Leadership or time ran out in flight: it may have happened or not.
    #[error("leadership or time ran out before the outcome was known")]
    UnknownOutcome,
}

impl From<ProposeRefused> for NodeError {
    fn from(refused: ProposeRefused) -> Self {
        match refused {
            ProposeRefused::NotLeader => NodeError::NotLeader,
            ProposeRefused::Busy => NodeError::Overloaded,
            ProposeRefused::ChangePending => NodeError::ChangePending,
            ProposeRefused::Impossible(why) => NodeError::Impossible(why),
            ProposeRefused::NoSuccessor(why) => NodeError::NoSuccessor(why),
        }
    }
}
