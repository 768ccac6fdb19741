//! What the machine's changes mean to those behind it: the store, the metrics, the dispatcher.
//!
//! Effects are values in the order in which they happened. What is large in them is shared with
//! the machine, so that making one costs a reference count, not a copy.

use super::tasks::{Attempt, Spec};
use super::workers::Worker;
use api::task::TaskState;
use std::sync::Arc;

/// One consequence of a command.
#[derive(Debug, Clone)]
pub enum Effect {
    /// A task was taken.
    TaskSubmitted {
        /// The task.
        spec: Arc<Spec>,
    },
    /// A task was leased. Nothing is stored for it; dispatcher and metrics want it.
    Assigned {
        /// The task.
        spec: Arc<Spec>,
        /// Who got it.
        worker_id: Arc<str>,
        /// The lease's token.
        token: u64,
        /// From submission or retry time to now, log time.
        waited_ms: u64,
    },
    /// An attempt is over.
    AttemptEnded {
        /// The task.
        spec: Arc<Spec>,
        /// The attempt, with its outcome.
        attempt: Box<Attempt>,
        /// True when another attempt follows by itself.
        retried: bool,
        /// From assignment to now, log time.
        run_ms: u64,
        /// What it produced, where the task did not end with it (else `TaskFinished` has it).
        result: Option<Arc<str>>,
    },
    /// A task reached a final state.
    TaskFinished {
        /// The task.
        spec: Arc<Spec>,
        /// The state.
        state: TaskState,
        /// How many attempts were made.
        attempt: u32,
        /// Who had it last.
        worker_id: Option<Arc<str>>,
        /// When, Unix milliseconds.
        finished_wall_ms: i64,
        /// What went wrong at last.
        error: Option<Arc<str>>,
        /// The accepted result.
        result: Option<Arc<str>>,
    },
    /// A finished task was put back into the queue by hand: its last end counts no more.
    TaskReopened {
        /// The task.
        spec: Arc<Spec>,
        /// When, Unix milliseconds.
        wall_ms: i64,
    },
    /// A worker was registered, drained, lost or forgotten.
    WorkerChanged {
        /// The worker as it is now.
        worker: Box<Worker>,
        /// When, Unix milliseconds.
        wall_ms: i64,
    },
    /// Something that people want to find later.
    Event {
        /// What it is.
        kind: EventKind,
        /// The task, worker or lease it is about; empty where it is about the cluster.
        subject: Arc<str>,
        /// More about it.
        detail: String,
        /// When, Unix milliseconds.
        wall_ms: i64,
    },
}

/// What an [`Effect::Event`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Maintenance mode began.
    MaintenanceEnabled,
    /// Maintenance mode ended.
    MaintenanceDisabled,
    /// A worker came, or came again.
    WorkerRegistered,
    /// A worker takes nothing new.
    WorkerDraining,
    /// A worker fell silent.
    WorkerLost,
    /// A lost worker was forgotten.
    WorkerForgotten,
    /// A person put a finished task back into the queue.
    TaskReopened,
    /// A named lease changed its holder.
    NamedLeaseTaken,
    /// A named lease was given back.
    NamedLeaseReleased,
    /// A member came, went, or got or lost its vote.
    MembersChanged,
    /// A replicated setting has a new value.
    SettingChanged,
}

impl EventKind {
    /// The name in DuckDB and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            EventKind::MaintenanceEnabled => "maintenance_enabled",
            EventKind::MaintenanceDisabled => "maintenance_disabled",
            EventKind::WorkerRegistered => "worker_registered",
            EventKind::WorkerDraining => "worker_draining",
            EventKind::WorkerLost => "worker_lost",
            EventKind::WorkerForgotten => "worker_forgotten",
            EventKind::TaskReopened => "task_reopened",
            EventKind::NamedLeaseTaken => "named_lease_taken",
            EventKind::NamedLeaseReleased => "named_lease_released",
            EventKind::MembersChanged => "members_changed",
            EventKind::SettingChanged => "setting_changed",
        }
    }
}
