//! A disk that takes nothing more: the store says so, keeps what it has, and goes on once there is
//! room again.
//!
//! The disk is played by the process's own limit on file sizes, in a process of its own.

use crate::history::{History, LIMIT, open, options};
use coordinator::store::{Store, StoreHealth};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::PathBuf;
use std::time::Instant;

const FOLDER: &str = "HOLDFAST_FULL_DISK_CHILD";

fn until(store: &Store, what: &str, done: impl Fn(&StoreHealth) -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done(&store.health()) {
        assert!(Instant::now() < deadline, "waited for {what}: {:?}", store.health());
        std::thread::yield_now();
    }
}

/// Beyond the limit a write is to fail, not to end the process.
#[allow(unsafe_code)]
fn ignore_the_signal() {
    // SAFETY: SIG_IGN installs no handler; no other thread of this child changes signals.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn fill(history: &mut History, store: &Store, tasks: usize) {
    let from = history.index();
    for _ in 0..tasks {
        let id = format!("t{}", history.index());
        history.submit(&id, "command");
    }
    history.feed(store, from);
}

fn child(path: PathBuf) {
    ignore_the_signal();
    let (store, _) = open(&path);
    let mut history = History::default();
    fill(&mut history, &store, 50);
    store.flush(LIMIT).unwrap();
    let kept = store.applied_index();

    let unlimited = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(4096), ..unlimited }).unwrap();
    fill(&mut history, &store, 500);
    until(&store, "a failed write", |health| !health.healthy);
    let health = store.health();
    assert_eq!(health.applied_index, kept, "{health:?}");
    assert!(!health.needs_rebuild, "nothing was dropped: {health:?}");
    fill(&mut history, &store, 500);

    setrlimit(Resource::Fsize, unlimited).unwrap();
    store.wait_for(history.index(), LIMIT).unwrap();
    until(&store, "health after the disk has room", |health| health.healthy);
    assert_eq!(store.health().rows["tasks"], 1050);
    assert!(store.health().last_error.is_some());
    assert_eq!(store.verify().unwrap(), store.health().rows.values().sum::<u64>());
    drop(store);
    let (store, index) = Store::open(&path, options()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((index, store.health().rows["tasks"]), (history.index(), 1050));
    assert_eq!(store.health().quarantined, None);
}

#[test]
fn a_full_disk_is_survived() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return child(PathBuf::from(folder).join("db.duckdb"));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut run = std::process::Command::new(std::env::current_exe().unwrap());
    run.args(["full_disk::a_full_disk_is_survived", "--exact", "--nocapture"]);
    let output = run.env(FOLDER, folder.path()).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}", text.concat());
}
