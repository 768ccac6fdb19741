//! Tasks as they cross the wire: submission, record, attempts, results.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Priority of a task that names none; 9 is the most urgent, 0 the least.
pub const DEFAULT_PRIORITY: u8 = 5;
/// The highest priority there is.
pub const MAX_PRIORITY: u8 = 9;
/// Seconds an attempt may run when the task names no limit.
pub const DEFAULT_TIMEOUT_SECONDS: f64 = 600.0;
/// How often a failed attempt is tried again when the task does not say.
pub const DEFAULT_MAX_RETRIES: u32 = 2;
/// Seconds before the first retry when the task does not say; doubled for each further one.
pub const DEFAULT_RETRY_BACKOFF_SECONDS: f64 = 1.0;
/// The most tasks one batch may carry.
pub const MAX_BATCH_TASKS: usize = 10_000;
/// The longest task id, in bytes.
pub const MAX_TASK_ID_BYTES: usize = 256;
/// Rows of a list when the request names no limit, and the most it may ask for.
pub const PAGE_DEFAULT: usize = 100;
/// The most rows one page may have.
pub const PAGE_MAX: usize = 1000;

/// Where a task stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waiting for a worker, or for its retry time.
    Pending,
    /// Leased to a worker that has not confirmed that it has it.
    Assigned,
    /// Delivered to its worker.
    Running,
    /// An attempt succeeded. Final.
    Completed,
    /// The last attempt failed and none is left. Final unless retried by hand.
    Failed,
    /// Cancelled. Final unless retried by hand.
    Cancelled,
}

impl TaskState {
    /// Every state, in the order in which a task passes them.
    pub const ALL: [TaskState; 6] = [
        TaskState::Pending,
        TaskState::Assigned,
        TaskState::Running,
        TaskState::Completed,
        TaskState::Failed,
        TaskState::Cancelled,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            TaskState::Pending => "pending",
            TaskState::Assigned => "assigned",
            TaskState::Running => "running",
            TaskState::Completed => "completed",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == name)
    }

    /// True where no attempt will follow by itself.
    pub const fn is_final(self) -> bool {
        matches!(self, TaskState::Completed | TaskState::Failed | TaskState::Cancelled)
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a worker must have to be given a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    /// Labels the worker must carry with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::unique::map")]
    pub labels: BTreeMap<String, String>,
    /// Resources the task takes from the worker while it runs, in whole units.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::unique::map")]
    pub resources: BTreeMap<String, u64>,
    /// Sets of labels: the worker must carry every label of at least one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::unique::maps")]
    pub any_of: Vec<BTreeMap<String, String>>,
}

impl Requirements {
    /// True where any worker will do.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.resources.is_empty() && self.any_of.is_empty()
    }
}

/// A task as it is submitted (`POST /api/tasks`).
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// The caller's id; with one, a repeated submission is safe. One is made where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// `command`, `noop`, or a type that some worker registers for.
    #[serde(rename = "type")]
    pub kind: String,
    /// 0 to 9, higher first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// What to do, as the task's type understands it. Kept as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub config: Option<Box<RawValue>>,
    /// What the worker must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
    /// Seconds one attempt may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// How many more attempts may follow a failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Seconds before the first retry; doubled for each further one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_backoff_seconds: Option<f64>,
}

/// The config of a `command` task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// A shell line, or a program and its arguments.
    pub command: CommandLine,
    /// Working directory; the worker's own where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables added to the worker's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::unique::map")]
    pub env: BTreeMap<String, String>,
    /// Bytes of standard output and of standard error each that are kept, half head, half tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_limit_bytes: Option<usize>,
}

/// A shell line (run by `sh -c`) or an argument vector (run as it is).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum CommandLine {
    /// Run by `sh -c`.
    Shell(String),
    /// Program and arguments, no shell.
    Argv(Vec<String>),
}

/// What a `command` task leaves behind: the `result` of its report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CommandOutput {
    /// The exit code; none when a signal or the time limit ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// True when the time limit ended it.
    #[serde(default)]
    pub timed_out: bool,
    /// Standard output, bounded.
    #[serde(default)]
    pub stdout: String,
    /// Standard error, bounded.
    #[serde(default)]
    pub stderr: String,
    /// Bytes of output that were dropped between head and tail, both streams together.
    #[serde(default)]
    pub dropped_bytes: u64,
    /// Seconds from start to end.
    #[serde(default)]
    pub duration_seconds: f64,
}

