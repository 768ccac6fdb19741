//! Is the log whole, torn at its end, or damaged?
//!
//! raft-engine's default recovery cuts the last file at the first bad record with everything
//! behind it, synced or not, and checks entry blocks only at the end of each file. This check
//! runs before the engine opens, reads every record of every file, and tells three cases apart:
//!
//! - whole: every record is valid, or what follows the last one is zeros (space that was
//!   allocated ahead and never written; it is cut where the log is opened);
//! - torn: the last record of the last file is bad and nothing valid follows. Either it was
//!   never synced, or it was acknowledged and is damaged; nobody can tell. It is cut, a copy is
//!   kept, and the replica is *suspect*;
//! - damaged: a bad record with a valid one behind it, or in any file but the last. The replica
//!   must not vote on it; the node is *failed*.
//!
//! The layout read here is that of raft-engine 0.4 with file format 1: a file header, then
//! records of a 16-byte header (length and compression, footer offset), entries with CRC, and a
//! footer with CRC. A test writes a log with the engine and reads it here.

use super::DataError;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const FILE_MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const FORMAT: u64 = 1;
const FILE_HEADER_BYTES: usize = FILE_MAGIC.len() + 8;
const RECORD_HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEnd {
    /// Every record is valid.
    Whole,
    /// The last record was bad and has been cut. Where both kinds of file were torn, this is the one
    /// to which entries are appended.
    Torn {
        /// The file.
        file: PathBuf,
        /// Where it was cut.
        offset: u64,
        /// Bytes that were cut, kept in quarantine.
        cut_bytes: u64,
    },
    /// A record in the middle is bad; nothing was changed.
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the bad record begins.
        offset: u64,
        /// What is wrong.
        why: String,
    },
}

/// Checks the log in `folder`; cuts a torn end after copying it to `quarantine`.
pub fn check(folder: &Path, quarantine: &Path) -> Result<LogEnd, DataError> {
    examine(folder, Some(quarantine))
}

/// As [`check`], and changes nothing. Of a log that is being written, the last record may be half
/// there: that is told as torn.
pub fn judge(folder: &Path) -> Result<LogEnd, DataError> {
    examine(folder, None)
}

/// Cuts what was set aside for records that were never written: the engine trims its files when it is
/// closed, and takes what is left after a crash for a bad record. Every way to open a log passes here
/// ([`super::log::RaftLog::open`]); what is bad in any other way stays, and the engine refuses it.
pub(super) fn cut_unwritten(folder: &Path) -> Result<(), DataError> {
    let error = |source: std::io::Error| DataError::Directory { path: folder.into(), source };
    for file in files(folder).map_err(error)? {
        if !ends_with_zero(&file).map_err(error)? {
            continue;
        }
        let bytes = std::fs::read(&file).map_err(error)?;
        if let Err((offset, _)) = scan(&bytes)
            && never_written(&bytes[offset..])
        {
            cut(&file, offset as u64).map_err(error)?;
        }
    }
    Ok(())
}

/// Spares reading the whole of a file that can't have such room at its end.
fn ends_with_zero(file: &Path) -> std::io::Result<bool> {
    let mut file = File::open(file)?;
    let mut last = [1];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last == [0])
}

/// True for the bytes behind the last record where nothing was ever written.
fn never_written(rest: &[u8]) -> bool {
    rest.iter().all(|byte| *byte == 0)
}

