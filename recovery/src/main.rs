//! `recovery`: wiring only.

use anyhow::Context;
use clap::Parser;
use otlp::{Export, Origin, Settings};
use recovery::audit::Audit;
use recovery::config::Loaded;
use recovery::driver::{Driver, Options, Summary};
use recovery::error::RecoveryError;
use recovery::http::Api;
use recovery::lease::LeaseKeeper;
use recovery::observe::Clock;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::prelude::*;

/// How long the last figures, lines and spans may take to their collector.
const FLUSH: Duration = Duration::from_secs(3);

/// Repairs a Holdfast cluster: looks, names the cause, asks its policy, acts, verifies.
///
/// Without --daemon: one pass with a report; ends 0 healthy, 1 repaired, 2 needs a person.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The config file (recovery_config.json).
    #[arg(long)]
    config: PathBuf,
    /// Seconds between rounds; fractions are fine.
    #[arg(long, default_value = "30", value_parser = seconds)]
    interval: Duration,
    /// Stay and go on.
    #[arg(long)]
    daemon: bool,
    /// Do everything but the step itself; nothing is written either.
    #[arg(long)]
    dry_run: bool,
    /// Where the API listens, host:port; the config's `listen` otherwise.
    #[arg(long)]
    listen: Option<String>,
}

const DEFAULT_LISTEN: &str = "127.0.0.1:8070";
/// Commands of people that wait at most.
const MAX_COMMANDS: usize = 64;

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    match Duration::try_from_secs_f64(value) {
        Ok(d) if (Duration::from_millis(50)..=Duration::from_secs(24 * 3600)).contains(&d) => Ok(d),
        _ => Err(format!("{text} must be 0.05 to 86400 seconds")),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let rules = "info,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=off";
        tracing_subscriber::EnvFilter::new(rules)
    });
    let export = match export(&arguments) {
        Ok(export) => export.install(),
        Err(e) => {
            eprintln!("recovery: {}", api::client::error_chain(e.as_ref()));
            return ExitCode::from(2);
        }
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(export.log_layer()).with(lines).init();
    let code = match work(arguments).await {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("recovery: {}", api::client::error_chain(e.as_ref()));
            ExitCode::from(2)
        }
    };
    export.shutdown(FLUSH).await;
    code
}

/// What the standard variables of OpenTelemetry ask for.
fn export(arguments: &Arguments) -> anyhow::Result<Export> {
    let settings = Settings::from_env(|name| std::env::var(name).ok())?;
    let instance = arguments.listen.clone().unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let origin = Origin { service: "holdfast-recovery", instance, node_id: None };
    Ok(Export::start(settings, &origin)?)
}

