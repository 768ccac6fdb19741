//! Storage on real nodes: databases and snapshots that are damaged, a state that is replaced by
//! the majority's, backups that come back.

use api::Client;
use api::admin::Verified;
use api::client::Repeat;
use api::cluster::PartHealth;
use api::task::{Submitted, TaskPage, TaskRecord};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, judge, wait};

const LIMIT: Duration = Duration::from_secs(90);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

async fn write(client: &Client, id: &str) -> Submitted {
    let task = json!({"task_id": id, "type": "noop"});
    client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap()
}

async fn follower(cluster: &Cluster) -> usize {
    (cluster.leader(READY_LIMIT).await.unwrap() + 1) % cluster.len()
}

/// A client that talks to one node and no other.
fn node(cluster: &Cluster, index: usize) -> Client {
    Client::new([cluster.place(index).address()]).unwrap().with_deadline(LIMIT)
}

async fn admin(cluster: &Cluster, index: usize, action: &str) -> Value {
    let call = json!({"by_hand": true, "why": "a test"});
    node(cluster, index).post(&format!("/api/admin/{action}"), &call, Repeat::Idempotent).await.unwrap()
}

/// Runs noop tasks to their end, so that there is history.
async fn finish_tasks(cluster: &mut Cluster, count: usize) {
    let client = cluster.client().unwrap();
    for number in 0..count {
        write(&client, &format!("old-{number}")).await;
    }
    cluster.start_worker("", 8).await.unwrap();
    wait::until("the tasks to be done", LIMIT, || async {
        let page: TaskPage = client.get("/api/results?limit=1000").await.map_err(|e| e.to_string())?;
        if page.tasks.len() >= count { Ok(()) } else { Err(format!("{} results", page.tasks.len())) }
    })
    .await
    .unwrap();
}

async fn results_of(cluster: &Cluster, index: usize) -> Result<usize, String> {
    let url = cluster.place(index).url("/api/results?limit=1000&consistency=local");
    wait::get::<TaskPage>(&wait::http(), &url).await.map(|page| page.tasks.len())
}

async fn whole_database(cluster: &Cluster, index: usize, results: usize) {
    let url = cluster.place(index).url("/api/health/db");
    wait::until("a healthy database with all history", LIMIT, || async {
        let health: PartHealth = wait::get(&wait::http(), &url).await?;
        let wanted = health.details.get("history_wanted") == Some(&json!(true));
        match (health.healthy && !wanted, results_of(cluster, index).await?) {
            // What was written meanwhile is done and recorded too.
            (true, found) if found >= results => Ok(()),
            (healthy, found) => Err(format!("healthy {healthy}, history wanted {wanted}, {found} results")),
        }
    })
    .await
    .unwrap();
}

fn db_of(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.place(index).data_dir.join("coordinator.duckdb")
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let from = bytes.len().min(12_288);
    bytes[from..].iter_mut().step_by(101).for_each(|byte| *byte ^= 0x11);
    if from == bytes.len() {
        bytes.iter_mut().for_each(|byte| *byte ^= 0x11);
    }
    std::fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

fn delete(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

fn delete_wal(path: &Path) {
    let _ = std::fs::remove_file(format!("{}.wal", path.display()));
}

#[test]
fn a_database_damaged_while_running_is_found_and_rebuilt_with_its_history() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        finish_tasks(&mut cluster, 30).await;
        let victim = follower(&cluster).await;
        for (name, damage) in [("flipped", flip as fn(&Path)), ("cut", cut), ("deleted", delete)] {
            admin(&cluster, victim, "verify").await;
            damage(&db_of(&cluster, victim));
            let found: Verified = serde_json::from_value(admin(&cluster, victim, "verify").await).unwrap();
            let db = found.parts.iter().find(|part| part.part == "db").unwrap();
            assert!(!db.sound && db.detail.contains("rebuild_db"), "{name}: {found:?}");
            write(&cluster.client().unwrap(), name).await;
            let rebuilt = admin(&cluster, victim, "rebuild_db").await;
            assert!(rebuilt["tasks"].as_u64().unwrap() >= 30, "{name}: {rebuilt}");
            whole_database(&cluster, victim, 30).await;
            let again: Verified = serde_json::from_value(admin(&cluster, victim, "verify").await).unwrap();
            assert!(again.sound, "{name}: {again:?}");
        }
        let quarantine = cluster.place(victim).data_dir.join("quarantine");
        assert!(quarantine.read_dir().unwrap().count() >= 2, "what was damaged is kept");
        judge::await_all_equal(&cluster).await.unwrap();
    });
}

