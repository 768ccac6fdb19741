//! What limits and counts: in front of the SDK's batch processors, and behind them.
//!
//! The SDK's own queues are bounded too, but say nothing of what they drop, and a failed export is
//! a line of theirs for each batch. So what goes in is counted here, and what comes of it: each
//! item is *sent*, *failed* (the collector did not take it) or *dropped* (too many waited). A line
//! is logged when a signal begins to fail, and one when it goes through again.

use crate::context;
use opentelemetry::logs::LogRecord as _;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::trace::TraceFlags;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter, SpanProcessor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Spans that may wait to be sent.
pub(crate) const MAX_SPANS: usize = 8_192;
/// Log records that may wait to be sent.
pub(crate) const MAX_LOGS: usize = 4_096;

/// The signals, as metrics label them.
pub const SIGNALS: [&str; 3] = ["traces", "logs", "metrics"];
/// What becomes of an item, as metrics label it.
pub const OUTCOMES: [&str; 3] = ["sent", "failed", "dropped"];

/// Which of [`SIGNALS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Logs,
    Metrics,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Sent,
    Failed,
    Dropped,
}

/// What became of what was to be exported: spans, log records, and collections of metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    items: [[AtomicU64; 3]; 3],
    waiting: [AtomicUsize; 3],
    failing: [AtomicBool; 3],
    /// Why the last message did not go through; the SDK's own errors don't say.
    why: [Mutex<Option<String>>; 3],
}

impl Counts {
    /// (signal, outcome, items) of every signal and outcome.
    pub fn read(&self) -> Vec<(&'static str, &'static str, u64)> {
        let signals = SIGNALS.into_iter().zip(&self.0.items);
        let outcomes = signals.flat_map(|(signal, items)| {
            OUTCOMES.into_iter().zip(items).map(move |(outcome, count)| (signal, outcome, count))
        });
        outcomes.map(|(signal, outcome, count)| (signal, outcome, count.load(Ordering::Relaxed))).collect()
    }

    /// Shows them as the metric [`api::metrics::OTLP_ITEMS`].
    pub fn observe(&self, meter: &Meter) {
        let counts = self.clone();
        let metric = &api::metrics::OTLP_ITEMS;
        let shown =
            meter.u64_observable_counter(metric.name).with_unit(metric.unit).with_description(metric.help);
        let read = move |observer: &dyn AsyncInstrument<u64>| {
            for (signal, outcome, count) in counts.read() {
                observer
                    .observe(count, &[KeyValue::new("signal", signal), KeyValue::new("outcome", outcome)]);
            }
        };
        shown.with_callback(read).build();
    }

    /// A message to this path did not go through.
    pub(crate) fn failed_because(&self, path: &str, why: String) {
        let signal = SIGNALS.iter().position(|signal| path.ends_with(signal));
        if let Some(known) = signal.and_then(|signal| self.0.why.get(signal)) {
            *known.lock() = Some(why);
        }
    }

    fn count(&self, signal: Signal, outcome: Outcome, items: usize) {
        self.0.items[signal as usize][outcome as usize].fetch_add(items as u64, Ordering::Relaxed);
    }

    /// True where one more may wait; else it is counted as dropped.
    fn enter(&self, signal: Signal, limit: usize) -> bool {
        let waiting = &self.0.waiting[signal as usize];
        if waiting.fetch_add(1, Ordering::Relaxed) < limit {
            return true;
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
        self.count(signal, Outcome::Dropped, 1);
        false
    }

    /// A batch was exported, or not. The SDK is told that all is well: it could do nothing about it.
    fn left(&self, signal: Signal, items: usize, result: &OTelSdkResult) {
        if signal != Signal::Metrics {
            self.0.waiting[signal as usize].fetch_sub(items, Ordering::Relaxed);
        }
        let failed = result.is_err();
        self.count(signal, if failed { Outcome::Failed } else { Outcome::Sent }, items);
        let name = SIGNALS[signal as usize];
        match (self.0.failing[signal as usize].swap(failed, Ordering::Relaxed), result) {
            (false, Err(error)) => {
                let error = self.0.why[signal as usize].lock().take().unwrap_or_else(|| error.to_string());
                tracing::warn!(
                    signal = name,
                    error,
                    "the collector does not take what is exported; it is counted and dropped until it does"
                );
            }
            (true, Ok(())) => tracing::info!(signal = name, "the collector takes what is exported again"),
            _ => {}
        }
    }
}

/// Spans on their way out. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SpanQueue {
    counts: Counts,
    processor: Arc<dyn SpanProcessor>,
    closed: Arc<AtomicBool>,
}

