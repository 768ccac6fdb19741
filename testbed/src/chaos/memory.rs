//! Bits that flip in a process' memory: bytes are looked for and replaced from outside.
//!
//! It goes through `/proc/PID/mem`, which the system lets those do who may trace the process: its
//! ancestors and the superuser.

use crate::Error;
use crate::process::ProcessRef;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes that are looked through at once.
const PIECE_BYTES: usize = 1 << 20;

/// Replaces every occurrence of `from` in what the process can write by `to`, which is as long.
/// Returns how many there were.
pub fn replace(process: &ProcessRef, from: &[u8], to: &[u8]) -> Result<usize, Error> {
    let error =
        |what: &str| Error::io(format!("{what} the memory of {} (pid {})", process.name, process.pid));
    if from.is_empty() || from.len() != to.len() {
        return Err(Error::Setting("bytes in memory are replaced by as many, and by at least one".into()));
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid)).map_err(error("list"))?;
    let path = format!("/proc/{}/mem", process.pid);
    let memory = File::options().read(true).write(true).open(path).map_err(error("open"))?;
    let mut replaced = 0;
    let mut piece = vec![0; PIECE_BYTES];
    for (begin, end) in maps.lines().filter_map(writable) {
        let mut at = begin;
        while at < end {
            let length = PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES));
            // What was unmapped since can't be read, and holds nothing.
            let Ok(read) = memory.read_at(&mut piece[..length], at) else { break };
            if read < from.len() {
                break;
            }
            for offset in occurrences(&piece[..read], from) {
                memory.write_all_at(to, at + offset as u64).map_err(error("change"))?;
                replaced += 1;
            }
            // One that lies across the edge is found with the next piece.
            at += (read + 1 - from.len()) as u64;
        }
    }
    Ok(replaced)
}

/// Begin and end of a line of `/proc/PID/maps` that may be read and written.
fn writable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (begin, end) = fields.next()?.split_once('-')?;
    fields.next()?.starts_with("rw").then_some(())?;
    Some((u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

fn occurrences(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    let first = wanted[0];
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first).map(|(at, _)| at);
    starts.filter(|at| bytes[*at..].starts_with(wanted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_stands_in_a_process_memory_is_replaced() {
        let mut child = Command::new("sleep").arg("60").env("SOME_WORD", "marker-before").spawn().unwrap();
        // The system tells an environment once its place in memory is final.
        let holds = |word: &str| {
            let environment = std::fs::read(format!("/proc/{}/environ", child.id())).unwrap();
            String::from_utf8_lossy(&environment).contains(&format!("SOME_WORD={word}"))
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !holds("marker-before") {
            assert!(std::time::Instant::now() < deadline, "not within 20 s: the child has its environment");
            std::thread::yield_now();
        }
        let process = ProcessRef::of("sleep", child.id()).unwrap();
        let replaced = replace(&process, b"marker-before", b"marker-beyond");
        let changed = holds("marker-beyond");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(replaced.unwrap() >= 1 && changed);
    }

    #[test]
    fn only_what_can_be_written_is_looked_through() {
        assert_eq!(writable("7f00-7fff rw-p 00000000 00:00 0  [heap]"), Some((0x7f00, 0x7fff)));
        assert_eq!(writable("7f00-7fff r-xp 00000000 fe:00 12 /lib/x.so"), None);
        assert_eq!(occurrences(b"aabaab", b"ab"), [1, 4]);
    }
}
