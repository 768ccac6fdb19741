//! Moving a damaged file out of the way, with a manifest that says what it was and why it went.

use super::StoreError;
use super::schema::{owned_and_free, wal_path, wanted_path};
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Where a damaged file went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The folder that holds the files and the manifest.
    pub folder: PathBuf,
    /// Why.
    pub why: String,
}

/// The database and what belongs to it, for whoever puts it aside while no store is open; nothing where
/// the file is another program's or in use.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    match owned_and_free(path) {
        Ok(()) => vec![path.to_owned(), wal_path(path), wanted_path(path)],
        Err(_) => Vec::new(),
    }
}

#[derive(Serialize)]
struct Manifest {
    quarantined_at: jiff::Timestamp,
    why: String,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    name: String,
    from: String,
    bytes: u64,
    xxh3_128: String,
}

/// Renames the file and its write-ahead log into a new folder below `root`, or below a folder
/// beside the file where `root` lies on another file system.
pub(super) fn quarantine(path: &Path, root: Option<&Path>, why: &str) -> Result<Quarantined, StoreError> {
    let beside = path.parent().unwrap_or(Path::new(".")).join("quarantine");
    let root = root.map_or(beside.clone(), Path::to_owned);
    match move_into(path, &root, why) {
        Err(StoreError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::CrossesDevices && root != beside =>
        {
            move_into(path, &beside, why)
        }
        other => other,
    }
}

fn move_into(path: &Path, root: &Path, why: &str) -> Result<Quarantined, StoreError> {
    let folder = new_folder(path, root)?;
    let mut files = Vec::new();
    failpoint!("database_before_move");
    for from in [path.to_owned(), wal_path(path)] {
        if !from.exists() {
            continue;
        }
        let name = from.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let to = folder.join(&name);
        std::fs::rename(&from, &to).map_err(|e| StoreError::io("move into quarantine", &from, e))?;
        let (bytes, hash) = hash_of(&to)?;
        let from = from.display().to_string();
        files.push(File { name, from, bytes, xxh3_128: format!("{hash:032x}") });
    }
    failpoint!("database_before_manifest");
    let manifest = Manifest { quarantined_at: jiff::Timestamp::now(), why: why.to_owned(), files };
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    let place = folder.join("manifest.json");
    std::fs::write(&place, text).map_err(|e| StoreError::io("write", &place, e))?;
    sync(&place)?;
    sync(&folder)?;
    sync(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    failpoint!("database_after_manifest");
    Ok(Quarantined { folder, why: why.to_owned() })
}

fn new_folder(path: &Path, root: &Path) -> Result<PathBuf, StoreError> {
    std::fs::create_dir_all(root).map_err(|e| StoreError::io("make", root, e))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    for count in 0u32.. {
        let suffix = if count == 0 { String::new() } else { format!("-{count}") };
        let folder = root.join(format!("{stamp}-{name}{suffix}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && count < 1000 => {}
            Err(e) => return Err(StoreError::io("make", &folder, e)),
        }
    }
    Ok(root.to_owned())
}

fn hash_of(path: &Path) -> Result<(u64, u128), StoreError> {
    let read = |e| StoreError::io("read", path, e);
    let mut file = std::fs::File::open(path).map_err(read)?;
    let mut hasher = Xxh3::new();
    let mut bytes = 0;
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut chunk).map_err(read)?;
        if count == 0 {
            return Ok((bytes, hasher.digest128()));
        }
        bytes += count as u64;
        hasher.update(&chunk[..count]);
    }
}

fn sync(path: &Path) -> Result<(), StoreError> {
    let file = std::fs::File::open(path).and_then(|file| file.sync_all());
    file.map_err(|e| StoreError::io("sync", path, e))
}
