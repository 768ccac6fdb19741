//! One task's process, from spawn to the last byte of its output.
//!
//! The child leads a process group of its own. Whatever ends it (itself, the time limit, a
//! cancellation, the worker's end), the whole group is killed before the child is reaped, so
//! nothing that a task started outlives it, and a forgotten grandchild that holds the output
//! pipe open can delay the result by [`PIPE_GRACE`] at most.
//!
//! Invariant: nothing of a task runs before the guard knows its group. A small shell is started in
//! its place, waits for a word, and then becomes the task; a worker that is killed before it gave the
//! word closes the pipe, and the shell ends without having begun.
//!
//! Invariant: the group is only ever signalled while its leader is not yet reaped. A zombie keeps
//! its number, so the signal can't reach a stranger. That is why the wait is done in two steps,
//! `waitid` with `WNOWAIT` and later `wait4`, on a thread of the task's own.

use super::guard::Guard;
use super::output::HeadTail;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between the polite signal and the other one.
pub const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long the output pipes may stay open after the child has ended.
pub const PIPE_GRACE: Duration = Duration::from_secs(1);
/// How long a child may take to end after SIGKILL; only one stuck in the kernel takes longer.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Becomes the task (its arguments) when it is told to, and never where its pipe just ends.
const HELD: &str = r#"read -r word && exec "$@" </dev/null"#;
/// The thread that waits for a child needs next to no stack.
const WAITER_STACK_BYTES: usize = 128 * 1024;

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Program and arguments; not empty.
    pub argv: Vec<String>,
    /// Working directory; the worker's own where it is missing.
    pub cwd: Option<String>,
    /// Variables added to the worker's environment.
    pub env: BTreeMap<String, String>,
    /// Bytes of each output stream that are kept.
    pub output_limit_bytes: usize,
    /// How long it may run.
    pub timeout: Duration,
}

/// How to stop it from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// SIGTERM, and SIGKILL after [`TERM_GRACE`].
    pub cancel: CancellationToken,
    /// SIGKILL at once.
    pub kill: CancellationToken,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Ran {
    /// The exit code, where it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// True when the time limit ended it.
    pub timed_out: bool,
    /// True when [`Stop`] ended it.
    pub stopped: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Bytes of both that were dropped.
    pub dropped_bytes: u64,
    /// From spawn to end.
    pub duration: Duration,
    /// Processor time of the child and what it waited for, user and system. (The peak memory that
    /// `wait4` gives as well is left out: a spawned child inherits its parent's peak, so it would
    /// say more of the worker than of the task.)
    pub cpu: Option<Duration>,
    /// Why it could not be started, or what is odd about its end.
    pub error: Option<String>,
}

/// Runs `spec` to its end. Dropping the future kills the group.
pub async fn run(spec: &Spec, guard: &Guard, stop: &Stop) -> Ran {
    let started = Instant::now();
    let mut process = match Process::spawn(spec).await {
        Ok(process) => process,
        Err(error) => {
            return Ran { error: Some(cannot_start(spec, &error)), ..Ran::default() };
        }
    };
    let watched = guard.watch(process.group);
    process.release();
    let stdout = Capture::start(process.stdout.take(), spec.output_limit_bytes);
    let stderr = Capture::start(process.stderr.take(), spec.output_limit_bytes);

    let mut ran = Ran::default();
    let first_signal = tokio::select! {
        biased;
        () = process.exited() => None,
        () = stop.kill.cancelled() => { ran.stopped = true; Some(Signal::KILL) }
        () = stop.cancel.cancelled() => { ran.stopped = true; Some(Signal::TERM) }
        () = tokio::time::sleep(spec.timeout) => { ran.timed_out = true; Some(Signal::TERM) }
    };
    if let Some(signal) = first_signal {
        process.end(signal, stop).await;
    }
    ran.duration = started.elapsed();

    let both = async { tokio::join!(stdout.ended(), stderr.ended()) };
    if tokio::time::timeout(PIPE_GRACE, both).await.is_err() {
        tracing::debug!(group = ?process.group, "a process left behind holds the output open; killing the group");
    }
    process.signal(Signal::KILL);
    let both = async { tokio::join!(stdout.ended(), stderr.ended()) };
    // A holder outside the group can't be killed; take what there is.
    let _ = tokio::time::timeout(Duration::from_millis(200), both).await;

    drop(watched);
    match process.reap().await {
        Ok((status, cpu)) => {
            ran.exit_code = status.code().filter(|_| !ran.timed_out);
            ran.signal = status.signal();
            ran.cpu = Some(cpu);
        }
        Err(error) => ran.error = Some(format!("the process's end can't be read: {error}")),
    }
    let (stdout, stderr) = (stdout.take(), stderr.take());
    ran.dropped_bytes = stdout.dropped_bytes + stderr.dropped_bytes;
    (ran.stdout, ran.stderr) = (stdout.text, stderr.text);
    ran
}

