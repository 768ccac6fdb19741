//! What the log holds: batches of commands, and the machine's replies.
//!
//! One log entry is one [`Batch`]: the leader's time and the commands of one turn. Commands are
//! encoded where they are made (on the HTTP threads) and only packed by the Raft owner thread.
//!
//! Encoding: one version byte, then postcard. Enums and structs are append-only: a variant keeps
//! its place for ever, since the place is what is written. Golden bytes hold that down.
//!
//! Invariant: everything that decides what `apply` does is in the entry. No clock, no config and
//! no random source is asked when it is applied.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version byte of the present encoding.
pub const BATCH_VERSION: u8 = 1;

/// The time a leader gives an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The log's own time: never goes back, advances by the leader's monotonic clock. Leases,
    /// retries and retention count by it.
    pub log_ms: u64,
    /// The leader's wall clock, Unix milliseconds. Shown to people, never decided by.
    pub wall_ms: i64,
}

/// A task as the log takes it: checked, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The task's id.
    pub task_id: String,
    /// Its type.
    pub kind: String,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Its config as JSON text, as submitted.
    pub config: String,
    /// Labels its worker must carry.
    pub labels: BTreeMap<String, String>,
    /// Resources it takes from its worker.
    pub resources: BTreeMap<String, u64>,
    /// Milliseconds one attempt may run.
    pub timeout_ms: u64,
    /// How many more attempts may follow a failed one.
    pub max_retries: u32,
    /// Milliseconds before the first retry.
    pub retry_backoff_ms: u64,
    /// Sets of labels of which its worker must carry one; empty where it need not.
    pub any_of: Vec<BTreeMap<String, String>>,
}

/// Which finished tasks are put back into the queue at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryFilter {
    /// Failed or cancelled ones.
    pub state: api::task::TaskState,
    /// Only those of this type.
    pub kind: Option<String>,
    /// Only those that this worker had last.
    pub worker: Option<String>,
    /// At most so many, in order of submission.
    pub limit: u32,
}

/// What makes a request that is sent twice one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// The client's key.
    pub key: String,
    /// Hash of what was asked: the same key with another request is refused.
    pub request_hash: u128,
    /// What the ids made for this request were made from; a repetition is told that of the first.
    pub salt: u128,
}

/// A write that carries a [`RequestKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyedWrite {
    /// As [`Command::Submit`].
    Submit {
        /// The tasks.
        tasks: Vec<TaskSpec>,
    },
    /// As [`Command::Retry`].
    Retry {
        /// The task's id.
        task_id: String,
    },
    /// As [`Command::RetryMany`].
    RetryMany {
        /// Which.
        filter: RetryFilter,
    },
}

/// A worker as the log takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// The worker's id.
    pub worker_id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its resources.
    pub resources: BTreeMap<String, u64>,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// The types it runs.
    pub types: Vec<String>,
    /// Its host.
    pub host: Option<String>,
}

/// Why a lease is ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireReason {
    /// The worker stopped renewing it.
    Silent,
    /// The attempt ran beyond its limit.
    TimedOut,
}

/// A change of the machine's state. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Take these tasks, all or none.
    Submit {
        /// The tasks.
        tasks: Vec<TaskSpec>,
    },
    /// Cancel a task that has not ended.
    Cancel {
        /// The task's id.
        task_id: String,
    },
    /// Put a failed or cancelled task back into the queue, its attempts counted anew.
    Retry {
        /// The task's id.
        task_id: String,
    },
    /// Register a worker, or replace what was registered under its id.
    RegisterWorker {
        /// The worker.
        worker: WorkerSpec,
    },
    /// Give the worker nothing new.
    DrainWorker {
        /// The worker's id.
        worker_id: String,
    },
    /// Lease tasks to workers: (task id, worker id). A pair that no longer fits is skipped.
    Assign {
        /// The pairs, in order.
        pairs: Vec<(String, String)>,
    },
    /// The workers confirmed that they have these leases (by token).
    Delivered {
        /// The tokens.
        tokens: Vec<u64>,
    },
    /// An attempt's result.
    Complete {
        /// The task's id.
        task_id: String,
        /// Who ran it.
        worker_id: String,
        /// The lease's fencing token.
        token: u64,
        /// True when it succeeded.
        success: bool,
        /// What it produced, as JSON text.
        result: Option<String>,
        /// What went wrong.
        error: Option<String>,
        /// Start by the worker's clock, Unix milliseconds.
        started_ms: i64,
        /// End by the worker's clock, Unix milliseconds.
        finished_ms: i64,
        /// What it used.
        resources: BTreeMap<String, u64>,
    },
    /// End leases without a result: (task id, token, why). A token that is stale is skipped.
    Expire {
        /// The leases.
        leases: Vec<(String, u64, ExpireReason)>,
    },
    /// The worker has been silent too long. Its leases must be expired with it.
    WorkerLost {
        /// The worker's id.
        worker_id: String,
    },
    /// Turn maintenance mode on or off.
    Maintenance {
        /// On or off.
        enabled: bool,
        /// Who did it, as far as it is known.
        by: Option<String>,
    },
    /// Remember checksum and chain at this index.
    Checkpoint,
    /// Let finished tasks older than this (log time) leave memory, oldest first, at most `limit`.
    Evict {
        /// Those that ended before this log time.
        before_log_ms: u64,
        /// At most so many.
        limit: u32,
    },
    /// Take, renew or (ttl 0) give back a named lease.
    NamedLease {
        /// The lease's name.
        name: String,
        /// Who asks.
        holder: String,
        /// Milliseconds it lasts.
        ttl_ms: u64,
    },
    /// Every member's program knows this machine version: what came with it may be used.
    RaiseVersion {
        /// The version.
        to: u32,
    },
    /// Change replicated settings, all or none.
    ChangeSettings {
        /// Their new values by name.
        changes: BTreeMap<String, u64>,
    },
    /// Put many finished tasks back into the queue, their attempts counted anew.
    RetryMany {
        /// Which.
        filter: RetryFilter,
    },
    /// A write that is done once, however often it is sent with this key.
    Keyed {
        /// The key.
        key: RequestKey,
        /// The write.
        write: KeyedWrite,
    },
}

