//! Snapshot files: the machine as bytes, so that the log in front of it may go.
//!
//! A file is written beside, synced and renamed; it counts once a batch of the log engine names
//! it, together with the compaction that it allows. Files that no batch names are thrown away
//! at the next start; one that was superseded goes once no peer has asked for it for a while.
//!
//! It is fetched in chunks, each with its hash, and a transfer that broke off goes on where it
//! was: what came is kept in a file of its own until it is whole.
//!
//! Invariant: what is installed was read whole, its hash and its own checksum verified, before
//! anything is replaced.

use super::peer_http::PeerHttp;
use crate::machine::{Cut, CutTasks, Machine, SnapshotEncoder};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::Xxh3;

/// The path under which peers fetch a snapshot file.
pub const SNAPSHOT_PATH: &str = "/raft/snapshot/{file}";
/// The largest snapshot that is taken from a peer.
const MAX_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// Bytes of a snapshot that travel in one answer.
pub const CHUNK_BYTES: u64 = 1024 * 1024;
/// A file that a peer asked for within this time is being fetched.
const SERVED_LATELY: Duration = Duration::from_secs(30);
/// Chunks that may fail in a row before a fetch is given up; what came is kept.
const FETCH_ATTEMPTS: u32 = 6;

/// Names a snapshot file; travels in Raft's snapshot message and in the log engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotName {
    /// The file's name in the snapshot folder.
    pub file: String,
    /// Index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Its length.
    pub bytes: u64,
    /// xxh3-128 of its bytes, hex.
    pub hash: String,
}

/// Why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file can't be read or written.
    #[error("snapshot {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not those that were named.
    #[error("snapshot {path}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// The machine it was made of was replaced meanwhile, or its records are damaged.
    #[error("a snapshot of index {index} came to nothing: {why}")]
    Abandoned {
        /// The index.
        index: u64,
        /// Why.
        why: String,
    },
    /// The peer did not give it.
    #[error("snapshot {file} from {address}: {why}")]
    Fetch {
        /// The file.
        file: String,
        /// Who was asked.
        address: String,
        /// What went wrong.
        why: String,
    },
}

/// The folder of snapshot files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    folder: PathBuf,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    newest: Option<SnapshotName>,
    /// One that a check found damaged; it stays until it is replaced.
    damaged: Option<SnapshotName>,
    /// When a peer asked for a file last.
    served: BTreeMap<String, Instant>,
}

impl Snapshots {
    /// Snapshots in `{data_dir}/snapshots`.
    pub fn new(data_dir: &Path) -> Snapshots {
        Snapshots { folder: data_dir.join("snapshots"), known: Arc::default() }
    }

    /// Where damaged files go: beside the folder.
    pub fn quarantine_root(&self) -> PathBuf {
        self.folder.with_file_name("quarantine")
    }

    /// Where a file of that name lies; none where the name is none of ours.
    pub fn path(&self, file: &str) -> Option<PathBuf> {
        let plain = file.ends_with(".snapshot")
            && file.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        (plain && !file.contains("..")).then(|| self.folder.join(file))
    }

    /// The newest one that this node wrote or began with.
    pub fn newest(&self) -> Option<SnapshotName> {
        self.known.lock().newest.clone()
    }

    /// The one that a check found damaged, until it was replaced.
    pub fn damaged(&self) -> Option<SnapshotName> {
        self.known.lock().damaged.clone()
    }

    /// A check found this one damaged.
    pub fn note_damaged(&self, name: &SnapshotName) {
        self.known.lock().damaged = Some(name.clone());
    }

    /// It was replaced.
    pub fn forget_damaged(&self) {
        self.known.lock().damaged = None;
    }

    /// Takes a name for the newest.
    pub fn note(&self, name: &SnapshotName) {
        self.known.lock().newest = Some(name.clone());
    }

