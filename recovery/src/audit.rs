//! The audit: what was seen, intended, done and denied, one JSON record a line.
//!
//! Invariant: [`Audit::write`] returns only when the record is on disk. A step whose intent could
//! not be written is not taken.
//!
//! A crash can leave a torn last line; it is kept aside and cut off. A line that can't be read
//! anywhere else is damage: what it said about attempts and brakes is unknown, so the daemon
//! starts with the brake on and says why.
//!
//! The file is bounded. A full one is kept under its date, and the new one begins with what the
//! daemon remembers, so that nothing that counts is lost with old files.

use crate::error::RecoveryError;
use crate::ledger::Ledger;
use crate::record::{DAEMON, Phase, Record};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Records that are kept in memory for the API.
pub const MAX_TAIL: usize = 2_000;
/// Bytes of the file before a new one is begun.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Old files that are kept.
const MAX_OLD_FILES: usize = 8;

/// The audit, open for appending. Without a file (a dry run) records stay in memory.
#[derive(Debug)]
pub struct Audit {
    dir: PathBuf,
    file: Option<File>,
    bytes: u64,
    max_bytes: u64,
    tail: VecDeque<Record>,
    ledger: Ledger,
}

impl Audit {
    /// Opens the audit in `dir` for appending, mends a torn end, and reads what was.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Audit, RecoveryError> {
        std::fs::create_dir_all(dir).map_err(|e| RecoveryError::file("can't create", dir, e))?;
        let path = path(dir);
        let past = read(&path)?;
        if let Some(torn) = &past.torn {
            keep_aside(dir, torn, past.good_bytes, now)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| RecoveryError::file("can't open", &path, e))?;
        if past.torn.is_some() {
            file.set_len(past.good_bytes).map_err(|e| RecoveryError::file("can't cut", &path, e))?;
        }
        file.sync_all().map_err(|e| RecoveryError::file("can't sync", &path, e))?;
        sync_dir(dir)?;
        let damaged = past.damaged;
        let mut audit = Audit::remember(dir, past, Some(file));
        if let Some(line) = damaged
            && audit.ledger.brake.is_none()
        {
            let why = format!(
                "audit line {line} can't be read, so attempts and brakes before it are not known; look, then POST /api/brake {{\"on\": false}}"
            );
            let mut record = Record::new(now, DAEMON, Phase::Brake, audit.ledger.generation, why);
            record.on = Some(true);
            audit.write(record)?;
        }
        Ok(audit)
    }

    /// Reads the audit in `dir`, and writes nothing: what comes after stays in memory.
    pub fn look(dir: &Path) -> Result<Audit, RecoveryError> {
        Ok(Audit::remember(dir, read(&path(dir))?, None))
    }

    fn remember(dir: &Path, past: Past, file: Option<File>) -> Audit {
        let mut ledger = Ledger::default();
        for record in &past.records {
            ledger.take(record);
        }
        let surplus = past.records.len().saturating_sub(MAX_TAIL);
        let tail = past.records.into_iter().skip(surplus).collect();
        Audit { dir: dir.to_owned(), file, bytes: past.good_bytes, max_bytes: MAX_FILE_BYTES, tail, ledger }
    }

    /// Appends a record and syncs it.
    pub fn write(&mut self, record: Record) -> Result<(), RecoveryError> {
        let path = path(&self.dir);
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_vec(&record)
                .map_err(|e| RecoveryError::Setup { what: "audit record", why: e.to_string() })?;
            line.push(b'\n');
            let before = self.bytes;
            if let Err(e) = file.write_all(&line).and_then(|()| file.sync_data()) {
                // What was written of it must not glue itself to the next record.
                let _ = file.set_len(before);
                return Err(RecoveryError::file("can't write", &path, e));
            }
            self.bytes += line.len() as u64;
        }
        self.ledger.take(&record);
        if self.tail.len() >= MAX_TAIL {
            self.tail.pop_front();
        }
        let at = record.at;
        self.tail.push_back(record);
        if self.file.is_some() && self.bytes > self.max_bytes {
            self.rotate(at)?;
        }
        Ok(())
    }

    /// What the daemon remembers.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The newest records, oldest first.
    pub fn tail(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.tail.iter()
    }

    /// Begins a new file whose first record is the state. The old one gets its name as a second
    /// link first, so that a crash in between leaves a whole audit under either name.
    fn rotate(&mut self, now: Timestamp) -> Result<(), RecoveryError> {
        let mut record = Record::new(now, DAEMON, Phase::State, self.ledger.generation, "carried over");
        record.state = Some(Box::new(self.ledger.clone()));
        let mut line = serde_json::to_vec(&record)
            .map_err(|e| RecoveryError::Setup { what: "audit record", why: e.to_string() })?;
        line.push(b'\n');
        let fresh = self.dir.join("audit.jsonl.new");
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |e| RecoveryError::File { doing, path, source: e }
        };
        let mut file = File::create(&fresh).map_err(failed("can't create", &fresh))?;
        file.write_all(&line).and_then(|()| file.sync_all()).map_err(failed("can't write", &fresh))?;
        let old = self.dir.join(format!("audit-{:020}.jsonl", now.as_microsecond()));
        match std::fs::hard_link(path(&self.dir), &old) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed("can't keep", &old)(e)),
        }
        let current = path(&self.dir);
        std::fs::rename(&fresh, &current).map_err(failed("can't replace", &current))?;
        sync_dir(&self.dir)?;
        self.file =
            Some(OpenOptions::new().append(true).open(&current).map_err(failed("can't open", &current))?);
        self.bytes = line.len() as u64;
        self.drop_old_files();
        Ok(())
    }

    fn drop_old_files(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let mut old: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                name.starts_with("audit-") && name.ends_with(".jsonl")
            })
            .collect();
        old.sort();
        let surplus = old.len().saturating_sub(MAX_OLD_FILES);
        for path in &old[..surplus] {
            if let Err(e) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), error = %e, "can't remove an old audit file");
            }
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("audit.jsonl")
}

