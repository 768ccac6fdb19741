//! Processes: started with a log file, recognised by pid and start time, ended for sure.
//!
//! A pid alone names nobody: it is reused. [`ProcessRef`] carries the start time from `/proc`
//! beside it, and every signal is preceded by a look whether both still fit.

use crate::Error;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end by itself after SIGTERM.
pub const TERM_GRACE: Duration = Duration::from_secs(10);
/// How long the system may take to clear away a process after SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// Bytes from the end of a log that are searched for its last lines.
const TAIL_BYTES: u64 = 16 * 1024;

/// A process that can be told from a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// What it is, for people: `node-1`, `monitor`.
    pub name: String,
    /// Its pid.
    pub pid: u32,
    /// When it was started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessRef {
    /// The process that has `pid` now; none where there is none, or only a zombie.
    pub fn of(name: &str, pid: u32) -> Option<ProcessRef> {
        let stat = Stat::read(pid)?;
        (!stat.is_over()).then(|| ProcessRef { name: name.to_owned(), pid, start_ticks: stat.start_ticks })
    }

    /// True while it runs. A zombie does not run.
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_over())
    }

    /// Sends a signal if it still is the same process; says whether it was.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        self.is_alive() && kill_process(pid, signal).is_ok()
    }

    /// Its children, with theirs.
    fn descendants(&self) -> Vec<ProcessRef> {
        let all: Vec<(u32, Stat)> =
            pids().into_iter().filter_map(|pid| Some((pid, Stat::read(pid)?))).collect();
        let mut family = vec![self.pid];
        let mut found = Vec::new();
        let mut next = 0;
        while next < family.len() {
            let parent = family[next];
            next += 1;
            for (pid, stat) in all.iter().filter(|(_, stat)| stat.parent == parent) {
                family.push(*pid);
                found.push(ProcessRef {
                    name: format!("child of {}", self.name),
                    pid: *pid,
                    start_ticks: stat.start_ticks,
                });
            }
        }
        found
    }
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: u8,
    parent: u32,
    threads: u32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name in parentheses and may hold anything, parentheses
    /// included; the others are counted from the last one.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        Some(Stat {
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// A zombie of which a thread is still in the disk holds its files and ports: it is not over.
    fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

fn pids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn arguments(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|b| *b == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// The coordinators that were started with this config file, by whomever.
///
/// This is how the ones are found that the recovery daemon started in place of ours.
pub fn coordinators_with_config(name: &str, config: &Path) -> Vec<ProcessRef> {
    pids()
        .into_iter()
        .filter(|pid| {
            let arguments = arguments(*pid);
            let program = arguments.first().and_then(|p| Path::new(p).file_name()?.to_str());
            program == Some("coordinator") && arguments.iter().skip(1).any(|a| Path::new(a) == config)
        })
        .filter_map(|pid| ProcessRef::of(name, pid))
        .collect()
}

/// Who listens on a TCP port of this machine, where that may be seen.
pub fn listener_on(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
            (local == port && *fields.get(3)? == "0A").then(|| (*fields.get(9).unwrap_or(&"")).to_owned())
        })
    })?;
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let pid = pids().into_iter().find(|pid| {
        std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
            fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == wanted))
        })
    })?;
    let program = arguments(pid).into_iter().next().unwrap_or_default();
    Some(format!("{} (pid {pid})", Path::new(&program).file_name().unwrap_or_default().to_string_lossy()))
}

/// How long a process is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// In a session of its own: signals of the terminal don't reach it, and it outlives us.
    OwnSession,
    /// The system kills it when the thread that started it ends. The thread, not the process:
    /// start such a process only from a thread that lives as long as it should.
    WithParent,
    /// The system asks it to end (SIGTERM) when the thread that started it ends: for a process that
    /// has others to end first.
    AskedWithParent,
}

/// A process that we started.
#[derive(Debug)]
pub struct Started {
    /// Who it is.
    pub process: ProcessRef,
    /// Where its output goes.
    pub log_file: PathBuf,
    child: Child,
}

impl Started {
    /// Starts `program`; its output is appended to `log_file`.
    pub fn spawn(
        name: &str,
        program: &Path,
        arguments: &[String],
        log_file: &Path,
        lifetime: Lifetime,
    ) -> Result<Started, Error> {
        Started::spawn_with(name, program, arguments, &[], log_file, lifetime)
    }

