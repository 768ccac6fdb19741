//! What a node says of itself: status, health, report, and the small cluster calls.

use crate::task::TaskState;
use crate::worker::WorkerState;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node's role. The last five do not serve tasks, but answer status, health, logs and admin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Follows the leader.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Has not founded or joined a cluster yet.
    Uninitialised,
    /// Waits to be taken into a cluster.
    Joining,
    /// Lost the end of its log; does not vote until it has caught up.
    Suspect,
    /// Its log or identity is damaged; it takes no part.
    Failed,
    /// Was removed from its cluster.
    Removed,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 9] = [
        Role::Leader,
        Role::Follower,
        Role::Candidate,
        Role::Learner,
        Role::Uninitialised,
        Role::Joining,
        Role::Suspect,
        Role::Failed,
        Role::Removed,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Uninitialised => "uninitialised",
            Role::Joining => "joining",
            Role::Suspect => "suspect",
            Role::Failed => "failed",
            Role::Removed => "removed",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A peer as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerStatus {
    /// The peer's node id.
    pub node_id: String,
    /// Where this node reaches it, `host:port`.
    pub address: String,
    /// True while a connection to it is up and answers.
    pub reachable: bool,
    /// Milliseconds since anything was heard of it; none where nothing ever was.
    pub last_contact_ms: Option<u64>,
    /// Round trip, milliseconds, smoothed.
    pub rtt_ms: Option<f64>,
    /// The index up to which its log matches, as the leader knows it; none on a follower.
    pub match_index: Option<u64>,
    /// Its clock minus ours, milliseconds: the sample with the shortest round trip of the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// Why it is not reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it said when it last stopped on purpose; none once another process of it was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodbye: Option<Goodbye>,
}

/// A node's word that its process ends on purpose. One that crashes, or is killed, leaves none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Goodbye {
    /// The process that said it.
    pub boot_nonce: String,
    /// Milliseconds since it did.
    pub ago_ms: u64,
}

/// Maintenance mode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Maintenance {
    /// True while no new tasks are accepted or assigned.
    pub enabled: bool,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Who turned it on: a user, what the request called itself, or the program that sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `POST /api/maintenance/enable` and `/disable`; an empty body does as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchMaintenance {
    /// Who does it, at most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `GET /api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// The node's id.
    pub node_id: String,
    /// The cluster's id; none before it is founded.
    pub cluster_id: Option<String>,
    /// The node's role.
    pub role: Role,
    /// Why the role is not one that serves; none otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_detail: Option<String>,
    /// Node id of the leader it follows.
    pub current_leader: Option<String>,
    /// Address (`host:port`) of that leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_address: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Highest index known to be committed.
    pub commit_index: u64,
    /// Highest index applied to the machine.
    pub applied_index: u64,
    /// First index that the log still holds.
    pub first_log_index: u64,
    /// Last index of the log.
    pub last_log_index: u64,
    /// Index of the newest snapshot, 0 without one.
    pub snapshot_index: u64,
    /// Node ids of the voters.
    pub voters: Vec<String>,
    /// Node ids of the learners.
    pub learners: Vec<String>,
    /// The other nodes as this one sees them.
    pub peers: Vec<PeerStatus>,
    /// Live tasks by state; every state is there.
    pub tasks: BTreeMap<TaskState, u64>,
    /// Workers by state; every state is there.
    pub workers: BTreeMap<WorkerState, u64>,
    /// Maintenance mode.
    pub maintenance: Maintenance,
    /// Seconds since the process started.
    pub uptime_seconds: f64,
    /// The program's version.
    pub version: String,
    /// Process id, for the process actuator on the same host.
    #[serde(default)]
    pub pid: u32,
    /// Changes with every start of the process.
    #[serde(default)]
    pub boot_nonce: String,
    /// Leader changes this node has seen since it started.
    #[serde(default)]
    pub leader_changes: u64,
    /// Elections this node began since it started, because it heard no leader; leadership that is
    /// handed over needs none. None from a program that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elections: Option<u64>,
    /// How often it gave leadership away unasked since it started, because its own disk or threads
    /// failed it.
    #[serde(default)]
    pub forced_handovers: u64,
    /// What a person should look at, with the command that mends it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A health verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// All is well.
    Ok,
    /// It serves, but something needs attention.
    Degraded,
    /// It does not serve.
    Failing,
}

impl HealthStatus {
    /// Every verdict.
    pub const ALL: [HealthStatus; 3] = [HealthStatus::Ok, HealthStatus::Degraded, HealthStatus::Failing];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Ok => "ok",
            HealthStatus::Degraded => "degraded",
            HealthStatus::Failing => "failing",
        }
    }
}

