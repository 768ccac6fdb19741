//! What the node tells about itself: figures ([`Telemetry`]), and log lines ([`logs`]).
//!
//! Figures are made in two ways. What happens is *recorded* where it happens, by the small
//! functions of [`Telemetry`]: an atomic addition or one histogram record, no allocation. What
//! stands somewhere anyway (term, role, queue lengths, resources) is *observed* when somebody asks
//! for `/metrics` ([`observe`]). Names, units, help and boundaries come from [`api::metrics`].
//!
//! Invariant: nothing here waits for consensus, so that figures and logs can be had when it is
//! stuck.

pub mod instruments;
pub mod logs;
pub mod observe;
mod performance;
pub mod raft_lines;
pub mod ring;
pub mod rotate;
pub mod traces;
pub mod trail;

use crate::machine::Effect;
use api::task::{AttemptOutcome, TaskState};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use instruments::Histograms;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use otlp::Export;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use traces::Traces;

/// What the program is called in its resource.
pub const SERVICE: &str = "holdfast-coordinator";
/// Peers whose traffic is counted by name; a cluster has at most a few.
const MAX_PEERS: usize = 32;

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// Its reply is known.
    Applied,
    /// It was not taken; nothing was done.
    Dropped,
    /// Leadership or time ran out in flight.
    Unknown,
}

/// What became of a linearizable read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Leadership was confirmed.
    Served,
    /// It was not, in time.
    Expired,
}

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the peer.
    Sent,
    /// From the peer.
    Received,
}

/// Counters that are added to in passing and read when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) proposals: [AtomicU64; 3],
    pub(crate) reads: [AtomicU64; 2],
    pub(crate) elections: AtomicU64,
    pub(crate) forced_handovers: AtomicU64,
    pub(crate) submitted: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) expired: AtomicU64,
    /// Sent, failed.
    pub(crate) backups: [AtomicU64; 2],
    pub(crate) last_backup_unix_ms: AtomicU64,
    pub(crate) snapshot_bytes: AtomicU64,
    pub(crate) snapshot_failures: AtomicU64,
    pub(crate) snapshot_fetches: [AtomicU64; 2],
    /// By part of [`INTEGRITY_PARTS`].
    pub(crate) integrity: [Checked; 3],
    pub(crate) work: performance::Work,
    /// By part of [`MENDED_PARTS`]: mended, failed.
    pub(crate) mends: [[AtomicU64; 2]; 2],
    peers: RwLock<BTreeMap<String, Arc<Traffic>>>,
}

/// The parts that a node mends by itself, as metrics label them.
pub const MENDED_PARTS: [&str; 2] = ["db", "snapshot"];

/// The parts whose integrity is checked, as metrics label them.
pub const INTEGRITY_PARTS: [&str; 3] = ["log", "machine", "db"];

/// What was found of one part.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) sound: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) is_damaged: AtomicU64,
    pub(crate) last_unix_seconds: AtomicU64,
}

/// Traffic with one peer, by direction: sent, received.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) messages: [AtomicU64; 2],
    pub(crate) bytes: [AtomicU64; 2],
}

impl Counters {
    /// Every peer that was heard of, with its traffic.
    pub(crate) fn peers(&self) -> Vec<(String, Arc<Traffic>)> {
        self.peers.read().iter().map(|(peer, traffic)| (peer.clone(), Arc::clone(traffic))).collect()
    }

    fn traffic(&self, peer: &str) -> Option<Arc<Traffic>> {
        if let Some(traffic) = self.peers.read().get(peer) {
            return Some(Arc::clone(traffic));
        }
        let mut peers = self.peers.write();
        if peers.len() >= MAX_PEERS {
            return None;
        }
        Some(Arc::clone(peers.entry(peer.to_owned()).or_default()))
    }
}

