//! The coordinator's command line: a node, a worker, or one of the operator's hands.

use anyhow::Context;
use clap::Parser;
use coordinator::cli;
use coordinator::config::{Config, Grade};
use coordinator::live::Live;
use coordinator::server;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A highly available coordinator for distributed testing.
///
/// With --config (or the whole config in the environment) it runs a node; with a subcommand it
/// talks to a running cluster.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The node's config file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the config as it counts (secrets removed) with every warning and every fault, and end.
    ///
    /// Exit code 0: a node would start with it. 1: it would not.
    #[arg(long)]
    check_config: bool,
    /// Replace this node's state by a verified snapshot of the majority.
    #[arg(long)]
    force_sync: bool,
    /// Check names, ports, clocks and round trips of the peers and end.
    #[arg(long)]
    check_peers: bool,
    #[command(subcommand)]
    command: Option<cli::Command>,
}

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("coordinator: can't start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            Some(command) => Ok(command.run().await),
            None => run_node(arguments).await,
        }
    });
    // A worker's or node's last tasks have ended or were given up by now.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome.unwrap_or_else(|error| {
        eprintln!("coordinator: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run_node(arguments: Arguments) -> anyhow::Result<ExitCode> {
    for (asked, flag) in [(arguments.force_sync, "--force-sync"), (arguments.check_peers, "--check-peers")] {
        anyhow::ensure!(!asked, "{flag} is not available in this version");
    }
    if arguments.config.is_none() && std::env::var_os("NODE_ID").is_none() {
        anyhow::bail!(
            "give --config FILE (or NODE_ID, HOST, DATA_DIR, PEERS in the environment), or a subcommand; --help lists them"
        );
    }
    let env = |name: &str| std::env::var(name).ok();
    if arguments.check_config {
        return Ok(cli::check_config(&Config::read(arguments.config.as_deref(), env)));
    }
    let (config, remarks) = Config::load(arguments.config.as_deref(), env)?;
    let (logs, guard, control) = coordinator::telemetry::logs::init(&config)?;
    for remark in &remarks {
        match remark.grade {
            Grade::Warning => tracing::warn!("{remark}"),
            Grade::Note => tracing::info!("{remark}"),
        }
    }
    let live = Live::new(config, arguments.config, env);
    live.follow(move |config| control.take_config(config));
    let stop = CancellationToken::new();
    watch_signals(&live, &stop)?;
    server::serve(live, logs, guard, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// SIGTERM and SIGINT stop the node, SIGHUP reads its config again.
fn watch_signals(live: &Live, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("can't watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't watch for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("can't watch for SIGHUP")?;
    let (live, stop) = (live.clone(), stop.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => drop(live.reload()),
            }
        }
        stop.cancel();
    });
    Ok(())
}
