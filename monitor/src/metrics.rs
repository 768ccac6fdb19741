//! The monitor's own metrics, as `api::metrics` declares them.

use crate::access::tls::Tls;
use crate::detectors::Finding;
use crate::observer::Round;
use crate::own::OwnState;
use crate::report::{NodeReport, seconds_between};
use crate::snapshot::NodeView;
use api::metrics as declared;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label of a node whose id nobody has said yet. Its address is no label.
const UNIDENTIFIED: &str = "unidentified";

/// Why the metrics can't be set up or shown.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The exporter refused.
    #[error("metrics can't be set up: {0}")]
    Setup(String),
    /// The text can't be made.
    #[error("metrics can't be written as text: {0}")]
    Encode(#[from] prometheus::Error),
}

/// Active findings, read when somebody scrapes.
type Active = Arc<Mutex<Counted>>;
/// How many, by kind, node and severity.
type Counted = BTreeMap<(&'static str, String, &'static str), u64>;

/// The instruments, and the registry they show in.
#[derive(Debug)]
pub struct MonitorMetrics {
    registry: Registry,
    active: Active,
    scrape_duration: Histogram<f64>,
    scrape_failures: Counter<u64>,
    round_duration: Histogram<f64>,
    detection_delay: Histogram<f64>,
    nodes: Gauge<u64>,
    own: Arc<Mutex<OwnState>>,
    // Instruments stop when their provider goes.
    provider: SdkMeterProvider,
}

impl MonitorMetrics {
    /// Instruments in a registry of their own.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| MetricsError::Setup(error.to_string()))?;
        let export = otlp::Export::installed();
        let provider = export
            .provide(SdkMeterProvider::builder().with_reader(exporter))
            .map_err(|error| MetricsError::Setup(error.to_string()))?;
        let meter = provider.meter("holdfast.monitor");
        export.counts().observe(&meter);
        gauge(&meter, &declared::BUILD_INFO).record(1, &[KeyValue::new("version", api::VERSION)]);
        let active: Active = Arc::default();
        observe_active(&meter, active.clone());
        let own: Arc<Mutex<OwnState>> = Arc::default();
        observe_own(&meter, &own);
        Ok(MonitorMetrics {
            scrape_duration: histogram(&meter, &declared::MONITOR_SCRAPE_DURATION),
            scrape_failures: meter
                .u64_counter(declared::MONITOR_SCRAPE_FAILURES.name)
                .with_unit(declared::MONITOR_SCRAPE_FAILURES.unit)
                .with_description(declared::MONITOR_SCRAPE_FAILURES.help)
                .build(),
            round_duration: histogram(&meter, &declared::MONITOR_ROUND_DURATION),
            detection_delay: histogram(&meter, &declared::MONITOR_DETECTION_DELAY),
            nodes: gauge(&meter, &declared::MONITOR_NODES),
            registry,
            active,
            own,
            provider,
        })
    }

    /// Shows when the certificate in force ends.
    pub fn show_certificate(&self, tls: Arc<Tls>) {
        let metric = &declared::TLS_CERTIFICATE_END;
        self.provider
            .meter("holdfast.monitor")
            .f64_observable_gauge(metric.name)
            .with_unit(metric.unit)
            .with_description(metric.help)
            .with_callback(move |observer| observer.observe(tls.not_after_s() as f64, &[]))
            .build();
    }

    /// Counts what one round brought.
    pub fn take(&self, reports: &[NodeReport], round: &Round, own: &OwnState) {
        self.round_duration.record(own.round_ms / 1_000.0, &[]);
        self.own.lock().clone_from(own);
        for (report, node) in reports.iter().zip(&round.snapshot.nodes) {
            let label = KeyValue::new("node", label(node));
            if let Err(failure) = &report.outcome {
                let labels = [label.clone(), KeyValue::new("kind", failure.kind())];
                self.scrape_failures.add(1, &labels);
            }
            self.scrape_duration.record(report.took_ms / 1_000.0, &[label]);
        }
        for state in ["reporting", "unknown", "down"] {
            let count = round.snapshot.nodes.iter().filter(|n| n.state.as_str() == state).count();
            self.nodes.record(count as u64, &[KeyValue::new("state", state)]);
        }
        for finding in &round.begun {
            let delay_seconds = seconds_between(finding.since, round.snapshot.at);
            self.detection_delay.record(delay_seconds, &[KeyValue::new("kind", finding.kind.as_str())]);
        }
        *self.active.lock() = count_active(&round.findings, &round.snapshot.nodes);
    }

    /// The Prometheus text.
    pub fn text(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}

