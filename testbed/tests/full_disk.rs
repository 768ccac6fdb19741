//! Real nodes on small disks that are filled up: refused before anything is torn, and back by
//! themselves when there is room. Each test runs in mounts of its own (`unshare -m`), so that its
//! disks vanish with it.

use api::Client;
use api::client::Repeat;
use api::cluster::{NamedLease, NamedLeaseRequest, PartHealth, Role};
use api::task::{Submitted, TaskPage, TaskRecord};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, judge, wait};

const LIMIT: Duration = Duration::from_secs(90);
const DISK_MB: u64 = 96;
const INSIDE: &str = "HOLDFAST_TEST_OWN_MOUNTS";

/// Runs this test again in mounts of its own, and says so; false where it already is.
fn elsewhere(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let probe = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "mounts of its own need root and unshare");
        println!("SKIPPED: a small disk of its own needs root and unshare (util-linux)");
        return true;
    }
    let own = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .arg("-m")
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its own mounts");
    true
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn mount_small_disk(at: &Path) {
    let size = format!("size={DISK_MB}m");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at).status();
    assert!(mounted.unwrap().success());
}

/// Three nodes, each with its data on a disk of its own: stopped, moved there, started again.
async fn cluster_on_small_disks() -> Cluster {
    let mut cluster = Cluster::start(3).await.unwrap();
    (0..3).for_each(|index| cluster.stop_node(index).unwrap());
    for index in 0..3 {
        let data_dir = cluster.place(index).data_dir.clone();
        let old = data_dir.with_extension("old");
        std::fs::rename(&data_dir, &old).unwrap();
        std::fs::create_dir(&data_dir).unwrap();
        mount_small_disk(&data_dir);
        // The reserve of the large disk would not fit the small one.
        let _ = std::fs::remove_file(old.join("ballast"));
        let copied = Command::new("cp").arg("-a").arg(old.join(".")).arg(&data_dir).status().unwrap();
        assert!(copied.success());
        cluster.start_node(index).unwrap();
    }
    cluster.wait_all_ready(READY_LIMIT).await.unwrap();
    cluster
}

fn filler(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.place(index).data_dir.join("filler")
}

/// Writes until the disk is full to the last block.
fn fill(cluster: &Cluster, index: usize) {
    let mut file = std::fs::File::create(filler(cluster, index)).unwrap();
    for size in [1 << 20, 4096] {
        let block = vec![7u8; size];
        while file.write_all(&block).is_ok() {}
    }
}

async fn write(client: &Client, id: &str) -> Submitted {
    let task = json!({"task_id": id, "type": "noop"});
    client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap()
}

async fn all_there(client: &Client, ids: &[String]) {
    for id in ids {
        let task: TaskRecord = client.get(&format!("/api/tasks/{id}")).await.unwrap();
        assert_eq!(task.task_id, *id);
    }
}

fn alive(cluster: &Cluster, index: usize) -> bool {
    cluster.pid(index).and_then(|pid| testbed::process::ProcessRef::of("node", pid)).is_some()
}

/// The disk check of a node's health.
async fn disk_check(cluster: &Cluster, index: usize) -> Result<Value, String> {
    let answer = wait::http().get(cluster.place(index).url("/api/health")).send().await;
    let health: Value = answer.map_err(|e| e.to_string())?.json().await.map_err(|e| e.to_string())?;
    let checks = health["checks"].as_array().ok_or("no checks")?;
    checks.iter().find(|check| check["name"] == "disk").cloned().ok_or("no disk check".into())
}

#[test]
fn a_leader_on_a_full_disk_gives_leadership_away_and_comes_back() {
    if elsewhere("a_leader_on_a_full_disk_gives_leadership_away_and_comes_back") {
        return;
    }
    runtime().block_on(async {
        let mut cluster = cluster_on_small_disks().await;
        let client = cluster.client().unwrap().with_deadline(LIMIT);
        let mut written = Vec::new();
        for number in 0..20 {
            written.push(write(&client, &format!("before-{number}")).await.task_id);
        }
        let full = cluster.leader(READY_LIMIT).await.unwrap();
        fill(&cluster, full);
        wait::until("another leader, with room on its disk", LIMIT, || async {
            for index in (0..3).filter(|index| *index != full) {
                if cluster.status(index).await?.role == Role::Leader {
                    return Ok(());
                }
            }
            Err("none of the others leads".into())
        })
        .await
        .unwrap();
        for number in 0..50 {
            written.push(write(&client, &format!("meanwhile-{number}")).await.task_id);
        }
        assert!(alive(&cluster, full), "a full disk ends no process");
        let check = disk_check(&cluster, full).await.unwrap();
        assert_eq!(check["status"], "failing", "{check}");
        // Asked itself, it hands the write to the leader.
        let http = wait::http();
        let url = cluster.place(full).url("/api/tasks");
        let answer =
            http.post(&url).json(&json!({"task_id": "through", "type": "noop"})).send().await.unwrap();
        assert_eq!(answer.status(), 201);

        std::fs::remove_file(filler(&cluster, full)).unwrap();
        cluster.wait_ready(full, LIMIT).await.unwrap();
        judge::await_all_equal(&cluster).await.unwrap();
        wait::until("the ballast is there again", LIMIT, || async {
            let kept = cluster.place(full).data_dir.join("ballast").exists();
            let check = disk_check(&cluster, full).await?;
            if kept && check["status"] != "failing" { Ok(()) } else { Err(format!("{kept} {check}")) }
        })
        .await
        .unwrap();
        all_there(&client, &written).await;
    });
}

