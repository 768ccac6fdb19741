//! Making an archive, sending it, and reading one back with every hash checked.

use super::{BACKUP_VERSION, BackupError, FORMAT, MACHINE, MANIFEST, Manifest, ManifestFile, io};
use crate::machine::Machine;
use crate::node::Node;
use crate::quarantine::hash_of;
use crate::raft::snapshots::Snapshots;
use crate::store::Store;
use bytes::Bytes;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Tasks copied out of the machine under one lock.
const TASKS_AT_ONCE: usize = 256;
/// How long the database may take to reach the index of the machine.
const STORE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes that travel at once.
const PIECE_BYTES: usize = 256 * 1024;
/// The largest manifest: it names the slices of a history.
const MANIFEST_BYTES: u64 = 64 << 20;

/// A folder in which an archive is put together; it goes when this is dropped.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    manifest: Manifest,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Stage {
    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Puts an archive of this node's present state together below `scratch`.
    pub fn make(
        node: &Node,
        store: &Store,
        scratch: &Path,
        stop: &CancellationToken,
    ) -> Result<Stage, BackupError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = scratch.join(format!("backup-{}-{number}", std::process::id()));
        std::fs::create_dir_all(folder.join("history")).map_err(io(&folder))?;
        let mut stage = Stage {
            manifest: Manifest {
                format: FORMAT.into(),
                version: BACKUP_VERSION,
                program: api::VERSION.into(),
                created_at: jiff::Timestamp::now(),
                index: 0,
                term: 0,
                checksum: String::new(),
                schema_version: Store::tables().1,
                files: Vec::new(),
            },
            folder,
        };
        stage.machine(node)?;
        let store_failed = |e: crate::store::StoreError| BackupError::NotNow(e.to_string());
        store.wait_for(stage.manifest.index, STORE_LIMIT).map_err(store_failed)?;
        for table in Store::tables().0 {
            let (mut after, mut number) = (0, 0);
            loop {
                if stop.is_cancelled() {
                    return Err(BackupError::NotNow("it was cancelled".into()));
                }
                let name = format!("history/{table}-{number:06}.parquet");
                let path = stage.folder.join(&name);
                let slice =
                    store.export_slice(table, after, stage.manifest.index, &path).map_err(store_failed)?;
                stage.add(&name)?;
                if !slice.more || slice.upto <= after {
                    break;
                }
                (after, number) = (slice.upto, number + 1);
            }
        }
        let path = stage.folder.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&stage.manifest).unwrap_or_default();
        std::fs::write(&path, text).map_err(io(&path))?;
        Ok(stage)
    }

    fn machine(&mut self, node: &Node) -> Result<(), BackupError> {
        let cut = node.with_machine_mut(Machine::begin_cut).without_members();
        let files = Snapshots::new(&self.folder);
        let next = || node.with_machine_mut(|machine| machine.read_cut(&cut, TASKS_AT_ONCE));
        let written = files.write(&cut, next);
        node.with_machine_mut(|machine| machine.end_cut(&cut));
        let name = written.map_err(|e| BackupError::NotNow(format!("{e}; ask again")))?;
        let from = files.path(&name.file).unwrap_or_default();
        let to = self.folder.join(MACHINE);
        std::fs::rename(&from, &to).map_err(io(&from))?;
        std::fs::remove_dir_all(self.folder.join("snapshots")).map_err(io(&self.folder))?;
        (self.manifest.index, self.manifest.term) = (cut.index(), cut.term());
        self.manifest.checksum = format!("{:032x}", cut.checksum());
        self.add(MACHINE)
    }

    fn add(&mut self, name: &str) -> Result<(), BackupError> {
        let path = self.folder.join(name);
        let (bytes, hash) = hash_of(&path).map_err(io(&path))?;
        self.manifest.files.push(ManifestFile { name: name.into(), bytes, xxh3_128: format!("{hash:032x}") });
        Ok(())
    }

    /// Writes it as a tar: the manifest first, then what it names.
    pub fn write(&self, out: impl Write) -> std::io::Result<()> {
        let mut tar = tar::Builder::new(out);
        tar.mode(tar::HeaderMode::Deterministic);
        tar.append_path_with_name(self.folder.join(MANIFEST), MANIFEST)?;
        for file in &self.manifest.files {
            tar.append_path_with_name(self.folder.join(&file.name), &file.name)?;
        }
        tar.into_inner()?.flush()
    }
}

/// Sends an archive piece by piece; a receiver that goes away ends it. `ended` is told whether all
/// of it was taken.
pub fn stream(
    stage: Stage,
    ended: impl FnOnce(bool) + Send + 'static,
) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let failed = sender.clone();
        let pieces = std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender));
        let written = stage.write(pieces);
        ended(written.is_ok());
        if let Err(error) = written {
            // A body that breaks off is seen as such by whoever reads it.
            let _ = failed.blocking_send(Err(error));
        }
    });
    receiver
}

