//! The daemon's metrics, all of them fed by the audit's records.

use crate::error::RecoveryError;
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
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("holdfast.recovery");
        let build = gauge(&meter, &declared::BUILD_INFO);
        build.record(1, &[KeyValue::new("version", api::VERSION)]);
        let metrics = Metrics {
            attempts: counter(&meter, &declared::RECOVERY_ATTEMPTS),
            outcomes: counter(&meter, &declared::RECOVERY_OUTCOMES),
            duration: meter
                .f64_histogram(declared::RECOVERY_DURATION.name)
                .with_unit(declared::RECOVERY_DURATION.unit)
                .with_description(declared::RECOVERY_DURATION.help)
                .with_boundaries(declared::RECOVERY_DURATION.boundaries.to_vec())
                .build(),
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

fn gauge(meter: &Meter, metric: &declared::Metric) -> Gauge<u64> {
    meter.u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.help).build()
}