/// One check of `GET /api/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Check {
    /// What was checked: `raft`, `apply`, `log`, `db`, `leader`, `disk`.
    pub name: String,
    /// The verdict.
    pub status: HealthStatus,
    /// What was seen.
    pub detail: String,
}

/// `GET /api/health`; 503 when failing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// The worst of the checks.
    pub status: HealthStatus,
    /// Each check.
    pub checks: Vec<Check>,
}

/// `GET /api/health/db` and `/api/health/log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PartHealth {
    /// The verdict.
    pub healthy: bool,
    /// What was seen.
    pub details: BTreeMap<String, serde_json::Value>,
}

/// Checksums at one log index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckpointRecord {
    /// The index at which both were taken.
    pub index: u64,
    /// The machine's checksum, 32 hex digits.
    pub checksum: String,
    /// The hash chain over the applied log, 32 hex digits.
    pub log_chain: String,
}

/// `GET /api/health/state_checksum`. Two nodes are compared only at an index that both passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StateChecksum {
    /// Checksum at `applied_index`.
    pub checksum: String,
    /// The index it was taken at.
    pub applied_index: u64,
    /// Raft term of that entry.
    pub term: u64,
    /// The hash chain over the applied log.
    pub log_chain: String,
    /// The last 64 checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointRecord>,
    /// What the last check of the machine's records against these checksums found; none before
    /// any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<crate::admin::IntegrityCheck>,
}

/// `GET /api/health/resources`. Percentages are of the whole machine or file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Resources {
    /// This process's CPU use over the last interval, percent of one core.
    pub cpu_usage: f64,
    /// This process's resident memory, percent of the machine's.
    pub memory_usage: f64,
    /// The data directory's file system, percent used.
    pub disk_usage: f64,
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// The machine's memory, bytes.
    pub memory_total_bytes: u64,
    /// Free bytes on the data directory's file system.
    pub disk_free_bytes: u64,
    /// Its size without what is reserved for the superuser, bytes.
    pub disk_total_bytes: u64,
    /// Bytes in the data directory.
    pub data_dir_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// The limit on them.
    pub max_fds: u64,
    /// Threads of this process.
    pub threads: u64,
}

/// Something that takes longer than a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What it is: `apply`, `log_write`, `store_write`, `snapshot`, `founding`.
    pub kind: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// For how long.
    pub duration_seconds: f64,
    /// More about it.
    pub detail: String,
}

/// `GET /api/health/operations`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Operations {
    /// What goes on now, oldest first.
    pub operations: Vec<Operation>,
}

/// Progress counters of the three threads: they move while the node works. The monitor compares
/// them over time to tell a stuck thread from a slow one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// Turns of the Raft owner thread.
    pub raft_turns: u64,
    /// Batches the log writer has synced.
    pub log_syncs: u64,
    /// Milliseconds the log writer has been in its present write; 0 when idle.
    pub log_busy_ms: u64,
    /// Entries applied.
    pub applied_entries: u64,
    /// Milliseconds the applier has been in its present batch; 0 when idle.
    pub apply_busy_ms: u64,
}

/// `GET /api/report`: one document with everything, for the monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Report {
    /// The node's clock.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// As `/api/status`.
    pub status: Status,
    /// As `/api/health`.
    pub health: Health,
    /// As `/api/health/db`.
    pub db: PartHealth,
    /// As `/api/health/log`.
    pub log: PartHealth,
    /// As `/api/health/state_checksum`.
    pub state_checksum: StateChecksum,
    /// As `/api/health/resources`.
    pub resources: Resources,
    /// As `/api/health/operations`.
    pub operations: Operations,
    /// Progress of the threads.
    pub progress: Progress,
    /// Totals since the process started: `submitted`, `completed`, `failed`,
    /// `cancelled`, `retried`, `expired`.
    #[serde(default)]
    pub totals: BTreeMap<String, u64>,
    /// Work done since the process started, and how long it took.
    #[serde(default)]
    pub performance: crate::performance::Performance,
    /// Where the node's config comes from and what became of reloads.
    #[serde(default)]
    pub config: ConfigStanding,
    /// Node ids in this node's config that are no members, and members its config does not name.
    #[serde(default)]
    pub config_differs: Vec<String>,
}

/// How a node's config stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConfigStanding {
    /// The file it was read from; none where it came from the environment alone.
    pub file: Option<String>,
    /// When the node was started with it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub loaded_at: Option<Timestamp>,
    /// Where the node stands: a rack, a zone, a region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How often it was read again.
    pub reloads: u64,
    /// What came of the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ConfigReload>,
}

/// What came of reading a config again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConfigReload {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Keys whose new values count now.
    pub applied: Vec<String>,
    /// Keys whose new values wait for a restart.
    pub needs_restart: Vec<String>,
    /// Why nothing was taken; empty where it was.
    pub faults: Vec<String>,
}