fn label(node: &NodeView) -> String {
    node.node_id.clone().unwrap_or_else(|| UNIDENTIFIED.to_owned())
}

fn count_active(findings: &[Finding], nodes: &[NodeView]) -> Counted {
    let mut active = BTreeMap::new();
    for finding in findings {
        let (kind, severity) = (finding.kind.as_str(), finding.severity.as_str());
        if finding.nodes.is_empty() {
            *active.entry((kind, String::new(), severity)).or_default() += 1;
        }
        for name in &finding.nodes {
            let node = nodes.iter().find(|n| n.name() == name).map_or_else(|| name.clone(), label);
            *active.entry((kind, node, severity)).or_default() += 1;
        }
    }
    active
}

/// Only what is active is shown: a finding that ended leaves no series behind.
fn observe_active(meter: &Meter, active: Active) {
    let metric = &declared::MONITOR_ANOMALIES;
    meter
        .u64_observable_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(move |observer| {
            for ((kind, node, severity), count) in active.lock().iter() {
                let labels = [
                    KeyValue::new("kind", *kind),
                    KeyValue::new("node", node.clone()),
                    KeyValue::new("severity", *severity),
                ];
                observer.observe(*count, &labels);
            }
        })
        .build();
}

/// The monitor's own figures, read when somebody scrapes.
fn observe_own(meter: &Meter, own: &Arc<Mutex<OwnState>>) {
    let number = |metric: &'static declared::Metric, read: fn(&OwnState) -> u64| {
        let own = own.clone();
        meter
            .u64_observable_gauge(metric.name)
            .with_unit(metric.unit)
            .with_description(metric.help)
            .with_callback(move |observer| observer.observe(read(&own.lock()), &[]))
            .build();
    };
    number(&declared::MONITOR_HISTORY_SIZE, |own| own.history.file_bytes);
    number(&declared::MONITOR_SOURCES_FAILING, |own| {
        own.sources.iter().filter(|source| source.error.is_some()).count() as u64
    });
    number(&declared::PROCESS_MEMORY, |own| own.process.memory_bytes);
    number(&declared::PROCESS_FDS, |own| own.process.open_fds);
    number(&declared::PROCESS_THREADS, |own| own.process.threads);
    let count = |metric: &'static declared::Metric, read: fn(&OwnState) -> u64| {
        let own = own.clone();
        meter
            .u64_observable_counter(metric.name)
            .with_unit(metric.unit)
            .with_description(metric.help)
            .with_callback(move |observer| observer.observe(read(&own.lock()), &[]))
            .build();
    };
    count(&declared::MONITOR_ROUNDS_DROPPED, |own| own.dropped_rounds);
    count(&declared::MONITOR_HISTORY_LOST, |own| own.history.rounds_lost);
    let late = own.clone();
    meter
        .f64_observable_gauge(declared::MONITOR_ROUND_LATE.name)
        .with_unit(declared::MONITOR_ROUND_LATE.unit)
        .with_description(declared::MONITOR_ROUND_LATE.help)
        .with_callback(move |observer| observer.observe(late.lock().late_ms / 1_000.0, &[]))
        .build();
    let cpu = own.clone();
    meter
        .f64_observable_counter(declared::PROCESS_CPU.name)
        .with_unit(declared::PROCESS_CPU.unit)
        .with_description(declared::PROCESS_CPU.help)
        .with_callback(move |observer| observer.observe(cpu.lock().process.cpu_seconds, &[]))
        .build();
}

fn gauge(meter: &Meter, metric: &declared::Metric) -> Gauge<u64> {
    meter.u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.help).build()
}

fn histogram(meter: &Meter, metric: &declared::Metric) -> Histogram<f64> {
    meter
        .f64_histogram(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_boundaries(metric.boundaries.to_vec())
        .build()
}
