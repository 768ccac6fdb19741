//! A node's log with other content and checksums that fit: damage that only a comparison shows.
//!
//! The layout is that of the log engine's files, version 1: a header, then records, each with a block
//! of entries and a footer, both with their CRC at the end. Only blocks of entries are changed, and
//! none changes its length.

use crate::Error;
use std::path::Path;

const FILE_HEADER_BYTES: usize = "RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5".len() + 8;
const RECORD_HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Gives every block of entries of the log in `folder` to `change`, oldest first, with its number; where
/// that says that it changed it, the block is written back with a checksum that fits. Gives how many
/// were. No process may have the log open.
pub fn blocks(folder: &Path, mut change: impl FnMut(usize, &mut [u8]) -> bool) -> Result<usize, Error> {
    let what = || format!("forge the log in {}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(Error::io(what()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "raftlog"));
    files.sort();
    let (mut number, mut changed) = (0, 0);
    for file in files {
        let mut bytes = std::fs::read(&file).map_err(Error::io(what()))?;
        let before = changed;
        let mut offset = FILE_HEADER_BYTES;
        while let Some((length, footer)) = record(&bytes, offset) {
            if footer > RECORD_HEADER_BYTES + CRC_BYTES {
                let block = &mut bytes[offset + RECORD_HEADER_BYTES..offset + footer];
                let (body, crc) = block.split_at_mut(footer - RECORD_HEADER_BYTES - CRC_BYTES);
                if change(number, body) {
                    crc.copy_from_slice(&crc32(body).to_le_bytes());
                    changed += 1;
                }
                number += 1;
            }
            offset += length;
        }
        if changed > before {
            std::fs::write(&file, bytes).map_err(Error::io(what()))?;
        }
    }
    Ok(changed)
}

/// Replaces a text in all entries by one of the same length; gives how many blocks had it.
pub fn text(folder: &Path, from: &str, to: &str) -> Result<usize, Error> {
    assert_eq!(from.len(), to.len(), "a forged text is as long as the true one");
    blocks(folder, |_, block| {
        let at = block.windows(from.len()).position(|window| window == from.as_bytes());
        at.map(|at| block[at..at + to.len()].copy_from_slice(to.as_bytes())).is_some()
    })
}

/// Has the entries of the newest block be of the next term.
pub fn newest_term(folder: &Path) -> Result<(), Error> {
    let mut count = 0;
    blocks(folder, |number, _| {
        count = number + 1;
        false
    })?;
    blocks(folder, |number, block| number + 1 == count && raise_terms(block)).map(drop)
}

/// Entries stand one after the other; each begins with its kind (1) or its term (2).
fn raise_terms(block: &mut [u8]) -> bool {
    let (mut at, mut raised) = (0, false);
    while let Some(tag) = block.get(at).copied() {
        at += 1;
        if tag == 2 << 3 && block[at] < 0x7f {
            block[at] += 1;
            raised = true;
        }
        let mut value = 0_usize;
        for shift in (0..).step_by(7) {
            let Some(byte) = block.get(at).copied() else { return raised };
            at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        // What has a length is passed over.
        if tag & 7 == 2 {
            at += value;
        }
    }
    raised
}

/// Length of the record there and where its footer begins; none behind the last.
fn record(bytes: &[u8], offset: usize) -> Option<(usize, usize)> {
    let word = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (first, footer) = (word(offset)?, word(offset + 8)? as usize);
    let (kind, length) = (first & 0xff, (first >> 8) as usize);
    let sound =
        kind == 0 && footer >= RECORD_HEADER_BYTES && length > footer && offset + length <= bytes.len();
    sound.then_some((length, footer))
}

/// CRC-32 as in zlib.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn terms_are_raised_and_nothing_else() {
        // Term 5, index 300, four bytes that look like a term; then a change of members, kind 2.
        let mut block = vec![0x10, 5, 0x18, 0xac, 0x02, 0x22, 4, 0x10, 1, 0x10, 1, 0x08, 2, 0x10, 5, 0x18, 7];
        assert!(raise_terms(&mut block));
        assert_eq!(block, [0x10, 6, 0x18, 0xac, 0x02, 0x22, 4, 0x10, 1, 0x10, 1, 0x08, 2, 0x10, 6, 0x18, 7]);
    }
}
