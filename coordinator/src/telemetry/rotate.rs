//! The log file: rotated by size, written by a thread of its own.
//!
//! A full or slow disk must not hold up whoever logs, least of all the Raft thread. Lines go
//! through a bounded queue; when it is full they are dropped and counted.
//!
//! A file that can't be written ends nothing. It is said once on standard error, the lines are
//! counted, and opening it is tried again once a second; when it can be written again, that is
//! said in the file with the number of lines that are missing.
//!
//! Rotation: `name` becomes `name.1`, `name.1` becomes `name.2`, and so on; beyond
//! `backup_count` the oldest is removed.

use crate::config::Config;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const QUEUE_LINES: usize = 8192;
/// How long the end of the process waits for the last lines.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts to open a file that can't be opened.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// What a reload may change of the file.
#[derive(Debug)]
pub struct FileLimits {
    max_bytes: AtomicU64,
    backup_count: AtomicU32,
    reopen: AtomicBool,
}

impl FileLimits {
    /// A file of so many bytes, with so many older ones.
    pub fn new(max_bytes: u64, backup_count: u32) -> Arc<FileLimits> {
        Arc::new(FileLimits {
            max_bytes: AtomicU64::new(max_bytes),
            backup_count: AtomicU32::new(backup_count),
            reopen: AtomicBool::new(false),
        })
    }

    /// Takes what the config says, and opens the file anew: somebody may have moved it away.
    pub fn take_config(&self, config: &Config) {
        self.max_bytes.store(config.log_max_size, Ordering::Relaxed);
        self.backup_count.store(config.log_backup_count, Ordering::Relaxed);
        self.reopen.store(true, Ordering::Relaxed);
    }
}