#[test]
fn a_database_damaged_while_stopped_comes_back_with_its_history() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        finish_tasks(&mut cluster, 30).await;
        let victim = follower(&cluster).await;
        for (name, damage) in
            [("flipped", flip as fn(&Path)), ("cut", cut), ("deleted", delete), ("WAL deleted", delete_wal)]
        {
            // The log before it is gone: what the database lost is not in the log any more.
            admin(&cluster, victim, "snapshot").await;
            cluster.kill9(victim);
            damage(&db_of(&cluster, victim));
            cluster.start_node(victim).unwrap();
            cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
            // Damage beyond what is read at the start is found by looking.
            let found: Verified = serde_json::from_value(admin(&cluster, victim, "verify").await).unwrap();
            if !found.sound {
                admin(&cluster, victim, "rebuild_db").await;
            }
            whole_database(&cluster, victim, 30).await;
            let again: Verified = serde_json::from_value(admin(&cluster, victim, "verify").await).unwrap();
            assert!(again.sound, "{name}: {again:?}");
        }
        judge::await_all_equal(&cluster).await.unwrap();
    });
}

/// Waits until the node has begun anew: same process, another start of it.
async fn begun_anew(cluster: &mut Cluster, index: usize, nonce: &str) {
    let address = cluster.place(index).id.clone();
    wait::until(&format!("{address} to begin anew"), LIMIT, || async {
        let status = cluster.status(index).await?;
        if status.boot_nonce == nonce { Err("the old one".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
}

#[test]
fn force_sync_replaces_the_state_and_keeps_identity_and_log() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        finish_tasks(&mut cluster, 20).await;
        let victim = follower(&cluster).await;
        let before = cluster.status(victim).await.unwrap();
        let started = admin(&cluster, victim, "force_sync").await;
        assert!(started["operation"].as_str().unwrap().starts_with("force_sync"), "{started}");
        begun_anew(&mut cluster, victim, &before.boot_nonce).await;
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        let after = cluster.status(victim).await.unwrap();
        assert_eq!((after.pid, &after.cluster_id), (before.pid, &before.cluster_id));
        assert!(after.snapshot_index > 0 && after.term >= before.term);
        whole_database(&cluster, victim, 20).await;
        write(&cluster.client().unwrap(), "after").await;
        judge::await_all_equal(&cluster).await.unwrap();
        let data_dir = cluster.place(victim).data_dir.clone();
        let moved = data_dir.join("quarantine").read_dir().unwrap().map(|e| e.unwrap().path());
        let manifest = moved.map(|folder| folder.join("manifest.json")).find(|path| path.exists()).unwrap();
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        assert!(manifest["why"].as_str().unwrap().contains("a test"), "{manifest}");

        // The flag is one request, however often the node is started with it.
        cluster.stop_node(victim).unwrap();
        cluster.start_node_with(victim, &["--force-sync"]).unwrap();
        let done = data_dir.join("force_sync").join("done.json");
        wait::until("the flag to be done", LIMIT, || async {
            let text = std::fs::read_to_string(&done).map_err(|e| e.to_string())?;
            if text.contains("\"flag\": true") { Ok(()) } else { Err(text) }
        })
        .await
        .unwrap();
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        let first = std::fs::read_to_string(&done).unwrap();
        cluster.stop_node(victim).unwrap();
        cluster.start_node_with(victim, &["--force-sync"]).unwrap();
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        assert_eq!(std::fs::read_to_string(&done).unwrap(), first, "it was not repeated");
        judge::await_all_equal(&cluster).await.unwrap();
    });
}

/// Flips a bit in the middle of each snapshot file.
fn damage_snapshots(data_dir: &Path) {
    let files = data_dir.join("snapshots").read_dir().unwrap().map(|e| e.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|e| e == "snapshot")) {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&file, bytes).unwrap();
    }
}

/// What the manifests in a node's quarantine give as reasons.
fn reasons(data_dir: &Path) -> Vec<String> {
    let folders = data_dir.join("quarantine").read_dir().into_iter().flatten().map(|e| e.unwrap().path());
    let manifests = folders.filter_map(|folder| std::fs::read(folder.join("manifest.json")).ok());
    manifests
        .map(|text| serde_json::from_slice::<Value>(&text).unwrap()["why"].as_str().unwrap().to_owned())
        .collect()
}