struct Pieces(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let piece = Bytes::copy_from_slice(buffer);
        self.0.blocking_send(Ok(piece)).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An archive, unpacked and verified; the folder goes when this is dropped.
#[derive(Debug)]
pub struct Verified {
    /// Where it was unpacked.
    pub(crate) folder: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    /// Hash of the manifest: of everything.
    pub(crate) hash: u128,
    /// How many tasks its machine holds.
    pub tasks: u64,
}

impl Drop for Verified {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Verified {
    /// The machine in it.
    pub(crate) fn machine(&self) -> Result<Machine, BackupError> {
        let path = self.folder.join(MACHINE);
        let file = File::open(&path).map_err(io(&path))?;
        Machine::read_snapshot(std::io::BufReader::new(file)).map_err(BackupError::Machine)
    }

    /// The files of the history: table and path.
    pub(crate) fn history(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.manifest.files.iter().filter_map(|file| {
            let table = file.name.strip_prefix("history/")?.rsplit_once('-')?.0;
            Some((table, self.folder.join(&file.name)))
        })
    }
}

/// Unpacks an archive into a new folder below `scratch` and compares every file with the
/// manifest, and the machine with its own checksum.
pub fn verify(archive: &Path, scratch: &Path) -> Result<Verified, BackupError> {
    let damaged = |why: String| BackupError::Damaged(format!("{}: {why}", archive.display()));
    let folder = scratch.join(format!("unpacked-{}", std::process::id()));
    let mut tar = tar::Archive::new(std::io::BufReader::new(File::open(archive).map_err(io(archive))?));
    let mut entries = tar.entries().map_err(|e| damaged(e.to_string()))?;
    let first = entries.next().ok_or_else(|| damaged("it is empty".into()))?;
    let mut first = first.map_err(|e| damaged(e.to_string()))?;
    if first.path().map_or(true, |path| path != Path::new(MANIFEST)) || first.size() > MANIFEST_BYTES {
        return Err(damaged("it does not begin with its manifest".into()));
    }
    let mut text = Vec::new();
    first.read_to_end(&mut text).map_err(|e| damaged(e.to_string()))?;
    let manifest = parse(&text).map_err(|e| match e {
        BackupError::Damaged(why) => damaged(why),
        other => other,
    })?;
    std::fs::create_dir_all(folder.join("history")).map_err(io(&folder))?;
    let mut verified = Verified { folder, manifest, hash: xxhash_rust::xxh3::xxh3_128(&text), tasks: 0 };
    let mut named = verified.manifest.files.iter();
    for entry in entries {
        let mut entry = entry.map_err(|e| damaged(e.to_string()))?;
        let name = entry.path().map_err(|e| damaged(e.to_string()))?.display().to_string();
        let file = named.next().filter(|file| file.name == name);
        let file = file.ok_or_else(|| damaged(format!("`{name}` is not what the manifest names next")))?;
        let path = verified.folder.join(&file.name);
        let mut out = File::create(&path).map_err(io(&path))?;
        std::io::copy(&mut entry, &mut out).map_err(|e| damaged(format!("`{name}`: {e}")))?;
        let (bytes, hash) = hash_of(&path).map_err(io(&path))?;
        if bytes != file.bytes || format!("{hash:032x}") != file.xxh3_128 {
            return Err(damaged(format!("`{name}` is not what the manifest says")));
        }
    }
    if let Some(missing) = named.next() {
        return Err(damaged(format!("`{}` is missing: it is cut short", missing.name)));
    }
    let machine = verified.machine()?;
    let sums = machine.state_checksum();
    if (sums.applied_index, &sums.checksum) != (verified.manifest.index, &verified.manifest.checksum) {
        return Err(damaged("its machine is not the one the manifest names".into()));
    }
    verified.tasks = machine.task_counts().values().sum();
    Ok(verified)
}

fn parse(text: &[u8]) -> Result<Manifest, BackupError> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let unread = |e: serde_json::Error| BackupError::Damaged(format!("the manifest can't be read: {e}"));
    let head: Head = serde_json::from_slice(text).map_err(unread)?;
    if head.format != FORMAT {
        return Err(BackupError::Damaged(format!("its format is `{}`", head.format)));
    }
    let (tables, schema) = Store::tables();
    let of_ours = |part, found, known| match found == known {
        true => Ok(()),
        false => Err(BackupError::Version { part, found, known }),
    };
    of_ours("the backup", head.version, BACKUP_VERSION)?;
    let manifest: Manifest = serde_json::from_slice(text).map_err(unread)?;
    of_ours("the backup's history", manifest.schema_version, schema)?;
    for file in &manifest.files {
        let table = file.name.strip_prefix("history/").and_then(|rest| rest.rsplit_once('-'));
        let known = file.name == MACHINE
            || table.is_some_and(|(table, rest)| tables.contains(&table) && rest.ends_with(".parquet"));
        let plain = Path::new(&file.name).components().all(|part| matches!(part, Component::Normal(_)));
        if !known || !plain {
            return Err(BackupError::Damaged(format!(
                "the manifest names `{}`, which has no place in a backup",
                file.name
            )));
        }
    }
    if !manifest.files.iter().any(|file| file.name == MACHINE) {
        return Err(BackupError::Damaged(format!("the manifest names no {MACHINE}")));
    }
    Ok(manifest)
}
