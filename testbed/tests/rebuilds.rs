//! What a node makes anew of itself, with real processes: its place among the members where its log is
//! not the majority's, and its database where the queue before it overflowed.

use api::Client;
use api::admin::Verified;
use api::client::Repeat;
use api::cluster::{Health, HealthStatus, PartHealth};
use api::task::TaskPage;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use testbed::chaos::points;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, forge, judge, wait};

const LIMIT: Duration = Duration::from_secs(180);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

async fn write(client: &Client, id: &str) {
    let task = json!({"task_id": id, "type": "noop"});
    let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
}

fn incarnation(data_dir: &Path) -> String {
    let text = std::fs::read(data_dir.join("identity.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["incarnation"].as_str().unwrap().to_owned()
}

/// What a node itself has under an id.
async fn has(cluster: &Cluster, index: usize, id: &str) -> bool {
    let url = cluster.place(index).url(&format!("/api/tasks/{id}?consistency=local"));
    wait::http().get(url).send().await.unwrap().status() == 200
}

/// Puts another text into a follower's log while it is down, with checksums that fit, and waits until
/// its chain is seen to be another than the leader's.
async fn leave_the_others(cluster: &mut Cluster, victim: usize, from: &str, to: &str) {
    let client = cluster.client().unwrap();
    write(&client, from).await;
    judge::await_all_equal(cluster).await.unwrap();
    cluster.kill9(victim);
    assert!(forge::text(&cluster.place(victim).data_dir.join("raft"), from, to).unwrap() > 0);
    cluster.start_node(victim).unwrap();
    cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
    assert!(has(cluster, victim, to).await && !has(cluster, victim, from).await, "nothing tells it");
    let other = (victim + 1) % 3;
    wait::until("the chains to be seen apart", LIMIT, || async {
        write(&client, "go on").await;
        let (own, theirs) = (cluster.state_checksum(victim).await?, cluster.state_checksum(other).await?);
        let same =
            |c: &&api::cluster::CheckpointRecord| theirs.checkpoints.iter().any(|t| t.index == c.index);
        let last = own.checkpoints.iter().rfind(same).ok_or("no common checkpoint")?;
        let theirs = theirs.checkpoints.iter().find(|t| t.index == last.index).ok_or("none")?;
        if last.log_chain == theirs.log_chain { Err("one chain".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
}

/// Waits until the node is a voter again, as another incarnation, with the others' history and its old
/// log in quarantine.
async fn came_back_anew(cluster: &mut Cluster, victim: usize, old: &str, from: &str, to: &str) {
    let data_dir = cluster.place(victim).data_dir.clone();
    wait::until("another incarnation", LIMIT, || async {
        let now = incarnation(&data_dir);
        if now == old { Err("the old one".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    cluster.wait_ready(victim, LIMIT).await.unwrap();
    wait::until("three voters, all of them up", LIMIT, || async {
        let status = cluster.status(victim).await?;
        let up = status.peers.iter().all(|p| p.reachable);
        let voter = status.voters.contains(&status.node_id) && status.voters.len() == 3;
        if voter && up && status.learners.is_empty() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap();
    judge::await_all_equal(cluster).await.unwrap();
    assert!(has(cluster, victim, from).await && !has(cluster, victim, to).await, "the majority's history");
    let quarantined = data_dir.join("quarantine").read_dir().unwrap().map(|e| e.unwrap().path());
    let quarantined: Vec<_> = quarantined.collect();
    for name in ["raft", "coordinator.duckdb"] {
        assert!(quarantined.iter().any(|folder| folder.join(name).exists()), "the old {name} is kept");
    }
}

async fn rows(cluster: &Cluster, index: usize) -> Result<Value, String> {
    let health: PartHealth = wait::get(&wait::http(), &cluster.place(index).url("/api/health/db")).await?;
    let wanted = health.details.get("history_wanted") == Some(&json!(true));
    match health.healthy && !wanted {
        true => Ok(health.details["rows"].clone()),
        false => Err(format!("healthy {}, history wanted {wanted}", health.healthy)),
    }
}

/// The node's database holds what the others' hold, also of what has left memory, and nothing of the
/// history that was never the cluster's.
async fn database_is_the_others(cluster: &Cluster, victim: usize) {
    let other = (victim + 1) % 3;
    wait::until("the same rows in both databases", LIMIT, || async {
        let (own, theirs) = (rows(cluster, victim).await?, rows(cluster, other).await?);
        // Events are told by the one who saw them first; the tables of tasks are the machine's.
        let same = ["tasks", "attempts", "results"].iter().all(|table| own[table] == theirs[table]);
        if same { Ok(()) } else { Err(format!("{own} is not {theirs}")) }
    })
    .await
    .unwrap();
    let call = json!({"by_hand": true, "why": "a test"});
    let alone = Client::new([cluster.place(victim).address()]).unwrap().with_deadline(LIMIT);
    let found: Verified = alone.post("/api/admin/verify", &call, Repeat::Idempotent).await.unwrap();
    assert!(found.sound, "{found:?}");
    let url = cluster.place(victim).url("/api/results?limit=1000&consistency=local");
    let page: TaskPage = wait::get(&wait::http(), &url).await.unwrap();
    assert_eq!(page.tasks.len(), GONE, "what has left memory");
}

/// Tasks that have ended and left memory.
const GONE: usize = 10;

async fn some_tasks_leave_memory(cluster: &mut Cluster) {
    let client = cluster.client().unwrap();
    for number in 0..GONE {
        write(&client, &format!("gone-{number}")).await;
    }
    cluster.start_worker("", 4).await.unwrap();
    let keep = async |ms: u64| {
        let setting = json!({"finished_retention_ms": ms});
        let _: Value = client.post("/api/settings", &setting, Repeat::Idempotent).await.unwrap();
    };
    keep(1000).await;
    wait::until("the tasks to leave memory", LIMIT, || async {
        let status = cluster.status(0).await?;
        let left: u64 = status.tasks.values().sum();
        if left == 0 { Ok(()) } else { Err(format!("{:?}", status.tasks)) }
    })
    .await
    .unwrap();
    keep(600_000).await;
    cluster.kill9_worker(0);
}

/// A log that left the majority's history with sound checksums: the state can't be put under it, so the
/// node begins anew. By the flag at the start, and asked for while it runs.
#[test]
fn force_sync_of_a_log_that_left_the_others_begins_a_new_incarnation() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        some_tasks_leave_memory(&mut cluster).await;
        let victim = (cluster.leader(READY_LIMIT).await.unwrap() + 1) % 3;
        let data_dir = cluster.place(victim).data_dir.clone();

        let old = incarnation(&data_dir);
        leave_the_others(&mut cluster, victim, "first-true", "first-fake").await;
        cluster.stop_node(victim).unwrap();
        cluster.start_node_with(victim, &["--force-sync"]).unwrap();
        came_back_anew(&mut cluster, victim, &old, "first-true", "first-fake").await;
        database_is_the_others(&cluster, victim).await;

        let old = incarnation(&data_dir);
        leave_the_others(&mut cluster, victim, "second-true", "second-fake").await;
        let call = json!({"by_hand": true, "why": "a test"});
        let alone = Client::new([cluster.place(victim).address()]).unwrap().with_deadline(LIMIT);
        let _: Value = alone.post("/api/admin/force_sync", &call, Repeat::Idempotent).await.unwrap();
        came_back_anew(&mut cluster, victim, &old, "second-true", "second-fake").await;
        database_is_the_others(&cluster, victim).await;
    });
}

/// What nobody asks for is looked at all the same: damage of log and database that no read meets shows in
/// health and metrics by itself, on the node that has it and on no other.
#[test]
fn the_scrub_finds_damage_unasked() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let often = json!({"scrub_interval_seconds": 1, "scrub_cpu_percent": 100});
        cluster.reconfigure_all(&often).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..50 {
            write(&client, &format!("task-{number}")).await;
        }
        judge::await_all_equal(&cluster).await.unwrap();
        let victim = (cluster.leader(READY_LIMIT).await.unwrap() + 1) % 3;
        let http = wait::http();
        let metrics = async |index: usize| -> Result<String, String> {
            let url = format!("http://127.0.0.1:{}/metrics", cluster.place(index).prometheus_port);
            let answer = http.get(url).send().await.map_err(|e| e.to_string())?;
            answer.text().await.map_err(|e| e.to_string())
        };
        // A node makes its database anew at once, and its last check is sound again: what counts is
        // that a check found damage.
        let checks = |text: &str, outcome: &str, part: &str| {
            let name = format!("holdfast_integrity_checks_total{{outcome=\"{outcome}\",part=\"{part}\"}} ");
            text.lines().find_map(|l| l.strip_prefix(&name)?.parse::<f64>().ok()).unwrap_or_default()
        };
        let mended = "holdfast_mends_total{outcome=\"mended\",part=\"db\"} 1";
        for index in 0..3 {
            wait::until("every part to be looked at", LIMIT, || async {
                let text = metrics(index).await?;
                let unseen: Vec<&str> = ["log", "machine", "db"]
                    .into_iter()
                    .filter(|part| checks(&text, "sound", part) == 0.0)
                    .collect();
                if unseen.is_empty() { Ok(()) } else { Err(format!("node {index}: not yet {unseen:?}")) }
            })
            .await
            .unwrap();
        }
        let place = cluster.place(victim);
        let raft = place.data_dir.join("raft");
        let mut logs: Vec<_> = raft.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        logs.retain(|path| path.extension().is_some_and(|ending| ending == "raftlog"));
        logs.sort();
        for (part, file, from) in
            [("log", logs[0].clone(), 100), ("db", place.data_dir.join("coordinator.duckdb"), 12_288)]
        {
            let mut bytes = std::fs::read(&file).unwrap();
            let from = from.min(bytes.len() / 2);
            // All over the file: a block of the database may be one that nobody uses.
            bytes[from..].iter_mut().step_by(1_021).for_each(|byte| *byte ^= 0x11);
            std::fs::write(&file, bytes).unwrap();
            wait::until(&format!("the damage of the {part} to show"), LIMIT, || async {
                let (text, health) =
                    (metrics(victim).await?, wait::get::<Health>(&http, &place.url("/api/health")).await?);
                let named = health.checks.iter().any(|c| c.name == "integrity" && c.detail.contains(part));
                let gone = part == "db" && text.contains(mended);
                match checks(&text, "damaged", part) > 0.0 && (named || gone) {
                    true => Ok(()),
                    false => Err(format!("{health:?}")),
                }
            })
            .await
            .unwrap();
        }
        for index in (0..3).filter(|index| *index != victim) {
            let text = metrics(index).await.unwrap();
            let found = |part: &&str| checks(&text, "damaged", part) > 0.0;
            assert!(!["log", "machine", "db"].iter().any(found), "{text}");
        }
        write(&client, "the cluster goes on").await;
    });
}

async fn db(cluster: &Cluster) -> PartHealth {
    wait::get(&wait::http(), &cluster.place(0).url("/api/health/db")).await.unwrap()
}

/// The database stands still while more happens than may wait for it: the node serves on, says so, and
/// makes the database anew by itself when it can be written again.
#[test]
fn a_database_that_fell_behind_beyond_its_bound_is_made_anew() {
    const BATCH: usize = 10_000;
    runtime().block_on(async {
        let mut cluster = points::prepare(1, points::build().unwrap()).unwrap();
        let room = json!({"snapshot_threshold": 10_000, "max_log_size": 100_000, "max_memory_mb": 8192});
        cluster.configure(0, &room).unwrap();
        cluster.start_all().await.unwrap();
        let client = cluster.client().unwrap().with_deadline(LIMIT);
        write(&client, "before").await;
        points::arm_with(&cluster, 0, "store_before_begin", "pause").unwrap();

        let mut written = 1;
        let tasks: Vec<Value> = (0..BATCH).map(|_| json!({"type": "noop"})).collect();
        let body = json!({"tasks": tasks});
        let health = loop {
            let answer: Value = client.post("/api/tasks/batch", &body, Repeat::Never).await.unwrap();
            assert_eq!(answer["accepted"], BATCH, "{answer}");
            written += BATCH;
            let health = db(&cluster).await;
            if health.details["needs_rebuild"] == true {
                break health;
            }
            let waiting = &health.details["backlog_effects"];
            assert!(written < 2_000_000, "nothing overflows: {waiting} wait");
        };
        let (bound, waits) = (&health.details["backlog_bound"], &health.details["backlog_effects"]);
        assert!(waits.as_u64() <= bound.as_u64() && !health.healthy, "{health:?}");
        assert!(health.details["dropped_effects"].as_u64() > Some(0), "{health:?}");
        assert!(health.details["detail"].to_string().contains("rebuild"), "{health:?}");
        // It serves on, and is no reason to restart anybody.
        write(&client, "meanwhile").await;
        written += 1;
        let whole: Health = wait::get(&wait::http(), &cluster.place(0).url("/api/health")).await.unwrap();
        assert_eq!(whole.status, HealthStatus::Degraded, "{whole:?}");

        points::disarm(&cluster, 0);
        wait::until("the database to hold every task again", LIMIT, || async {
            let health = db(&cluster).await;
            let rows = health.details["rows"]["tasks"].as_u64();
            let whole = health.healthy && rows == Some(written as u64);
            if whole { Ok(()) } else { Err(format!("{rows:?} of {written}: {}", health.details["detail"])) }
        })
        .await
        .unwrap();
        let metrics = format!("http://127.0.0.1:{}/metrics", cluster.place(0).prometheus_port);
        wait::until("the repair to be counted", LIMIT, || async {
            let sent = wait::http().get(&metrics).send().await.map_err(|e| e.to_string())?;
            let text = sent.text().await.map_err(|e| e.to_string())?;
            let counted = "holdfast_mends_total{outcome=\"mended\",part=\"db\"} 1";
            if text.contains(counted) { Ok(()) } else { Err("it is not".to_owned()) }
        })
        .await
        .unwrap();
        let call = json!({"by_hand": true, "why": "a test"});
        let found: Verified = client.post("/api/admin/verify", &call, Repeat::Idempotent).await.unwrap();
        assert!(found.sound, "{found:?}");
    });
}