async fn work(arguments: Arguments) -> anyhow::Result<u8> {
    // Before anything shows that the daemon is there: a SIGHUP without its handler would end it.
    let signals = if arguments.daemon { Some(Signals::listen()?) } else { None };
    let path = arguments.config.clone();
    let loaded = tokio::task::spawn_blocking(move || Loaded::read(&path))
        .await
        .context("reading the config")?
        .with_context(|| format!("{}", arguments.config.display()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let clock = Clock::start();
    let dir = &loaded.config.recovery_dir;
    let (audit, _only_one) = if arguments.dry_run {
        (Audit::look(dir)?, None)
    } else {
        let only_one = take_instance_lock(dir)?;
        (Audit::open(dir, clock.now())?, Some(only_one))
    };
    let lease = if arguments.dry_run { None } else { Some(start_lease(&loaded)?) };
    let options = Options {
        config_path: arguments.config.clone(),
        interval: arguments.interval,
        dry_run: arguments.dry_run,
    };
    let mut driver = Driver::new(options, &loaded, audit, lease, clock)?;
    if let Some(signals) = signals {
        serve(driver, &loaded, arguments.listen, signals).await?;
        return Ok(0);
    }
    let summary = driver.one_pass().await;
    print!("{}", report(&summary));
    Ok(summary.exit_code())
}

/// The daemon: API and loop until a signal ends both.
async fn serve(
    driver: Driver,
    loaded: &Loaded,
    listen: Option<String>,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let listen = listen.or_else(|| loaded.config.listen.clone()).unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let token = match &loaded.config.webhook_token_file {
        Some(path) => Some(std::fs::read_to_string(path)?.trim().to_owned()),
        None => None,
    };
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .map_err(|source| RecoveryError::Listen { address: listen.clone(), source })?;
    tracing::info!(address = %listener.local_addr()?, version = api::VERSION, "recovery daemon");
    let end = CancellationToken::new();
    let reload = Arc::new(Notify::new());
    let (commands, orders) = mpsc::channel(MAX_COMMANDS);
    let api = Api::new(driver.shared(), commands, token, &listen);
    let server = tokio::spawn(
        axum::serve(listener, api.router())
            .with_graceful_shutdown(end.clone().cancelled_owned())
            .into_future(),
    );
    let running = tokio::spawn(driver.run(orders, reload.clone(), end.clone()));
    signals.until_end(&reload).await;
    end.cancel();
    running.await.context("the loop")?;
    // Open connections have no claim on the end.
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    Ok(())
}

/// SIGTERM and SIGINT end the daemon, SIGHUP makes it read its config again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn until_end(&mut self, reload: &Notify) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload.notify_one(),
            }
        }
    }
}

/// One daemon a `recovery_dir`.
fn take_instance_lock(dir: &Path) -> Result<File, RecoveryError> {
    std::fs::create_dir_all(dir).map_err(|e| RecoveryError::file("can't create", dir, e))?;
    let path = dir.join("recovery.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| RecoveryError::file("can't open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(RecoveryError::SecondDaemon { path, pid });
        }
        Err(TryLockError::Error(e)) => return Err(RecoveryError::file("can't lock", &path, e)),
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| RecoveryError::file("can't write", &path, e))?;
    Ok(file)
}

/// The lease's holder keeps its name over restarts, so that a restarted daemon renews its own.
fn start_lease(loaded: &Loaded) -> anyhow::Result<LeaseKeeper> {
    let path = loaded.config.recovery_dir.join("holder");
    let holder = match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => {
            let fresh = format!("recovery-{}", ulid::Ulid::generate());
            std::fs::write(&path, &fresh).map_err(|e| RecoveryError::file("can't write", &path, e))?;
            fresh
        }
    };
    let config = &loaded.config;
    let access = api::http::Access::from_flags(config.token_file.as_deref(), config.ca_path.as_deref())?;
    let scheme = api::http::scheme(config.enable_tls);
    let addresses = config.nodes.iter().map(|node| format!("{scheme}://{}", node.address()));
    let client = api::Client::with_access(addresses, access)?;
    Ok(LeaseKeeper::start(client, holder))
}

/// One pass, for people.
fn report(summary: &Summary) -> String {
    let (reporting, all) = summary.reporting;
    let mut text = format!("{reporting} of {all} nodes report\n");
    for record in &summary.repaired {
        let kind = record.kind.map_or("fault", |kind| kind.as_str());
        text.push_str(&format!("repaired: {kind} of {}: {}\n", record.nodes.join(", "), record.detail));
    }
    for plan in &summary.open {
        let gate = plan.gate.map_or("", |gate| gate.as_str());
        text.push_str(&format!("open: {} of {} ({gate}): {}\n", plan.kind, plan.nodes.join(", "), plan.why));
        for line in &plan.evidence {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.push_str(match summary.exit_code() {
        0 => "healthy\n",
        1 => "repaired\n",
        _ if summary.open.is_empty() && !summary.blind => {
            "needs a person: a node gives no report, and nothing here says why\n"
        }
        _ if summary.blind => {
            "needs a person: no node answers, and this daemon may be the one that is cut off\n"
        }
        _ => "needs a person\n",
    });
    text
}
