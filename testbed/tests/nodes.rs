//! Nodes on real disks: bad starts, log ends that were torn or damaged, snapshots between nodes.

use api::Client;
use api::client::Repeat;
use api::cluster::{Role, Status};
use api::task::{Submitted, TaskRecord};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::ports::Ports;
use testbed::{Cluster, judge, wait};

const LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

async fn write(client: &Client, id: &str) -> Submitted {
    let task = json!({"task_id": id, "type": "noop"});
    client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap()
}

/// A node that follows.
async fn follower(cluster: &Cluster) -> usize {
    (cluster.leader(READY_LIMIT).await.unwrap() + 1) % cluster.len()
}

/// The newest log file of a node, its bytes, and where its records end.
fn log_end(data_dir: &Path) -> (PathBuf, Vec<u8>, usize) {
    let files = std::fs::read_dir(data_dir.join("raft")).unwrap().map(|e| e.unwrap().path());
    let file = files.filter(|p| p.extension().is_some_and(|e| e == "raftlog")).max().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let mut end = "RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5".len() + 8;
    while let Some(word) = bytes.get(end..end + 8) {
        match (u64::from_be_bytes(word.try_into().unwrap()) >> 8) as usize {
            0 => break,
            length => end += length,
        }
    }
    (file, bytes, end)
}

#[test]
fn a_peer_too_far_behind_fetches_a_snapshot() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        cluster.reconfigure_all(&json!({"snapshot_threshold": 20, "max_log_size": 60})).await.unwrap();
        let client = cluster.client().unwrap();
        write(&client, "first").await;
        let behind = follower(&cluster).await;
        cluster.kill9(behind);
        for number in 0..300 {
            write(&client, &format!("task-{number}")).await;
        }
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        // Behind a snapshot, DuckDB lags a little; when it catches up the log follows, without a write.
        wait::until("the leader's log to begin a threshold before its snapshot", LIMIT, || async {
            let status = cluster.status(leader).await?;
            let (first, snapshot) = (status.first_log_index, status.snapshot_index);
            if first > 200 && first + 20 > snapshot { Ok(()) } else { Err(format!("{first}, {snapshot}")) }
        })
        .await
        .unwrap();
        cluster.start_node(behind).unwrap();
        cluster.wait_ready(behind, READY_LIMIT).await.unwrap();
        judge::await_all_equal(&cluster).await.unwrap();
        assert!(cluster.status(behind).await.unwrap().snapshot_index > 0);

        // It starts again from the snapshot it was given.
        cluster.kill9(behind);
        cluster.start_node(behind).unwrap();
        cluster.wait_ready(behind, READY_LIMIT).await.unwrap();
        let http = wait::http();
        let url = cluster.place(behind).url("/api/tasks/first?consistency=local");
        let task: TaskRecord = wait::get(&http, &url).await.unwrap();
        assert_eq!(task.task_id, "first");
        judge::await_all_equal(&cluster).await.unwrap();
    });
}

#[test]
fn a_log_that_lost_its_end_is_cut_and_the_node_comes_back() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..20 {
            write(&client, &format!("task-{number}")).await;
        }
        let victim = follower(&cluster).await;
        cluster.kill9(victim);
        // The last record, perhaps an acknowledged one, loses its last bytes.
        let place = cluster.place(victim).clone();
        let (file, bytes, end) = log_end(&place.data_dir);
        std::fs::write(&file, &bytes[..end - 3]).unwrap();
        cluster.start_node(victim).unwrap();
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        write(&client, "after").await;
        judge::await_all_equal(&cluster).await.unwrap();
        let log = std::fs::read_to_string(&place.log_file).unwrap();
        assert!(log.contains("last record was torn"), "{log}");
        assert!(
            place.data_dir.join("quarantine").read_dir().unwrap().next().is_some(),
            "the cut bytes are kept"
        );
    });
}

