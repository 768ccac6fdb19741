//! The coordinator's command line: a node, a worker, or one of the operator's hands.

use anyhow::Context;
use clap::Parser;
use coordinator::cli;
use coordinator::config::Config;
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
    /// Check the config and end.
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
    let (config, warnings) = Config::load(arguments.config.as_deref(), |name| std::env::var(name).ok())?;
    if arguments.check_config {
        warnings.iter().for_each(|warning| println!("warning: {warning}"));
        println!("the config of node {} is valid", config.node_id);
        return Ok(ExitCode::SUCCESS);
    }
    let (logs, guard) = coordinator::telemetry::logs::init(&config)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("can't watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't watch for SIGINT")?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            stop.cancel();
        }
    });
    server::serve(config, logs, guard, stop).await?;
    Ok(ExitCode::SUCCESS)
}
