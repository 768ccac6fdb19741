//! The operator's hands: the subcommands that talk to a running cluster.
//!
//! Every command is one `clap` struct with a `run`. Tables are for people, `--json` is for
//! programs and prints one document on standard output. What is said about the doing goes to
//! standard error. Exit codes: 0 done; 1 the thing asked is not so, was refused, or a task failed;
//! 2 it could not be told (nobody answered, wrong usage).

mod arguments;
mod check;
mod check_peers;
mod cluster;
mod doctor;
mod maintenance;
mod members;
mod print;
mod recover_quorum;
pub mod reference;
mod rolling_restart;
mod secrets;
mod settings;
mod storage;
pub mod submit;
mod tasks;
mod worker;

pub use arguments::Arguments;
pub use check::check_config;
pub use check_peers::check_peers;

use api::http::Access;
use api::{Client, ClientError, ErrorCode};
use std::path::PathBuf;
use std::process::ExitCode;
use submit::SendError;

/// The thing asked is not so, was refused, or a task failed.
pub const EXIT_NOT_SO: u8 = 1;
/// It could not be told, or the usage was wrong.
pub const EXIT_UNKNOWN: u8 = 2;

/// The subcommands that talk to a cluster.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run tasks: lease them, run them as processes, report their results.
    Worker(worker::WorkerCommand),
    /// Submit one task a line, and wait for them if asked to.
    Submit(submit::SubmitCommand),
    /// Show every coordinator: role, term, log, tasks.
    Status(cluster::StatusCommand),
    /// List, add, remove and replace members; without a subcommand: list.
    Members(members::MembersCommand),
    /// List, show, cancel and retry tasks.
    #[command(subcommand)]
    Tasks(tasks::TasksCommand),
    /// No new tasks are accepted or assigned while maintenance is on; running ones finish.
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceCommand),
    /// Read and change what all nodes keep alike: retention, times, defaults, limits.
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// Move leadership to another node.
    Transfer(cluster::TransferCommand),
    /// Look at every node, say what is wrong and what to do, and pack what was seen.
    Doctor(doctor::DoctorCommand),
    /// Have every coordinator write a snapshot now.
    Snapshot(storage::SnapshotCommand),
    /// Fetch and verify a backup of the serving cluster.
    Backup(storage::BackupCommand),
    /// Make a new cluster's data directories from a backup.
    Restore(storage::RestoreCommand),
    /// Restart every coordinator, one after another, never more than the cluster can lose.
    RollingRestart(rolling_restart::RollingRestartCommand),
    /// Found a new cluster from a survivor's directory, when a quorum is gone for good.
    RecoverQuorum(recover_quorum::RecoverQuorumCommand),
    /// Hash a password (argon2id) for `auth_users`; it is read from standard input.
    HashPassword(secrets::HashPasswordCommand),
    /// Make a token for a worker, the monitor, the recovery daemon or a script.
    Token(secrets::TokenCommand),
}

impl Command {
    /// Does it, and says what went wrong on standard error.
    pub async fn run(self) -> ExitCode {
        let outcome = match self {
            Command::Worker(command) => command.run().await,
            Command::Submit(command) => command.run().await,
            Command::Status(command) => command.run().await,
            Command::Members(command) => command.run().await,
            Command::Tasks(command) => command.run().await,
            Command::Maintenance(command) => command.run().await,
            Command::Settings(command) => command.run().await,
            Command::Transfer(command) => command.run().await,
            Command::Doctor(command) => command.run().await,
            Command::Snapshot(command) => command.run().await,
            Command::Backup(command) => command.run().await,
            Command::Restore(command) => command.run().await,
            Command::RollingRestart(command) => command.run().await,
            Command::RecoverQuorum(command) => command.run().await,
            Command::HashPassword(command) => command.run(),
            Command::Token(command) => command.run(),
        };
        match outcome {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                print::say(&format!("coordinator: {error}"));
                ExitCode::from(error.exit_code())
            }
        }
    }
}

/// Where the cluster is, and for whom the answer is.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// Addresses of coordinators; any of them will do, the leader is found from there.
    #[arg(
        long,
        env = "HOLDFAST_COORDINATORS",
        default_value = "127.0.0.1:8080",
        value_delimiter = ',',
        value_name = "HOST:PORT,…"
    )]
    pub coordinators: Vec<String>,
    /// File with the token to show; HOLDFAST_TOKEN holds one where there is no file.
    #[arg(long, env = "HOLDFAST_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities to trust with https, in place of the system's.
    #[arg(long, env = "HOLDFAST_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    pub json: bool,
}