/// Names what is wrong: the system's "No such file" does not say whether it means the program or
/// the directory.
fn cannot_start(spec: &Spec, error: &io::Error) -> String {
    if let Some(cwd) = &spec.cwd
        && !std::path::Path::new(cwd).is_dir()
    {
        return format!("cwd {cwd:?} is not a directory on this worker");
    }
    format!("{:?} can't be started: {error}", spec.argv.first().map_or("", String::as_str))
}

/// Is there such a program? The shell that becomes it could tell only by an exit code.
fn executable(program: &str, cwd: Option<&str>, path: &OsStr) -> io::Result<()> {
    let here = Path::new(cwd.unwrap_or("."));
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![here.join(program)],
        false => std::env::split_paths(path).map(|folder| here.join(folder).join(program)).collect(),
    };
    let mut found = io::Error::from(io::ErrorKind::NotFound);
    for place in places.iter().filter(|place| place.is_file()) {
        match rustix::fs::access(place, rustix::fs::Access::EXEC_OK) {
            Ok(()) => return Ok(()),
            Err(error) => found = error.into(),
        }
    }
    Err(found)
}

/// A child on its way from the thread that started it to its [`Process`].
struct Spawned {
    group: Pid,
    word: Option<std::process::ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    /// Taken when it has arrived.
    reap: Option<oneshot::Sender<()>>,
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.reap.is_some() {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }
}

/// A child that was started and not yet reaped.
struct Process {
    group: Pid,
    /// The word goes there that lets it begin.
    word: Option<std::process::ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    exited: Option<oneshot::Receiver<()>>,
    /// Tells the waiter to reap; dropping it does the same.
    reap: Option<oneshot::Sender<()>>,
    status: oneshot::Receiver<io::Result<(ExitStatus, Duration)>>,
}

