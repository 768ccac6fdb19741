//! Quarantine: what is damaged or replaced is renamed into a folder of its own, with a manifest,
//! and stays there until it is old and there is too much of it.
//!
//! Invariant: nothing goes into quarantine by a copy that could break off half-way; a rename on
//! the same file system either happened or did not. The newest folder never leaves by itself.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// The folder beside what lies on another file system than the rest.
const BESIDE: &str = "quarantine";
/// Folders that stay, the newest.
const KEEP_FOLDERS: usize = 10;
/// Bytes that stay, beside the newest folder.
const KEEP_BYTES: u64 = 4 << 30;

/// A file in quarantine, as its manifest tells of it.
#[derive(Debug, Serialize)]
pub struct ManifestFile {
    name: String,
    from: String,
    bytes: u64,
    xxh3_128: String,
}

#[derive(Serialize)]
struct Manifest<'a> {
    quarantined_at: jiff::Timestamp,
    why: &'a str,
    files: &'a [ManifestFile],
}

/// Renames files and folders into a new folder below `root`; those that are not there are left
/// out, and those on another file system go into a `quarantine` folder beside them. Gives the first
/// new folder; none where there was nothing to move.
pub fn quarantine(
    paths: &[PathBuf],
    root: &Path,
    label: &str,
    why: &str,
) -> std::io::Result<Option<PathBuf>> {
    quarantine_by(&|from, to| std::fs::rename(from, to), paths, root, label, why)
}

type Rename<'a> = &'a dyn Fn(&Path, &Path) -> std::io::Result<()>;

fn quarantine_by(
    rename: Rename<'_>,
    paths: &[PathBuf],
    root: &Path,
    label: &str,
    why: &str,
) -> std::io::Result<Option<PathBuf>> {
    let there: Vec<&PathBuf> = paths.iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    if there.is_empty() {
        return Ok(None);
    }
    let folder = new_folder(root, label)?;
    let (mut files, mut moved_here) = (Vec::new(), false);
    let mut elsewhere = BTreeMap::<PathBuf, Vec<PathBuf>>::new();
    for from in there {
        let name = from.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let to = folder.join(&name);
        let parent = from.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match rename(from, &to) {
            Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices && root != parent.join(BESIDE) => {
                elsewhere.entry(parent.join(BESIDE)).or_default().push(from.clone());
                continue;
            }
            moved => moved?,
        }
        moved_here = true;
        describe(&to, &name, &from.display().to_string(), &mut files)?;
        File::open(parent)?.sync_all()?;
    }
    let mut first = None;
    if !moved_here {
        std::fs::remove_dir(&folder)?;
    } else {
        let manifest = Manifest { quarantined_at: jiff::Timestamp::now(), why, files: &files };
        let place = folder.join("manifest.json");
        std::fs::write(&place, serde_json::to_vec_pretty(&manifest)?)?;
        File::open(&place)?.sync_all()?;
        File::open(&folder)?.sync_all()?;
        File::open(root)?.sync_all()?;
        first = Some(folder);
    }
    for (root, paths) in elsewhere {
        let moved = quarantine_by(rename, &paths, &root, label, why)?;
        first = first.or(moved);
    }
    Ok(first)
}

/// As [`quarantine`], for the log's folders; an error names the path.
pub fn folders(
    folders: &[PathBuf],
    root: &Path,
    why: &str,
) -> Result<Option<PathBuf>, (PathBuf, std::io::Error)> {
    quarantine(folders, root, "raft", why).map_err(|e| (root.to_owned(), e))
}

fn new_folder(root: &Path, label: &str) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(root)?;
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    let mut count = 0;
    loop {
        let suffix = if count == 0 { String::new() } else { format!("-{count}") };
        let folder = root.join(format!("{stamp}-{label}{suffix}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && count < 1000 => count += 1,
            Err(e) => return Err(e),
        }
    }
}

fn describe(path: &Path, name: &str, from: &str, files: &mut Vec<ManifestFile>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let below = entry.file_name().to_string_lossy().into_owned();
            describe(&entry.path(), &format!("{name}/{below}"), &format!("{from}/{below}"), files)?;
        }
        return Ok(());
    }
    let (bytes, hash) = hash_of(path)?;
    let xxh3_128 = format!("{hash:032x}");
    files.push(ManifestFile { name: name.to_owned(), from: from.to_owned(), bytes, xxh3_128 });
    Ok(())
}