/// An entry of `GET /api/debug/raft_log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogEntry {
    /// Raft index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
    /// `normal`, `empty` or `conf_change`.
    pub kind: String,
    /// Bytes of data.
    pub bytes: usize,
    /// The commands in it, decoded.
    pub commands: Vec<serde_json::Value>,
}

/// `GET /api/debug/raft_log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogPage {
    /// First index that the log holds.
    pub first_index: u64,
    /// Last index that it holds.
    pub last_index: u64,
    /// The entries asked for.
    pub entries: Vec<LogEntry>,
}

/// `POST /api/leases/{name}`: take or renew a named lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedLeaseRequest {
    /// Who wants it. The holder's next call renews it.
    pub holder: String,
    /// Milliseconds it lasts from the log's time of the grant; 0 gives it back.
    pub ttl_ms: u64,
}

/// Answer to it. Another holder's live lease is a `lease_held` problem instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NamedLease {
    /// The lease's name.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// Grows with every change of holder; goes with every destructive call.
    pub epoch: u64,
    /// Milliseconds it lasts.
    pub ttl_ms: u64,
    /// The cluster it belongs to.
    pub cluster_id: String,
}

/// A replicated setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SettingRecord {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u64,
    /// What it is when nobody changed it.
    pub default: u64,
    /// The least it may be.
    pub min: u64,
    /// The most it may be.
    pub max: u64,
    /// What it is.
    pub help: String,
}

/// `GET /api/settings`, and the answer to a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Settings {
    /// Log index at which they stand.
    pub index: u64,
    /// All of them, by name.
    pub settings: Vec<SettingRecord>,
}

/// One line of `GET /api/logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogLine {
    /// Counts up within one process; give it as `since` for what follows.
    pub seq: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: String,
    /// The module.
    pub target: String,
    /// The message.
    pub message: String,
    /// The other fields.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

/// `GET /api/logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogLines {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Give this as `since` for what follows.
    pub next: u64,
    /// Lines that did not reach the log file since the process started.
    #[serde(default)]
    pub lost_lines: u64,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Member {
    /// Its node id.
    pub node_id: String,
    /// Its address, `host:port`, where the node asked knows it.
    pub address: Option<String>,
    /// True for a voter, false for a learner.
    pub voter: bool,
    /// True for the leader.
    pub leader: bool,
    /// True while it answers the node asked.
    #[serde(default)]
    pub reachable: bool,
    /// Milliseconds since the node asked heard of it; none where it never did.
    #[serde(default)]
    pub last_contact_ms: Option<u64>,
    /// Entries between its log and the leader's; none where the node asked does not lead.
    #[serde(default)]
    pub lag_entries: Option<u64>,
    /// Node id of the voter whose place it takes when it has caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_place_of: Option<String>,
}

/// `GET /api/cluster/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Members {
    /// Voters first, each group by node id.
    pub members: Vec<Member>,
    /// True between the two halves of a change that takes several steps at once.
    #[serde(default)]
    pub joint: bool,
    /// Which behaviour the log may count on; rises when every member's program knows the next.
    #[serde(default)]
    pub machine_version: u32,
}

/// `POST /api/cluster/members`: take a node in. It must run and name members in its `peers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// `host:port` of the node.
    pub address: String,
    /// Node id of the voter whose place it takes, in one change, once it has caught up; at once where
    /// the node has a vote already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// True for one that follows without ever getting a vote.
    #[serde(default)]
    pub learner: bool,
}

/// Answer to a change of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemberChanged {
    /// The node.
    pub node_id: String,
    /// Log index by which the change is made; none where nothing had to change.
    pub index: Option<u64>,
}

/// `POST /api/admin/rejoin`: a failed or removed node begins anew as a new member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rejoin {
    /// The node's id, so that it is not done to another one by mistake.
    pub node_id: String,
}

/// Answer to `rejoin`: it goes on behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RejoinStarted {
    /// The node.
    pub node_id: String,
    /// The operation, as `/api/health/operations` lists it; none where the node asks to be taken in
    /// already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// `GET /api/cluster/can_lose?node=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CanLose {
    /// The node asked about.
    pub node: String,
    /// True where the cluster keeps its quorum without it.
    pub can_lose: bool,
    /// Why, with the numbers.
    pub why: String,
}

/// `POST /api/cluster/transfer`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Node id of the new leader; the most caught-up voter where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Answer to a transfer or a step-down: who leads now, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Leadership {
    /// Node id of the leader; none while one is being elected.
    pub leader: Option<String>,
    /// Raft term.
    pub term: u64,
}