struct Past {
    records: Vec<Record>,
    good_bytes: u64,
    torn: Option<Vec<u8>>,
    damaged: Option<usize>,
}

fn read(path: &Path) -> Result<Past, RecoveryError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(RecoveryError::file("can't read", path, e)),
    };
    let mut past = Past { records: Vec::new(), good_bytes: 0, torn: None, damaged: None };
    for (i, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let whole = line.last() == Some(&b'\n');
        let is_last = past.good_bytes as usize + line.len() == bytes.len();
        match serde_json::from_slice::<Record>(line) {
            Ok(record) if whole => past.records.push(record),
            _ if is_last => {
                past.torn = Some(line.to_vec());
                break;
            }
            _ => past.damaged = Some(i + 1),
        }
        past.good_bytes += line.len() as u64;
    }
    Ok(past)
}

/// The torn end of the file goes into a file of its own before it is cut off.
fn keep_aside(dir: &Path, torn: &[u8], offset: u64, now: Timestamp) -> Result<(), RecoveryError> {
    let path = dir.join(format!("audit.torn-{}-at-{offset}", now.as_microsecond()));
    tracing::warn!(kept = %path.display(), bytes = torn.len(), "the audit's last line is torn; kept aside");
    let mut file = File::create(&path).map_err(|e| RecoveryError::file("can't create", &path, e))?;
    file.write_all(torn)
        .and_then(|()| file.sync_all())
        .map_err(|e| RecoveryError::file("can't write", &path, e))
}

fn sync_dir(dir: &Path) -> Result<(), RecoveryError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| RecoveryError::file("can't sync", dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;
    use crate::record::Outcome;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn crash(ms: i64, phase: Phase) -> Record {
        let mut record = Record::new(at(ms), "f1", phase, ms as u64, "a");
        record.kind = Some(FaultKind::ProcessCrash);
        record.nodes = vec!["n1".into()];
        record
    }

    #[test]
    fn a_torn_last_line_is_kept_aside_and_the_rest_survives() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = Audit::open(dir.path(), at(1)).unwrap();
        audit.write(crash(1, Phase::Seen)).unwrap();
        audit.write(crash(2, Phase::Intent)).unwrap();
        drop(audit);
        let file = path(dir.path());
        let whole = std::fs::read(&file).unwrap();
        for cut in [1, 10, 40] {
            std::fs::write(&file, &whole[..whole.len() - cut]).unwrap();
            let mut audit = Audit::open(dir.path(), at(3 + cut as i64)).unwrap();
            assert_eq!(audit.tail().count(), 1, "cut {cut}");
            assert!(audit.ledger().brake.is_none());
            assert_eq!(audit.ledger().open["f1"].intent_ms, None);
            audit.write(crash(9, Phase::Intent)).unwrap();
            let again = Audit::look(dir.path()).unwrap();
            assert_eq!(again.ledger().open["f1"].intent_ms, Some(9));
        }
        let kept = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("audit.torn-"))
            .count();
        assert_eq!(kept, 3);
    }

    #[test]
    fn damage_in_the_middle_puts_the_brake_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = Audit::open(dir.path(), at(1)).unwrap();
        audit.write(crash(1, Phase::Seen)).unwrap();
        audit.write(crash(2, Phase::Intent)).unwrap();
        drop(audit);
        let file = path(dir.path());
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[3] ^= 0xff;
        std::fs::write(&file, bytes).unwrap();
        let audit = Audit::open(dir.path(), at(3)).unwrap();
        assert!(audit.ledger().brake.as_ref().unwrap().contains("audit line 1"));
        drop(audit);
        let audit = Audit::open(dir.path(), at(4)).unwrap();
        assert!(audit.ledger().brake.is_some(), "it stays on until a person takes it off");
    }

    #[test]
    fn a_new_file_begins_with_what_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = Audit::open(dir.path(), at(1)).unwrap();
        audit.max_bytes = 4_000;
        for ms in 1..100 {
            audit.write(crash(ms, Phase::Seen)).unwrap();
            audit.write(crash(ms, Phase::Intent)).unwrap();
            let mut failed = crash(ms, Phase::Outcome);
            failed.outcome = Some(Outcome::Failed);
            audit.write(failed).unwrap();
        }
        let before = audit.ledger().clone();
        assert_eq!(before.fault("process_crash/n1").failures, 99);
        drop(audit);
        let audit = Audit::open(dir.path(), at(200)).unwrap();
        assert_eq!(audit.ledger(), &before);
        assert!(std::fs::metadata(path(dir.path())).unwrap().len() < 6_000);
        let old = std::fs::read_dir(dir.path()).unwrap().count() - 1;
        assert!((1..=MAX_OLD_FILES).contains(&old), "{old}");
    }
}
