//! IO: the output directory. `snapshots.jsonl` and `events.jsonl`, one JSON document a line, each
//! rotated by size, and `report.html` when the monitor ends.
//!
//! A thread of its own writes, behind a bounded queue: a full or slow disk costs lines, which are
//! counted and said, and never holds up observation.

use crate::events::Event;
use crate::snapshot::ClusterSnapshot;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// A file is put aside when it has grown to this.
pub const MAX_FILE_BYTES: u64 = 10 * 1024 * 1024;
/// How many files of each kind there are, the one being written included.
pub const MAX_FILES: usize = 5;
/// Rounds that may wait to be written.
const QUEUE_ROUNDS: usize = 64;

/// Why the output directory can't be used.
#[derive(Debug, thiserror::Error)]
#[error("output directory: can't write to {path}")]
pub struct JournalError {
    /// The directory.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
}

struct Entry {
    snapshot: std::sync::Arc<ClusterSnapshot>,
    events: Vec<Event>,
}

/// The writer of the output directory.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    sender: SyncSender<Entry>,
    thread: JoinHandle<()>,
    lost_rounds: u64,
}

impl Journal {
    /// Opens the directory, making it if it is missing, and checks that both files can be written.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut snapshots =
            Rotated::open(directory.join("snapshots.jsonl"), MAX_FILE_BYTES).map_err(failed)?;
        let mut events = Rotated::open(directory.join("events.jsonl"), MAX_FILE_BYTES).map_err(failed)?;
        let (sender, receiver) = sync_channel(QUEUE_ROUNDS);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_all(&receiver, &mut snapshots, &mut events))
            .map_err(failed)?;
        Ok(Journal { directory: directory.to_owned(), sender, thread, lost_rounds: 0 })
    }

    /// Hands over a round. Never waits.
    pub fn record(&mut self, snapshot: &std::sync::Arc<ClusterSnapshot>, events: &[Event]) {
        let entry = Entry { snapshot: snapshot.clone(), events: events.to_vec() };
        match self.sender.try_send(entry) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.lost_rounds += 1;
                if self.lost_rounds.is_power_of_two() {
                    tracing::warn!(lost_rounds = self.lost_rounds, "the output directory is too slow");
                }
            }
            Err(TrySendError::Disconnected(_)) => tracing::error!("the journal's thread is gone"),
        }
    }

    /// Writes what still waits, then `report.html`.
    pub fn close(self, report_html: Option<&str>) -> Result<(), JournalError> {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread failed");
        }
        let Some(html) = report_html else { return Ok(()) };
        let path = self.directory.join("report.html");
        write_whole(&path, html).map_err(|source| JournalError { path, source })
    }
}

/// Writes beside the file and renames, so that a reader never sees half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("html.new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

fn write_all(receiver: &Receiver<Entry>, snapshots: &mut Rotated, events: &mut Rotated) {
    let mut failures: u64 = 0;
    while let Ok(entry) = receiver.recv() {
        let written = write_entry(&entry, snapshots, events);
        if let Err(error) = written {
            failures += 1;
            if failures.is_power_of_two() {
                tracing::warn!(%error, failures, "a round was not written to the output directory");
            }
        }
    }
}

fn write_entry(entry: &Entry, snapshots: &mut Rotated, events: &mut Rotated) -> io::Result<()> {
    for event in &entry.events {
        events.append(&serde_json::to_vec(event)?)?;
    }
    snapshots.append(&serde_json::to_vec(&entry.snapshot.compact())?)
}

/// A file of lines that is put aside as `.1`, `.2`, … when it is full.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
}

impl Rotated {
    fn open(path: PathBuf, max_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Rotated { path, file, bytes, max_bytes })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let added = line.len() as u64 + 1;
        if self.bytes > 0 && self.bytes + added > self.max_bytes {
            self.rotate()?;
        }
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        self.file.write_all(&whole)?;
        self.bytes += added;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let aside = |n: usize| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..MAX_FILES - 1).rev() {
            match std::fs::rename(aside(n), aside(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, aside(1))?;
        *self = Rotated::open(self.path.clone(), self.max_bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut file = Rotated::open(path.clone(), 100).unwrap();
        for n in 0..100 {
            file.append(format!("line {n:04} with some text in it").as_bytes()).unwrap();
        }
        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3", "events.jsonl.4"]
        );
        let last = std::fs::read_to_string(&path).unwrap();
        assert!(last.ends_with("line 0099 with some text in it\n"), "{last}");
        assert!(names.iter().all(|n| std::fs::metadata(directory.path().join(n)).unwrap().len() <= 100));
    }

    #[test]
    fn a_restart_appends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        Rotated::open(path.clone(), 100).unwrap().append(b"one").unwrap();
        Rotated::open(path.clone(), 100).unwrap().append(b"two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn an_unusable_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Journal::open(&file.path().join("below")).unwrap_err().to_string();
        assert!(error.contains("output directory") && error.contains("below"), "{error}");
    }
}
