//! The coordinator's command line: a node, a worker, or one of the operator's hands.

use anyhow::Context;
use clap::Parser;
use coordinator::cli::{self, Arguments};
use coordinator::config::{Config, Grade};
use coordinator::live::Live;
use coordinator::server::{self, Ended, ServeOptions};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        eprintln!("coordinator: {}", api::client::error_chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

async fn run_node(arguments: Arguments) -> anyhow::Result<ExitCode> {
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
    if arguments.check_peers {
        return Ok(cli::check_peers(&config, arguments.json).await);
    }
    let origin = otlp::Origin {
        service: coordinator::telemetry::SERVICE,
        instance: config.node_id.clone(),
        node_id: Some(config.node_id.clone()),
    };
    let export = otlp::Export::start(config.export()?, &origin)?;
    let (logs, guard, control) = coordinator::telemetry::logs::init(&config, &export)?;
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
    let options = ServeOptions { force_sync: arguments.force_sync };
    let ended = server::serve(live, logs, guard, export.clone(), stop, options).await;
    if let Err(error) = &ended {
        tracing::error!(%error, "the node ends");
    }
    export.shutdown(server::FLUSH).await;
    match ended? {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::Restart => begin_anew(),
    }
}

/// Replaces this process by a fresh one of the same program with the same arguments: same process
/// id, so that whoever watches over it notices nothing. Files and sockets close with it.
fn begin_anew() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os();
    let named = arguments.next().unwrap_or_else(|| "coordinator".into());
    // A program that was replaced on the disk since it was started has no path any more.
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let program = program.map_or_else(|| named.clone(), std::path::PathBuf::into_os_string);
    let error = std::process::Command::new(program).arg0(named).args(arguments).exec();
    Err(anyhow::Error::new(error).context("the program can't be started anew; start it again"))
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
