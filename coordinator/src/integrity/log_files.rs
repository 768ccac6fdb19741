//! The log on the disk: every record's checksum, the snapshot's hash, and the chain over the
//! entries.

use super::{Outcome, Pace};
use crate::machine::checksum::chain;
use crate::node::Node;
use crate::raft::log_end;
use api::cluster::Role;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What to do about a damaged log.
const CURE: &str =
    "stop relying on this node: quarantine its log and let it rejoin (POST /api/admin/force_sync)";
/// The last file is being written: a record that is not whole yet is looked at again so often.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Entries read at once.
const ENTRIES: usize = 256;

pub(super) fn check(folder: &Path, node: &Node, pace: Pace, stop: &CancellationToken) -> Outcome {
    let mut checked = 0;
    let files = match log_end::files(folder) {
        Ok(files) => files,
        Err(e) => {
            return Outcome::Damaged(0, format!("the log in {} can't be listed: {e}", folder.display()));
        }
    };
    for file in files {
        let began = Instant::now();
        match look(&file, stop) {
            Ok(records) => checked += records,
            Err(why) => {
                return Outcome::Damaged(checked, format!("{}: {why}; {CURE}", file.display()));
            }
        }
        if !pace.pause(began.elapsed(), stop) {
            return Outcome::Stopped;
        }
    }
    let began = Instant::now();
    if let Some(name) = node.snapshots().newest()
        && let Err(error) = node.snapshots().check(&name)
        // It may have been superseded and removed meanwhile.
        && node.snapshots().newest().as_ref() == Some(&name)
    {
        node.snapshots().note_damaged(&name);
        return Outcome::Damaged(checked, format!("{error}; the node takes another one by itself"));
    }
    if !pace.pause(began.elapsed(), stop) {
        return Outcome::Stopped;
    }
    match follow_chain(node, pace, stop) {
        Ok(Some(entries)) => Outcome::Sound(checked + entries, String::new()),
        Ok(None) => Outcome::Stopped,
        Err(why) => Outcome::Damaged(checked, format!("{why}; {CURE}")),
    }
}

/// The records of a file, all of them sound.
fn look(file: &Path, stop: &CancellationToken) -> Result<u64, String> {
    let mut last = String::new();
    for _ in 0..LOOKS {
        match log_end::look(file) {
            Ok(Ok(records)) => return Ok(records),
            Ok(Err(why)) => last = why,
            // Purged meanwhile: nothing in it is needed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(e) => last = format!("can't be read: {e}"),
        }
        if stop.is_cancelled() {
            return Ok(0);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Err(last)
}

/// Hashes the entries between the remembered checkpoints again. None where `stop` came.
fn follow_chain(node: &Node, pace: Pace, stop: &CancellationToken) -> Result<Option<u64>, String> {
    let first = node.view().first_index;
    let points: Vec<_> = {
        let machine = node.machine();
        machine.checkpoints().filter(|point| point.index + 1 >= first).copied().collect()
    };
    let (Some(begin), Some(end)) = (points.first(), points.last()) else { return Ok(Some(0)) };
    let (mut index, mut hash, mut entries) = (begin.index, begin.log_chain, 0);
    while index < end.index {
        let began = Instant::now();
        let page = match node.log_entries(index + 1, ENTRIES) {
            Ok(page) => page,
            // Compacted meanwhile, or Raft has ended.
            Err(_) if node.view().first_index > index + 1 || node.view().role == Role::Failed => {
                return Ok(Some(entries));
            }
            Err(why) => return Err(format!("entries from {} on can't be read: {why}", index + 1)),
        };
        if page.first().is_none_or(|(at, ..)| *at != index + 1) {
            return Ok(Some(entries));
        }
        for (at, term, _, data) in page {
            hash = chain(hash, at, term, &data);
            (index, entries) = (at, entries + 1);
            if points.iter().any(|point| point.index == at && point.log_chain != hash) {
                return Err(format!(
                    "the entries up to index {at} are not those that were applied: their chain differs"
                ));
            }
        }
        if !pace.pause(began.elapsed(), stop) {
            return Ok(None);
        }
    }
    Ok(Some(entries))
}