/// Both kinds of file have an end, and a power loss may tear both. All of it is looked at before
/// anything is cut, so that of a damaged log nothing is changed.
fn examine(folder: &Path, quarantine: Option<&Path>) -> Result<LogEnd, DataError> {
    let engine = |source: std::io::Error| DataError::Directory { path: folder.into(), source };
    let appended = log_files(folder, ".raftlog").map_err(engine)?;
    let rewritten = log_files(folder, ".rewrite").map_err(engine)?;
    let mut torn = Vec::new();
    for files in [&rewritten, &appended] {
        for (position, file) in files.iter().enumerate() {
            let bytes = std::fs::read(file).map_err(engine)?;
            let Err((offset, why)) = scan(&bytes) else { continue };
            if never_written(&bytes[offset..]) {
                continue;
            }
            let last = position + 1 == files.len();
            // What another program wrote in a layout of its own is not for this one to cut; a header that was
            // never written down whole ends with zeros.
            let foreign = format_of(&bytes).is_some_and(|format| format != FORMAT && format != 0);
            if !last || foreign || valid_record_behind(&bytes, offset) {
                return Ok(LogEnd::Damaged { file: file.clone(), offset: offset as u64, why });
            }
            torn.push((file, offset as u64, bytes[offset..].to_vec()));
        }
    }
    if let Some(quarantine) = quarantine {
        for (file, offset, tail) in &torn {
            failpoint!("cut_before_copy");
            keep_copy(file, tail, quarantine).map_err(engine)?;
            failpoint!("cut_before");
            cut(file, *offset).map_err(engine)?;
            failpoint!("cut_after");
        }
    }
    Ok(torn.pop().map_or(LogEnd::Whole, |(file, offset, tail)| LogEnd::Torn {
        file: file.clone(),
        offset,
        cut_bytes: tail.len() as u64,
    }))
}

/// Every file of the log.
pub fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = log_files(folder, ".rewrite")?;
    files.extend(log_files(folder, ".raftlog")?);
    Ok(files)
}

/// Counts the records of a file that an engine may have open; or says which one is bad.
pub fn look(file: &Path) -> std::io::Result<Result<u64, String>> {
    let bytes = std::fs::read(file)?;
    let mut records = 0;
    let found = walk(&bytes, |_| records += 1);
    Ok(match found {
        Err((offset, why)) if !never_written(&bytes[offset..]) => {
            Err(format!("the record at byte {offset} is bad: {why}"))
        }
        _ => Ok(records),
    })
}

/// The log files with this ending, oldest first.
fn log_files(folder: &Path, ending: &str) -> std::io::Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(ending)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Walks over all records; gives the offset of the first bad one and what is wrong with it.
fn scan(bytes: &[u8]) -> Result<(), (usize, String)> {
    walk(bytes, |_| ())
}

fn walk(bytes: &[u8], mut each: impl FnMut(usize)) -> Result<(), (usize, String)> {
    if bytes.len() < FILE_HEADER_BYTES || &bytes[..FILE_MAGIC.len()] != FILE_MAGIC {
        return Err((0, "the file's header is bad".into()));
    }
    if let Some(format) = format_of(bytes).filter(|format| *format != FORMAT) {
        return Err((0, format!("the file's header names format {format}, this program reads {FORMAT}")));
    }
    let mut offset = FILE_HEADER_BYTES;
    while offset < bytes.len() {
        let length = record(&bytes[offset..]).map_err(|why| (offset, why))?;
        each(offset);
        offset += length;
    }
    Ok(())
}

/// The format that a file's header names; none where its beginning is none.
fn format_of(bytes: &[u8]) -> Option<u64> {
    let header = bytes.get(..FILE_HEADER_BYTES)?.strip_prefix(FILE_MAGIC)?;
    Some(u64::from_be_bytes(header.try_into().ok()?))
}

/// Length of the valid record at the start of `bytes`.
fn record(bytes: &[u8]) -> Result<usize, String> {
    let header = bytes.get(..RECORD_HEADER_BYTES).ok_or("the record's header is cut off")?;
    let word = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let (kind, length, footer) = (word(0) & 0xff, (word(0) >> 8) as usize, word(8) as usize);
    if kind > 1 || footer < RECORD_HEADER_BYTES || length < footer.saturating_add(CRC_BYTES + 1) {
        return Err("the record's header is bad".into());
    }
    let record = bytes.get(..length).ok_or("the record is cut off")?;
    if footer > RECORD_HEADER_BYTES && !crc_fits(&record[RECORD_HEADER_BYTES..footer]) {
        return Err("the checksum of the record's entries differs".into());
    }
    if !crc_fits(&record[footer..]) {
        return Err("the checksum of the record's footer differs".into());
    }
    Ok(length)
}

