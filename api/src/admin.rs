//! The repair calls of one node (`POST /api/admin/...`). They are never forwarded: each is about
//! the node that is asked, whatever its role.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Body of every admin call: whose repair it belongs to.
///
/// `epoch` is that of the named lease `recovery`. A node remembers the highest it has seen and
/// refuses an older one (`stale_epoch`). A destructive call needs an epoch, or `by_hand`: then a
/// person answers for it, and no daemon may be at work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminCall {
    /// The epoch of the lease under which the caller acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The cluster the caller means; another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// A person does this, without the lease.
    #[serde(default, skip_serializing_if = "is_false")]
    pub by_hand: bool,
    /// For the log and the manifest: why it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// `cancel_operations` only: the one operation that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What the last whole check of a part found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IntegrityCheck {
    /// `log`, `machine` or `db`.
    pub part: String,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub checked_at: Timestamp,
    /// True where nothing was wrong.
    pub sound: bool,
    /// Log entries and records, tasks, or rows that were looked at.
    pub checked: u64,
    /// How long it took.
    pub took_ms: u64,
    /// What is wrong and what to do; what was left out, where it is sound.
    pub detail: String,
}

/// Answer to `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Verified {
    /// True where every part is.
    pub sound: bool,
    /// Each part.
    pub parts: Vec<IntegrityCheck>,
}

/// Answer to `rebuild_db`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rebuilt {
    /// The database holds everything up to this index again.
    pub index: u64,
    /// Tasks that came from this node's machine.
    pub tasks: u64,
    /// Where the old file went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// True where finished tasks that have left memory are being fetched from a peer.
    pub history_follows: bool,
}

/// Answer to `snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SnapshotTaken {
    /// Index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Its size on disk.
    pub bytes: u64,
    /// Its hash, xxh3-128.
    pub hash: String,
}

/// Answer to `cleanup_resources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CleanedUp {
    /// What was done, in order, with what it brought or why it could not be done.
    pub steps: Vec<String>,
    /// Bytes of the data directory before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
}

/// Answer to `cancel_operations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Cancelled {
    /// Operations that were told to end.
    pub cancelled: Vec<String>,
    /// Operations that can't be ended from outside.
    pub left: Vec<String>,
}

/// Answer to `force_sync`: it goes on behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ForceSyncStarted {
    /// The operation, as `/api/health/operations` lists it.
    pub operation: String,
}