async fn named_snapshot(cluster: &Cluster, index: usize) {
    admin(cluster, index, "snapshot").await;
    wait::until("the log to name the snapshot", LIMIT, || async {
        match cluster.status(index).await?.snapshot_index {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
}

#[test]
fn a_node_whose_snapshot_was_damaged_while_stopped_comes_back_by_itself() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        finish_tasks(&mut cluster, 20).await;
        let victim = follower(&cluster).await;
        let data_dir = cluster.place(victim).data_dir.clone();

        // The log holds every entry: it brings the state back alone.
        named_snapshot(&cluster, victim).await;
        assert_eq!(cluster.status(victim).await.unwrap().first_log_index, 1);
        cluster.kill9(victim);
        damage_snapshots(&data_dir);
        cluster.start_node(victim).unwrap();
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        write(&client, "after the first").await;
        judge::await_all_equal(&cluster).await.unwrap();
        assert!(reasons(&data_dir).iter().any(|why| why.contains("snapshot")), "{:?}", reasons(&data_dir));

        // The log begins behind the snapshot: the state comes from the majority; identity and log stay.
        cluster.reconfigure_all(&json!({"snapshot_threshold": 10, "max_log_size": 20})).await.unwrap();
        for number in 0..60 {
            write(&client, &format!("more-{number}")).await;
        }
        wait::until("the log to begin behind a snapshot", LIMIT, || async {
            let status = cluster.status(victim).await?;
            if status.first_log_index > 20 { Ok(()) } else { Err(status.first_log_index.to_string()) }
        })
        .await
        .unwrap();
        let before = cluster.status(victim).await.unwrap();
        cluster.kill9(victim);
        damage_snapshots(&data_dir);
        let identity = |name: &str| -> Value {
            let text = std::fs::read(data_dir.join("identity.json")).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()[name].clone()
        };
        let incarnation = identity("incarnation");
        cluster.start_node(victim).unwrap();
        cluster.wait_ready(victim, LIMIT).await.unwrap();
        write(&client, "after the second").await;
        judge::await_all_equal(&cluster).await.unwrap();
        let after = cluster.status(victim).await.unwrap();
        assert!(after.term >= before.term && after.voters.len() == 3);
        assert_eq!(identity("incarnation"), incarnation, "it is the same voter");
        assert!(data_dir.join("force_sync/unasked.json").exists(), "it is noted, so that it has an end");
        whole_database(&cluster, victim, 20).await;
    });
}

#[test]
fn a_snapshot_damaged_while_running_is_replaced() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        finish_tasks(&mut cluster, 10).await;
        let victim = follower(&cluster).await;
        let data_dir = cluster.place(victim).data_dir.clone();
        named_snapshot(&cluster, victim).await;
        damage_snapshots(&data_dir);
        let found: Verified = serde_json::from_value(admin(&cluster, victim, "verify").await).unwrap();
        assert!(!found.sound, "{found:?}");
        wait::until("another snapshot in the damaged one's place", LIMIT, || async {
            match reasons(&data_dir).len() {
                0 => Err("nothing is in quarantine".to_owned()),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
        let again: Verified = serde_json::from_value(admin(&cluster, victim, "verify").await).unwrap();
        assert!(again.sound, "{again:?}");
        // It starts from the new one.
        cluster.kill9(victim);
        cluster.start_node(victim).unwrap();
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        judge::await_all_equal(&cluster).await.unwrap();
        assert!(!data_dir.join("force_sync/unasked.json").exists());
    });
}

/// A database that can't be opened at the start holds nothing up, and is made whole when it can be.
#[test]
fn a_database_that_was_held_by_another_is_made_whole_while_the_node_serves() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        finish_tasks(&mut cluster, 10).await;
        let victim = follower(&cluster).await;
        cluster.stop_node(victim).unwrap();
        let mark = std::fs::File::open(format!("{}.owner", db_of(&cluster, victim).display())).unwrap();
        mark.lock().unwrap();
        cluster.start_node(victim).unwrap();
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        let health: PartHealth =
            wait::get(&wait::http(), &cluster.place(victim).url("/api/health/db")).await.unwrap();
        assert!(!health.healthy && health.details["detail"].to_string().contains("in use"), "{health:?}");
        write(&cluster.client().unwrap(), "meanwhile").await;
        mark.unlock().unwrap();
        whole_database(&cluster, victim, 11).await;
        let metrics = format!("http://127.0.0.1:{}/metrics", cluster.place(victim).prometheus_port);
        let text = wait::http().get(metrics).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("holdfast_mends_total{outcome=\"mended\",part=\"db\"} 1"), "{text}");
        let found: Verified = serde_json::from_value(admin(&cluster, victim, "verify").await).unwrap();
        assert!(found.sound, "{found:?}");
    });
}

fn coordinator(arguments: &[&str]) -> Output {
    let program = Binaries::find().unwrap().path("coordinator").unwrap();
    Command::new(program).args(arguments).output().unwrap()
}