/// The node's figures. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Telemetry {
    registry: prometheus::Registry,
    /// Kept so that the readers behind it live.
    _provider: SdkMeterProvider,
    export: Export,
    traces: Traces,
    meter: Meter,
    histograms: Arc<Histograms>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Telemetry with a registry of its own, of which nothing is exported.
    pub fn new(node_id: &str) -> Result<Self, String> {
        Telemetry::exporting(node_id, Export::off(), true)
    }

    /// Telemetry with a registry of its own, of which goes out what `export` takes. Where metrics are
    /// not `served` to Prometheus and not exported either, nobody reads them, and they cost nothing.
    pub fn exporting(node_id: &str, export: Export, served: bool) -> Result<Self, String> {
        let registry = prometheus::Registry::new();
        let resource = Resource::builder_empty()
            .with_service_name(SERVICE)
            .with_attribute(KeyValue::new("service.instance.id", node_id.to_owned()))
            .with_attribute(KeyValue::new("service.version", api::VERSION))
            .build();
        let mut provider = SdkMeterProvider::builder().with_resource(resource);
        if served {
            let exporter = opentelemetry_prometheus::exporter()
                .with_registry(registry.clone())
                .scope_info_enabled(false)
                .build();
            let exporter = exporter.map_err(|e| format!("the metrics exporter can't be set up: {e}"))?;
            provider = provider.with_reader(exporter);
        }
        let provider = export.provide(provider).map_err(|e| e.to_string())?;
        let meter = provider.meter("holdfast");
        let counters = Arc::new(Counters::default());
        instruments::observe_counters(&meter, &counters);
        export.counts().observe(&meter);
        let histograms = Arc::new(Histograms::new(&meter));
        let traces = Traces::new(export.tracer());
        Ok(Telemetry { registry, _provider: provider, export, traces, meter, histograms, counters })
    }

    /// Makes the node's spans.
    #[inline]
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The node's cluster is known.
    pub fn cluster_is(&self, cluster_id: &str) {
        self.export.cluster_is(cluster_id);
    }

    /// The meter, for instruments that are observed.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// One synced write of the log.
    pub fn log_sync(&self, took: Duration, entries: u64) {
        self.histograms.log_sync.record(took.as_secs_f64(), &[]);
        self.counters.work.log_sync.record(took);
        self.histograms.log_sync_entries.record(entries, &[]);
    }

    /// One batch of entries was applied.
    pub fn applied(&self, took: Duration) {
        self.histograms.apply.record(took.as_secs_f64(), &[]);
    }

    /// So many commands of one entry ended without a reply that tells what became of them.
    pub fn proposals_ended(&self, outcome: ProposalOutcome, commands: usize) {
        self.counters.proposals[outcome as usize].fetch_add(commands as u64, Ordering::Relaxed);
    }

    /// The commands of an entry were answered, so long after the first of them was proposed.
    pub fn answered(&self, commands: usize, took: Duration) {
        self.proposals_ended(ProposalOutcome::Applied, commands);
        self.histograms.proposal.record(took.as_secs_f64(), &[]);
    }

    /// An entry was committed, so long after its first command was proposed.
    pub fn committed(&self, took: Duration) {
        self.histograms.commit.record(took.as_secs_f64(), &[]);
        self.counters.work.commit.record(took);
    }

    /// A backup was sent whole; `unix_ms` is the time of the state in it.
    pub fn backup_sent(&self, unix_ms: u64) {
        self.counters.backups[0].fetch_add(1, Ordering::Relaxed);
        self.backup_known(unix_ms);
    }

    /// A backup was asked for, and did not go out whole.
    pub fn backup_failed(&self) {
        self.counters.backups[1].fetch_add(1, Ordering::Relaxed);
    }

    /// A backup of an earlier run is known.
    pub fn backup_known(&self, unix_ms: u64) {
        self.counters.last_backup_unix_ms.fetch_max(unix_ms, Ordering::Relaxed);
    }

    /// A linearizable read ended.
    pub fn read(&self, outcome: ReadOutcome) {
        self.counters.reads[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many commands went into one log entry.
    pub fn entry_commands(&self, commands: u64) {
        self.histograms.entry_commands.record(commands, &[]);
    }

    /// This node started an election.
    pub fn election(&self) {
        self.counters.elections.fetch_add(1, Ordering::Relaxed);
    }

    /// Elections this node started.
    pub fn elections(&self) -> u64 {
        self.counters.elections.load(Ordering::Relaxed)
    }

    /// This node gave leadership away unasked.
    pub fn forced_handover(&self) {
        self.counters.forced_handovers.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it did.
    pub fn forced_handovers(&self) -> u64 {
        self.counters.forced_handovers.load(Ordering::Relaxed)
    }

    /// Messages went to a peer or came from it.
    pub fn peer_message(&self, peer: &str, direction: Direction, messages: u64, bytes: u64) {
        if let Some(traffic) = self.counters.traffic(peer) {
            traffic.messages[direction as usize].fetch_add(messages, Ordering::Relaxed);
            traffic.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// One transaction of the store.
    pub fn store_write(&self, took: Duration, effects: u64) {
        self.histograms.store_write.record(took.as_secs_f64(), &[]);
        self.histograms.store_batch.record(effects, &[]);
    }

    /// A snapshot was written.
    pub fn snapshot_written(&self, took: Duration, bytes: u64) {
        self.histograms.snapshot.record(took.as_secs_f64(), &[]);
        self.counters.snapshot_bytes.store(bytes, Ordering::Relaxed);
    }

    /// A snapshot could not be written.
    pub fn snapshot_failed(&self) {
        self.counters.snapshot_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// A snapshot was fetched from a peer, or not.
    pub fn snapshot_fetched(&self, fetched: bool) {
        self.counters.snapshot_fetches[usize::from(!fetched)].fetch_add(1, Ordering::Relaxed);
    }

    /// A part (its place in [`INTEGRITY_PARTS`]) was checked as a whole.
    pub fn integrity_checked(&self, part: usize, sound: bool, unix_seconds: u64) {
        let Some(checked) = self.counters.integrity.get(part) else { return };
        let counter = if sound { &checked.sound } else { &checked.damaged };
        counter.fetch_add(1, Ordering::Relaxed);
        checked.is_damaged.store(u64::from(!sound), Ordering::Relaxed);
        checked.last_unix_seconds.store(unix_seconds, Ordering::Relaxed);
    }

    /// A finding of this part was made void by a repair.
    pub fn integrity_forgotten(&self, part: usize) {
        if let Some(checked) = self.counters.integrity.get(part) {
            checked.is_damaged.store(0, Ordering::Relaxed);
        }
    }

    /// The node tried to mend a part (its place in [`MENDED_PARTS`]).
    pub fn mended(&self, part: usize, mended: bool) {
        if let Some(outcomes) = self.counters.mends.get(part) {
            outcomes[usize::from(!mended)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the applied commands did to tasks. Called by the applier, once a batch.
    pub fn effects(&self, effects: &[Effect]) {
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        for effect in effects {
            match effect {
                Effect::TaskSubmitted { .. } => count(&self.counters.submitted),
                Effect::Assigned { waited_ms, .. } => {
                    self.histograms.queue_wait.record(*waited_ms as f64 / 1000.0, &[]);
                }
                Effect::AttemptEnded { attempt, retried, run_ms, .. } => {
                    if *retried {
                        count(&self.counters.retried);
                    }
                    match attempt.outcome {
                        Some(AttemptOutcome::Completed | AttemptOutcome::Failed) => {
                            self.histograms.run_time.record(*run_ms as f64 / 1000.0, &[]);
                        }
                        Some(AttemptOutcome::TimedOut | AttemptOutcome::LeaseExpired) => {
                            count(&self.counters.expired);
                        }
                        Some(AttemptOutcome::Cancelled) | None => {}
                    }
                }
                Effect::TaskFinished { state: TaskState::Completed, .. } => count(&self.counters.completed),
                Effect::TaskFinished { state: TaskState::Failed, .. } => count(&self.counters.failed),
                Effect::TaskFinished { state: TaskState::Cancelled, .. } => count(&self.counters.cancelled),
                _ => {}
            }
        }
    }

    /// One HTTP request was answered; `route` is the template, never the path.
    pub fn http_request(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        self.counters.work.request(status);
        self.histograms.http_request.record(
            took.as_secs_f64(),
            &[
                KeyValue::new("http_route", route.to_owned()),
                KeyValue::new("http_request_method", method),
                KeyValue::new("http_response_status_code", i64::from(status)),
            ],
        );
    }

    /// Totals since the process started, by their name in the report.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        let counters = &self.counters;
        [
            ("submitted", &counters.submitted),
            ("completed", &counters.completed),
            ("failed", &counters.failed),
            ("cancelled", &counters.cancelled),
            ("retried", &counters.retried),
            ("expired", &counters.expired),
        ]
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), counter.load(Ordering::Relaxed)))
        .collect()
    }

    /// Everything in Prometheus text: our figures, then those of the log engine.
    ///
    /// The engine registers its own with an older version of the Prometheus library, which has a
    /// default registry of its own; the two texts share no name.
    pub fn render(&self) -> Result<String, String> {
        let mut text = String::with_capacity(32 * 1024);
        prometheus::TextEncoder::new()
            .encode_utf8(&self.registry.gather(), &mut text)
            .map_err(|e| format!("the node's figures can't be written: {e}"))?;
        prometheus_engine::TextEncoder::new()
            .encode_utf8(&prometheus_engine::default_registry().gather(), &mut text)
            .map_err(|e| format!("the log engine's figures can't be written: {e}"))?;
        Ok(text)
    }
}

/// What `prometheus_port` serves: `GET /metrics`.
pub fn metrics_router(telemetry: Telemetry) -> axum::Router {
    let render = move |headers: HeaderMap| std::future::ready(scrape(&telemetry, &headers));
    let unknown = || async {
        crate::http::problem::ApiError::new(
            api::ErrorCode::UnknownEndpoint,
            "this port serves GET /metrics and nothing else",
        )
    };
    axum::Router::new().route("/metrics", axum::routing::get(render)).fallback(unknown)
}

fn scrape(telemetry: &Telemetry, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    match telemetry.render() {
        Ok(text) => {
            let (content_type, body) = api::openmetrics::answer(accept, text);
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(why) => crate::http::problem::ApiError::new(api::ErrorCode::Internal, why).into_response(),
    }
}

#[cfg(test)]
mod tests;