impl SpanQueue {
    pub(crate) fn new(counts: Counts, processor: Arc<dyn SpanProcessor>) -> SpanQueue {
        SpanQueue { counts, processor, closed: Arc::default() }
    }

    /// Never waits.
    pub(crate) fn push(&self, span: SpanData) {
        if self.closed.load(Ordering::Relaxed) {
            self.counts.count(Signal::Traces, Outcome::Dropped, 1);
        } else if self.counts.enter(Signal::Traces, MAX_SPANS) {
            self.processor.on_end(span);
        }
    }

    pub(crate) fn shutdown(&self, limit: Duration) {
        self.closed.store(true, Ordering::Relaxed);
        // What could not be sent in time is lost with the process, as it would be without.
        let _ = self.processor.shutdown_with_timeout(limit);
    }
}

/// Log records on their way out: those of our own programs, with the place in the trace.
#[derive(Debug)]
pub(crate) struct LogGate<P> {
    pub(crate) counts: Counts,
    pub(crate) inner: P,
}

/// Libraries of the way out itself: a line of theirs would make the next.
const OWN_LIBRARIES: [&str; 6] = ["opentelemetry", "hyper", "reqwest", "h2", "rustls", "tower"];

impl<P: LogProcessor> LogProcessor for LogGate<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        let target = record.target().map_or("", |target| target.as_ref());
        if OWN_LIBRARIES.iter().any(|library| target.starts_with(library)) {
            return;
        }
        if let Some(place) = context::current() {
            record.set_trace_context(place.trace, place.span, Some(TraceFlags::SAMPLED));
        }
        if self.counts.enter(Signal::Logs, MAX_LOGS) {
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter whose outcomes are counted.
#[derive(Debug)]
pub(crate) struct Counted<E> {
    pub(crate) counts: Counts,
    pub(crate) inner: E,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.len();
        let result = self.inner.export(batch).await;
        self.counts.left(Signal::Traces, items, &result);
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        let result = self.inner.export(batch).await;
        self.counts.left(Signal::Logs, items, &result);
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.inner.export(metrics).await;
        self.counts.left(Signal::Metrics, 1, &result);
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkError;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Gives every span to a channel.
    #[derive(Debug)]
    struct ToChannel(Sender<SpanData>);

    impl SpanProcessor for ToChannel {
        fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}

        fn on_end(&self, span: SpanData) {
            let _ = self.0.send(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    impl SpanQueue {
        pub(crate) fn for_test() -> (SpanQueue, Receiver<SpanData>) {
            let (sender, receiver) = channel();
            (SpanQueue::new(Counts::default(), Arc::new(ToChannel(sender))), receiver)
        }
    }

    fn of(counts: &Counts, signal: &str) -> Vec<u64> {
        counts.read().into_iter().filter(|(s, ..)| *s == signal).map(|(.., n)| n).collect()
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let counts = Counts::default();
        assert!((0..3).all(|_| counts.enter(Signal::Traces, 3)));
        assert!(!counts.enter(Signal::Traces, 3));
        assert_eq!(of(&counts, "traces"), [0, 0, 1]);
        counts.left(Signal::Traces, 2, &Ok(()));
        assert!(counts.enter(Signal::Traces, 3), "there is room again");
        assert_eq!(of(&counts, "traces"), [2, 0, 1]);
        assert_eq!(of(&counts, "logs"), [0, 0, 0], "each signal for itself");
    }

    #[test]
    fn a_failure_is_counted_and_said_once() {
        let counts = Counts::default();
        let failure = || Err(OTelSdkError::InternalFailure("refused".into()));
        counts.left(Signal::Metrics, 1, &failure());
        assert!(counts.0.failing[Signal::Metrics as usize].load(Ordering::Relaxed));
        counts.left(Signal::Metrics, 1, &failure());
        counts.left(Signal::Metrics, 1, &Ok(()));
        assert!(!counts.0.failing[Signal::Metrics as usize].load(Ordering::Relaxed));
        assert_eq!(of(&counts, "metrics"), [1, 2, 0]);
    }
}
