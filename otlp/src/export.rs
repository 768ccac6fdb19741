//! The whole way out, put together.

use crate::bounded::{Counted, Counts, LogGate, MAX_LOGS, MAX_SPANS, SpanQueue};
use crate::collector::{Cluster, Collector};
use crate::settings::Settings;
use crate::tracer::Tracer;
use opentelemetry::KeyValue;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchLogProcessor, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long the collector may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long connecting to it may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long spans and log records gather for one message.
const GATHER: Duration = Duration::from_secs(2);
/// Spans or log records in one message.
const MESSAGE_ITEMS: usize = 512;

/// Why the way out can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What is asked for makes no sense.
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
    /// The client can't be made.
    #[error("the client for the collector can't be made: {0}")]
    Client(String),
    /// The exporter of a signal can't be made.
    #[error("the exporter of {signal} can't be made: {why}; check the variables OTEL_EXPORTER_OTLP_…")]
    Exporter {
        /// The signal.
        signal: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Who exports: the attributes of the resource.
#[derive(Debug, Clone)]
pub struct Origin {
    /// `service.name`.
    pub service: &'static str,
    /// `service.instance.id`.
    pub instance: String,
    /// `holdfast.node.id`, of a coordinator.
    pub node_id: Option<String>,
}

impl Origin {
    /// The resource: these attributes over those of `OTEL_RESOURCE_ATTRIBUTES`.
    fn resource(&self) -> Resource {
        let node = self.node_id.clone().map(|node_id| KeyValue::new("holdfast.node.id", node_id));
        Resource::builder()
            .with_service_name(self.service)
            .with_attribute(KeyValue::new("service.version", api::VERSION))
            .with_attribute(KeyValue::new("service.instance.id", self.instance.clone()))
            .with_attributes(node)
            .build()
    }
}

/// Exports a provider's metrics.
type MetricsReader = PeriodicReader<Counted<MetricExporter>>;
/// The layer that takes log lines.
pub type LogLayer = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// The way out of one program. Cheap to clone; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Export {
    on: Option<Arc<On>>,
    counts: Counts,
    tracer: Tracer,
}

/// The one of this program.
static INSTALLED: OnceLock<Export> = OnceLock::new();

#[derive(Debug)]
struct On {
    settings: Settings,
    resource: Resource,
    collector: Arc<Collector>,
    spans: Option<SpanQueue>,
    logs: Option<SdkLoggerProvider>,
    cluster: Cluster,
    /// Exporting metrics.
    providers: Mutex<Vec<SdkMeterProvider>>,
}

impl Export {
    /// Nothing is exported.
    pub fn off() -> Export {
        Export::default()
    }

    /// Sets up what the settings ask for; without any, nothing. Has to be called on the runtime
    /// that will carry the connections; nothing is sent before there is something to send.
    pub fn start(settings: Option<Settings>, origin: &Origin) -> Result<Export, ExportError> {
        let Some(settings) = settings else { return Ok(Export::off()) };
        settings.check()?;
        let counts = Counts::default();
        let resource = origin.resource();
        let cluster = Cluster::default();
        let collector = Arc::new(Collector {
            client: client(&settings)?,
            runtime: tokio::runtime::Handle::current(),
            cluster: Arc::clone(&cluster),
            counts: counts.clone(),
        });
        let mut on = On {
            settings,
            resource,
            collector,
            spans: None,
            logs: None,
            cluster,
            providers: Mutex::default(),
        };
        if on.settings.signals.traces {
            on.spans = Some(on.span_queue(&counts)?);
        }
        if on.settings.signals.logs {
            on.logs = Some(on.logger(&counts)?);
        }
        let tracer = on.spans.clone().map(|queue| Tracer::new(queue, on.settings.ratio)).unwrap_or_default();
        Ok(Export { on: Some(Arc::new(on)), counts, tracer })
    }

    /// The tracer; off where traces are not exported.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// What became of what was exported.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The layer that takes log lines, where they are exported.
    pub fn log_layer(&self) -> Option<LogLayer> {
        self.on.as_ref()?.logs.as_ref().map(OpenTelemetryTracingBridge::new)
    }

    /// The meter provider of these readers; where metrics are exported, one that exports them too,
    /// and ends with the rest.
    pub fn provide(&self, metrics: MeterProviderBuilder) -> Result<SdkMeterProvider, ExportError> {
        let Some(on) = self.on.as_ref().filter(|on| on.settings.signals.metrics) else {
            return Ok(metrics.build());
        };
        let reader = on.metrics_reader(&self.counts)?;
        let provider = metrics.with_resource(on.resource.clone()).with_reader(reader).build();
        on.providers.lock().push(provider.clone());
        Ok(provider)
    }

    /// The cluster is known: `holdfast.cluster.id` of everything that is sent from now on.
    pub fn cluster_is(&self, cluster_id: &str) {
        if let Some(on) = &self.on {
            on.cluster.get_or_init(|| cluster_id.to_owned());
        }
    }

    /// Makes it the one of this program, for [`Export::installed`].
    pub fn install(self) -> Export {
        INSTALLED.get_or_init(|| self).clone()
    }