/// Answer to `POST /api/tasks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Submitted {
    /// The task's id.
    pub task_id: String,
    /// Log index of the submission; use it as `min_index` to read it anywhere.
    pub index: u64,
}

/// `POST /api/tasks/batch`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBatch {
    /// The tasks; all are taken or none.
    pub tasks: Vec<NewTask>,
}

/// Answer to `POST /api/tasks/batch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BatchSubmitted {
    /// How many of the tasks are new; the others were there before with the same body.
    pub accepted: usize,
    /// The ids, in the order of the batch.
    pub task_ids: Vec<String>,
    /// Log index of the submission.
    pub index: u64,
}

/// `POST /api/tasks/retry`: puts finished tasks back into the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryMany {
    /// `failed` or `cancelled`.
    pub status: TaskState,
    /// Only tasks of this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only tasks that this worker had last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// At most so many, in order of submission; 1,000 where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Tasks that one bulk retry takes when it does not say.
pub const RETRY_DEFAULT: u32 = 1_000;
/// The most tasks that one bulk retry may take.
pub const RETRY_MAX: u32 = 10_000;

/// Answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Retried {
    /// How many tasks were put back.
    pub retried: usize,
    /// True where more fit; ask again.
    pub more: bool,
    /// Log index of the change.
    pub index: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The worker reported success.
    Completed,
    /// The worker reported failure.
    Failed,
    /// The attempt ran beyond its limit and nobody reported an end.
    TimedOut,
    /// Its worker stopped renewing the lease.
    LeaseExpired,
    /// The task was cancelled.
    Cancelled,
}

impl AttemptOutcome {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Completed => "completed",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::TimedOut => "timed_out",
            AttemptOutcome::LeaseExpired => "lease_expired",
            AttemptOutcome::Cancelled => "cancelled",
        }
    }
}

/// One attempt at a task: one lease, from assignment to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Attempt {
    /// Counts from 1.
    pub attempt: u32,
    /// Who had it.
    pub worker_id: String,
    /// The lease's fencing token.
    pub token: u64,
    /// When it was leased.
    #[schema(value_type = String, format = DateTime)]
    pub assigned_at: Timestamp,
    /// When its worker started it, by the worker's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// How it ended; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AttemptOutcome>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A task with all that is known of it (`GET /api/tasks/{id}`; lists leave `attempts` and
/// `result` out).
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskRecord {
    /// The task's id.
    pub task_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Where it stands.
    pub state: TaskState,
    /// Its config, as submitted.
    #[schema(value_type = serde_json::Value)]
    pub config: Box<RawValue>,
    /// What its worker must have.
    #[serde(default, skip_serializing_if = "Requirements::is_empty")]
    pub requirements: Requirements,
    /// Seconds one attempt may run.
    pub timeout_seconds: f64,
    /// How many more attempts may follow a failed one.
    pub max_retries: u32,
    /// Seconds before the first retry.
    pub retry_backoff_seconds: f64,
    /// When it was submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it reached its final state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// How many attempts were made, the present one included.
    pub attempt: u32,
    /// Who has it, or had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// The present lease's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// What went wrong at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Every attempt, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The accepted result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Box<RawValue>>,
}

/// A page of tasks or results.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskPage {
    /// The rows, in order of submission.
    pub tasks: Vec<TaskRecord>,
    /// Give this as `after` for the next page; none at the end.
    pub next: Option<String>,
}
/// What a worker reports at the end of an attempt (`POST /api/tasks/{id}/result`).
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResultReport {
    /// Who ran it.
    pub worker_id: String,
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
    /// What the attempt used, in whole units (`cpu_ms`, `max_rss_bytes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<BTreeMap<String, u64>>,
}

/// What a worker may say of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportedStatus {
    /// It succeeded.
    Completed,
    /// It failed.
    Failed,
}

/// Answer to a result, a cancel or a retry: where the task stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskStanding {
    /// The task's id.
    pub task_id: String,
    /// Its state after the request.
    pub state: TaskState,
    /// Log index of the change.
    pub index: u64,
}