/// What the machine answers. Deterministic; never written to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The tasks are in; `created` of them are new, the others were there with the same body.
    Submitted {
        /// How many are new.
        created: usize,
    },
    /// Where the task stands after the command.
    Task {
        /// Its state.
        state: api::task::TaskState,
    },
    /// Done, nothing to tell.
    Done,
    /// How many of the pairs, tokens, leases or tasks named took effect.
    Count(usize),
    /// So many tasks were put back.
    Retried {
        /// How many.
        count: usize,
        /// True where more fit the filter.
        more: bool,
    },
    /// A request with this key was done before: nothing was done again.
    Repeated {
        /// The salt of the first.
        salt: u128,
        /// Log index of the first.
        index: u64,
        /// What the first was answered.
        reply: Box<Reply>,
    },
    /// The named lease is the caller's.
    Lease {
        /// Its epoch.
        epoch: u64,
    },
    /// Refused; nothing changed.
    Refused {
        /// Why, as the wire says it.
        code: api::ErrorCode,
        /// The particulars.
        detail: String,
    },
}

/// Why an entry can't be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A newer program wrote it.
    #[error("entry has encoding version {found}, this program knows up to {BATCH_VERSION}: update it")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// A newer program wrote a command that this one does not have.
    #[error("the entry holds command number {number}, this program knows up to {}: update the program on this node", Command::KINDS - 1)]
    UnknownCommand {
        /// Its place in the enum.
        number: u32,
    },
    /// The bytes make no batch.
    #[error("entry can't be decoded: {0}")]
    Malformed(String),
}

impl Command {
    /// How many kinds of commands this program knows.
    pub const KINDS: u32 = 18;

    /// The bytes that go into a batch.
    pub fn encode(&self) -> Vec<u8> {
        // Most commands fit, so that the buffer need not grow on the way.
        let room = Vec::with_capacity(512);
        // Serialising plain structs into memory has no failure.
        postcard::to_extend(self, room).unwrap_or_default()
    }

    /// The command's name, for metrics and the decoded log.
    pub const fn name(&self) -> &'static str {
        match self {
            Command::Submit { .. } => "submit",
            Command::Cancel { .. } => "cancel",
            Command::Retry { .. } => "retry",
            Command::RegisterWorker { .. } => "register_worker",
            Command::DrainWorker { .. } => "drain_worker",
            Command::Assign { .. } => "assign",
            Command::Delivered { .. } => "delivered",
            Command::Complete { .. } => "complete",
            Command::Expire { .. } => "expire",
            Command::WorkerLost { .. } => "worker_lost",
            Command::Maintenance { .. } => "maintenance",
            Command::Checkpoint => "checkpoint",
            Command::Evict { .. } => "evict",
            Command::NamedLease { .. } => "named_lease",
            Command::RaiseVersion { .. } => "raise_version",
            Command::ChangeSettings { .. } => "change_settings",
            Command::RetryMany { .. } => "retry_many",
            Command::Keyed { .. } => "keyed",
        }
    }
}

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The leader's time.
    pub stamp: Stamp,
    /// The commands, in order.
    pub commands: Vec<Command>,
}

impl Batch {
    /// Packs commands that are already encoded.
    pub fn pack(stamp: Stamp, commands: &[impl AsRef<[u8]>]) -> Vec<u8> {
        let size: usize = commands.iter().map(|c| c.as_ref().len()).sum();
        let mut out = Vec::with_capacity(size + 32);
        out.push(BATCH_VERSION);
        out.extend(postcard::to_stdvec(&(stamp, commands.len())).unwrap_or_default());
        for command in commands {
            out.extend_from_slice(command.as_ref());
        }
        out
    }

    /// The time of an entry, without decoding its commands.
    pub fn stamp(data: &[u8]) -> Option<Stamp> {
        let (version, rest) = data.split_first()?;
        (*version == BATCH_VERSION)
            .then(|| postcard::take_from_bytes::<Stamp>(rest).ok())?
            .map(|(stamp, _)| stamp)
    }

    /// Reads an entry's data.
    pub fn decode(data: &[u8]) -> Result<Batch, DecodeError> {
        let malformed = |e: postcard::Error| DecodeError::Malformed(e.to_string());
        let (version, rest) = data.split_first().ok_or_else(|| DecodeError::Malformed("empty".into()))?;
        if *version != BATCH_VERSION {
            return Err(DecodeError::Version { found: *version });
        }
        let ((stamp, count), mut rest) =
            postcard::take_from_bytes::<(Stamp, usize)>(rest).map_err(malformed)?;
        if count > rest.len() {
            return Err(DecodeError::Malformed(format!("{count} commands in {} bytes", rest.len())));
        }
        // The count is the sender's word; the vector grows as commands are really there.
        let mut commands = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let (number, _) = postcard::take_from_bytes::<u32>(rest).map_err(malformed)?;
            if number >= Command::KINDS {
                return Err(DecodeError::UnknownCommand { number });
            }
            let (command, after) = postcard::take_from_bytes(rest).map_err(malformed)?;
            commands.push(command);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(DecodeError::Malformed(format!("{} bytes behind the last command", rest.len())));
        }
        Ok(Batch { stamp, commands })
    }
}
