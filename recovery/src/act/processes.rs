//! Is a process of this node alive? Answered from `/proc`.
//!
//! A coordinator is recognised by what it was started with: the same config file, a config file
//! that names the same data directory, `DATA_DIR` in its environment, or the very command line
//! that the actuator would use. Zombies are dead: they hold nothing and will never answer. A
//! process whose command line can't be read belongs to a stranger or is just ending; the lock
//! stands behind this look and in front of every start.

use crate::config::{ProcessSpec, normal};
use procfs::process::{Process, all_processes};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Bytes of a config file that are read to find its data directory.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// A live process of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its pid.
    pub pid: i32,
    /// What shows that it is the node's.
    pub why: String,
}

/// The first live process that belongs to the node, if there is one.
pub fn find(spec: &ProcessSpec) -> Result<Option<Found>, String> {
    let own = std::process::id() as i32;
    let data_dir = normal(&spec.data_dir);
    let config = spec.config.as_deref().map(normal);
    let mut folders: BTreeMap<PathBuf, Option<PathBuf>> = BTreeMap::new();
    for process in all_processes().map_err(|e| format!("/proc can't be read: {e}"))? {
        // A process that ended while it was looked at is not alive.
        let Ok(process) = process else { continue };
        if process.pid == own || !is_alive(&process) {
            continue;
        }
        let Ok(command) = process.cmdline() else { continue };
        if command.is_empty() {
            continue;
        }
        if let Some(why) = belongs(&process, &command, spec, &data_dir, config.as_deref(), &mut folders) {
            return Ok(Some(Found { pid: process.pid, why }));
        }
    }
    Ok(None)
}

/// True where the pid is a process that is neither a zombie nor dead.
pub fn pid_is_alive(pid: i32) -> bool {
    Process::new(pid).is_ok_and(|process| is_alive(&process))
}

/// The state is that of the first thread: a process whose other threads are still there is alive,
/// and so are its locks.
fn is_alive(process: &Process) -> bool {
    process.stat().is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x') || stat.num_threads > 1)
}

fn belongs(
    process: &Process,
    command: &[String],
    spec: &ProcessSpec,
    data_dir: &Path,
    config: Option<&Path>,
    folders: &mut BTreeMap<PathBuf, Option<PathBuf>>,
) -> Option<String> {
    let same_program = file_name(&command[0]) == file_name(&spec.command[0]);
    if same_program && command[1..] == spec.command[1..] && is_in_its_place(process, spec) {
        return Some("it runs the node's command".into());
    }
    if let Some(path) = config_argument(command) {
        let path = match process.cwd() {
            Ok(cwd) => normal(&cwd.join(path)),
            Err(_) => normal(Path::new(path)),
        };
        if Some(path.as_path()) == config {
            return Some(format!("it runs with {}", path.display()));
        }
        let folder = folders.entry(path.clone()).or_insert_with(|| data_dir_of(&path, process));
        if folder.as_deref() == Some(data_dir) {
            return Some(format!("{} names its data directory", path.display()));
        }
    }
    let environment = process.environ().ok()?;
    let folder = environment.get(OsStr::new("DATA_DIR"))?;
    let folder = process.cwd().map(|cwd| cwd.join(folder)).unwrap_or_else(|_| folder.into());
    // A script that merely inherits the variable is no node; a node's program is the actuator's.
    (same_program && normal(&folder) == data_dir).then(|| "its DATA_DIR is the node's".into())
}

/// Two nodes may have one command line, told apart by working directory or environment.
fn is_in_its_place(process: &Process, spec: &ProcessSpec) -> bool {
    let expected = spec.cwd.clone().or_else(|| std::env::current_dir().ok());
    if let (Ok(cwd), Some(expected)) = (process.cwd(), expected)
        && normal(&cwd) != normal(&expected)
    {
        return false;
    }
    match process.environ() {
        Ok(environment) => spec.env.iter().all(|(name, value)| {
            environment.get(OsStr::new(name)).is_some_and(|have| have == OsStr::new(value))
        }),
        // It is just ending, or it is another user's; then the look errs on the side of alive.
        Err(_) => is_alive(process),
    }
}

fn file_name(path: &str) -> Option<&OsStr> {
    Path::new(path).file_name()
}

/// The value of `--config F` or `--config=F`.
fn config_argument(command: &[String]) -> Option<&str> {
    let mut arguments = command.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(String::as_str);
        }
        if let Some(path) = argument.strip_prefix("--config=") {
            return Some(path);
        }
    }
    None
}

/// The `data_dir` that a config file names, as the process that runs with it sees it.
fn data_dir_of(path: &Path, process: &Process) -> Option<PathBuf> {
    if std::fs::metadata(path).ok()?.len() > MAX_CONFIG_BYTES {
        return None;
    }
    let object = api::config::read_object(path).ok()?;
    let folder = object.get("data_dir")?.as_str()?;
    let cwd = process.cwd().unwrap_or_else(|_| PathBuf::from("/"));
    Some(normal(&cwd.join(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_argument_is_found_in_both_forms() {
        let args = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(config_argument(&args("coordinator --config a.json")), Some("a.json"));
        assert_eq!(config_argument(&args("coordinator --force-sync --config=b.json")), Some("b.json"));
        assert_eq!(config_argument(&args("coordinator --config")), None);
        assert_eq!(config_argument(&args("--config a.json")), None);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while pid_is_alive(pid) {
            assert!(std::time::Instant::now() < deadline, "waited for `true` to become a zombie");
            std::thread::yield_now();
        }
        assert!(Process::new(pid).is_ok(), "its entry is still there");
        child.wait().unwrap();
    }
}
