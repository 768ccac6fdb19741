//! The process actuator: starts a coordinator on this host, and never a second one.
//!
//! A live coordinator holds an exclusive `flock` on `{data_dir}/LOCK` and has written its pid
//! into it. "Dead" needs three witnesses: the lock is free, the port refuses connections, and no
//! live process of the node is in `/proc`. Each error while looking makes the state unclear.
//!
//! A data directory without a `LOCK` has never been started, or is an empty mount point where
//! the real one should be. A person has to start such a node for the first time.
//!
//! The lock is only tested where the API gave no report, for microseconds and shared, so that the
//! test does not stand in the way of a coordinator that starts at that moment.
//!
//! Children get a process group of their own and outlive the daemon: restarting the daemon must
//! not take the cluster down. One thread a child waits for its end, so that no zombie stays.

use super::processes;
use crate::config::ProcessSpec;
use crate::error::RecoveryError;
use crate::observation::ProcessState;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a connection to the port is tried.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// How long a started process may take to lock its data directory.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOCK_POLL: Duration = Duration::from_millis(10);
/// Bytes of a node's log file before it is rotated at a start.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// Rotated log files that are kept.
const MAX_OLD_LOGS: u32 = 3;
/// Bytes of the log's end that are read for the last line.
const LOG_END_BYTES: u64 = 2_048;
/// Variables of the daemon that a node gets too. The rest stays out: a `PORT` or `HOST` of the
/// daemon's own environment would override the node's config.
const PASSED_ON: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// What a start brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The pid of the new process.
    pub pid: u32,
    /// How long it took to lock its data directory.
    pub took_ms: u64,
}

/// Starts one node.
#[derive(Debug)]
pub struct ProcessActuator {
    spec: ProcessSpec,
    start_lock: PathBuf,
    last_end: Mutex<Arc<Mutex<Option<String>>>>,
}

enum Lock {
    Held(Option<i32>),
    Free(Option<i32>),
    Missing,
    Unclear(String),
}

impl ProcessActuator {
    /// An actuator for one node.
    pub fn new(spec: ProcessSpec, recovery_dir: &Path) -> Self {
        let start_lock = recovery_dir.join(format!("{}.start.lock", spec.node));
        ProcessActuator { spec, start_lock, last_end: Mutex::default() }
    }

    /// What the host knows of the process.
    pub fn probe(&self) -> ProcessState {
        let mut proof = Vec::new();
        match self.lock() {
            Lock::Held(pid) => return ProcessState::Running { pid },
            Lock::Unclear(why) => return ProcessState::Unclear { why },
            Lock::Missing => {
                let why = format!(
                    "{} has no LOCK: it was never started here, or its disk is not mounted; start it by hand once",
                    self.spec.data_dir.display()
                );
                return match processes::find(&self.spec) {
                    Ok(Some(found)) => ProcessState::Running { pid: Some(found.pid) },
                    _ => ProcessState::Unclear { why },
                };
            }
            Lock::Free(pid) => {
                let last = pid.map(|pid| format!(" (last held by pid {pid})")).unwrap_or_default();
                proof.push(format!("the lock of {} is free{last}", self.spec.data_dir.display()));
            }
        }
        match processes::find(&self.spec) {
            Ok(None) => proof.push("no process of it is alive".into()),
            Ok(Some(found)) => {
                tracing::debug!(node = %self.spec.node, pid = found.pid, why = %found.why, "alive without its lock");
                return ProcessState::Running { pid: Some(found.pid) };
            }
            Err(why) => return ProcessState::Unclear { why },
        }
        match self.port_refuses() {
            Ok(()) => proof.push(format!("{} refuses connections", self.spec.address)),
            Err(why) => return ProcessState::Unclear { why },
        }
        if let Some(end) = self.last_end.lock().lock().clone() {
            proof.push(end);
        }
        ProcessState::Dead { proof }
    }