/// A file that is renamed away when it has grown too large.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    limits: Arc<FileLimits>,
    open: Option<Opened>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// A file that is opened or made with its first line; what is in it stays.
    pub fn new(path: &Path, limits: Arc<FileLimits>) -> Self {
        RotatingFile { path: path.to_owned(), limits, open: None }
    }

    /// Writes one line whole or not at all, rotating before it where it would not fit any more.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.limits.reopen.swap(false, Ordering::Relaxed) {
            self.open = None;
        }
        let bytes = self.opened()?.bytes;
        if bytes > 0 && bytes + line.len() as u64 > self.limits.max_bytes.load(Ordering::Relaxed) {
            self.rotate()?;
        }
        let opened = self.opened()?;
        if let Err(error) = opened.file.write_all(line) {
            // Half a line would spoil the next one. Opened anew, the file's end is looked at again.
            let _ = opened.file.set_len(opened.bytes);
            self.open = None;
            return Err(error);
        }
        opened.bytes += line.len() as u64;
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut Opened> {
        if self.open.is_none() {
            if let Some(parent) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            let bytes = file.metadata()?.len();
            self.open = Some(Opened { file, bytes });
        }
        self.open.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let backup_count = self.limits.backup_count.load(Ordering::Relaxed);
        if backup_count == 0 {
            return OpenOptions::new().write(true).truncate(true).open(&self.path).map(drop);
        }
        for number in (1..backup_count).rev() {
            match std::fs::rename(self.backup(number), self.backup(number + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.backup(1))
    }

    fn backup(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Log lines that did not reach the file since the process started. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// How many.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where formatted lines go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LineQueue {
    lines: Sender<Vec<u8>>,
    lost: LostLines,
}

/// Ends the writer thread when it is dropped, after the lines that wait.
#[derive(Debug)]
pub struct WriterGuard {
    lines: Option<Sender<Vec<u8>>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread that writes to `file`; lines that are lost are counted in `lost`.
pub fn spawn(file: RotatingFile, lost: LostLines) -> io::Result<(LineQueue, WriterGuard)> {
    let (lines, waiting) = crossbeam_channel::bounded(QUEUE_LINES);
    let (finished, done) = crossbeam_channel::bounded(1);
    let writer = Writer { file, told: lost.count(), lost: lost.clone(), trouble: None };
    let thread = std::thread::Builder::new().name("log-file".into()).spawn(move || {
        writer.run(&waiting);
        // Nobody listens any more when the guard gave up waiting.
        let _ = finished.send(());
    })?;
    let queue = LineQueue { lines: lines.clone(), lost };
    Ok((queue, WriterGuard { lines: Some(lines), done, thread: Some(thread) }))
}

struct Writer {
    file: RotatingFile,
    lost: LostLines,
    /// How many lost lines the file tells of already.
    told: u64,
    /// Since the file can't be written: when it is tried again.
    trouble: Option<Instant>,
}

impl Writer {
    /// An empty line ends it: the queue's clones live as long as the global subscriber, for ever.
    fn run(mut self, waiting: &Receiver<Vec<u8>>) {
        while let Ok(line) = waiting.recv() {
            if line.is_empty() {
                return;
            }
            if self.trouble.is_some_and(|again| Instant::now() < again) {
                self.lost.add();
                continue;
            }
            match self.tell_lost().and_then(|()| self.file.write_line(&line)) {
                Ok(()) if self.trouble.take().is_some() => {
                    say(&format!("log_file {} can be written again", self.file.path.display()));
                }
                Ok(()) => {}
                Err(error) => {
                    self.lost.add();
                    if self.trouble.is_none() {
                        say(&format!(
                            "log_file {} can't be written: {error}; the node runs on, lines are counted as lost until it can",
                            self.file.path.display()
                        ));
                    }
                    self.trouble = Some(Instant::now() + REOPEN_PAUSE);
                }
            }
        }
    }

    /// Says in the file how many lines are missing before the next one.
    fn tell_lost(&mut self) -> io::Result<()> {
        let lost = self.lost.count();
        if lost == self.told {
            return Ok(());
        }
        let missing = lost - self.told;
        let note = format!(
            "{{\"timestamp\":\"{}\",\"level\":\"WARN\",\"message\":\"log lines are missing here: the file could not be written, or not fast enough\",\"lost_lines\":{missing}}}\n",
            jiff::Timestamp::now()
        );
        self.file.write_line(note.as_bytes())?;
        self.told = lost;
        Ok(())
    }
}

/// The log itself can't tell that it can't be written.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "coordinator: {text}");
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
            self.queue.lost.add();
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

    fn file(path: &Path, max_bytes: u64, backup_count: u32) -> RotatingFile {
        RotatingFile::new(path, FileLimits::new(max_bytes, backup_count))
    }

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
        let mut file = super::tests::file(&folder.path().join("n.log"), 100, 2);
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
        file(&path, 100, 1).write_line(&[b'x'; 60]).unwrap();
        file(&path, 100, 1).write_line(&[b'y'; 60]).unwrap();
        let expected = [("n.log".to_owned(), 60), ("n.log.1".to_owned(), 60)];
        assert_eq!(lengths(path.parent().unwrap()), expected);
    }

    #[test]
    fn without_backups_the_file_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = super::tests::file(&folder.path().join("n.log"), 100, 0);
        for _ in 0..5 {
            file.write_line(&[b'x'; 40]).unwrap();
        }
        assert_eq!(lengths(folder.path()), [("n.log".to_owned(), 40)]);
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.log");
        let (queue, guard) = spawn(file(&path, 1 << 20, 1), LostLines::default()).unwrap();
        for i in 0..1000 {
            writeln!(queue.make_writer(), "line {i}").unwrap();
        }
        drop(guard);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(text.lines().last(), Some("line 999"));
    }

    #[test]
    fn a_file_that_cant_be_written_loses_lines_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.log");
        // A directory in its place: also root can't write to that.
        std::fs::create_dir(&path).unwrap();
        let lost = LostLines::default();
        let (queue, guard) = spawn(file(&path, 1 << 20, 1), lost.clone()).unwrap();
        writeln!(queue.make_writer(), "first").unwrap();
        let began = Instant::now();
        while lost.count() == 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "the line was not counted as lost");
            std::thread::yield_now();
        }
        std::fs::remove_dir(&path).unwrap();
        let mut written = String::new();
        while !written.contains("second") {
            assert!(began.elapsed() < Duration::from_secs(20), "the file did not come back: {written}");
            writeln!(queue.make_writer(), "second").unwrap();
            std::thread::sleep(Duration::from_millis(50));
            written = std::fs::read_to_string(&path).unwrap_or_default();
        }
        drop(guard);
        assert!(written.contains("\"lost_lines\":"), "{written}");
        assert!(!written.contains("first"), "{written}");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_after_a_reload() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.log");
        let mut file = file(&path, 1 << 20, 1);
        file.write_line(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        file.limits.reopen.store(true, Ordering::Relaxed);
        file.write_line(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_full_disk_leaves_no_half_line() {
        let Ok(full) = OpenOptions::new().append(true).open("/dev/full") else { return };
        let mut file = file(Path::new("/dev/full"), 1 << 20, 1);
        file.open = Some(Opened { file: full, bytes: 0 });
        assert!(file.write_line(b"x\n").is_err());
        assert!(file.open.is_none(), "it is looked at again before the next line");
    }
}
