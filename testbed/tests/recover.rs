//! A quorum that is gone for good: writes stop, nothing is made up, a person founds anew.

use api::Client;
use api::client::Repeat;
use api::cluster::{Members, Role};
use api::task::TaskRecord;
use serde_json::{Value, json};
use std::process::Output;
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(120);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

async fn recover(arguments: &[&str]) -> (Output, String) {
    let program = Binaries::find().unwrap().path("coordinator").unwrap();
    let mut command = std::process::Command::new(program);
    command.arg("recover-quorum").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, said)
}

/// One node is dead for good, one comes back with an empty disk: the third alone must not go on,
/// the wiped one must not found anything, and a person can begin anew from what is left.
#[test]
fn one_dead_and_one_wiped_stops_writes_and_recover_quorum_begins_anew() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..30 {
            let task = json!({"task_id": format!("task-{number}"), "type": "noop"});
            let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
        }
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let (survivor, wiped) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.wait_all_ready(READY_LIMIT).await.unwrap();
        let last = cluster.status(leader).await.unwrap().last_log_index;
        wait::until("the survivor has it all", LIMIT, || async {
            let status = cluster.status(survivor).await?;
            if status.commit_index >= last { Ok(()) } else { Err(format!("{}", status.commit_index)) }
        })
        .await
        .unwrap();
        let old_cluster = cluster.status(survivor).await.unwrap().cluster_id.unwrap();
        cluster.kill9(leader);
        cluster.kill9(wiped);
        cluster.wipe(wiped).unwrap();
        cluster.start_node(wiped).unwrap();
        wait::until("the wiped node waits to be taken in", LIMIT, || async {
            let status = cluster.status(wiped).await?;
            match status.role {
                Role::Joining => Ok(()),
                role => Err(format!("{role}: {:?}", status.role_detail)),
            }
        })
        .await
        .unwrap();
        let alone = Client::new([cluster.place(survivor).address(), cluster.place(wiped).address()])
            .unwrap()
            .with_deadline(Duration::from_secs(4));
        let task = json!({"task_id": "nobody can take this", "type": "noop"});
        let told: Result<Value, _> = alone.post("/api/tasks", &task, Repeat::Never).await;
        assert!(told.is_err(), "a write went through without a quorum: {told:?}");
        assert_eq!(cluster.status(wiped).await.unwrap().role, Role::Joining, "it founded nothing");

        // A running survivor is not touched.
        let dir = cluster.place(survivor).data_dir.display().to_string();
        let (output, said) = recover(&["--data-dir", &dir]).await;
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("in use by process"), "{said}");
        cluster.kill9(survivor);

        // Looking changes nothing, and shows both survivors' ends.
        let dead = cluster.place(leader).data_dir.display().to_string();
        let (output, said) = recover(&["--data-dir", &dir, "--data-dir", &dead]).await;
        assert!(output.status.success() && said.contains("nothing was changed"), "{said}");
        let before = std::fs::read(cluster.place(survivor).data_dir.join("identity.json")).unwrap();

        // While another member of the old cluster runs, founding is refused.
        cluster.start_node(leader).unwrap();
        wait::until("the other member answers", LIMIT, || async { cluster.status(leader).await.map(drop) })
            .await
            .unwrap();
        let (output, said) = recover(&["--data-dir", &dir, "--found"]).await;
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("still running") && said.contains(&cluster.place(leader).id), "{said}");
        let after = std::fs::read(cluster.place(survivor).data_dir.join("identity.json")).unwrap();
        assert_eq!(before, after, "a refusal changes nothing");
        cluster.kill9(leader);

        let (output, said) = recover(&["--data-dir", &dir, "--found"]).await;
        assert!(output.status.success(), "{said}");
        cluster.start_node(survivor).unwrap();
        cluster.wait_ready(survivor, READY_LIMIT).await.unwrap();
        let new_cluster = cluster.status(survivor).await.unwrap().cluster_id.unwrap();
        assert_ne!(new_cluster, old_cluster);
        let client = Client::new([cluster.place(survivor).address()]).unwrap();
        for number in 0..30 {
            let task: TaskRecord = client.get(&format!("/api/tasks/task-{number}")).await.unwrap();
            assert_eq!(task.task_id, format!("task-{number}"));
        }
        let task = json!({"task_id": "in the new cluster", "type": "noop"});
        let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();

        // The wiped one has been waiting all the time, and joins. The dead one's old directory is
        // of another cluster; with an empty one it joins too.
        cluster.start_node(leader).unwrap();
        wait::until("the old cluster's node is refused", LIMIT, || async {
            let status = cluster.status(leader).await?;
            let told = status.peers.iter().filter_map(|p| p.error.clone()).collect::<Vec<_>>().join("; ");
            if told.contains("belongs to cluster") { Ok(()) } else { Err(told) }
        })
        .await
        .unwrap();
        cluster.kill9(leader);
        cluster.wipe(leader).unwrap();
        cluster.start_node(leader).unwrap();
        wait::until("three voters in the new cluster", LIMIT, || async {
            let members: Members = client.get("/api/cluster/members").await.map_err(|e| e.to_string())?;
            let voters = members.members.iter().filter(|m| m.voter && m.reachable).count();
            if voters == 3 { Ok(()) } else { Err(format!("{:?}", members.members)) }
        })
        .await
        .unwrap();
        for index in [leader, wiped] {
            assert_eq!(cluster.status(index).await.unwrap().cluster_id.as_ref(), Some(&new_cluster));
        }
        let kept = cluster.place(survivor).data_dir.join("quarantine").read_dir().unwrap().count();
        assert_eq!(kept, 1, "the old log is kept");
    });
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => assert!(std::fs::copy(&from, &to).is_ok(), "{}", from.display()),
        }
    }
}

/// Two survivors whose logs are laid out alike, byte for byte, and of which one ends in a later term: each
/// is told with its own end, whichever is looked at first.
#[test]
fn survivors_whose_logs_look_alike_are_told_apart() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(1).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..20 {
            let task = json!({"task_id": format!("task-{number}"), "type": "noop"});
            let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
        }
        cluster.kill9(0);
        let (first, second) = (cluster.place(0).data_dir.clone(), cluster.folder().join("second"));
        copy(&first, &second);
        testbed::forge::newest_term(&second.join("raft")).unwrap();
        let (first, second) = (first.display().to_string(), second.display().to_string());
        for order in [[&first, &second], [&second, &first]] {
            let arguments = ["--data-dir", order[0], "--data-dir", order[1]];
            let (output, said) = recover(&[&arguments[..], &["--json"]].concat()).await;
            assert!(output.status.success(), "{said}");
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            let term = |dir: &str| {
                let all = told["survivors"].as_array().unwrap();
                all.iter().find(|s| s["data_dir"] == dir).unwrap()["last_term"].as_u64().unwrap()
            };
            assert_eq!(term(&second), term(&first) + 1, "{said}");
            let (_, said) = recover(&arguments).await;
            assert!(said.contains(&format!("--data-dir {second} --found")), "{said}");
        }
    });
}
