//! Faults that comparable systems shipped, each shown not to be here, with real processes.

use api::client::Repeat;
use api::cluster::Role;
use api::task::{Submitted, TaskRecord};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::bench::raw;
use testbed::chaos::points;
use testbed::cluster::READY_LIMIT;
use testbed::load::Writers;
use testbed::{Cluster, judge, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(60);

/// The names under which the tests of each fault stand, wherever they stand.
const LESSONS: [&str; 30] = [
    "acked_write_survives_leader_loss",
    "no_commit_without_majority",
    "stale_leader_refuses_writes",
    "vote_survives_crash",
    "followers_never_serve_stale_by_default",
    "leader_is_found_by_id_not_substring",
    "status_has_no_side_effects",
    "documented_flag_exists",
    "every_health_endpoint_is_served",
    "higher_priority_first_everywhere",
    "requirements_are_never_dropped",
    "result_only_from_lease_holder",
    "metrics_are_measured",
    "recovery_does_not_start_a_twin",
    "recovery_forgets_old_observations",
    "recovery_checks_quorum",
    "benchmark_measures_wall_clock",
    "divergence_raises_alert",
    "divergence_blames_the_minority",
    "disk_stall_moves_leadership",
    "live_probe_sees_stuck_raft_loop",
    "liveness_does_not_restart_a_busy_node",
    "one_observer_is_not_the_truth",
    "rolling_reboot_keeps_quorum",
    "minority_bitflips_lose_nothing",
    "lease_is_fenced",
    "worker_loss_is_noticed_in_seconds",
    "new_leader_keeps_leases",
    "snapshot_does_not_block_writes",
    "members_down_alert_is_quiet_on_rolling_restart",
];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the tree").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_lesson_has_a_test_of_its_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testbed lies in the workspace");
    let mut files = Vec::new();
    for part in ["api", "coordinator", "monitor", "recovery", "testbed"] {
        for folder in ["src", "tests"] {
            let folder = root.join(part).join(folder);
            if folder.is_dir() {
                sources(&folder, &mut files);
            }
        }
    }
    let mut tests = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            if pair[0].ends_with("test]") || pair[0].starts_with("#[tokio::test") {
                let name =
                    pair[1].trim_start_matches("async ").strip_prefix("fn ").and_then(|l| l.split_once('('));
                tests.extend(name.map(|(name, _)| name.to_owned()));
            }
        }
    }
    let missing: Vec<_> = LESSONS.iter().filter(|name| !tests.iter().any(|t| t == *name)).collect();
    assert!(missing.is_empty(), "no test has these names: {missing:?}");
}

async fn write(client: &api::Client, id: &str) -> Submitted {
    let task = json!({"task_id": id, "type": "noop"});
    client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap()
}

/// What looking must not change: term, log and syncs of every node. None while the cluster is not
/// idle: the checkpoint behind the last write is the last entry of an idle one.
async fn idle(cluster: &Cluster) -> Result<Vec<(u64, u64, u64)>, String> {
    let mut all = Vec::new();
    for index in 0..cluster.len() {
        let status = cluster.status(index).await?;
        let newest = cluster.state_checksum(index).await?.checkpoints.iter().map(|c| c.index).max();
        if newest != Some(status.last_log_index) || status.applied_index != status.last_log_index {
            return Err(format!(
                "{}: log to {}, checkpoint {newest:?}",
                status.node_id, status.last_log_index
            ));
        }
        let report: Value = wait::get(&wait::http(), &cluster.place(index).url("/api/report")).await?;
        let syncs = report.pointer("/progress/log_syncs").and_then(Value::as_u64);
        all.push((status.term, status.last_log_index, syncs.ok_or("the report counts no syncs")?));
    }
    Ok(all)
}

/// GET /api/status triggered syncs.
#[test]
fn status_has_no_side_effects() {
    runtime().block_on(async {
        let cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..20 {
            write(&client, &format!("task-{number}")).await;
        }
        let paths = [
            "/api/status",
            "/api/health",
            "/api/health/live",
            "/api/health/db",
            "/api/health/log",
            "/api/health/state_checksum",
            "/api/health/resources",
            "/api/health/operations",
            "/api/report",
            "/api/logs",
            "/api/debug/raft_log",
        ];
        let http = wait::http();
        // A busy machine may hold an election meanwhile; then it is looked at again.
        for round in 0..5 {
            // The empty entry of an election has no checkpoint behind it; that of a write has.
            write(&client, &format!("round-{round}")).await;
            let before = wait::until("an idle cluster", LIMIT, || idle(&cluster)).await.unwrap();
            for _ in 0..20 {
                for index in 0..3 {
                    for path in paths {
                        let answer = http.get(cluster.place(index).url(path)).send().await.unwrap();
                        assert!(answer.status().is_success(), "{path}: {}", answer.status());
                    }
                }
            }
            let terms: Vec<u64> = before.iter().map(|(term, _, _)| *term).collect();
            let after = wait::until("an idle cluster", LIMIT, || async {
                for (index, term) in terms.iter().enumerate() {
                    if cluster.status(index).await?.term != *term {
                        return Ok(None);
                    }
                }
                idle(&cluster).await.map(Some)
            });
            if let Some(after) = after.await.unwrap() {
                assert_eq!(before, after, "looking changed the log");
                return;
            }
        }
        panic!("no stretch without an election in five tries");
    });
}