#[test]
fn a_cluster_with_full_disks_refuses_writes_serves_reads_and_comes_back() {
    if elsewhere("a_cluster_with_full_disks_refuses_writes_serves_reads_and_comes_back") {
        return;
    }
    runtime().block_on(async {
        let cluster = cluster_on_small_disks().await;
        let client = cluster.client().unwrap().with_deadline(LIMIT);
        let mut written = Vec::new();
        for number in 0..20 {
            written.push(write(&client, &format!("before-{number}")).await.task_id);
        }
        (0..3).for_each(|index| fill(&cluster, index));
        let http = wait::http();
        let refused = wait::until("a write to be refused for the disk", LIMIT, || async {
            let leader = cluster.leader(READY_LIMIT).await.map_err(|e| e.to_string())?;
            let url = cluster.place(leader).url("/api/tasks");
            let body = json!({"type": "noop"});
            let answer = http.post(&url).json(&body).send().await.map_err(|e| e.to_string())?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body: Value = answer.json().await.map_err(|e| e.to_string())?;
            if status == 503 && body["code"] == "disk_full" {
                Ok((headers, body))
            } else {
                Err(body.to_string())
            }
        });
        let (headers, body) = refused.await.unwrap();
        assert!(headers.contains_key("retry-after"), "{headers:?}");
        assert_eq!(body["retryable"], true);
        // Linearizable reads go on, and so do leases, cancellations and cleaning up: from the ballast.
        all_there(&client, &written[..5]).await;
        let ask = NamedLeaseRequest { holder: "h".into(), ttl_ms: 60_000 };
        let lease: NamedLease = client.post("/api/leases/repair", &ask, Repeat::Idempotent).await.unwrap();
        assert!(lease.epoch > 0);
        let _: Value =
            client.post("/api/tasks/before-0/cancel", &json!({}), Repeat::Idempotent).await.unwrap();
        for index in 0..3 {
            assert!(alive(&cluster, index), "a full disk ends no process");
        }

        (0..3).for_each(|index| std::fs::remove_file(filler(&cluster, index)).unwrap());
        wait::until("writes to be taken again", LIMIT, || async {
            let task = json!({"task_id": "after", "type": "noop"});
            let done = client.post::<_, Submitted>("/api/tasks", &task, Repeat::Idempotent).await;
            done.map(drop).map_err(|e| e.to_string())
        })
        .await
        .unwrap();
        judge::await_all_equal(&cluster).await.unwrap();
        all_there(&client, &written).await;
        // DuckDB, on the same disks, caught up by itself.
        for index in 0..3 {
            let db = cluster.place(index).url("/api/health/db");
            let cancelled = cluster.place(index).url("/api/results?status=cancelled&consistency=local");
            wait::until("the database to have what happened", LIMIT, || async {
                let health: PartHealth = wait::get(&http, &db).await?;
                let page: TaskPage = wait::get(&http, &cancelled).await?;
                let there = page.tasks.iter().any(|task| task.task_id == "before-0");
                if health.healthy && there { Ok(()) } else { Err(format!("{health:?}")) }
            })
            .await
            .unwrap();
        }
    });
}

/// The thresholds count from the moment the config is read again, both ways.
#[test]
fn a_reload_moves_the_floor_of_the_disk() {
    if elsewhere("a_reload_moves_the_floor_of_the_disk") {
        return;
    }
    runtime().block_on(async {
        let mut cluster = Cluster::prepare(1, Binaries::find().unwrap(), "coordinator").unwrap();
        let (low, high) = (json!({"disk_reserve_mb": 1}), json!({"disk_reserve_mb": 64}));
        cluster.configure(0, &json!({"disk_reserve_mb": 1, "disk_floor_percent": 99})).unwrap();
        let data_dir = cluster.place(0).data_dir.clone();
        std::fs::create_dir(&data_dir).unwrap();
        mount_small_disk(&data_dir);
        cluster.start_all().await.unwrap();
        // Less than a tenth, to which the reserve is cut on so small a disk, and more than a reserve of 1 MiB.
        let mut file = std::fs::File::create(filler(&cluster, 0)).unwrap();
        let free_bytes = || {
            let disk = rustix::fs::statvfs(&data_dir).unwrap();
            disk.f_bavail * disk.f_frsize
        };
        while free_bytes() > 7 << 20 {
            file.write_all(&[7; 64 << 10]).unwrap();
        }

        let http = wait::http();
        let url = cluster.place(0).url("/api/tasks");
        let answers = async |what: &str, expected: u16| {
            wait::until(what, LIMIT, || async {
                let answer = http.post(&url).json(&json!({"type": "noop"})).send().await;
                let answer = answer.map_err(|e| e.to_string())?;
                let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
                let for_the_disk = status == 201 || body.contains("disk_full");
                if status == expected && for_the_disk { Ok(()) } else { Err(format!("{status} {body}")) }
            })
            .await
            .unwrap();
        };
        answers("writes above a small reserve", 201).await;
        let (floor, roof) = (json!({"disk_floor_percent": 80}), json!({"disk_floor_percent": 99}));
        for (key, on, off) in [("disk_reserve_mb", high, low), ("disk_floor_percent", floor, roof)] {
            assert_eq!(cluster.reload(0, &on).await.unwrap().applied, [key]);
            answers(&format!("writes to be refused with {on}"), 503).await;
            assert_eq!(cluster.reload(0, &off).await.unwrap().applied, [key]);
            answers(&format!("writes to be taken with {off}"), 201).await;
        }
    });
}
