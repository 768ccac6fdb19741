//! Files that are damaged, somebody else's, too new or in use.

use crate::history::{LIMIT, mixed, open, options};
use coordinator::store::{Rebuild, ResultFilter, Store, StoreError, StoreOptions};
use std::path::{Path, PathBuf};

fn results(store: &Store) -> usize {
    store.results(&ResultFilter { limit: 100, ..ResultFilter::default() }).unwrap().tasks.len()
}

fn error_of(path: &Path) -> StoreError {
    match Store::open(path, options()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// A file with the mixed history in it, closed.
fn filled(folder: &Path) -> PathBuf {
    let path = folder.join("db.duckdb");
    let (store, _) = open(&path);
    mixed().feed(&store, 0);
    store.flush(LIMIT).unwrap();
    path
}

fn manifest_of(quarantine: &Path) -> (PathBuf, serde_json::Value) {
    let mut folders: Vec<_> = std::fs::read_dir(quarantine).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    let folder = folders.remove(0);
    let manifest = std::fs::read(folder.join("manifest.json")).unwrap();
    (folder, serde_json::from_slice(&manifest).unwrap())
}

#[test]
fn a_damaged_file_is_quarantined_and_rebuilt() {
    let history = mixed();
    // The magic, the first header block, everything.
    for (name, range) in [("magic", 8..12), ("headers", 0..12_288), ("all", 0..usize::MAX)] {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let end = range.end.min(bytes.len());
        bytes[range.start..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&path, &bytes).unwrap();

        let options = StoreOptions { quarantine: Some(folder.path().join("quarantine")), ..options() };
        let (store, index) = Store::open(&path, options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(index, 0, "{name}");
        let (moved, manifest) = manifest_of(&folder.path().join("quarantine"));
        assert_eq!(std::fs::read(moved.join("db.duckdb")).unwrap(), bytes, "{name}: kept as it was");
        assert_eq!(manifest["files"][0]["bytes"], bytes.len());
        let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes));
        assert_eq!(manifest["files"][0]["xxh3_128"], hash);
        assert!(manifest["why"].as_str().is_some_and(|why| !why.is_empty()));
        assert_eq!(store.health().quarantined, Some(moved.display().to_string()));

        store.rebuild(history.index(), history.machine.effects_for_rebuild(), Rebuild::Merge);
        store.wait_for(history.index(), LIMIT).unwrap();
        assert!(store.health().healthy);
        assert_eq!(results(&store), 4, "{name}");
    }
}

#[test]
fn a_truncated_file_is_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..5000]).unwrap();
    let (store, index) = open(&path);
    assert_eq!(index, 0);
    assert!(store.health().quarantined.is_some());
    manifest_of(&folder.path().join("quarantine"));
}

#[test]
fn a_deleted_or_emptied_file_is_begun_anew() {
    for emptied in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        match emptied {
            true => std::fs::write(&path, b"").unwrap(),
            false => std::fs::remove_file(&path).unwrap(),
        }
        let (store, index) = open(&path);
        assert_eq!(index, 0);
        assert!(store.health().healthy);
    }
}

#[test]
fn another_programs_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.db");
    let text = b"SQLite format 3\0 and then some more that is not ours at all".repeat(300);
    std::fs::write(&path, &text).unwrap();
    let error = error_of(&path);
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("theirs.db") && error.to_string().contains("db_path"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), text);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["theirs.db"], "nothing of ours is left beside it");
    // Also the way of a rebuild.
    let broken = Store::broken(&path, options(), &error);
    broken.rebuild(1, Vec::new(), Rebuild::Fresh { why: "asked to".into() });
    assert!(broken.wait_for(1, LIMIT).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), text);
}

#[test]
fn another_programs_duckdb_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.duckdb");
    for sql in [
        "CREATE TABLE cats (name VARCHAR)",
        "CREATE TABLE meta (application VARCHAR, schema_version INTEGER, applied_index INTEGER); INSERT INTO meta VALUES ('cats', 1, 1)",
    ] {
        let _ = std::fs::remove_file(&path);
        let connection = duckdb::Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        let error = error_of(&path);
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert!(path.exists());
    }
}

#[test]
fn another_schema_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path());
    let connection = duckdb::Connection::open(&path).unwrap();
    connection.execute_batch("UPDATE meta SET schema_version = 9").unwrap();
    drop(connection);
    let error = error_of(&path);
    assert!(matches!(error, StoreError::SchemaVersion { found: 9, known: 1, .. }), "{error}");
    assert!(!folder.path().join("quarantine").exists());
}

#[test]
fn a_file_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let (store, _) = open(&path);
    let error = error_of(&path);
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(store);
    open(&path);
}

#[test]
fn what_is_not_the_files_fault_is_not_held_against_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path());
    let settings = [("no_such_setting".to_owned(), serde_json::json!(1))].into();
    let Err(error) = Store::open(&path, StoreOptions { settings, ..options() }) else { panic!("opened") };
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    assert!(path.exists() && !folder.path().join("quarantine").exists());

    let error = error_of(folder.path());
    assert!(matches!(error, StoreError::Foreign { .. }), "a folder: {error}");
    let error = error_of(&path.join("below").join("a-file.duckdb"));
    assert!(matches!(error, StoreError::Io { .. }), "below a file: {error}");
}

#[test]
fn a_broken_store_drops_and_says_why_until_it_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path());
    let connection = duckdb::Connection::open(&path).unwrap();
    connection.execute_batch("UPDATE meta SET schema_version = 9").unwrap();
    drop(connection);
    let error = error_of(&path);
    let store = Store::broken(&path, options(), &error);
    let history = mixed();
    history.feed(&store, 0);
    let health = store.health();
    assert!(!health.healthy && health.needs_rebuild, "{health:?}");
    assert!(health.detail.contains("schema version 9"), "{}", health.detail);
    assert!(store.results(&ResultFilter::default()).unwrap_err().to_string().contains("schema version 9"));

    // Merging into a file of another version is refused; a fresh one takes its place.
    let effects = history.machine.effects_for_rebuild();
    store.rebuild(history.index(), effects.clone(), Rebuild::Merge);
    assert!(store.wait_for(history.index(), LIMIT).is_err());
    store.rebuild(history.index(), effects, Rebuild::Fresh { why: "another version".into() });
    store.wait_for(history.index(), LIMIT).unwrap();
    assert!(store.health().healthy, "{:?}", store.health());
    assert_eq!(results(&store), 4);
    let (_, manifest) = manifest_of(&folder.path().join("quarantine"));
    assert_eq!(manifest["why"], "another version");
}
