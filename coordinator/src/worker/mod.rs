//! The worker: leases tasks, runs them as processes, reports what became of them.
//!
//! One [`session`] speaks the protocol of `api::worker`. Three things go on at once: a long poll
//! for new leases while a slot is free, a heartbeat that never waits for anything else, and one
//! piece of work for each lease ([`work`]), which ends with the delivery of its result
//! ([`report`]). What is held stands in one table ([`held`]).
//!
//! Invariants:
//! - A token is named in every call until its result was accepted or refused. Were it dropped
//!   earlier, the coordinator would deliver the task again while its result is on its way.
//! - A token that a coordinator no longer knows ends its work, and nothing is reported for it: the
//!   task may run elsewhere already.
//! - Losing the cluster ends nothing. Work runs on, results wait; when the cluster is back it says
//!   which leases still stand. What waits is bounded by the slots, as a lease keeps its slot until
//!   its result is delivered.
//! - No process of a task outlives its lease's work ([`process`]) nor the worker ([`guard`]).

pub mod guard;
pub mod held;
pub mod output;
pub mod process;
pub mod report;
pub mod session;
pub mod work;

use api::ClientError;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a worker is.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its id; the same id again is the same worker.
    pub worker_id: String,
    /// Labels that tasks may require.
    pub labels: BTreeMap<String, String>,
    /// Resources that tasks may take.
    pub resources: BTreeMap<String, u64>,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// Task types it asks for.
    pub types: Vec<String>,
    /// How long undelivered results are kept after the last task of a drain has ended.
    pub drain_report_limit: Duration,
    /// Takes a span of each task whose submission is traced.
    pub tracer: otlp::Tracer,
}

/// The task types this worker can run.
pub const KNOWN_TYPES: [&str; 2] = ["command", "noop"];

/// Why a worker ended without having drained.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator will not have it as it is.
    #[error("the worker {worker_id:?} was refused: {source}")]
    Refused {
        /// Its id.
        worker_id: String,
        /// The answer.
        source: ClientError,
    },
    /// The worker was told to stop before it had registered.
    #[error("stopped before any coordinator took the registration (tried {addresses})")]
    NeverRegistered {
        /// The addresses.
        addresses: String,
    },
    /// A second signal ended the drain.
    #[error("killed while {} tasks were unfinished: {}", .tasks.len(), .tasks.join(", "))]
    Killed {
        /// What was unfinished.
        tasks: Vec<String>,
    },
    /// The drain ended with results that nobody took.
    #[error("{} results could not be delivered within {waited_seconds} s: {}", .tasks.len(), .tasks.join(", "))]
    Undelivered {
        /// The tasks.
        tasks: Vec<String>,
        /// How long it tried.
        waited_seconds: u64,
    },
}

/// How a worker is told to end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what runs, then end.
    pub drain: CancellationToken,
    /// Kill what runs and end at once.
    pub kill: CancellationToken,
}

impl Shutdown {
    /// Fires `drain` at the first SIGTERM or SIGINT and `kill` at the second.
    pub fn from_signals() -> std::io::Result<Shutdown> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Shutdown::default();
        let told = shutdown.clone();
        tokio::spawn(async move {
            for (stage, token) in [("draining; a second signal kills", told.drain), ("killing", told.kill)] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("signal: {stage}");
                token.cancel();
            }
        });
        Ok(shutdown)
    }
}

/// Runs a worker until it is told to end.
pub async fn run(config: WorkerConfig, client: api::Client, shutdown: Shutdown) -> Result<(), WorkerError> {
    session::Session::new(config, client, shutdown).run().await
}

/// A default id: the host's name and a random part, so that two workers on a host differ and a
/// restarted one is a new worker.
pub fn default_id() -> String {
    let random = ulid::Ulid::generate().to_string().to_lowercase();
    format!("{}-{}", host_name(), &random[random.len() - 8..])
}

/// The host's name, for people.
pub fn host_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|_| "worker".into())
}

/// A segment of a URL's path: everything but unreserved characters is escaped.
pub fn path_segment(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(b).to_string(),
            // A segment of dots alone would be taken for a directory.
            b'.' if text.bytes().any(|b| b != b'.') => ".".into(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}