    /// As [`Started::spawn`], with these variables added to the environment.
    pub fn spawn_with(
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        log_file: &Path,
        lifetime: Lifetime,
    ) -> Result<Started, Error> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_file)
            .map_err(Error::io(format!("open {}", log_file.display())))?;
        let errors = log.try_clone().map_err(Error::io("share a log file"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        set_lifetime(&mut command, lifetime);
        let child = command.spawn().map_err(Error::io(format!("start {}", program.display())))?;
        let pid = child.id();
        // A child that is gone already is a zombie until it is waited for: its start time is there.
        let start_ticks = Stat::read(pid).map(|s| s.start_ticks).unwrap_or_default();
        let process = ProcessRef { name: name.to_owned(), pid, start_ticks };
        Ok(Started { process, log_file: log_file.to_owned(), child })
    }

    /// True while it runs; takes its exit status off the system's hands otherwise.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The error that names it as ended, if it has.
    pub fn check_alive(&mut self) -> Result<(), Error> {
        if self.is_alive() {
            return Ok(());
        }
        Err(Error::Ended {
            name: self.process.name.clone(),
            pid: self.process.pid,
            tail: last_lines(&self.log_file, 15),
        })
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> bool {
        self.process.signal(signal)
    }
}

/// Runs between fork and exec, where only async-signal-safe calls are allowed.
#[allow(unsafe_code)]
fn set_lifetime(command: &mut Command, lifetime: Lifetime) {
    let prepare = move || {
        match lifetime {
            Lifetime::OwnSession => {
                rustix::process::setsid()?;
            }
            Lifetime::WithParent => {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            }
            Lifetime::AskedWithParent => {
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes one system call (setsid or prctl), neither of which allocates,
    // locks or touches memory that another thread may hold.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Ends processes: SIGTERM to all, SIGKILL to what is left after `grace`, with its children.
///
/// Returns those that were alive. An error names one that is still there in the end.
pub fn end(processes: &[ProcessRef], grace: Duration) -> Result<Vec<ProcessRef>, Error> {
    let alive: Vec<ProcessRef> = processes.iter().filter(|p| p.signal(Signal::TERM)).cloned().collect();
    for process in &alive {
        // One that is stopped would sleep through SIGTERM.
        process.signal(Signal::CONT);
    }
    wait_until_gone(&alive, grace);
    let mut stubborn: Vec<ProcessRef> = Vec::new();
    for process in alive.iter().filter(|p| p.is_alive()) {
        stubborn.extend(process.descendants());
        stubborn.push(process.clone());
    }
    for process in stubborn.iter().rev() {
        process.signal(Signal::KILL);
    }
    wait_until_gone(&stubborn, KILL_GRACE);
    match stubborn.iter().find(|p| p.is_alive()) {
        Some(process) => Err(Error::WontEnd { name: process.name.clone(), pid: process.pid }),
        None => Ok(alive),
    }
}

fn wait_until_gone(processes: &[ProcessRef], limit: Duration) {
    let began = Instant::now();
    while began.elapsed() < limit && processes.iter().any(ProcessRef::is_alive) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log file, at most `count`.
pub fn last_lines(file: &Path, count: usize) -> Vec<String> {
    let Ok(mut file) = File::open(file) else { return Vec::new() };
    let length = file.metadata().map(|m| m.len()).unwrap_or(0);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).is_err()
        || file.read_to_end(&mut bytes).is_err()
    {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, lifetime: Lifetime) -> (Started, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let arguments = ["-c".to_owned(), script.to_owned()];
        let started = Started::spawn("it", Path::new("/bin/sh"), &arguments, &log, lifetime).unwrap();
        (started, folder)
    }

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(10), "waited 10 s for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = Stat::parse("7 (a) b (c)) S 3 7 7 0 -1 4 0 0 0 0 1 2 3 4 20 0 1 0 991 5 6").unwrap();
        assert_eq!((stat.state, stat.parent, stat.threads, stat.start_ticks), (b'S', 3, 1, 991));
    }

    #[test]
    fn a_zombie_is_over_once_its_last_thread_is() {
        let of = |state: &str, threads: u32| {
            Stat::parse(&format!("7 (a) {state} 3 7 7 0 -1 4 0 0 0 0 1 2 3 4 20 0 {threads} 0 991 5 6"))
                .unwrap()
        };
        assert!(of("Z", 1).is_over() && !of("Z", 2).is_over() && !of("S", 1).is_over());
    }

    #[test]
    fn a_reused_pid_is_not_taken_for_the_old_process() {
        let (started, _folder) = start("sleep 60", Lifetime::WithParent);
        let other = ProcessRef { start_ticks: started.process.start_ticks + 1, ..started.process.clone() };
        assert!(started.process.is_alive());
        assert!(!other.is_alive());
        assert_eq!(end(&[other], TERM_GRACE).unwrap(), []);
        assert!(started.process.is_alive(), "another process was killed in its place");
        let mut started = started;
        started.kill9();
        assert!(!started.process.is_alive());
    }

    #[test]
    fn what_ignores_sigterm_is_killed_with_its_children() {
        let (started, folder) =
            start("trap '' TERM; sleep 60 & echo $! ; while true; do wait; done", Lifetime::OwnSession);
        let log = folder.path().join("log");
        until("the child's pid in the log", || !last_lines(&log, 1).is_empty());
        let child: u32 = last_lines(&log, 1)[0].parse().unwrap();
        let child = ProcessRef::of("child", child).unwrap();
        // The grandchild inherits the ignored SIGTERM, so only SIGKILL ends both.
        let ended = end(std::slice::from_ref(&started.process), Duration::from_millis(200)).unwrap();
        assert_eq!(ended, std::slice::from_ref(&started.process));
        until("both to be gone", || !started.process.is_alive() && !child.is_alive());
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = listener_on(listener.local_addr().unwrap().port()).unwrap();
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    }
}