/// Throughput was count over summed latency, and most operations were answered 404.
#[test]
fn benchmark_measures_wall_clock() {
    runtime().block_on(async {
        // Answers one request in two with 201, each after a while, on every connection by itself.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    let mut status = ["201 Created", "404 Not Found"].iter().cycle();
                    while let (Ok(read), Some(line)) = (stream.read(&mut bytes).await, status.next()) {
                        if read == 0 {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        let answer = format!("HTTP/1.1 {line}\r\ncontent-length: 2\r\n\r\n{{}}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let asked = Duration::from_millis(600);
        let requests = [raw::Request::post(&address, "/api/tasks", "{}")];
        let began = std::time::Instant::now();
        let sample = raw::load(&requests, 201, 8, asked).await.unwrap();
        let elapsed = began.elapsed().as_secs_f64();
        server.abort();
        assert!(sample.acknowledged > 0 && sample.refused > 0, "{sample:?}");
        assert_eq!(sample.latencies_us.len() as u64, sample.acknowledged, "only 201 is a sample");
        assert!(sample.seconds >= asked.as_secs_f64() && sample.seconds <= elapsed, "{sample:?}");
        let told = sample.per_second() * sample.seconds;
        assert!((told - sample.acknowledged as f64).abs() < 0.5, "{told} by the clock");
        // Eight loops at once: by summed latency it would be an eighth of that.
        let summed_s = sample.latencies_us.iter().map(|us| f64::from(*us)).sum::<f64>() / 1e6;
        assert!(summed_s > sample.seconds, "{summed_s} s of latency in {} s", sample.seconds);
    });
}

/// Bit flips on a minority lost what had been acknowledged.
#[test]
fn minority_bitflips_lose_nothing() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..60 {
            write(&client, &format!("task-{number}")).await;
        }
        // The leader of all nodes; its log and its database, in several places each.
        let victim = cluster.leader(READY_LIMIT).await.unwrap();
        cluster.kill9(victim);
        let place = cluster.place(victim).clone();
        for (folder, ending) in [(place.data_dir.join("raft"), "raftlog"), (place.data_dir.clone(), "duckdb")]
        {
            flip_bits(&folder, ending);
        }
        cluster.start_node(victim).unwrap();
        let role = wait::until("the damaged node to say how it stands", LIMIT, || async {
            let status = cluster.status(victim).await?;
            match status.role {
                Role::Uninitialised | Role::Joining => Err(status.role.to_string()),
                role => Ok(role),
            }
        });
        let role = role.await.unwrap();
        assert_eq!(role, Role::Failed, "nobody takes part on a damaged log");
        for number in 0..60 {
            let task: TaskRecord = client.get(&format!("/api/tasks/task-{number}")).await.unwrap();
            assert_eq!(task.task_id, format!("task-{number}"));
        }
        write(&client, "after").await;
        let others: Vec<usize> = (0..3).filter(|i| *i != victim).collect();
        wait::until("equal checksums on the others", LIMIT, || async {
            let one = cluster.state_checksum(others[0]).await?;
            let two = cluster.state_checksum(others[1]).await?;
            let same = (one.applied_index, &one.checksum) == (two.applied_index, &two.checksum);
            if same { Ok(()) } else { Err(format!("{} and {}", one.applied_index, two.applied_index)) }
        })
        .await
        .unwrap();
    });
}

/// Flips a bit in each quarter of every file of this ending, behind its header.
fn flip_bits(folder: &Path, ending: &str) {
    let mut flipped = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != ending) {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        // Space allocated ahead holds nothing.
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        for part in 1..4 {
            let at = used * part / 4;
            if at > 128 {
                bytes[at] ^= 0x20;
                flipped += 1;
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(flipped > 0, "there is no .{ending} in {}", folder.display());
}

/// Writes waited until a snapshot was written.
#[test]
fn snapshot_does_not_block_writes() {
    runtime().block_on(async {
        let binaries = points::build().unwrap();
        let mut cluster = points::prepare(3, binaries).unwrap();
        cluster.start_all().await.unwrap();
        cluster.start_worker("", 4).await.unwrap();
        let writers =
            Writers::start(&cluster.addresses(), 4, Duration::from_millis(10), judge::task).unwrap();
        // From now on nobody's snapshot gets beyond its file, whoever leads.
        for index in 0..3 {
            points::arm_with(&cluster, index, "snapshot_before_rename", "pause").unwrap();
        }
        // One is due every 150 entries. Hundreds more are written while it stands there.
        wait::until("writes to go on in the middle of every node's snapshot", 2 * LIMIT, || async {
            for index in 0..3 {
                let status = cluster.status(index).await?;
                if status.last_log_index < status.snapshot_index + 400 {
                    return Err(format!(
                        "{}: log to {}, snapshot of {}",
                        status.node_id, status.last_log_index, status.snapshot_index
                    ));
                }
            }
            Ok(())
        })
        .await
        .unwrap();
        for index in 0..3 {
            points::disarm(&cluster, index);
        }
        wait::until("the snapshots to be finished", LIMIT, || async {
            let status = cluster.status(0).await?;
            let behind = status.last_log_index - status.snapshot_index;
            if behind < 400 { Ok(()) } else { Err(format!("{behind} entries behind")) }
        })
        .await
        .unwrap();
        let told = writers.finish().await;
        assert!(told.acknowledged.len() > 100, "{} writes", told.acknowledged.len());
        assert_eq!(judge::checksums(&cluster, &told).await.unwrap(), Vec::<String>::new());
    });
}
