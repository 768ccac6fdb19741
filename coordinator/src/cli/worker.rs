//! `coordinator worker`.

use super::{CliError, ClusterArgs, amount, pair};
use crate::worker::{self, KNOWN_TYPES, Shutdown, WorkerConfig};
use api::worker::MAX_SLOTS;
use otlp::{Export, Origin, Settings};
use std::io::IsTerminal;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// How long the last spans and lines may take to their collector.
const FLUSH: Duration = Duration::from_secs(3);

/// Run tasks: lease them, run them as processes, report their results.
///
/// SIGTERM or SIGINT drains: nothing new is taken, what runs is finished and reported, then it
/// ends with 0. A second signal kills what runs and ends with 1.
///
/// Exports spans and log lines where OTEL_EXPORTER_OTLP_ENDPOINT names an OpenTelemetry collector.
#[derive(Debug, clap::Args)]
pub struct WorkerCommand {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Labels that tasks may require.
    #[arg(long, value_delimiter = ',', value_parser = pair, value_name = "KEY=VALUE,…")]
    pub labels: Vec<(String, String)>,
    /// Resources that tasks may take, in whole units.
    #[arg(long, value_delimiter = ',', value_parser = amount, value_name = "KEY=NUMBER,…")]
    pub resources: Vec<(String, u64)>,
    /// How many tasks run at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub slots: u32,
    /// The worker's id; a worker that is started again under its old id takes up its leases. By
    /// default the host's name and a random part.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub id: Option<String>,
    /// Task types to take.
    #[arg(long, value_delimiter = ',', default_values = KNOWN_TYPES, value_parser = KNOWN_TYPES)]
    pub types: Vec<String>,
    /// Seconds for which a drain keeps results that no coordinator takes.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub drain_report_seconds: u64,
}

impl WorkerCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        let worker_id = self.id.clone().unwrap_or_else(worker::default_id);
        let origin = Origin { service: "holdfast-worker", instance: worker_id.clone(), node_id: None };
        let settings = Settings::from_env(|name| std::env::var(name).ok());
        let settings = settings.map_err(|e| CliError::Usage(e.to_string()))?;
        let export = Export::start(settings, &origin).map_err(|e| CliError::Usage(e.to_string()))?;
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,opentelemetry-otlp=off".into());
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        // Another subscriber, set up by the program, has precedence.
        let _ = tracing_subscriber::registry().with(filter).with(export.log_layer()).with(lines).try_init();
        let outcome = self.work(worker_id, &export).await;
        export.shutdown(FLUSH).await;
        outcome
    }

    async fn work(self, worker_id: String, export: &Export) -> Result<u8, CliError> {
        let client = self.cluster.client()?;
        let shutdown = Shutdown::from_signals()
            .map_err(|source| CliError::Io { what: "listening for signals".into(), source })?;
        let config = WorkerConfig {
            worker_id,
            labels: self.labels.into_iter().collect(),
            resources: self.resources.into_iter().collect(),
            slots: self.slots,
            types: self.types,
            drain_report_limit: Duration::from_secs(self.drain_report_seconds),
            tracer: export.tracer().clone(),
        };
        worker::run(config, client, shutdown).await?;
        Ok(0)
    }
}
