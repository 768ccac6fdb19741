//! Who may come, who may go, and when a learner gets its vote.
//!
//! - `checks`: PURE. Every rule about members, as functions of how the members stand.
//! - `join`: how a node comes into a cluster that exists.
//! - `steward`: what the leader does by itself: give votes, raise the machine's version, and take
//!   dead members out where the config allows it.
//! - `watch`: PURE. Whether a leader has looked long enough to call a member dead.
//!
//! Invariants:
//! - A node that lost its disk takes its old voter's place in one joint change, and only after
//!   the old incarnation was silent for [`checks::OLD_VOTER_SILENCE_MS`]; else two processes of
//!   one node might both be alive.
//! - Nobody is taken out, and no vote is given, unless the voters that are sound make a quorum of
//!   the configuration that comes out of it.

pub mod checks;
pub mod join;
pub mod steward;
pub mod watch;

/// A member as the node asked sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStanding {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its node id.
    pub node_id: String,
    /// Where it is reached.
    pub address: String,
    /// True for one that votes, also one that leaves with the end of a joint configuration.
    pub voter: bool,
    /// Raft id of the voter whose place it takes.
    pub replaces: Option<u64>,
    /// True for a learner that is to get a vote.
    pub wants_vote: bool,
    /// True for the node asked.
    pub own: bool,
    /// True while it answers.
    pub reachable: bool,
    /// Milliseconds since it was heard, or first looked for.
    pub silent_ms: u64,
    /// Entries between its log and the leader's; none where the node asked does not lead.
    pub lag_entries: Option<u64>,
    /// The newest machine version its program knows, once it told.
    pub machine_version: Option<u32>,
    /// Where it says it is reached, where that is not what the log says.
    pub moved_to: Option<String>,
}