#[test]
fn a_power_loss_with_torn_ends_everywhere_loses_nothing_acknowledged() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..50 {
            write(&client, &format!("task-{number}")).await;
        }
        for index in 0..3 {
            cluster.kill9(index);
        }
        for index in 0..3 {
            // Half a record that was being written when the power went.
            let (file, mut bytes, end) = log_end(&cluster.place(index).data_dir);
            let half = bytes[end - 40..end - 10].to_vec();
            bytes.truncate(end);
            bytes.extend(half);
            std::fs::write(&file, bytes).unwrap();
        }
        // Two could elect each other, but the third may hold what both of them lost: they say so.
        cluster.start_node(0).unwrap();
        cluster.start_node(1).unwrap();
        let third = cluster.place(2).id.clone();
        wait::until("both nodes to say whom they wait for", LIMIT, || async {
            for index in 0..2 {
                let status = cluster.status(index).await?;
                let detail = status.role_detail.unwrap_or_default();
                if status.role != Role::Suspect || !detail.contains(&format!("the log of {third} ")) {
                    return Err(format!("{:?}: {detail}", status.role));
                }
            }
            Ok(())
        })
        .await
        .unwrap();
        cluster.start_node(2).unwrap();
        cluster.wait_all_ready(READY_LIMIT).await.unwrap();
        for number in 0..50 {
            let task: TaskRecord = client.get(&format!("/api/tasks/task-{number}")).await.unwrap();
            assert_eq!(task.task_id, format!("task-{number}"));
        }
        judge::await_all_equal(&cluster).await.unwrap();
        for index in 0..3 {
            assert_ne!(cluster.status(index).await.unwrap().role, Role::Suspect);
        }
    });
}

#[test]
fn a_damaged_log_keeps_the_node_out_and_it_says_so() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..20 {
            write(&client, &format!("task-{number}")).await;
        }
        let victim = follower(&cluster).await;
        cluster.kill9(victim);
        let (file, mut bytes, end) = log_end(&cluster.place(victim).data_dir);
        bytes[end / 2] ^= 0x10;
        std::fs::write(&file, &bytes).unwrap();
        cluster.start_node(victim).unwrap();
        let status: Status = wait::until("role failed", LIMIT, || async {
            let status = cluster.status(victim).await?;
            if status.role == Role::Failed { Ok(status) } else { Err(status.role.to_string()) }
        })
        .await
        .unwrap();
        let why = status.role_detail.unwrap();
        assert!(why.contains("damaged") && why.contains("raftlog"), "{why}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing of the evidence was changed");
        write(&client, "the others go on").await;

        // Told to, it begins anew: its damaged log goes into quarantine, it takes its old place.
        let itself = Client::new([cluster.place(victim).address()]).unwrap();
        let body = json!({"node_id": cluster.place(victim).id});
        // Twice, as one does who had no answer: the second call finds the node on its way.
        for _ in 0..2 {
            let begun: Value = itself.post("/api/admin/rejoin", &body, Repeat::Never).await.unwrap();
            assert_eq!(begun["node_id"], json!(cluster.place(victim).id), "{begun}");
        }
        wait::until("the node follows again", LIMIT, || async {
            let status = cluster.status(victim).await?;
            let votes = status.voters.contains(&status.node_id) && status.learners.is_empty();
            match status.role {
                Role::Follower if votes => Ok(()),
                role => Err(format!("{role}: {:?}", status.role_detail)),
            }
        })
        .await
        .unwrap();
        judge::await_all_equal(&cluster).await.unwrap();
        let kept = cluster.place(victim).data_dir.join("quarantine").read_dir().unwrap().next();
        let kept = kept.unwrap().unwrap().path().join("raft").join(file.file_name().unwrap());
        assert_eq!(std::fs::read(kept).unwrap(), bytes, "the evidence is kept");
    });
}

