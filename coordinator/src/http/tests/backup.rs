//! A backup of a live node, its damages, and its way back.

use super::*;
use crate::backup::{BackupError, RestoreOptions, restore, verify};
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
    assert!(matches!(refused(&newer), BackupError::Version { found: 2 }));
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
