//! kill -9 in the middle of writing: the file holds exactly what its applied index says.

use crate::history::{History, LIMIT, open};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Each entry submits this many tasks.
const TASKS_PER_ENTRY: u64 = 3;
const FOLDER: &str = "HOLDFAST_STORE_CHILD";

/// Ends the child also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes entries until it is killed; names every index that it saw written.
fn write_for_ever(path: &Path) {
    let (store, index) = open(path);
    let mut history = History::default();
    for index in index + 1.. {
        let mut effects = Vec::new();
        for n in 0..TASKS_PER_ENTRY {
            history.submit(&format!("t{index}-{n}"), "command");
            effects.extend(history.entries.pop().map(|(_, effects)| effects).unwrap_or_default());
        }
        store.append(index, effects);
        if index % 7 == 0 {
            store.wait_for(index, LIMIT).unwrap();
            println!("written {index}");
        }
    }
}

#[test]
fn a_killed_writer_leaves_rows_and_index_in_step() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        write_for_ever(&PathBuf::from(folder).join("db.duckdb"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let mut last = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["kill::a_killed_writer_leaves_rows_and_index_in_step", "--exact", "--nocapture"]);
        let child = child.env(FOLDER, folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Killed(child.spawn().unwrap());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let Some(index) = line.strip_prefix("written ") else { continue };
            seen = index.parse().unwrap();
            // Later in every round, so that the kills hit different places.
            if seen >= last + 30 + round * 61 {
                break;
            }
        }
        drop(child);
        assert!(seen > last, "the child wrote nothing");
        let (store, index) = open(&path);
        assert!(index >= seen, "index {seen} was said to be written, the file has {index}");
        let rows = store.health().rows["tasks"];
        assert_eq!(rows, index * TASKS_PER_ENTRY, "round {round}, index {index}");
        assert_eq!(store.health().quarantined, None);
        last = index;
    }
}
