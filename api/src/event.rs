//! What happens in a cluster, as one node saw it: `GET /api/events`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that changed how the cluster stands.
///
/// Kinds may be added; a reader passes over one that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClusterEvent {
    /// Its place in the stream of this run of this node; what follows it is asked for with it.
    pub id: String,
    /// When; of what stands in the log, the time that the leader gave it.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The node that saw it.
    pub node_id: String,
    /// What it is: `leader_changed`, `worker_lost`, ….
    pub kind: String,
    /// The node, worker or lease it is about; empty where it is about the cluster.
    pub subject: String,
    /// More about it, for people.
    pub detail: String,
    /// Index of the log's entry that made it; none where the node saw it by itself. What every
    /// node tells has the same index, kind and subject everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Raft's term at that moment.
    pub term: u64,
}

/// `GET /api/events` as one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventList {
    /// The events, oldest first.
    pub events: Vec<ClusterEvent>,
    /// Asked with as `since`, it gives what follows.
    pub next: String,
    /// True where events between `since` and the first one here are not kept any more, or the node
    /// was started anew meanwhile.
    pub gap: bool,
}