    /// Starts the process. Everything is looked at again under a lock that only one starter holds.
    pub fn start(&self) -> Result<Started, RecoveryError> {
        let guard = self.take_start_lock()?;
        match self.probe() {
            ProcessState::Dead { .. } => {}
            ProcessState::Running { pid } => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                return Err(self.not_started(format!("it runs{pid}")));
            }
            ProcessState::Unclear { why } => return Err(self.not_started(why)),
            ProcessState::NoActuator | ProcessState::NotAsked => {
                return Err(self.not_started("nobody looked".into()));
            }
        }
        let started = self.spawn_and_wait()?;
        drop(guard);
        Ok(started)
    }

    fn spawn_and_wait(&self) -> Result<Started, RecoveryError> {
        let log = self.open_log()?;
        let errors = log.try_clone().map_err(|e| RecoveryError::file("can't use", &self.spec.log_file, e))?;
        let mut command = Command::new(&self.spec.command[0]);
        command
            .args(&self.spec.command[1..])
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(&self.spec.env)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        if let Some(cwd) = &self.spec.cwd {
            command.current_dir(cwd);
        }
        let begun = Instant::now();
        // A place of its own for each child: the end of the one before may still be on its way.
        let end = Arc::new(Mutex::new(None));
        *self.last_end.lock() = end.clone();
        let mut child = command.spawn().map_err(|e| self.start_failed(format!("can't be run: {e}")))?;
        let pid = child.id();
        let told = end.clone();
        let log_file = self.spec.log_file.clone();
        let waiter =
            std::thread::Builder::new().name(format!("wait-{}", self.spec.node)).stack_size(256 * 1024);
        let waiting = waiter.spawn(move || {
            let status = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            let line =
                last_line(&log_file).map(|line| format!(", its last words: {line}")).unwrap_or_default();
            *told.lock() = Some(format!("pid {pid} ended: {status}{line}"));
        });
        waiting
            .map_err(|e| self.start_failed(format!("runs as pid {pid}, but nobody can wait for it: {e}")))?;
        loop {
            if let Some(end) = end.lock().clone() {
                return Err(self.start_failed(end));
            }
            if matches!(self.lock(), Lock::Held(_)) {
                return Ok(Started { pid, took_ms: begun.elapsed().as_millis() as u64 });
            }
            if begun.elapsed() > LOCK_LIMIT {
                return Err(self.start_failed(format!(
                    "runs as pid {pid}, but did not lock {} within {} s",
                    self.spec.data_dir.display(),
                    LOCK_LIMIT.as_secs()
                )));
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// Tests the lock that a live coordinator holds.
    fn lock(&self) -> Lock {
        let path = self.spec.data_dir.join("LOCK");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Lock::Missing,
            Err(e) => return Lock::Unclear(format!("can't open {}: {e}", path.display())),
        };
        match file.metadata() {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Lock::Unclear(format!("{} is no file", path.display())),
            Err(e) => return Lock::Unclear(format!("can't look at {}: {e}", path.display())),
        }
        let mut text = String::new();
        let pid = match Read::by_ref(&mut file).take(64).read_to_string(&mut text) {
            Ok(_) => text.split_whitespace().next().and_then(|word| word.parse().ok()),
            Err(_) => None,
        };
        match file.try_lock_shared() {
            // Closing the file gives it back at once.
            Ok(()) => Lock::Free(pid),
            Err(TryLockError::WouldBlock) => Lock::Held(pid),
            Err(TryLockError::Error(e)) => Lock::Unclear(format!("can't test {}: {e}", path.display())),
        }
    }

    /// Only a refusal proves that nothing listens.
    fn port_refuses(&self) -> Result<(), String> {
        let address = &self.spec.address;
        let addresses: Vec<_> =
            address.to_socket_addrs().map_err(|e| format!("{address} has no address: {e}"))?.collect();
        for target in &addresses {
            match TcpStream::connect_timeout(target, CONNECT_LIMIT) {
                Ok(_) => return Err(format!("its lock is free, but something listens on {target}")),
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                Err(e) => return Err(format!("its lock is free, but {target} does not refuse: {e}")),
            }
        }
        if addresses.is_empty() { Err(format!("{address} has no address")) } else { Ok(()) }
    }

    /// The lock that keeps two starters apart, with our pid in it for people.
    fn take_start_lock(&self) -> Result<File, RecoveryError> {
        let path = &self.start_lock;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|e| RecoveryError::file("can't open", path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(self.not_started("another start is under way".into()));
            }
            Err(TryLockError::Error(e)) => return Err(RecoveryError::file("can't lock", path, e)),
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|e| RecoveryError::file("can't write", path, e))?;
        Ok(file)
    }

    /// The node's log file, rotated if it has grown.
    fn open_log(&self) -> Result<File, RecoveryError> {
        let path = &self.spec.log_file;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| RecoveryError::file("can't create", folder, e))?;
        }
        if std::fs::metadata(path).is_ok_and(|m| m.len() > MAX_LOG_BYTES) {
            let old = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
            for n in (1..MAX_OLD_LOGS).rev() {
                let _ = std::fs::rename(old(n), old(n + 1));
            }
            std::fs::rename(path, old(1)).map_err(|e| RecoveryError::file("can't rotate", path, e))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| RecoveryError::file("can't open", path, e))
    }

    fn not_started(&self, why: String) -> RecoveryError {
        RecoveryError::NotStarted { node: self.spec.node.clone(), why }
    }

    fn start_failed(&self, why: String) -> RecoveryError {
        let command = self.spec.command.join(" ");
        RecoveryError::StartFailed { node: self.spec.node.clone(), command, why }
    }
}

/// The last line of a log file, for people.
fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_END_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.chars().take(300).collect())
}