    /// The one of this program; off where none was installed.
    pub fn installed() -> &'static Export {
        static OFF: OnceLock<Export> = OnceLock::new();
        INSTALLED.get().unwrap_or_else(|| OFF.get_or_init(Export::off))
    }

    /// Sends what waits and the last figures, for so long at most, and ends.
    pub async fn shutdown(&self, limit: Duration) {
        let Some(on) = self.on.clone() else { return };
        let ending = tokio::task::spawn_blocking(move || {
            // All at once: a collector that is down costs the limit once.
            std::thread::scope(|scope| {
                if let Some(spans) = &on.spans {
                    scope.spawn(|| spans.shutdown(limit));
                }
                // What can't be sent in time is lost with the process.
                for provider in std::mem::take(&mut *on.providers.lock()) {
                    scope.spawn(move || drop(provider.shutdown_with_timeout(limit)));
                }
                if let Some(logs) = &on.logs {
                    let _ = logs.shutdown_with_timeout(limit);
                }
            });
        });
        let _ = tokio::time::timeout(limit + Duration::from_secs(1), ending).await;
    }
}

impl On {
    fn span_queue(&self, counts: &Counts) -> Result<SpanQueue, ExportError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_shared_http_client(self.collector.clone())
            .with_headers(self.settings.headers.clone())
            .with_endpoint(self.settings.url("traces"))
            .with_timeout(ANSWER_LIMIT)
            .build()
            .map_err(|e| failed("traces", &e))?;
        let config = opentelemetry_sdk::trace::BatchConfigBuilder::default()
            .with_max_queue_size(MAX_SPANS)
            .with_max_export_batch_size(MESSAGE_ITEMS)
            .with_scheduled_delay(GATHER)
            .build();
        let mut processor =
            BatchSpanProcessor::new(Counted { counts: counts.clone(), inner: exporter }, config);
        processor.set_resource(&self.resource);
        Ok(SpanQueue::new(counts.clone(), Arc::new(processor)))
    }

    fn logger(&self, counts: &Counts) -> Result<SdkLoggerProvider, ExportError> {
        let exporter = LogExporter::builder()
            .with_http()
            .with_shared_http_client(self.collector.clone())
            .with_headers(self.settings.headers.clone())
            .with_endpoint(self.settings.url("logs"))
            .with_timeout(ANSWER_LIMIT)
            .build()
            .map_err(|e| failed("logs", &e))?;
        let config = opentelemetry_sdk::logs::BatchConfigBuilder::default()
            .with_max_queue_size(MAX_LOGS)
            .with_max_export_batch_size(MESSAGE_ITEMS)
            .with_scheduled_delay(GATHER)
            .build();
        let batches = BatchLogProcessor::builder(Counted { counts: counts.clone(), inner: exporter })
            .with_batch_config(config)
            .build();
        let gate = LogGate { counts: counts.clone(), inner: batches };
        Ok(SdkLoggerProvider::builder().with_resource(self.resource.clone()).with_log_processor(gate).build())
    }

    fn metrics_reader(&self, counts: &Counts) -> Result<MetricsReader, ExportError> {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_shared_http_client(self.collector.clone())
            .with_headers(self.settings.headers.clone())
            .with_endpoint(self.settings.url("metrics"))
            .with_timeout(ANSWER_LIMIT)
            .build()
            .map_err(|e| failed("metrics", &e))?;
        let counted = Counted { counts: counts.clone(), inner: exporter };
        Ok(PeriodicReader::builder(counted).with_interval(self.settings.metrics_interval).build())
    }
}

fn failed(signal: &'static str, error: &dyn std::error::Error) -> ExportError {
    ExportError::Exporter { signal, why: api::client::error_chain(error) }
}

fn client(settings: &Settings) -> Result<reqwest::Client, ExportError> {
    let client = |why: &dyn std::error::Error| ExportError::Client(api::client::error_chain(why));
    let access = api::http::Access::load(None, None, settings.ca.as_deref()).map_err(|e| client(&e))?;
    let builder = access.builder(settings.secure()).map_err(|e| client(&e))?;
    builder
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|e| client(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signals;
    use opentelemetry::trace::SpanKind;
    use std::time::Instant;

    #[tokio::test]
    async fn off_there_is_neither_thread_nor_layer() {
        let export = Export::start(None, &origin()).unwrap();
        assert!(!export.tracer().is_on() && export.log_layer().is_none());
        assert!(export.provide(SdkMeterProvider::builder()).is_ok());
        export.cluster_is("c");
        export.shutdown(Duration::from_secs(5)).await;
    }

    fn origin() -> Origin {
        Origin { service: "test", instance: "i".into(), node_id: Some("n".into()) }
    }

    /// Nobody listens there: a span is counted as failed, and the end is not held up.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_down_holds_up_nobody() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let settings = Settings {
            endpoint,
            headers: Default::default(),
            ca: None,
            signals: Signals { traces: true, metrics: false, logs: false },
            metrics_interval: Duration::from_secs(60),
            ratio: 1.0,
        };
        let export = Export::start(Some(settings), &origin()).unwrap();
        let parent = export.tracer().accept(None, true).unwrap();
        drop(export.tracer().span("lost", SpanKind::Internal, parent));
        let begun = Instant::now();
        export.shutdown(Duration::from_secs(20)).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
        let failed = export.counts().read().into_iter().find(|(s, o, _)| (*s, *o) == ("traces", "failed"));
        assert_eq!(failed, Some(("traces", "failed", 1)));
    }
}