/// True where the last four bytes are the CRC of those before.
fn crc_fits(bytes: &[u8]) -> bool {
    let Some((body, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else { return false };
    !body.is_empty() && crc32fast::hash(body) == u32::from_le_bytes(*crc)
}

/// Looks at every offset behind the bad record: record lengths can't be trusted there.
fn valid_record_behind(bytes: &[u8], bad: usize) -> bool {
    (bad + 1..bytes.len().saturating_sub(RECORD_HEADER_BYTES)).any(|at| record(&bytes[at..]).is_ok())
}

fn keep_copy(file: &Path, tail: &[u8], quarantine: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(quarantine)?;
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let stamp = jiff::Timestamp::now().as_millisecond();
    let copy = quarantine.join(format!("{stamp}-{name}.torn"));
    std::fs::write(&copy, tail)?;
    File::open(&copy)?.sync_all()?;
    File::open(quarantine)?.sync_all()
}

fn cut(file: &Path, offset: u64) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(file)?;
    file.set_len(offset)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log::{RaftLog, open_engine, write_entries_for_test};
    use proptest::prelude::*;

    /// A log of ten records, as the engine writes it; the file's path and bytes.
    fn sample(folder: &Path) -> (PathBuf, Vec<u8>) {
        let engine = open_engine(folder).unwrap();
        for index in 1..=10 {
            write_entries_for_test(&engine, index);
        }
        drop(engine);
        let file = log_files(folder, ".raftlog").unwrap().pop().unwrap();
        let bytes = std::fs::read(&file).unwrap();
        (file, bytes)
    }

    fn offsets(bytes: &[u8]) -> Vec<usize> {
        let mut at = FILE_HEADER_BYTES;
        let mut all = Vec::new();
        while at < bytes.len() {
            all.push(at);
            at += record(&bytes[at..]).unwrap();
        }
        all
    }

    #[test]
    fn a_log_of_the_engine_is_whole_and_opens_after_the_check() {
        let folder = tempfile::tempdir().unwrap();
        let (_, bytes) = sample(folder.path());
        assert_eq!(offsets(&bytes).len(), 10);
        assert_eq!(check(folder.path(), &folder.path().join("q")).unwrap(), LogEnd::Whole);
        assert_eq!(open_engine(folder.path()).unwrap().last_index(1), Some(10));
    }

    #[test]
    fn space_allocated_ahead_is_no_damage_and_is_cut_where_the_log_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (file, bytes) = sample(folder.path());
        for room in [1, 15, 16, 4096] {
            let with_room = [bytes.as_slice(), vec![0; room].as_slice()].concat();
            std::fs::write(&file, &with_room).unwrap();
            assert_eq!(judge(folder.path()).unwrap(), LogEnd::Whole);
            assert_eq!(check(folder.path(), &folder.path().join("q")).unwrap(), LogEnd::Whole);
            assert_eq!(std::fs::read(&file).unwrap(), with_room, "who only looks changes nothing");
            assert!(open_engine(folder.path()).is_err(), "the engine takes it for a bad record");
            assert_eq!(RaftLog::open(folder.path()).unwrap().bounds(), (1, 10));
            assert_eq!(std::fs::read(&file).unwrap(), bytes);
        }
    }

    #[test]
    fn whoever_opens_a_log_cuts_nothing_that_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let (file, bytes) = sample(folder.path());
        let at = *offsets(&bytes).last().unwrap();
        let mut flipped = bytes.clone();
        flipped[at + 30] ^= 1;
        let torn = bytes[..at + 20].to_vec();
        let with_room = |bytes: &[u8]| [bytes, &[0; 4096]].concat();
        for bad in [flipped.clone(), torn.clone(), with_room(&flipped), with_room(&torn)] {
            std::fs::write(&file, &bad).unwrap();
            assert!(RaftLog::open(folder.path()).is_err(), "that is for the check to judge");
            assert_eq!(std::fs::read(&file).unwrap(), bad);
        }
    }

    #[test]
    fn a_log_of_another_format_is_refused_by_name_and_never_cut() {
        let folder = tempfile::tempdir().unwrap();
        let (file, bytes) = sample(folder.path());
        // Whatever its records look like.
        for end in [FILE_HEADER_BYTES, FILE_HEADER_BYTES + 20, bytes.len()] {
            let mut other = bytes[..end].to_vec();
            other[FILE_HEADER_BYTES - 1] = 2;
            std::fs::write(&file, &other).unwrap();
            let LogEnd::Damaged { why, offset: 0, .. } =
                check(folder.path(), &folder.path().join("q")).unwrap()
            else {
                panic!("{end}: not refused")
            };
            assert!(why.contains("names format 2, this program reads 1"), "{why}");
            assert_eq!(std::fs::read(&file).unwrap(), other);
        }
    }

    #[test]
    fn a_torn_last_record_is_cut_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (file, bytes) = sample(folder.path());
        let last = *offsets(&bytes).last().unwrap();
        std::fs::write(&file, &bytes[..last + 20]).unwrap();
        let found = check(folder.path(), &folder.path().join("q")).unwrap();
        assert_eq!(found, LogEnd::Torn { file, offset: last as u64, cut_bytes: 20 });
        let kept = std::fs::read_dir(folder.path().join("q")).unwrap().next().unwrap().unwrap();
        assert_eq!(std::fs::read(kept.path()).unwrap(), bytes[last..last + 20]);
        assert_eq!(RaftLog::open(folder.path()).unwrap().bounds().1, 9);
    }

    #[test]
    fn both_kinds_of_file_may_be_torn_and_nothing_is_cut_of_a_damaged_log() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = folder.path().join("q");
        let (file, bytes) = sample(folder.path());
        let rewritten = folder.path().join("0000000000000001.rewrite");
        let places = offsets(&bytes);
        let (first, last) = (places[1], places[9]);
        // The rewritten file ends in its second record, the appended one in its last.
        std::fs::write(&rewritten, &bytes[..first + 20]).unwrap();
        let mut damaged = bytes.clone();
        damaged[places[5] + 30] ^= 1;
        std::fs::write(&file, &damaged).unwrap();
        let found = check(folder.path(), &quarantine).unwrap();
        assert!(matches!(found, LogEnd::Damaged { file: of, .. } if of == file));
        assert_eq!(std::fs::read(&rewritten).unwrap(), bytes[..first + 20], "nothing was cut");
        assert!(!quarantine.exists());

        std::fs::write(&file, &bytes[..last + 20]).unwrap();
        let found = check(folder.path(), &quarantine).unwrap();
        assert_eq!(found, LogEnd::Torn { file: file.clone(), offset: last as u64, cut_bytes: 20 });
        assert_eq!(std::fs::read(&rewritten).unwrap(), bytes[..first]);
        assert_eq!(std::fs::read(&file).unwrap(), bytes[..last]);
        assert_eq!(std::fs::read_dir(&quarantine).unwrap().count(), 2, "both pieces are kept");
        assert_eq!(check(folder.path(), &quarantine).unwrap(), LogEnd::Whole);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A flipped bit before the last record is damage and changes nothing on disk; in the
        /// last record it is a torn end. Never is it taken for whole.
        #[test]
        fn a_flipped_bit_is_never_overlooked(at in 0usize..4096, bit in 0u8..8) {
            let folder = tempfile::tempdir().unwrap();
            let (file, mut bytes) = sample(folder.path());
            let last = *offsets(&bytes).last().unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            std::fs::write(&file, &bytes).unwrap();
            match check(folder.path(), &folder.path().join("q")).unwrap() {
                LogEnd::Damaged { .. } => {
                    prop_assert!(at < last);
                    prop_assert_eq!(std::fs::read(&file).unwrap(), bytes);
                }
                LogEnd::Torn { offset, .. } => prop_assert_eq!(offset, last as u64),
                LogEnd::Whole => prop_assert!(false, "byte {} bit {} was overlooked", at, bit),
            }
        }

        #[test]
        fn a_cut_at_any_offset_keeps_every_whole_record(at in FILE_HEADER_BYTES..4096usize) {
            let folder = tempfile::tempdir().unwrap();
            let (file, bytes) = sample(folder.path());
            let at = FILE_HEADER_BYTES + at % (bytes.len() - FILE_HEADER_BYTES);
            std::fs::write(&file, &bytes[..at]).unwrap();
            let whole = offsets(&bytes).iter().skip(1).filter(|o| **o <= at).count() as u64;
            let found = check(folder.path(), &folder.path().join("q")).unwrap();
            prop_assert!(!matches!(found, LogEnd::Damaged { .. }), "damaged");
            prop_assert_eq!(RaftLog::open(folder.path()).unwrap().bounds().1, whole);
        }
    }
}
