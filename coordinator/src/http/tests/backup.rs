//! A backup of a live node, its damages, and its way back.

use super::*;
use crate::backup::{BACKUP_VERSION, BackupError, RestoreOptions, restore, verify};
use std::path::{Path, PathBuf};

async fn bytes_of(live: &Live, path: &str) -> Vec<u8> {
    let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
    let response = live.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

/// A node with a pending, a running and a finished task, and a held lease.
async fn busy() -> Live {
    let live = Live::leading().await;
    live.register("w", 2).await;
    busied(live).await
}

async fn busied(live: Live) -> Live {
    for id in ["done", "runs"] {
        live.noop(id).await;
    }
    let leased = live.lease("w", 2, 2000, &[]).await.body;
    let tasks = leased["tasks"].as_array().unwrap().clone();
    let done = tasks.iter().find(|task| task["task_id"] == "done").unwrap();
    let report = json!({"worker_id": "w", "token": done["token"], "status": "completed", "result": {"n": 1},
        "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"});
    assert_eq!(live.post("/api/tasks/done/result", report).await.status, 200);
    live.noop("waits").await;
    live.post("/api/leases/lock", json!({"holder": "h", "ttl_ms": 600_000})).await;
    live
}

fn config_of(data_dir: &Path) -> Config {
    serde_json::from_value(json!({
        "node_id": "n1", "host": "127.0.0.1", "port": 8080, "data_dir": data_dir, "enable_redundancy": false,
    }))
    .unwrap()
}

fn options(archive: &Path, data_dir: &Path) -> RestoreOptions {
    RestoreOptions {
        archive: archive.to_owned(),
        configs: vec![config_of(data_dir)],
        restore_id: None,
        quarantine_existing: false,
    }
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("backup.tar");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_becomes_another_cluster_with_the_same_tasks() {
    let live = busy().await;
    let old_cluster = live.app.node.cluster_id().unwrap();
    let old_token = live.get("/api/tasks/runs").await.body["token"].as_u64().unwrap();
    let archive = bytes_of(&live, "/api/backup").await;
    let text = String::from_utf8_lossy(&archive);
    let incarnation = live.app.node.identity_card().incarnation;
    assert!(!text.contains(&old_cluster) && !text.contains(&incarnation), "an identity is in the archive");
    live.end().await;

    let folder = tempfile::tempdir().unwrap();
    let archive = written(folder.path(), &archive);
    let target = tempfile::tempdir().unwrap();
    let restored = tokio::task::spawn_blocking({
        let options = options(&archive, target.path());
        move || restore(&options).unwrap()
    });
    let restored = restored.await.unwrap();
    assert_eq!((restored.tasks, restored.written.as_slice()), (3, ["n1".to_owned()].as_slice()));
    assert_ne!(restored.cluster_id, old_cluster);

    let again = Live::in_folder(target).started().await;
    assert_eq!(again.app.node.cluster_id(), Some(restored.cluster_id));
    assert_eq!(
        (again.state("done").await.as_str(), again.state("waits").await.as_str()),
        ("completed", "pending")
    );
    let runs = again.get("/api/tasks/runs").await.body;
    assert_eq!(runs["state"], "pending", "its lease is released: {runs}");
    assert_eq!(again.get("/api/results").await.body["tasks"][0]["task_id"], "done");
    assert_eq!(again.get("/api/workers").await.body["workers"], json!([]));
    let lease = again.post("/api/leases/lock", json!({"holder": "other", "ttl_ms": 1000})).await;
    assert_eq!(lease.status, 200, "{}", lease.body);
    assert!(lease.body["epoch"].as_u64().unwrap() > old_token + (1 << 39), "{}", lease.body);
    {
        let machine = again.app.node.machine();
        assert_eq!(machine.checksum(), machine.recompute_checksum());
    }
    // An old worker's result is nobody's.
    let late = json!({"worker_id": "w", "token": old_token, "status": "completed", "result": 1,
        "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"});
    assert_eq!(again.post("/api/tasks/runs/result", late).await.status, 409);
    let verified = again.act("/api/admin/verify").await.body;
    assert_eq!(verified["sound"], true, "{verified}");
    again.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_touches_nothing() {
    let live = busy().await;
    let sound = bytes_of(&live, "/api/backup").await;
    live.end().await;
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    let target = folder.path().join("target");
    let refused = |bytes: &[u8]| {
        let archive = written(folder.path(), bytes);
        let why = restore(&options(&archive, &target)).unwrap_err();
        assert!(!target.exists(), "something was written in spite of: {why}");
        why
    };
    for at in (600..sound.len()).step_by(sound.len() / 40) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x20;
        let archive = written(folder.path(), &bytes);
        // Padding between files holds nothing.
        if verify(&archive, &scratch).is_err() {
            refused(&bytes);
        } else {
            assert_eq!(sound[at], 0, "byte {at} was overlooked");
        }
    }
    for end in [0, 100, 512, sound.len() / 2] {
        refused(&sound[..end]);
    }
    let find = |needle: &str| sound.windows(needle.len()).position(|w| w == needle.as_bytes()).unwrap();
    let mut newer = sound.clone();
    newer[find("\"version\": 1") + 11] = b'2';
    assert!(matches!(refused(&newer), BackupError::Version { found: 2, .. }));
    assert!(matches!(refused(b"no tar at all"), BackupError::Damaged(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_directory_is_refused_or_quarantined_by_flag() {
    let live = busy().await;
    let archive = bytes_of(&live, "/api/backup").await;
    let folder = tempfile::tempdir().unwrap();
    let archive = written(folder.path(), &archive);
    let running = options(&archive, &live.app.config.data_dir);
    let why = restore(&RestoreOptions { quarantine_existing: true, ..running }).unwrap_err().to_string();
    assert!(why.contains("in use by process"), "{why}");
    live.end().await;

    let target = tempfile::tempdir().unwrap();
    std::fs::write(target.path().join("precious"), b"data").unwrap();
    let plain = options(&archive, target.path());
    let why = restore(&plain).unwrap_err().to_string();
    assert!(why.contains("--quarantine-existing"), "{why}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 1);
    let restored = restore(&RestoreOptions { quarantine_existing: true, ..plain }).unwrap();
    assert_eq!(std::fs::read(restored.quarantined[0].join("precious")).unwrap(), b"data");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_restore_for_themselves_come_to_one_cluster() {
    let live = busy().await;
    let archive = bytes_of(&live, "/api/backup").await;
    live.end().await;
    let folder = tempfile::tempdir().unwrap();
    let archive = written(folder.path(), &archive);
    let config = |own: usize| -> Config {
        let peers: Vec<_> = (1..4).map(|n| json!({"id": format!("n{n}"), "host": format!("h{n}")})).collect();
        serde_json::from_value(json!({
            "node_id": format!("n{own}"), "host": format!("h{own}"), "data_dir": folder.path().join(own.to_string()), "peers": peers,
        }))
        .unwrap()
    };
    let on = |own: usize, restore_id: Option<String>| {
        let plain = options(&archive, folder.path());
        restore(&RestoreOptions { configs: vec![config(own)], restore_id, ..plain }).unwrap()
    };
    let first = on(1, None);
    let second = on(2, Some(first.restore_id.clone()));
    assert_eq!(first.cluster_id, second.cluster_id);
    assert_eq!(first.voters, ["n1", "n2", "n3"]);
    let founding = |own: usize| {
        let identity = Identity::open(&folder.path().join(own.to_string()), &format!("n{own}")).unwrap();
        (identity.founding().cloned().unwrap(), identity.incarnation().to_owned())
    };
    assert_eq!(founding(1).0, founding(2).0);
    assert_ne!(founding(1).1, founding(2).1);
    assert_ne!(on(3, None).cluster_id, first.cluster_id, "another restore is another cluster");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_given_as_a_parquet_file() {
    let live = busy().await;
    let bytes = bytes_of(&live, "/api/results?format=parquet&status=completed").await;
    assert_eq!(&bytes[..4], b"PAR1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.parquet");
    std::fs::write(&path, bytes).unwrap();
    let connection = duckdb::Connection::open_in_memory().unwrap();
    let sql = format!("SELECT task_id, result FROM '{}'", path.display());
    let row = connection.query_row(&sql, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    assert_eq!(row.unwrap(), ("done".to_owned(), r#"{"n":1}"#.to_owned()));
    assert_eq!(live.get("/api/results?format=parquet&limit=5").await.status, 422);
    assert_eq!(live.get("/api/results?format=csv").await.status, 422);
    live.end().await;
}

/// A node one of whose tasks has left memory; only its history knows of it.
async fn long_busy() -> Live {
    let live = Live::leading().await;
    live.register("w", 2).await;
    live.noop("gone").await;
    let leased = live.lease("w", 1, 2000, &[]).await;
    let token = tokens(&leased)[0];
    assert_eq!(live.post("/api/tasks/gone/result", report(token, "w")).await.status, 200);
    assert_eq!(live.post("/api/settings", json!({"finished_retention_ms": 1000})).await.status, 200);
    until("the task to leave memory", || async { live.app.node.machine().task("gone").is_none() }).await;
    assert_eq!(live.post("/api/settings", json!({"finished_retention_ms": 86_400_000})).await.status, 200);
    busied(live).await
}

/// Everything that a restored node tells of its tasks, its history and its settings.
async fn told(live: &Live) -> Value {
    let mut tasks = Vec::new();
    for id in ["gone", "done", "runs", "waits"] {
        tasks.push(live.get(&format!("/api/tasks/{id}")).await.body);
    }
    let lease = live.post("/api/leases/lock", json!({"holder": "another", "ttl_ms": 1000})).await.body;
    json!({
        "cluster_id": live.app.node.cluster_id(),
        "tasks": tasks,
        "list": live.get("/api/tasks").await.body,
        "results": live.get("/api/results").await.body,
        "workers": live.get("/api/workers").await.body,
        "settings": live.get("/api/settings").await.body["settings"],
        "epoch": lease["epoch"],
    })
}

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// The archive as this version writes it: a later one must restore it like that, or refuse it by name.
/// A new version's files are written by a run with `HOLDFAST_REWRITE_GOLDEN` in the environment; the
/// old ones stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_this_version_is_restored_as_ever() {
    let archive = kept(&format!("backup-{BACKUP_VERSION}.tar"));
    let rewrite = std::env::var_os("HOLDFAST_REWRITE_GOLDEN").is_some();
    if rewrite {
        let live = long_busy().await;
        std::fs::write(&archive, bytes_of(&live, "/api/backup").await).unwrap();
        live.end().await;
    }
    let target = tempfile::tempdir().unwrap();
    let options = RestoreOptions { restore_id: Some("golden".into()), ..options(&archive, target.path()) };
    let restored = tokio::task::spawn_blocking(move || restore(&options).unwrap()).await.unwrap();
    assert_eq!((restored.tasks, restored.voters.as_slice()), (3, ["n1".to_owned()].as_slice()));
    let live = Live::in_folder(target).started().await;
    let found = serde_json::to_string_pretty(&told(&live).await).unwrap() + "\n";
    let verified = live.act("/api/admin/verify").await.body;
    assert_eq!(verified["sound"], true, "{verified}");
    live.end().await;
    let expected = kept(&format!("backup-{BACKUP_VERSION}.json"));
    if rewrite {
        std::fs::write(&expected, &found).unwrap();
    }
    let expected = std::fs::read_to_string(expected).unwrap();
    assert_eq!(found, expected, "{} is restored to something else than ever", archive.display());
}

/// The kept archive with a part changed and its hash made to fit.
fn altered(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut tar = tar::Archive::new(std::fs::File::open(kept("backup-1.tar")).unwrap());
    let mut files: Vec<(String, Vec<u8>)> = tar
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let (name, mut bytes) = (entry.path().unwrap().display().to_string(), Vec::new());
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (name, bytes)
        })
        .collect();
    let (_, bytes) = files.iter_mut().find(|(file, _)| file == name).unwrap();
    change(bytes);
    let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes));
    let mut manifest: Value = serde_json::from_slice(&files[0].1).unwrap();
    for file in manifest["files"].as_array_mut().unwrap().iter_mut().filter(|file| file["name"] == name) {
        file["xxh3_128"] = json!(hash);
    }
    files[0].1 = serde_json::to_vec(&manifest).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn a_backup_of_another_version_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let refused = |bytes: Vec<u8>| {
        let why = restore(&options(&written(folder.path(), &bytes), &target)).unwrap_err().to_string();
        assert!(!target.exists() && !why.contains("damaged"), "{why}");
        why
    };
    let manifest = |key: &str, version: u32| {
        altered("manifest.json", |text| {
            let mut manifest: Value = serde_json::from_slice(text).unwrap();
            manifest[key] = json!(version);
            *text = serde_json::to_vec(&manifest).unwrap();
        })
    };
    for version in [0, BACKUP_VERSION + 1] {
        let why = refused(manifest("version", version));
        assert!(why.contains(&format!("the backup has version {version}, this program reads")), "{why}");
        let why = refused(manifest("schema_version", version));
        assert!(why.contains(&format!("history has version {version}, this program reads")), "{why}");
    }
    for version in [1, crate::machine::SNAPSHOT_VERSION as u8 + 1] {
        let why = refused(altered("machine.snapshot", |bytes| bytes[8] = version));
        assert!(why.contains(&format!("the snapshot has version {version}, this program reads")), "{why}");
    }
}