impl ClusterArgs {
    /// A client of that cluster.
    pub fn client(&self) -> Result<Client, CliError> {
        for address in &self.coordinators {
            let named = address.trim().trim_end_matches('/');
            let named = named.strip_prefix("https://").or(named.strip_prefix("http://")).unwrap_or(named);
            let port =
                named.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if !named.is_empty() && port.is_none_or(|(host, port)| host.is_empty() || port == 0) {
                return Err(CliError::Usage(format!(
                    "--coordinators: {named:?} is not host:port or https://host:port"
                )));
            }
        }
        let access =
            Access::from_flags(self.token_file.as_deref(), self.ca.as_deref()).map_err(ClientError::from)?;
        Ok(Client::with_access(self.coordinators.iter().cloned(), access)?)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The cluster refused, or nobody answered.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The answer was no.
    #[error("{0}")]
    NotSo(String),
    /// Nobody could tell within the limit.
    #[error("{0}")]
    CouldNotTell(String),
    /// A run was not submitted, or not whole.
    #[error("{run_id}: {source}. {advice}")]
    NotSubmitted {
        /// The run.
        run_id: String,
        /// How far it came and what stopped it.
        source: SendError,
        /// What to do next.
        advice: String,
    },
    /// A file or stream failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried on what.
        what: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The worker ended otherwise than by a drain.
    #[error("{0}")]
    Worker(#[from] crate::worker::WorkerError),
}

impl CliError {
    /// Its exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) | CliError::Io { .. } | CliError::CouldNotTell(_) => EXIT_UNKNOWN,
            CliError::NotSo(_) => EXIT_NOT_SO,
            CliError::Client(error)
            | CliError::NotSubmitted { source: SendError { source: error, .. }, .. } => match error.code() {
                Some(code) if code.retryable() || code == ErrorCode::UnknownOutcome => EXIT_UNKNOWN,
                Some(_) => EXIT_NOT_SO,
                None => EXIT_UNKNOWN,
            },
            CliError::Worker(crate::worker::WorkerError::NeverRegistered { .. }) => EXIT_UNKNOWN,
            CliError::Worker(_) => EXIT_NOT_SO,
        }
    }
}

/// `key=value`, for clap.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not key=value")),
    }
}

/// `key=number`, for clap.
pub fn amount(text: &str) -> Result<(String, u64), String> {
    let (key, value) = pair(text)?;
    let number = value.parse().map_err(|_| format!("{text:?}: {value:?} is not a whole number"))?;
    Ok((key, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Program::command().debug_assert();
    }

    #[test]
    fn a_worker_takes_lists_of_pairs() {
        let line = "x worker --coordinators a:1,b:2 --labels os=linux,gpu=a100 --resources mem=4 --slots 3";
        let Command::Worker(worker) = Program::parse_from(line.split(' ')).command else { panic!() };
        assert_eq!(worker.cluster.coordinators, ["a:1", "b:2"]);
        assert_eq!(worker.labels, [("os".into(), "linux".into()), ("gpu".into(), "a100".into())]);
        assert_eq!(worker.resources, [("mem".into(), 4)]);
        assert_eq!(worker.slots, 3);
        for wrong in ["x worker --labels os", "x worker --resources mem=lots", "x worker --slots 0"] {
            assert!(Program::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_without_a_port_is_named() {
        let cluster = |list: &str| ClusterArgs {
            coordinators: list.split(',').map(str::to_owned).collect(),
            token_file: None,
            ca: None,
            json: false,
        };
        assert!(cluster("127.0.0.1:8080, [::1]:8081").client().is_ok());
        assert!(cluster("http://127.0.0.1:8080/").client().is_ok());
        assert!(matches!(cluster("https://a:1,b:2").client(), Err(CliError::Client(ClientError::Access(_)))));
        for wrong in ["localhost", "a:1,b", ":8080", "a:0", "a:99999"] {
            assert!(matches!(cluster(wrong).client(), Err(CliError::Usage(_))), "{wrong}");
        }
        assert!(matches!(cluster("").client(), Err(CliError::Client(ClientError::NoAddress))));
    }
}