impl Process {
    /// Starts the child, held, on a thread that then waits for it.
    async fn spawn(spec: &Spec) -> io::Result<Process> {
        let (program, arguments) =
            spec.argv.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let path = spec.env.get("PATH").cloned().map(Into::into).or_else(|| std::env::var_os("PATH"));
        executable(program, spec.cwd.as_deref(), path.unwrap_or_default().as_os_str())?;
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", HELD, "holdfast-task", program])
            .args(arguments)
            .envs(&spec.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(cwd) = &spec.cwd {
            command.current_dir(cwd);
        }
        let (started_tx, started) = oneshot::channel();
        let (exited_tx, exited) = oneshot::channel();
        let (status_tx, status) = oneshot::channel();
        std::thread::Builder::new().name("task".into()).stack_size(WAITER_STACK_BYTES).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started_tx.send(Err(error));
                    return;
                }
            };
            let pid = Pid::from_child(&child);
            let (reap, reap_rx) = oneshot::channel::<()>();
            let spawned = Spawned {
                group: pid,
                word: child.stdin.take(),
                stdout: child.stdout.take(),
                stderr: child.stderr.take(),
                reap: Some(reap),
            };
            // Whoever asked may be gone: the refused or unread value kills the group as it is dropped.
            let _ = started_tx.send(Ok(spawned));
            wait_without_reaping(pid);
            let _ = exited_tx.send(());
            let _ = reap_rx.blocking_recv();
            let _ = status_tx.send(wait4(pid));
        })?;
        let mut spawned = started.await.map_err(|_| io::Error::other("the spawning thread ended"))??;
        let (stdout, stderr) = (spawned.stdout.take(), spawned.stderr.take());
        let mut process = Process {
            group: spawned.group,
            word: spawned.word.take(),
            stdout: None,
            stderr: None,
            exited: Some(exited),
            reap: spawned.reap.take(),
            status,
        };
        process.stdout = stdout.map(ChildStdout::from_std).transpose()?;
        process.stderr = stderr.map(ChildStderr::from_std).transpose()?;
        Ok(process)
    }

    /// Lets the child begin.
    fn release(&mut self) {
        if let Some(mut word) = self.word.take() {
            // One that has ended meanwhile needs none.
            let _ = word.write_all(b"go\n");
        }
    }

    /// Waits until the child has ended; it stays a zombie.
    async fn exited(&mut self) {
        if let Some(exited) = &mut self.exited {
            // A waiter that is gone has nothing more to tell.
            let _ = exited.await;
            self.exited = None;
        }
    }

    /// Ends the child: `first`, then SIGKILL when that did not do.
    async fn end(&mut self, first: Signal, stop: &Stop) {
        self.signal(first);
        if first != Signal::KILL {
            tokio::select! {
                () = self.exited() => return,
                () = stop.kill.cancelled() => {}
                () = tokio::time::sleep(TERM_GRACE) => {}
            }
            self.signal(Signal::KILL);
        }
        if tokio::time::timeout(KILL_LIMIT, self.exited()).await.is_err() {
            tracing::error!(group = ?self.group, "a process did not end after SIGKILL");
        }
    }

    /// Signals the whole group. A group that has ended is no fault.
    fn signal(&self, signal: Signal) {
        if self.reap.is_some() {
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// Reaps the child: its status and processor time.
    async fn reap(&mut self) -> io::Result<(ExitStatus, Duration)> {
        if self.exited.is_some() {
            return Err(io::Error::other("it did not end after SIGKILL"));
        }
        if let Some(reap) = self.reap.take() {
            let _ = reap.send(());
        }
        (&mut self.status).await.map_err(|_| io::Error::other("the waiting thread ended"))?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn wait_without_reaping(pid: Pid) {
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Reaps `pid` and gives the processor time it used.
#[allow(unsafe_code)] // The standard library reaps without resource usage; there is no safe wait4.
fn wait4(pid: Pid) -> io::Result<(ExitStatus, Duration)> {
    let mut status: libc::c_int = 0;
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the types wait4 writes.
        let got = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, &mut usage) };
        if got >= 0 {
            let time = |t: libc::timeval| {
                Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0))
                    + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
            };
            return Ok((ExitStatus::from_raw(status), time(usage.ru_utime) + time(usage.ru_stime)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// One stream being read.
struct Capture {
    kept: Arc<Mutex<HeadTail>>,
    ended: CancellationToken,
    reader: JoinHandle<()>,
}

impl Capture {
    fn start<R: AsyncRead + Unpin + Send + 'static>(stream: Option<R>, limit_bytes: usize) -> Capture {
        let kept = Arc::new(Mutex::new(HeadTail::new(limit_bytes)));
        let ended = CancellationToken::new();
        let reader = tokio::spawn({
            let (kept, ended) = (kept.clone(), ended.clone().drop_guard());
            async move {
                let _ended = ended;
                let Some(mut stream) = stream else { return };
                let mut chunk = vec![0; 16 * 1024];
                while let Ok(n @ 1..) = stream.read(&mut chunk).await {
                    kept.lock().push(&chunk[..n]);
                }
            }
        });
        Capture { kept, ended, reader }
    }

    async fn ended(&self) {
        self.ended.cancelled().await;
    }

    fn take(self) -> super::output::Kept {
        self.kept.lock().keep()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
