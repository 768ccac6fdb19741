//! Moving whole folders of a data directory out of the way, with a manifest of what they held.
//!
//! Nothing is deleted: a folder is renamed on its own file system, so that it is either here or
//! there, and the manifest says what it was and why it went.

use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

#[derive(Serialize)]
struct Manifest<'a> {
    quarantined_at: jiff::Timestamp,
    why: &'a str,
    files: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    bytes: u64,
    xxh3_128: String,
}

/// Renames the folders that exist into a new folder below `root`; gives that folder, or none
/// where there was nothing to move. An error names the path.
pub fn folders(folders: &[PathBuf], root: &Path, why: &str) -> Result<Option<PathBuf>, (PathBuf, io::Error)> {
    let present: Vec<&PathBuf> = folders.iter().filter(|f| f.exists()).collect();
    if present.is_empty() {
        return Ok(None);
    }
    let place = new_folder(root)?;
    for folder in present {
        let name = folder.file_name().unwrap_or_default();
        std::fs::rename(folder, place.join(name)).map_err(|e| (folder.clone(), e))?;
        if let Some(parent) = folder.parent() {
            sync(parent)?;
        }
    }
    let mut files = Vec::new();
    list(&place, &place, &mut files)?;
    let manifest = Manifest { quarantined_at: jiff::Timestamp::now(), why, files };
    let path = place.join("manifest.json");
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    std::fs::write(&path, text).map_err(|e| (path.clone(), e))?;
    sync(&path)?;
    sync(&place)?;
    sync(root)?;
    Ok(Some(place))
}

fn new_folder(root: &Path) -> Result<PathBuf, (PathBuf, io::Error)> {
    std::fs::create_dir_all(root).map_err(|e| (root.to_owned(), e))?;
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    for count in 0u32..1000 {
        let folder = root.join(format!("{stamp}-raft-{count}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err((folder, e)),
        }
    }
    Err((root.to_owned(), io::ErrorKind::AlreadyExists.into()))
}

fn list(root: &Path, folder: &Path, files: &mut Vec<Listed>) -> Result<(), (PathBuf, io::Error)> {
    let error = |e| (folder.to_owned(), e);
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            list(root, &path, files)?;
            continue;
        }
        let (bytes, hash) = hash_of(&path).map_err(|e| (path.clone(), e))?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        files.push(Listed { name, bytes, xxh3_128: format!("{hash:032x}") });
    }
    Ok(())
}

fn hash_of(path: &Path) -> io::Result<(u64, u128)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut bytes, mut chunk) = (Xxh3::new(), 0, vec![0; 1 << 20]);
    loop {
        let count = io::Read::read(&mut file, &mut chunk)?;
        if count == 0 {
            return Ok((bytes, hasher.digest128()));
        }
        bytes += count as u64;
        hasher.update(&chunk[..count]);
    }
}

fn sync(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(|e| (path.to_owned(), e))
}
