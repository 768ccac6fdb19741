//! `testbed`: a cluster on this machine, its benchmark, and its fault matrix.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use testbed::binaries::Binaries;
use testbed::layout::Layout;
use testbed::{bench, chaos, down, up};

#[derive(Parser)]
#[command(name = "testbed", version = api::VERSION, about = "One machine plays a Holdfast cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start coordinators, monitor, recovery daemon and workers, run the shipped suite through
    /// them, print the URLs and stay until Ctrl-C
    Up(UpArguments),
    /// End what `up` started
    Down {
        /// The folder that was given to `up`
        #[arg(long, default_value = ".holdfast")]
        data: PathBuf,
    },
    /// Measure what the cluster can do, beside the HTTP limit and etcd
    Bench(bench::Arguments),
    /// Make faults happen, and judge what came of them
    #[command(subcommand, after_help = CHAOS)]
    Chaos(chaos::Part),
    /// Serve the bare HTTP handler that the bench compares with
    #[command(hide = true)]
    HttpLimit,
}

const CHAOS: &str = "`./dev chaos simulate [--seeds N] [--seed N]` runs the simulation instead of real processes.\n`matrix`, `calm` and `histories` come with the repairs they judge.";

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Release,
    Debug,
}

#[derive(Args)]
struct UpArguments {
    /// Return when the suite is done and leave everything running
    #[arg(long)]
    detach: bool,
    /// How many coordinators
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Port of the first coordinator; every other port follows from it
    #[arg(long, default_value_t = 8080)]
    base_port: u16,
    /// Folder for configs, data and logs
    #[arg(long, default_value = ".holdfast")]
    data: PathBuf,
    /// How many workers; the first carries zone=a, the second zone=b, and so on
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Leave the recovery daemon out
    #[arg(long)]
    no_recovery: bool,
    /// Go on with the data of the last run in this folder
    #[arg(long)]
    keep: bool,
    /// Which build to run; `./dev up` builds it first
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Start Prometheus and Alertmanager too, on the shipped rules and routes
    #[arg(long)]
    observability: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // For people: our errors carry their causes; no backtrace.
        Err(error) => {
            eprintln!("testbed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Up(arguments) => start(arguments).await,
            Command::Down { data } => Ok(tokio::task::spawn_blocking(move || down::run(&data)).await??),
            Command::Bench(arguments) => Ok(bench::run(arguments).await?),
            Command::Chaos(part) => Ok(chaos::run(part).await?),
            Command::HttpLimit => Ok(bench::http_limit::serve().await?),
        }
    })
}

async fn start(arguments: UpArguments) -> anyhow::Result<()> {
    let binaries = match arguments.profile {
        None => Binaries::find()?,
        Some(profile) => {
            let name = match profile {
                Profile::Release => "release",
                Profile::Debug => "debug",
            };
            let own = std::env::current_exe()?;
            let target = own.parent().and_then(|folder| folder.parent());
            Binaries::in_folder(target.unwrap_or(&own).join(name))
        }
    };
    let layout = Layout {
        data: std::path::absolute(&arguments.data)?,
        nodes: arguments.nodes,
        base_port: arguments.base_port,
    };
    let options = up::Options {
        layout,
        workers: arguments.workers,
        recovery: !arguments.no_recovery,
        observability: arguments.observability,
        detach: arguments.detach,
        keep: arguments.keep,
    };
    Ok(up::run(options, &binaries).await?)
}
