//! The log file: rotated by size, written by a thread of its own.
//!
//! A full or slow disk must not hold up whoever logs, least of all the Raft thread. Lines go
//! through a bounded queue; when it is full they are dropped and counted, and the count is written
//! once there is room.
//!
//! Rotation: `name` becomes `name.1`, `name.1` becomes `name.2`, and so on; beyond
//! `backup_count` the oldest is removed.

use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const QUEUE_LINES: usize = 8192;
/// How long the end of the process waits for the last lines.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A file that is renamed away when it has grown too large.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    backup_count: u32,
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// Opens or makes the file; what is in it stays.
    pub fn open(path: &Path, max_bytes: u64, backup_count: u32) -> io::Result<Self> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(RotatingFile { path: path.to_owned(), max_bytes, backup_count, file, bytes })
    }

    /// Writes one line, rotating before it where it would not fit any more.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.backup_count == 0 {
            self.file = OpenOptions::new().write(true).truncate(true).open(&self.path)?;
            self.bytes = 0;
            return Ok(());
        }
        for number in (1..self.backup_count).rev() {
            match std::fs::rename(self.backup(number), self.backup(number + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.backup(1))?;
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    fn backup(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Where formatted lines go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LineQueue {
    lines: Sender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

/// Ends the writer thread when it is dropped, after the lines that wait.
#[derive(Debug)]
pub struct WriterGuard {
    lines: Option<Sender<Vec<u8>>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread that writes to `file`.
pub fn spawn(file: RotatingFile) -> io::Result<(LineQueue, WriterGuard)> {
    let (lines, waiting) = crossbeam_channel::bounded(QUEUE_LINES);
    let (finished, done) = crossbeam_channel::bounded(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&dropped);
    let thread = std::thread::Builder::new().name("log-file".into()).spawn(move || {
        write_lines(file, &waiting, &count);
        // Nobody listens any more when the guard gave up waiting.
        let _ = finished.send(());
    })?;
    let queue = LineQueue { lines: lines.clone(), dropped };
    Ok((queue, WriterGuard { lines: Some(lines), done, thread: Some(thread) }))
}

/// An empty line ends it: the queue's clones live as long as the global subscriber, for ever.
fn write_lines(mut file: RotatingFile, waiting: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        if line.is_empty() {
            return;
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        let note = format!(
            "{{\"level\":\"WARN\",\"message\":\"{lost} log lines were dropped: the log file was too slow\"}}\n"
        );
        let written = if lost > 0 { file.write_line(note.as_bytes()) } else { Ok(()) };
        if written.and_then(|()| file.write_line(&line)).is_err() {
            // The disk is full or gone: count it, and tell when it works again.
            dropped.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        if let Some(lines) = self.lines.take() {
            let asked = lines.send_timeout(Vec::new(), CLOSE_LIMIT).is_ok();
            if asked && self.done.recv_timeout(CLOSE_LIMIT).is_ok() {
                let ended = self.thread.take().map(JoinHandle::join);
                debug_assert!(ended.is_none_or(|e| e.is_ok()), "the log thread panicked");
            }
        }
    }
}

/// One event's line on its way into the queue.
#[derive(Debug)]
pub struct Line<'a> {
    queue: &'a LineQueue,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.queue.lines.try_send(bytes) {
            self.queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, bytes: Vec::with_capacity(256) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(folder: &Path) -> Vec<(String, u64)> {
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn files_rotate_by_size_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open(&folder.path().join("n.log"), 100, 2).unwrap();
        for _ in 0..10 {
            file.write_line(&[b'x'; 40]).unwrap();
        }
        let expected = [("n.log", 80), ("n.log.1", 80), ("n.log.2", 80)];
        assert_eq!(lengths(folder.path()), expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    }

    #[test]
    fn a_restart_goes_on_in_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/n.log");
        RotatingFile::open(&path, 100, 1).unwrap().write_line(&[b'x'; 60]).unwrap();
        RotatingFile::open(&path, 100, 1).unwrap().write_line(&[b'y'; 60]).unwrap();
        let expected = [("n.log".to_owned(), 60), ("n.log.1".to_owned(), 60)];
        assert_eq!(lengths(path.parent().unwrap()), expected);
    }

    #[test]
    fn without_backups_the_file_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open(&folder.path().join("n.log"), 100, 0).unwrap();
        for _ in 0..5 {
            file.write_line(&[b'x'; 40]).unwrap();
        }
        assert_eq!(lengths(folder.path()), [("n.log".to_owned(), 40)]);
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.log");
        let (queue, guard) = spawn(RotatingFile::open(&path, 1 << 20, 1).unwrap()).unwrap();
        for i in 0..1000 {
            writeln!(queue.make_writer(), "line {i}").unwrap();
        }
        drop(guard);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(text.lines().last(), Some("line 999"));
    }
}