    /// Writes a cut durably, fed with its tasks by `next`; nobody waits for it.
    pub fn write(
        &self,
        cut: &Cut,
        mut next: impl FnMut() -> Option<CutTasks>,
    ) -> Result<SnapshotName, SnapshotError> {
        let abandoned = |why: String| SnapshotError::Abandoned { index: cut.index(), why };
        let (file, path) = self.free_name(cut.index(), cut.term());
        let error = |source| SnapshotError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(error)?;
        failpoint!("snapshot_before_write");
        let mut out = Hashing::new(File::create(path.with_extension("part")).map_err(error)?);
        let mut encoder = SnapshotEncoder::new(cut);
        let written = (|| {
            loop {
                let tasks = next().ok_or_else(|| abandoned("another cut was begun".into()))?;
                if tasks.is_empty() {
                    break;
                }
                encoder.add(&tasks);
                out.write_all(&encoder.take()).map_err(error)?;
            }
            out.write_all(&encoder.finish().map_err(|e| abandoned(e.to_string()))?).map_err(error)?;
            out.inner.sync_all().map_err(error)
        })();
        if let Err(error) = written {
            // What a failed attempt leaves must not fill the disk.
            let _ = std::fs::remove_file(path.with_extension("part"));
            return Err(error);
        }
        let (index, term) = (cut.index(), cut.term());
        let name = SnapshotName { file, index, term, bytes: out.bytes, hash: out.hash() };
        self.finish(&path.with_extension("part"), &path)?;
        self.note(&name);
        Ok(name)
    }

    /// A name that no file has: the log may name one of the same index, whose bytes must stay those
    /// that it names.
    fn free_name(&self, index: u64, term: u64) -> (String, PathBuf) {
        let mut file = format!("{index:020}-{term}.snapshot");
        for again in 1.. {
            let path = self.folder.join(&file);
            if !path.exists() {
                return (file, path);
            }
            file = format!("{index:020}-{term}-{again}.snapshot");
        }
        (file.clone(), self.folder.join(file))
    }

    /// Writes a machine that nobody else uses.
    pub fn write_machine(&self, machine: &mut Machine) -> Result<SnapshotName, SnapshotError> {
        const TASKS_AT_ONCE: usize = 4096;
        let cut = machine.begin_cut();
        let written = self.write(&cut, || machine.read_cut(&cut, TASKS_AT_ONCE));
        machine.end_cut(&cut);
        written
    }

    /// Gives a file that is whole and synced its name, durably.
    fn finish(&self, from: &Path, path: &Path) -> Result<(), SnapshotError> {
        let error = |source| SnapshotError::Io { path: path.to_owned(), source };
        failpoint!("snapshot_before_rename");
        std::fs::rename(from, path).map_err(error)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(error)?;
        failpoint!("snapshot_after_rename");
        Ok(())
    }

    /// Reads and verifies a snapshot.
    pub fn read(&self, name: &SnapshotName) -> Result<Machine, SnapshotError> {
        read_verified(&self.folder.join(&name.file), name)
    }

    /// Reads a snapshot's bytes again and compares them with its name.
    pub fn check(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        let path = self.folder.join(&name.file);
        let error = |source| SnapshotError::Io { path: path.clone(), source };
        let mut from = Hashing::new(File::open(&path).map_err(error)?);
        std::io::copy(&mut from, &mut std::io::sink()).map_err(error)?;
        from.must_be(name).map_err(|why| SnapshotError::Damaged { path: path.clone(), why })
    }

