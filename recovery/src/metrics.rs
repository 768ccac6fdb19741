//! The daemon's metrics, all of them fed by the audit's records.

use crate::error::RecoveryError;
use crate::fault::FaultKind;
use crate::record::{Phase, Record};
use api::metrics as declared;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;

/// The instruments and the registry they show in.
#[derive(Debug)]
pub struct Metrics {
    registry: prometheus::Registry,
    _provider: SdkMeterProvider,
    attempts: Counter<u64>,
    outcomes: Counter<u64>,
    duration: Histogram<f64>,
    denials: Counter<u64>,
    brake: Gauge<u64>,
    last_action: Gauge<f64>,
    halted: Gauge<u64>,
    faults: Gauge<u64>,
    round: Histogram<f64>,
}

impl Metrics {
    /// Instruments in a registry of their own.
    pub fn new() -> Result<Self, RecoveryError> {
        let registry = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|e| RecoveryError::Setup { what: "metrics", why: e.to_string() })?;
        let export = otlp::Export::installed();
        let provider = export
            .provide(SdkMeterProvider::builder().with_reader(exporter))
            .map_err(|e| RecoveryError::Setup { what: "export of metrics", why: e.to_string() })?;
        let meter = provider.meter("holdfast.recovery");
        export.counts().observe(&meter);
        let build = gauge(&meter, &declared::BUILD_INFO);
        build.record(1, &[KeyValue::new("version", api::VERSION)]);
        let metrics = Metrics {
            attempts: counter(&meter, &declared::RECOVERY_ATTEMPTS),
            outcomes: counter(&meter, &declared::RECOVERY_OUTCOMES),
            duration: histogram(&meter, &declared::RECOVERY_DURATION),
            round: histogram(&meter, &declared::RECOVERY_ROUND_DURATION),
            halted: gauge(&meter, &declared::RECOVERY_HALTED),
            faults: gauge(&meter, &declared::RECOVERY_FAULTS),
            denials: counter(&meter, &declared::RECOVERY_DENIALS),
            brake: gauge(&meter, &declared::RECOVERY_BRAKE),
            last_action: meter
                .f64_gauge(declared::RECOVERY_LAST_ACTION.name)
                .with_unit(declared::RECOVERY_LAST_ACTION.unit)
                .with_description(declared::RECOVERY_LAST_ACTION.help)
                .build(),
            registry,
            _provider: provider,
        };
        metrics.show_brake(false);
        metrics.show_last_action(0);
        Ok(metrics)
    }

    /// The position of the brake.
    pub fn show_brake(&self, on: bool) {
        self.brake.record(u64::from(on), &[]);
    }

    /// When a step was last taken, Unix milliseconds; 0 before any.
    pub fn show_last_action(&self, at_ms: u64) {
        self.last_action.record(at_ms as f64 / 1000.0, &[]);
    }

    /// What a round left: how long it took, the kinds of the faults that are open, and whether
    /// repairs are halted.
    pub fn round_ended(&self, took: std::time::Duration, open: &[FaultKind], halted: bool) {
        self.round.record(took.as_secs_f64(), &[]);
        self.halted.record(u64::from(halted), &[]);
        for kind in FaultKind::ALL {
            let count = open.iter().filter(|open| **open == kind).count();
            self.faults.record(count as u64, &[KeyValue::new("kind", kind.as_str())]);
        }
    }

    /// Counts what a record tells.
    pub fn take(&self, record: &Record) {
        let kind = record.kind.map_or("none", |kind| kind.as_str());
        match record.phase {
            Phase::Intent => {
                self.attempts.add(1, &[KeyValue::new("kind", kind)]);
                self.show_last_action(record.at_ms());
            }
            Phase::Brake => self.show_brake(record.on == Some(true)),
            _ => {}
        }
        if let Some(gate) = record.gate {
            self.denials.add(1, &[KeyValue::new("gate", gate.as_str())]);
        }
        if let Some(outcome) = record.outcome {
            let labels = [KeyValue::new("kind", kind), KeyValue::new("outcome", outcome.as_str())];
            self.outcomes.add(1, &labels);
            if let Some(took_ms) = record.took_ms {
                self.duration.record(took_ms as f64 / 1000.0, &[KeyValue::new("kind", kind)]);
            }
        }
    }

    /// Everything as Prometheus text.
    pub fn text(&self) -> Result<String, RecoveryError> {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(|e| RecoveryError::Setup { what: "metrics text", why: e.to_string() })
    }
}

fn counter(meter: &Meter, metric: &declared::Metric) -> Counter<u64> {
    meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
}

fn histogram(meter: &Meter, metric: &declared::Metric) -> Histogram<f64> {
    meter
        .f64_histogram(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_boundaries(metric.boundaries.to_vec())
        .build()
}

fn gauge(meter: &Meter, metric: &declared::Metric) -> Gauge<u64> {
    meter.u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.help).build()
}
