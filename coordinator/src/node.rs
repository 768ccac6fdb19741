//! A running node, as the HTTP side sees it: propose, read, look.

use crate::command::{Command, Reply};
use crate::machine::Machine;
use api::cluster::{Operation, Progress, Role};
use parking_lot::RwLockReadGuard;

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
    /// Leadership or time ran out in flight: it may have happened or not.
    #[error("leadership or time ran out before the outcome was known")]
    UnknownOutcome,
}

/// A command that was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Log index of its entry.
    pub index: u64,
    /// The machine's answer.
    pub reply: Reply,
}

/// What Raft says of itself, published by the owner thread after every turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftView {
    /// The role.
    pub role: Role,
    /// Why, where it is not one that serves.
    pub role_detail: Option<String>,
    /// Node id of the leader.
    pub leader: Option<String>,
    /// True once this leader has committed an entry of its own term (reads and dispatch wait for it).
    pub leader_ready: bool,
    /// Raft term.
    pub term: u64,
    /// Commit index.
    pub commit_index: u64,
    /// First index of the log.
    pub first_index: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Leader changes seen.
    pub leader_changes: u64,
}

/// A handle on the node's threads. Cheap to clone.
#[derive(Clone)]
pub struct Node;

impl Node {
    /// This node's id.
    pub fn node_id(&self) -> &str {
        unimplemented!()
    }
    /// Changes with every start of the process.
    pub fn boot_nonce(&self) -> &str {
        unimplemented!()
    }
    /// The cluster's id once it is founded.
    pub fn cluster_id(&self) -> Option<String> {
        unimplemented!()
    }
    /// The newest view; cheap.
    pub fn view(&self) -> RaftView {
        unimplemented!()
    }
    /// Wakes whenever the view changes.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<RaftView> {
        unimplemented!()
    }
    /// Address (`host:port`) of a member.
    pub fn address_of(&self, _node_id: &str) -> Option<String> {
        unimplemented!()
    }
    /// Node ids of voters and of learners.
    pub fn members(&self) -> (Vec<String>, Vec<String>) {
        unimplemented!()
    }
    /// The peers as this node sees them.
    pub fn peers(&self) -> Vec<api::cluster::PeerStatus> {
        unimplemented!()
    }
    /// Progress of the threads.
    pub fn progress(&self) -> Progress {
        unimplemented!()
    }
    /// What goes on for longer than a request.
    pub fn operations(&self) -> Vec<Operation> {
        unimplemented!()
    }
    /// The machine; hold the guard only for a moment, the applier waits for it.
    pub fn machine(&self) -> RwLockReadGuard<'_, Machine> {
        unimplemented!()
    }
    /// Highest applied index.
    pub fn applied_index(&self) -> u64 {
        unimplemented!()
    }
    /// Wakes whenever the applied index moves.
    pub fn watch_applied(&self) -> tokio::sync::watch::Receiver<u64> {
        unimplemented!()
    }
    /// Entries from..to as the log holds them (index, term, kind, data), at most `limit`.
    pub fn log_entries(
        &self,
        _from: u64,
        _limit: usize,
    ) -> Result<Vec<(u64, u64, &'static str, Vec<u8>)>, String> {
        unimplemented!()
    }
    /// Proposes a command on this node, which must lead, and waits until it is applied.
    pub async fn propose(&self, _command: Command) -> Result<Applied, NodeError> {
        unimplemented!()
    }
    /// An index that a linearizable read has to have applied; waits until it is.
    pub async fn read_barrier(&self) -> Result<u64, NodeError> {
        unimplemented!()
    }
    /// Waits until `index` is applied here.
    pub async fn wait_applied(&self, _index: u64, _limit: std::time::Duration) -> Result<(), NodeError> {
        unimplemented!()
    }
    /// Gives up leadership; done once another leads or the limit has passed.
    pub async fn transfer(&self, _to: Option<&str>) -> Result<(), NodeError> {
        unimplemented!()
    }
}
