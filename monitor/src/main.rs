//! The monitor's command line. Wiring only.

use anyhow::Context;
use clap::Parser;
use monitor::config::{DEFAULT_LISTEN, Flags};
use monitor::{MonitorConfig, Service};
use otlp::{Export, Origin, Settings};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// The exit code of a command line or config that can't be used.
const EXIT_USAGE: u8 = 2;
/// How long the last figures, lines and spans may take to their collector.
const FLUSH: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("monitor: can't start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let export = match runtime.block_on(async { export(&flags) }) {
        Ok(export) => export.install(),
        Err(error) => {
            eprintln!("monitor: {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=off")
    });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(export.log_layer()).with(lines).init();
    let code = watch(flags, &runtime);
    runtime.block_on(export.shutdown(FLUSH));
    code
}

/// What the standard variables of OpenTelemetry ask for.
fn export(flags: &Flags) -> anyhow::Result<Export> {
    let settings = Settings::from_env(|name| std::env::var(name).ok())?;
    let instance = flags.listen.clone().unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let origin = Origin { service: "holdfast-monitor", instance, node_id: None };
    Ok(Export::start(settings, &origin)?)
}

fn watch(flags: Flags, runtime: &tokio::runtime::Runtime) -> ExitCode {
    let config = match MonitorConfig::load(flags) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("monitor: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(config, runtime) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("monitor: {}", api::client::error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(config: MonitorConfig, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    runtime.block_on(async {
        let end = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let signalled = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            signalled.cancel();
        });
        let nodes = config.nodes.join(", ");
        let scheme = api::http::scheme(config.access.enable_tls);
        let service = Service::bind(config).await?;
        tracing::info!("watching {nodes}");
        tracing::info!("cluster view at {scheme}://{}/", service.address()?);
        service.run(end).await?;
        tracing::info!("ended");
        Ok(())
    })
}