/// Runs a node that must refuse to start; gives what it said.
fn refused(config: &Value, folder: &Path) -> String {
    let path = folder.join("refused.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let program = Binaries::find().unwrap().path("coordinator").unwrap();
    let ended = std::process::Command::new(program).arg("--config").arg(&path).env_clear().output().unwrap();
    assert!(!ended.status.success(), "it started with {config}");
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

#[test]
fn a_bad_start_names_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let ports = Ports::take(2).unwrap();
    let good = json!({
        "node_id": "node-1", "host": "127.0.0.1", "port": ports.as_slice()[0],
        "prometheus_port": ports.as_slice()[1], "data_dir": folder.path().join("data"), "enable_redundancy": false,
    });
    let with = |key: &str, value: Value| {
        let mut config = good.clone();
        config[key] = value;
        config
    };
    let mut missing = good.clone();
    missing.as_object_mut().unwrap().remove("node_id");
    for (config, named) in [
        (with("heartbeat_intervall", json!(50)), "did you mean `heartbeat_interval`"),
        (missing, "`node_id` is required"),
        (with("port", json!("many")), "`port`"),
        (with("data_dir", json!("/dev/null/data")), "/dev/null/data"),
    ] {
        let said = refused(&config, folder.path());
        assert!(said.contains(named), "{named} is missing in: {said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = refused(&with("port", json!(port)), folder.path());
    assert!(said.contains(&port.to_string()) && said.contains("another process"), "{said}");
    assert!(!folder.path().join("data").exists(), "nothing was made by a node that can't listen");
}

#[test]
fn another_nodes_directory_and_a_directory_in_use_are_refused() {
    runtime().block_on(async {
        let cluster = Cluster::start(1).await.unwrap();
        let ports = Ports::take(2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = json!({
            "node_id": "node-1", "host": "127.0.0.1", "port": ports.as_slice()[0],
            "prometheus_port": ports.as_slice()[1], "data_dir": cluster.place(0).data_dir, "enable_redundancy": false,
        });
        let said = refused(&config, folder.path());
        assert!(said.contains(&format!("in use by process {}", cluster.pid(0).unwrap())), "{said}");
        let mut cluster = cluster;
        cluster.stop_node(0).unwrap();
        config["node_id"] = json!("node-2");
        let said = refused(&config, folder.path());
        assert!(said.contains("belongs to node `node-1`"), "{said}");
    });
}

#[test]
fn two_nodes_with_one_id_found_nothing_and_say_so() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::take(4).unwrap();
        let program = Binaries::find().unwrap().path("coordinator").unwrap();
        let mut nodes = Vec::new();
        for at in 0..2 {
            let config = json!({
                "node_id": "node-1", "host": "127.0.0.1", "port": ports.as_slice()[at],
                "prometheus_port": ports.as_slice()[2 + at], "data_dir": folder.path().join(at.to_string()),
                "peers": [{"host": "127.0.0.1", "port": ports.as_slice()[1 - at]}],
            });
            let path = folder.path().join(format!("{at}.json"));
            std::fs::write(&path, config.to_string()).unwrap();
            let arguments = ["--config".to_owned(), path.display().to_string()];
            let log = folder.path().join(format!("{at}.log"));
            let lifetime = testbed::process::Lifetime::WithParent;
            nodes.push(
                testbed::process::Started::spawn("node-1", &program, &arguments, &log, lifetime).unwrap(),
            );
        }
        let http = wait::http();
        for port in &ports.as_slice()[..2] {
            let url = format!("http://127.0.0.1:{port}/api/status");
            wait::until("the double id is named", LIMIT, || async {
                let status: Status = wait::get(&http, &url).await?;
                let why = status.role_detail.unwrap_or_default();
                if status.role == Role::Uninitialised && why.contains("two nodes have one id") {
                    Ok(())
                } else {
                    Err(why)
                }
            })
            .await
            .unwrap();
        }
        nodes.iter_mut().for_each(testbed::process::Started::kill9);
    });
}
