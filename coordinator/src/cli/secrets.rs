//! `coordinator hash-password` and `coordinator token`: made here, without a cluster.

use super::{CliError, print};
use crate::access::settings::secret_file;
use crate::access::token::{self, Tokens};
use crate::access::{Caller, login};
use api::access::Role;
use serde_json::json;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// The largest input that is read for a password.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

/// Hash a password (argon2id) for `auth_users`. It is read from standard input.
#[derive(Debug, clap::Args)]
pub struct HashPasswordCommand {}

impl HashPasswordCommand {
    pub fn run(self) -> Result<u8, CliError> {
        let password = read_password()?;
        let hash = login::hash(&password).map_err(CliError::Usage)?;
        println!("{hash}");
        Ok(0)
    }
}

/// The first line of standard input; asked for, and not shown, where a person types it.
fn read_password() -> Result<String, CliError> {
    let failed = |source| CliError::Io { what: "read the password from standard input".into(), source };
    let mut text = String::new();
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprint!("Password: ");
        std::io::stderr().flush().map_err(failed)?;
        let hidden = Hidden::begin();
        let read = stdin.read_line(&mut text);
        drop(hidden);
        eprintln!();
        read.map_err(failed)?;
    } else {
        stdin.lock().take(MAX_INPUT_BYTES).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A terminal that does not show what is typed, until it is dropped.
struct Hidden(Option<rustix::termios::Termios>);

impl Hidden {
    fn begin() -> Hidden {
        let stdin = std::io::stdin();
        let Ok(before) = rustix::termios::tcgetattr(&stdin) else { return Hidden(None) };
        let mut quiet = before.clone();
        quiet.local_modes.remove(rustix::termios::LocalModes::ECHO);
        let set = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &quiet);
        Hidden(set.is_ok().then_some(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let now = rustix::termios::OptionalActions::Now;
            let _ = rustix::termios::tcsetattr(std::io::stdin(), now, before);
        }
    }
}

/// Make a token: for a worker, the monitor, the recovery daemon, a script.
///
/// It needs the secret that the nodes have, so it runs where that is.
#[derive(Debug, clap::Args)]
pub struct TokenCommand {
    /// What it allows: admin, operator, worker or viewer. The monitor needs viewer, the recovery
    /// daemon operator.
    #[arg(long, value_parser = role)]
    pub role: Role,
    /// Who it is for, as logs and errors name it; the worker's id or the role where it is missing.
    #[arg(long)]
    pub subject: Option<String>,
    /// With --role worker: good for this worker id only.
    #[arg(long, value_name = "ID")]
    pub worker_id: Option<String>,
    /// How long it is good for.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    pub days: u64,
    /// File with the secret, as a node's `jwt_secret_file`.
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub jwt_secret_file: Option<PathBuf>,
    /// A node's config, from which the secret is taken.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// A role that a token can have, for clap.
fn role(text: &str) -> Result<Role, String> {
    match Role::named(text) {
        Some(Role::Node) => Err("nodes prove themselves by certificate or cluster secret".into()),
        Some(role) => Ok(role),
        None => Err("none of admin, operator, worker, viewer".into()),
    }
}

impl TokenCommand {
    pub fn run(self) -> Result<u8, CliError> {
        if self.worker_id.is_some() && self.role != Role::Worker {
            return Err(CliError::Usage("--worker-id goes with --role worker".into()));
        }
        let tokens = Tokens::new(self.secret()?.as_bytes());
        let subject = self.subject.or(self.worker_id.clone()).unwrap_or_else(|| self.role.to_string());
        let caller = Caller { subject, role: self.role, worker_id: self.worker_id };
        let life = Duration::from_secs(self.days * 24 * 3600);
        let (token, until_s) = tokens
            .issue(&caller, life, token::now_s(), ulid::Ulid::generate().to_string())
            .map_err(|e| CliError::Usage(e.to_string()))?;
        if self.json {
            let expires_at = jiff::Timestamp::from_second(until_s.cast_signed()).ok();
            print::json(&json!({
                "token": token, "role": caller.role, "subject": caller.subject,
                "worker_id": caller.worker_id, "expires_at": expires_at,
            }));
        } else {
            println!("{token}");
        }
        Ok(0)
    }

    fn secret(&self) -> Result<String, CliError> {
        let usage = |e: String| CliError::Usage(e);
        if let Some(path) = &self.jwt_secret_file {
            return secret_file("jwt_secret_file", path).map_err(|e| usage(e.to_string()));
        }
        let path = self.config.as_deref();
        let (config, _) = crate::config::Config::load(path, |name| std::env::var(name).ok())
            .map_err(|e| usage(e.to_string()))?;
        crate::access::settings::jwt_secret(&config).map_err(|e| usage(e.to_string()))
    }
}
