//! The instruments that are recorded, built from their declarations in [`api::metrics`].

use super::Counters;
use api::metrics::{self, Metric};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Histogram, Meter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The distributions.
pub(crate) struct Histograms {
    pub(crate) proposal: Histogram<f64>,
    pub(crate) commit: Histogram<f64>,
    pub(crate) entry_commands: Histogram<u64>,
    pub(crate) apply: Histogram<f64>,
    pub(crate) log_sync: Histogram<f64>,
    pub(crate) log_sync_entries: Histogram<u64>,
    pub(crate) queue_wait: Histogram<f64>,
    pub(crate) run_time: Histogram<f64>,
    pub(crate) store_batch: Histogram<u64>,
    pub(crate) store_write: Histogram<f64>,
    pub(crate) http_request: Histogram<f64>,
    pub(crate) snapshot: Histogram<f64>,
}

impl Histograms {
    pub(crate) fn new(meter: &Meter) -> Self {
        Histograms {
            proposal: durations(meter, &metrics::RAFT_PROPOSAL_DURATION),
            commit: durations(meter, &metrics::RAFT_COMMIT_DURATION),
            entry_commands: counts(meter, &metrics::RAFT_ENTRY_COMMANDS),
            apply: durations(meter, &metrics::APPLY_DURATION),
            log_sync: durations(meter, &metrics::LOG_SYNC_DURATION),
            log_sync_entries: counts(meter, &metrics::LOG_SYNC_ENTRIES),
            queue_wait: durations(meter, &metrics::TASK_QUEUE_WAIT),
            run_time: durations(meter, &metrics::TASK_RUN_TIME),
            store_batch: counts(meter, &metrics::STORE_BATCH),
            store_write: durations(meter, &metrics::STORE_DURATION),
            http_request: durations(meter, &metrics::HTTP_REQUEST_DURATION),
            snapshot: durations(meter, &metrics::SNAPSHOT_DURATION),
        }
    }
}

