//! The worker protocol: register, lease by long poll, heartbeat, drain.
//!
//! A worker names in every lease call and heartbeat the tokens it holds. From that the leader
//! learns what was delivered, delivers again what got lost on the way, and answers which tokens
//! are no longer valid, so that cancelled work is ended.

use crate::Problem;
use crate::task::{ReportedStatus, Requirements, TaskState};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Milliseconds a lease lasts without a sign of life.
pub const LEASE_TTL_MS: u64 = 15_000;
/// Milliseconds between a worker's heartbeats.
pub const HEARTBEAT_INTERVAL_MS: u64 = 3_000;
/// Milliseconds of silence after which a worker counts as lost.
pub const WORKER_LOST_MS: u64 = 15_000;
/// The longest a lease call may wait, in milliseconds.
pub const MAX_LEASE_WAIT_MS: u64 = 30_000;
/// The most slots one worker may have.
pub const MAX_SLOTS: u32 = 1024;

/// Where a worker stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Has free slots.
    Active,
    /// Every slot is taken.
    Busy,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Has been silent too long; its leases are ended.
    Lost,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [WorkerState; 4] =
        [WorkerState::Active, WorkerState::Busy, WorkerState::Draining, WorkerState::Lost];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            WorkerState::Active => "active",
            WorkerState::Busy => "busy",
            WorkerState::Draining => "draining",
            WorkerState::Lost => "lost",
        }
    }
}

/// `POST /api/workers/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The worker's id; the same id again replaces what was registered.
    pub worker_id: String,
    /// Labels that tasks may require.
    #[serde(default, deserialize_with = "crate::unique::map")]
    pub labels: BTreeMap<String, String>,
    /// Resources that tasks may take, in whole units.
    #[serde(default, deserialize_with = "crate::unique::map")]
    pub resources: BTreeMap<String, u64>,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// Task types it runs; `command` and `noop` where it is missing.
    #[serde(default = "default_types")]
    pub types: Vec<String>,
    /// The host it runs on, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

fn default_types() -> Vec<String> {
    vec!["command".into(), "noop".into()]
}

/// Answer to a registration: the times to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Registered {
    /// The worker's id.
    pub worker_id: String,
    /// Send a heartbeat this often.
    pub heartbeat_interval_ms: u64,
    /// A lease lasts this long without one.
    pub lease_ttl_ms: u64,
    /// After this silence the worker counts as lost.
    pub lost_after_ms: u64,
}

/// `POST /api/workers/{id}/heartbeat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The tokens of the leases it holds.
    #[serde(default)]
    pub tokens: Vec<u64>,
}

/// Answer to a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HeartbeatAnswer {
    /// Tokens it named that are no longer valid: end that work, report nothing.
    pub cancel: Vec<u64>,
    /// True when it must take nothing new.
    pub draining: bool,
}

/// `POST /api/workers/{id}/lease`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// How many more tasks it can take now. A token of `tokens` whose result is accepted while the
    /// call waits makes room for one more. With 0 it waits for cancellations only.
    pub slots: u32,
    /// How long to wait for one, at most 30,000 ms.
    #[serde(default)]
    pub wait_ms: u64,
    /// The tokens of the leases it works on; what it was given and names nowhere is given again.
    #[serde(default)]
    pub tokens: Vec<u64>,
    /// The tokens of leases whose work is done and whose result is on its way: they are not given
    /// again, and take none of its slots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reporting: Vec<u64>,
}

/// Answer to a lease call.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LeaseAnswer {
    /// What to run.
    pub tasks: Vec<LeasedTask>,
    /// Tokens it named that are no longer valid.
    pub cancel: Vec<u64>,
    /// True when it must take nothing new.
    pub draining: bool,
}

/// `POST /api/workers/{id}/results`: results of several attempts, each judged for itself.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResultBatch {
    /// The results.
    pub results: Vec<FinishedAttempt>,
}

/// The most results one call may carry.
pub const MAX_RESULTS: usize = 1000;

/// One result of a batch.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishedAttempt {
    /// The task.
    pub task_id: String,
    /// The lease's fencing token.
    pub token: u64,
    /// `completed` or `failed`.
    pub status: ReportedStatus,
    /// What it produced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Box<RawValue>>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Start by the worker's clock.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// End by the worker's clock.
    #[schema(value_type = String, format = DateTime)]
    pub finished_at: Timestamp,
    /// What the attempt used, in whole units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<BTreeMap<String, u64>>,
    /// The place in a trace that the lease came with (or one below it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Answer to a batch of results, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResultVerdicts {
    /// What became of each.
    pub results: Vec<ResultVerdict>,
}

/// What became of one result: the task's state, or why it was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResultVerdict {
    /// The task.
    pub task_id: String,
    /// The token it came with.
    pub token: u64,
    /// The task's state after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Why it was not accepted; `retryable` says whether to send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// A task in a worker's hands.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LeasedTask {
    /// The task's id.
    pub task_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to do.
    #[schema(value_type = serde_json::Value)]
    pub config: Box<RawValue>,
    /// 0 to 9.
    pub priority: u8,
    /// Counts from 1.
    pub attempt: u32,
    /// The fencing token; goes into the result.
    pub token: u64,
    /// Seconds it may run.
    pub timeout_seconds: f64,
    /// When the lease ends unless it is renewed.
    #[schema(value_type = String, format = DateTime)]
    pub lease_expires_at: Timestamp,
    /// The lease's place in the trace of the task's submission (W3C `traceparent`), where that is
    /// sampled: for the task's process, and to be sent back with the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A worker as `GET /api/workers` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkerRecord {
    /// The worker's id.
    pub worker_id: String,
    /// Where it stands.
    pub state: WorkerState,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its resources, taken ones included.
    pub resources: BTreeMap<String, u64>,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// How many it has.
    pub running: u32,
    /// The types it runs.
    pub types: Vec<String>,
    /// The host it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When it registered last.
    #[schema(value_type = String, format = DateTime)]
    pub registered_at: Timestamp,
    /// Milliseconds since the leader heard it; none where the node asked is not the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_ms: Option<u64>,
}

/// `GET /api/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkerList {
    /// Every worker, by id.
    pub workers: Vec<WorkerRecord>,
}

/// True where a worker with these labels and resources could ever take the task.
pub fn satisfies(
    requirements: &Requirements,
    labels: &BTreeMap<String, String>,
    resources: &BTreeMap<String, u64>,
) -> bool {
    let carries = |set: &BTreeMap<String, String>| set.iter().all(|(k, v)| labels.get(k) == Some(v));
    carries(&requirements.labels)
        && (requirements.any_of.is_empty() || requirements.any_of.iter().any(carries))
        && requirements.resources.iter().all(|(k, n)| resources.get(k).is_some_and(|have| have >= n))
}