    /// A chunk for a peer: its bytes, and the file's length.
    pub fn chunk(&self, file: &str, from: u64) -> std::io::Result<(Vec<u8>, u64)> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let mut open = File::open(self.path(file).ok_or_else(missing)?)?;
        let length = open.metadata()?.len();
        self.known.lock().served.insert(file.to_owned(), Instant::now());
        open.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        open.take(CHUNK_BYTES).read_to_end(&mut bytes)?;
        Ok((bytes, length))
    }

    /// Index of the oldest snapshot that a peer is fetching: it needs what lies behind.
    pub fn fetched_index(&self) -> Option<u64> {
        let mut known = self.known.lock();
        known.served.retain(|_, at| at.elapsed() < SERVED_LATELY);
        known.served.keys().filter_map(|file| index_of(file)).min()
    }

    /// Fetches a snapshot from a peer, verifies it and keeps it durably. What came of it before
    /// is not fetched again.
    pub async fn fetch(
        &self,
        http: &PeerHttp,
        address: &str,
        name: &SnapshotName,
    ) -> Result<(), SnapshotError> {
        let failed =
            |why: String| SnapshotError::Fetch { file: name.file.clone(), address: address.into(), why };
        let Some(path) = self
            .path(&name.file)
            .filter(|_| name.bytes <= MAX_BYTES && name.hash.len() == 32 && is_hex(&name.hash))
        else {
            return Err(failed("its name or size is not acceptable".into()));
        };
        let part = path.with_extension(format!("{}.fetch", &name.hash[..16]));
        let (snapshots, begun) = (self.clone(), part.clone());
        let mut have = blocking(move || snapshots.begin_fetch(&begun)).await.map_err(failed)??;
        let mut failures = 0;
        while have < name.bytes {
            let route = format!("{}?from={have}", SNAPSHOT_PATH.replace("{file}", &name.file));
            match http.chunk(address, &route, CHUNK_BYTES).await {
                Ok(chunk) if !chunk.is_empty() && have + chunk.len() as u64 <= name.bytes => {
                    failures = 0;
                    have += chunk.len() as u64;
                    let part = part.clone();
                    let error = |source| SnapshotError::Io { path: part.clone(), source };
                    let to = part.clone();
                    blocking(move || append(&to, &chunk)).await.map_err(failed)?.map_err(error)?;
                }
                Ok(_) => return Err(failed("its length is not the one that was announced".into())),
                Err(why) if failures + 1 >= FETCH_ATTEMPTS => {
                    return Err(failed(format!("{why}; {have} bytes are kept to go on from")));
                }
                Err(why) => {
                    tracing::debug!(file = %name.file, have, why, "a chunk did not come; it is asked for again");
                    tokio::time::sleep(Duration::from_millis(50 << failures)).await;
                    failures += 1;
                }
            }
        }
        let (snapshots, name) = (self.clone(), name.clone());
        blocking(move || {
            let verified = read_verified(&part, &name).map(drop);
            if let Err(error) = verified {
                let _ = std::fs::remove_file(&part);
                return Err(error);
            }
            let synced = File::open(&part).and_then(|file| file.sync_all());
            synced.map_err(|source| SnapshotError::Io { path: part.clone(), source })?;
            snapshots.finish(&part, &path)
        })
        .await
        .map_err(failed)?
    }

    /// How many bytes of a transfer are there already, cut to whole chunks. Those of others go.
    fn begin_fetch(&self, part: &Path) -> Result<u64, SnapshotError> {
        let error = |source| SnapshotError::Io { path: part.to_owned(), source };
        std::fs::create_dir_all(&self.folder).map_err(error)?;
        for entry in std::fs::read_dir(&self.folder).map_err(error)?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "fetch") && path != part {
                let _ = std::fs::remove_file(path);
            }
        }
        let file = File::options().create(true).append(true).open(part).map_err(error)?;
        let length = file.metadata().map_err(error)?.len();
        let whole = length - length % CHUNK_BYTES;
        file.set_len(whole).map_err(error)?;
        Ok(whole)
    }

    /// Removes what the named snapshot supersedes, but what a peer is fetching.
    pub fn sweep(&self, named: u64) -> std::io::Result<()> {
        let fetched = self.fetched_index().unwrap_or(u64::MAX);
        let damaged = self.damaged().map(|name| name.file);
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if index_of(&name).is_some_and(|index| index < named.min(fetched))
                && damaged.as_ref() != Some(&name)
            {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes every file but the named one and what came of a transfer; they are superseded or
    /// were never named.
    pub fn keep_only(&self, file: Option<&str>) -> std::io::Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if Some(name.as_str()) != file && !name.ends_with(".fetch") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// A hash becomes a part of a file's name.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Index of a whole snapshot by its file's name.
fn index_of(file: &str) -> Option<u64> {
    file.strip_suffix(".snapshot")?.split('-').next()?.parse().ok()
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    File::options().append(true).open(path)?.write_all(bytes)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hasher: Xxh3,
    bytes: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Hashing { inner, hasher: Xxh3::new(), bytes: 0 }
    }

    fn hash(&self) -> String {
        format!("{:032x}", self.hasher.digest128())
    }

    fn must_be(&self, name: &SnapshotName) -> Result<(), String> {
        match self.bytes == name.bytes && self.hash() == name.hash {
            true => Ok(()),
            false => Err(format!("its {} bytes are not those that were named", self.bytes)),
        }
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn read_verified(path: &Path, name: &SnapshotName) -> Result<Machine, SnapshotError> {
    let damaged = |why: String| SnapshotError::Damaged { path: path.to_owned(), why };
    let file = File::open(path).map_err(|source| SnapshotError::Io { path: path.to_owned(), source })?;
    let mut from = BufReader::with_capacity(1 << 18, Hashing::new(file));
    let machine = Machine::read_snapshot(&mut from).map_err(|e| damaged(e.to_string()))?;
    from.into_inner().must_be(name).map_err(damaged)?;
    if machine.applied_index() != name.index {
        return Err(damaged(format!("holds index {}, not {}", machine.applied_index(), name.index)));
    }
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(snapshots: &Snapshots, machine: &mut Machine) -> SnapshotName {
        let cut = machine.begin_cut();
        snapshots.write(&cut, || machine.read_cut(&cut, 100)).unwrap()
    }

    fn at_index(index: u64) -> Machine {
        let mut machine = Machine::new();
        machine.finish_entry(index, 2, &[]);
        machine
    }

    #[test]
    fn what_was_written_is_read_and_a_flipped_bit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(folder.path());
        let mut machine = at_index(7);
        let name = written(&snapshots, &mut machine);
        assert_eq!(snapshots.read(&name).unwrap().checksum(), machine.checksum());
        snapshots.check(&name).unwrap();
        let path = snapshots.path(&name.file).unwrap();
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(snapshots.read(&name), Err(SnapshotError::Damaged { .. })), "byte {at}");
            assert!(snapshots.check(&name).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_superseded_file_goes_when_no_peer_fetches_it() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(folder.path());
        let names: Vec<_> = (7..10).map(|index| written(&snapshots, &mut at_index(index))).collect();
        assert_eq!(snapshots.newest().as_ref(), names.last());
        snapshots.chunk(&names[1].file, 0).unwrap();
        assert_eq!(snapshots.fetched_index(), Some(8));
        snapshots.sweep(9).unwrap();
        let there = |name: &SnapshotName| snapshots.path(&name.file).unwrap().exists();
        assert_eq!(names.iter().map(there).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn a_transfer_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(folder.path());
        std::fs::create_dir_all(&snapshots.folder).unwrap();
        let part = snapshots.folder.join("7-2.00.fetch");
        std::fs::write(&part, vec![1; CHUNK_BYTES as usize + 5]).unwrap();
        std::fs::write(snapshots.folder.join("6-2.11.fetch"), b"of another").unwrap();
        assert_eq!(snapshots.begin_fetch(&part).unwrap(), CHUNK_BYTES);
        assert_eq!(std::fs::read_dir(&snapshots.folder).unwrap().count(), 1);
        snapshots.keep_only(None).unwrap();
        assert!(part.exists());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let snapshots = Snapshots::new(Path::new("/data"));
        for name in ["../identity.json", "a/b.snapshot", "..snapshot", "identity.json", ""] {
            assert_eq!(snapshots.path(name), None, "{name}");
        }
        assert!(snapshots.path("00000000000000000007-2.snapshot").is_some());
    }
}