fn durations(meter: &Meter, metric: &Metric) -> Histogram<f64> {
    meter
        .f64_histogram(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_boundaries(metric.boundaries.to_vec())
        .build()
}

fn counts(meter: &Meter, metric: &Metric) -> Histogram<u64> {
    meter
        .u64_histogram(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_boundaries(metric.boundaries.to_vec())
        .build()
}

/// Labelled values of one metric.
type Series<T> = Vec<(T, Vec<KeyValue>)>;

/// Tells an instrument what is read, each value with its labels.
fn telling<T>(read: impl Fn() -> Series<T> + Send + Sync) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync {
    move |observer| {
        for (value, labels) in read() {
            observer.observe(value, &labels);
        }
    }
}

/// A counter that is kept elsewhere and read when asked.
pub(crate) fn counter(
    meter: &Meter,
    metric: &Metric,
    read: impl Fn() -> Series<u64> + Send + Sync + 'static,
) {
    meter
        .u64_observable_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(telling(read))
        .build();
}

/// The same in fractions.
pub(crate) fn counter_f64(
    meter: &Meter,
    metric: &Metric,
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    meter
        .f64_observable_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(move |observer| {
            if let Some(value) = read() {
                observer.observe(value, &[]);
            }
        })
        .build();
}

/// A gauge in whole units.
pub(crate) fn gauge(meter: &Meter, metric: &Metric, read: impl Fn() -> Series<u64> + Send + Sync + 'static) {
    meter
        .u64_observable_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(telling(read))
        .build();
}

/// A gauge in fractions.
pub(crate) fn gauge_f64(
    meter: &Meter,
    metric: &Metric,
    read: impl Fn() -> Series<f64> + Send + Sync + 'static,
) {
    meter
        .f64_observable_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(telling(read))
        .build();
}

/// One value without labels.
pub(crate) fn plain<T>(value: T) -> Series<T> {
    vec![(value, Vec::new())]
}

/// Exports what [`Counters`] holds.
pub(crate) fn observe_counters(meter: &Meter, counters: &Arc<Counters>) {
    let labelled =
        |metric: &'static Metric, label: &'static str, read: fn(&Counters) -> Vec<(&'static str, u64)>| {
            let counters = Arc::clone(counters);
            counter(meter, metric, move || {
                let values = read(&counters);
                values.into_iter().map(|(name, value)| (value, vec![KeyValue::new(label, name)])).collect()
            });
        };
    labelled(&metrics::RAFT_PROPOSALS, "outcome", |c| {
        ["applied", "dropped", "unknown"].into_iter().zip(c.proposals.iter().map(load)).collect()
    });
    labelled(&metrics::RAFT_READS, "outcome", |c| {
        ["served", "expired"].into_iter().zip(c.reads.iter().map(load)).collect()
    });
    labelled(&metrics::SNAPSHOT_FETCHES, "outcome", |c| {
        ["fetched", "failed"].into_iter().zip(c.snapshot_fetches.iter().map(load)).collect()
    });
    labelled(&metrics::BACKUPS, "outcome", |c| {
        ["sent", "failed"].into_iter().zip(c.backups.iter().map(load)).collect()
    });
    let backup = Arc::clone(counters);
    gauge_f64(meter, &metrics::BACKUP_LAST, move || plain(load(&backup.last_backup_unix_ms) as f64 / 1000.0));
    observe_integrity(meter, counters);
    let mends = Arc::clone(counters);
    counter(meter, &metrics::MENDS, move || {
        let mut series = Vec::new();
        for (part, outcomes) in super::MENDED_PARTS.into_iter().zip(&mends.mends) {
            for (outcome, value) in ["mended", "failed"].into_iter().zip(outcomes) {
                series.push((
                    load(value),
                    vec![KeyValue::new("part", part), KeyValue::new("outcome", outcome)],
                ));
            }
        }
        series
    });

    let single = |metric: &'static Metric, read: fn(&Counters) -> &AtomicU64| {
        let counters = Arc::clone(counters);
        counter(meter, metric, move || plain(load(read(&counters))));
    };
    single(&metrics::RAFT_ELECTIONS, |c| &c.elections);
    single(&metrics::TASKS_SUBMITTED, |c| &c.submitted);
    single(&metrics::TASKS_COMPLETED, |c| &c.completed);
    single(&metrics::TASKS_FAILED, |c| &c.failed);
    single(&metrics::TASKS_CANCELLED, |c| &c.cancelled);
    single(&metrics::TASKS_RETRIED, |c| &c.retried);
    single(&metrics::TASKS_EXPIRED, |c| &c.expired);
    single(&metrics::SNAPSHOT_FAILURES, |c| &c.snapshot_failures);
    let sized = Arc::clone(counters);
    gauge(meter, &metrics::SNAPSHOT_SIZE, move || plain(load(&sized.snapshot_bytes)));

    let by_peer = |metric: &'static Metric, read: fn(&super::Traffic) -> &[AtomicU64; 2]| {
        let counters = Arc::clone(counters);
        counter(meter, metric, move || {
            let mut series = Vec::new();
            for (peer, traffic) in counters.peers() {
                for (direction, value) in ["sent", "received"].into_iter().zip(read(&traffic)) {
                    let labels =
                        vec![KeyValue::new("peer", peer.clone()), KeyValue::new("direction", direction)];
                    series.push((load(value), labels));
                }
            }
            series
        });
    };
    by_peer(&metrics::PEER_MESSAGES, |t| &t.messages);
    by_peer(&metrics::PEER_BYTES, |t| &t.bytes);
}

/// What the checks of integrity found.
fn observe_integrity(meter: &Meter, counters: &Arc<Counters>) {
    let part = |name: &'static str| KeyValue::new("part", name);
    let checks = Arc::clone(counters);
    counter(meter, &metrics::INTEGRITY_CHECKS, move || {
        let mut series = Vec::new();
        for (name, checked) in super::INTEGRITY_PARTS.into_iter().zip(&checks.integrity) {
            for (outcome, value) in [("sound", &checked.sound), ("damaged", &checked.damaged)] {
                series.push((load(value), vec![part(name), KeyValue::new("outcome", outcome)]));
            }
        }
        series
    });
    let by_part = |metric: &'static Metric, read: fn(&super::Checked) -> &AtomicU64| {
        let counters = Arc::clone(counters);
        gauge(meter, metric, move || {
            let parts = super::INTEGRITY_PARTS.into_iter().zip(&counters.integrity);
            parts.map(|(name, checked)| (load(read(checked)), vec![part(name)])).collect()
        });
    };
    by_part(&metrics::INTEGRITY_DAMAGED, |checked| &checked.is_damaged);
    by_part(&metrics::INTEGRITY_LAST_CHECK, |checked| &checked.last_unix_seconds);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