/// Length and xxh3-128 of a file.
pub fn hash_of(path: &Path) -> std::io::Result<(u64, u128)> {
    let mut file = File::open(path)?;
    let mut hasher = Xxh3::new();
    let mut bytes = 0;
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok((bytes, hasher.digest128()));
        }
        bytes += count as u64;
        hasher.update(&chunk[..count]);
    }
}

/// Bytes of all files below a folder; what can't be read counts nothing.
pub fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |found| found.len()),
            _ => 0,
        })
        .sum()
}

/// Removes the oldest folders beyond what is kept. Gives how many went.
pub fn prune(root: &Path) -> std::io::Result<usize> {
    if !root.exists() {
        return Ok(0);
    }
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    // Their names begin with the time.
    folders.sort();
    folders.reverse();
    let (mut kept_bytes, mut gone) = (0, 0);
    for (place, folder) in folders.iter().enumerate().skip(1) {
        kept_bytes += bytes_in(folder);
        if place >= KEEP_FOLDERS || kept_bytes > KEEP_BYTES {
            std::fs::remove_dir_all(folder)?;
            gone += 1;
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_move_with_a_manifest() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("raft")).unwrap();
        std::fs::write(data.path().join("raft/1.log"), b"entries").unwrap();
        std::fs::write(data.path().join("identity.json"), b"{}").unwrap();
        let root = data.path().join("quarantine");
        let paths = ["raft", "identity.json", "not there"].map(|name| data.path().join(name));
        let folder = quarantine(&paths, &root, "log", "bits").unwrap().unwrap();
        assert!(!data.path().join("raft").exists());
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["why"], "bits");
        assert_eq!(manifest["files"][0]["name"], "raft/1.log");
        assert_eq!(manifest["files"][0]["bytes"], 7);
        let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(b"{}"));
        assert_eq!(manifest["files"][1]["xxh3_128"], hash);
        assert_eq!(quarantine(&paths, &root, "log", "bits").unwrap(), None);
    }

    #[test]
    fn what_lies_on_another_file_system_stays_on_it() {
        let (data, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (inside, outside) = (data.path().join("a.snapshot"), disk.path().join("b.duckdb"));
        std::fs::write(&inside, b"inside").unwrap();
        std::fs::write(&outside, b"outside").unwrap();
        let rename =
            |from: &Path, to: &Path| match from.starts_with(data.path()) == to.starts_with(data.path()) {
                true => std::fs::rename(from, to),
                false => Err(std::io::ErrorKind::CrossesDevices.into()),
            };
        let root = data.path().join("quarantine");
        let moved = |paths: &[PathBuf]| quarantine_by(&rename, paths, &root, "test", "why").unwrap();
        let folder = moved(&[outside.clone(), inside]).unwrap();
        assert_eq!(std::fs::read(folder.join("a.snapshot")).unwrap(), b"inside");
        let beside = |number: usize| {
            let mut all: Vec<_> =
                disk.path().join("quarantine").read_dir().unwrap().map(|e| e.unwrap().path()).collect();
            all.sort();
            assert_eq!(all.len(), number);
            all.pop().unwrap()
        };
        assert_eq!(std::fs::read(beside(1).join("b.duckdb")).unwrap(), b"outside");
        assert!(std::fs::read_to_string(beside(1).join("manifest.json")).unwrap().contains("b.duckdb"));
        // Alone, too; and no empty folder tells of nothing.
        std::fs::write(&outside, b"again").unwrap();
        assert_eq!(moved(&[outside]), Some(beside(2)));
        assert_eq!(root.read_dir().unwrap().count(), 1);
    }

    #[test]
    fn the_newest_never_leaves() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..KEEP_FOLDERS + 3 {
            std::fs::create_dir(root.path().join(format!("{number:04}"))).unwrap();
        }
        assert_eq!(prune(root.path()).unwrap(), 3);
        assert!(root.path().join(format!("{:04}", KEEP_FOLDERS + 2)).exists());
        assert!(!root.path().join("0000").exists());
        assert_eq!(prune(root.path()).unwrap(), 0);
    }
}