fn succeeded(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn restore_beside_the_old_cluster() {
    runtime().block_on(async {
        let mut old = Cluster::start(3).await.unwrap();
        finish_tasks(&mut old, 20).await;
        let client = old.client().unwrap();
        let lease = json!({"holder": "somebody", "ttl_ms": 3_600_000});
        let held: Value = client.post("/api/leases/lock", &lease, Repeat::Idempotent).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("backup.tar").display().to_string();
        let coordinators = old.addresses().join(",");
        succeeded(&coordinator(&["backup", "--coordinators", &coordinators, "--out", &archive]));
        write(&client, "after the backup").await;

        // A second cluster on ports of its own, stopped and emptied, takes the backup.
        let mut new = Cluster::start(3).await.unwrap();
        let configs: Vec<String> = (0..3).map(|i| new.place(i).config.display().to_string()).collect();
        let mut arguments = vec!["restore", "--backup", &archive, "--config"];
        arguments.extend(configs.iter().map(String::as_str));
        let refused = coordinator(&arguments);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("in use by process"), "{refused:?}");
        (0..3).for_each(|index| new.stop_node(index).unwrap());
        let refused = coordinator(&arguments);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--quarantine-existing"), "{refused:?}");
        arguments.push("--quarantine-existing");
        succeeded(&coordinator(&arguments));
        (0..3).for_each(|index| new.start_node(index).unwrap());
        new.wait_all_ready(READY_LIMIT).await.unwrap();

        let (before, after) = (old.status(0).await.unwrap(), new.status(0).await.unwrap());
        assert!(after.cluster_id.is_some() && after.cluster_id != before.cluster_id);
        let again = new.client().unwrap();
        let task: TaskRecord = again.get("/api/tasks/old-7").await.unwrap();
        assert_eq!(task.task_id, "old-7");
        assert!(again.get::<TaskRecord>("/api/tasks/after%20the%20backup").await.is_err());
        for index in 0..3 {
            whole_database(&new, index, 20).await;
        }
        let lease = json!({"holder": "another", "ttl_ms": 1000});
        let taken: Value = again.post("/api/leases/lock", &lease, Repeat::Idempotent).await.unwrap();
        assert!(taken["epoch"].as_u64().unwrap() > held["epoch"].as_u64().unwrap() + 1_000_000, "{taken}");
        write(&again, "in the new one").await;
        judge::await_all_equal(&new).await.unwrap();
        // The old one goes on, untouched by its twin.
        write(&client, "in the old one").await;
        judge::await_all_equal(&old).await.unwrap();
        assert!(client.get::<TaskRecord>("/api/tasks/in%20the%20new%20one").await.is_err());
    });
}

#[test]
fn stop_tar_wipe_untar_start() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        finish_tasks(&mut cluster, 10).await;
        let archives = tempfile::tempdir().unwrap();
        let tar = |arguments: &[&str]| {
            assert!(Command::new("tar").args(arguments).status().unwrap().success(), "tar {arguments:?}");
        };
        (0..3).for_each(|index| cluster.stop_node(index).unwrap());
        let place = |index: usize| {
            let data_dir = cluster.place(index).data_dir.clone();
            let parent = data_dir.parent().unwrap().display().to_string();
            let name = data_dir.file_name().unwrap().to_string_lossy().into_owned();
            (data_dir, parent, name, archives.path().join(format!("{index}.tar.gz")).display().to_string())
        };
        let places: Vec<_> = (0..3).map(place).collect();
        for (_, parent, name, archive) in &places {
            tar(&["-czf", archive, "-C", parent, name]);
        }
        // The cluster goes on, is started several times, and is then rolled back as a whole.
        for round in 0..2 {
            (0..3).for_each(|index| cluster.start_node(index).unwrap());
            cluster.wait_all_ready(READY_LIMIT).await.unwrap();
            write(&cluster.client().unwrap(), &format!("later-{round}")).await;
            (0..3).for_each(|index| cluster.stop_node(index).unwrap());
        }
        for (data_dir, parent, _, archive) in &places {
            std::fs::remove_dir_all(data_dir).unwrap();
            tar(&["-xzf", archive, "-C", parent]);
        }
        (0..3).for_each(|index| cluster.start_node(index).unwrap());
        cluster.wait_all_ready(READY_LIMIT).await.unwrap();
        let client = cluster.client().unwrap();
        assert!(client.get::<TaskRecord>("/api/tasks/old-3").await.is_ok());
        assert!(client.get::<TaskRecord>("/api/tasks/later-0").await.is_err());
        write(&client, "again").await;
        judge::await_all_equal(&cluster).await.unwrap();
    });
}
