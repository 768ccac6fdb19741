//! Operating a real cluster: logs that can be followed, a config read again, maintenance.

use api::client::Repeat;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Changes a node's config file.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

/// The JSON lines of a node's log file.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be half written.
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display())))
        .collect()
}

/// Three nodes, started anew with a log file each and at level DEBUG.
async fn with_log_files() -> (Cluster, Vec<std::path::PathBuf>) {
    let mut cluster = Cluster::start(3).await.unwrap();
    let mut files = Vec::new();
    for index in 0..3 {
        cluster.stop_node(index).unwrap();
        let place = cluster.place(index).clone();
        let file = cluster.folder().join(format!("{}.jsonl", place.id));
        edit(&place.config, |config| {
            config["log_file"] = json!(file);
            config["log_level"] = json!("DEBUG");
            config["log_raft_events"] = json!(true);
        });
        files.push(file);
        cluster.start_node(index).unwrap();
        cluster.wait_ready(index, LIMIT).await.unwrap();
    }
    (cluster, files)
}

#[test]
fn one_task_and_one_election_can_be_followed_through_the_logs_of_all_nodes() {
    runtime().block_on(async {
        let (mut cluster, files) = with_log_files().await;
        cluster.start_worker("", 1).await.unwrap();
        let leader = cluster.leader(LIMIT).await.unwrap();
        // Sent to a follower, so that it is forwarded.
        let follower = (leader + 1) % 3;
        let http = wait::http();
        let answer = http
            .post(cluster.place(follower).url("/api/tasks"))
            .header("x-request-id", "follow-me")
            .json(&json!({"task_id": "followed", "type": "command", "config": {"command": "true"}}))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.headers()["x-request-id"], "follow-me");

        // Every node tells the whole life of the task, with the same index, term and token.
        let steps = ["task submitted", "task assigned", "attempt ended", "task finished"];
        let trails = wait::until("the task's trail in every log", LIMIT, || async {
            let mut trails = Vec::new();
            for file in &files {
                let of_task: BTreeMap<String, Value> = lines(file)
                    .into_iter()
                    .filter(|line| line["task_id"] == "followed" && line["index"].is_u64())
                    .map(|line| (line["message"].as_str().unwrap_or_default().to_owned(), line))
                    .collect();
                if !steps.iter().all(|step| of_task.contains_key(*step)) {
                    return Err(format!("{}: {:?}", file.display(), of_task.keys()));
                }
                trails.push(of_task);
            }
            Ok(trails)
        })
        .await
        .unwrap();
        for step in steps {
            for field in ["index", "term", "token", "worker_id"] {
                assert_eq!(trails[0][step][field], trails[1][step][field], "{step}: {field}");
                assert_eq!(trails[0][step][field], trails[2][step][field], "{step}: {field}");
            }
        }
        let token = &trails[0]["task assigned"]["token"];
        assert!(token.is_u64() && *token == trails[2]["attempt ended"]["token"]);
        assert_eq!(trails[1]["task assigned"]["node"], "node-2");

        // The request leads from the node that took it, by the leader, to the entry.
        let by_request = |index: usize| -> Vec<Value> {
            lines(&files[index]).into_iter().filter(|line| line["request_id"] == "follow-me").collect()
        };
        let told = async |index: usize, message: &str| {
            wait::until(&format!("{message} in the log of node {index}"), LIMIT, || async {
                by_request(index)
                    .into_iter()
                    .find(|line| line["message"] == message)
                    .ok_or_else(|| format!("{:?}", by_request(index)))
            })
            .await
            .unwrap()
        };
        told(follower, "request answered").await;
        let applied = told(leader, "command applied").await;
        assert_eq!(applied["index"], trails[0]["task submitted"]["index"]);
        assert_eq!(applied["task_id"], "followed");

        // An election: its term is in the logs of both survivors.
        cluster.kill9(leader);
        let next = cluster.leader(LIMIT).await.unwrap();
        let third = 3 - leader - next;
        let (leads, follows) = wait::until("the election's lines", LIMIT, || async {
            let last = |index: usize, message: &str| {
                lines(&files[index]).into_iter().rfind(|line| line["message"] == message)
            };
            let leads = last(next, "this node leads").ok_or("no line of the winner")?;
            let follows = last(third, "following").ok_or("no line of the follower")?;
            if leads["term"] == follows["term"] {
                Ok((leads, follows))
            } else {
                Err(format!("{leads} {follows}"))
            }
        })
        .await
        .unwrap();
        assert_eq!(follows["leader"], leads["node"]);
        // What Raft itself says names the nodes, not their long ids.
        let votes = lines(&files[third]).into_iter().any(|line| {
            line["target"] == "raft"
                && line["detail"].as_str().is_some_and(|d| d.contains(&cluster.place(next).id))
        });
        assert!(votes, "no line of the Raft library names {}", cluster.place(next).id);
    });
}

#[test]
fn a_config_is_read_again_on_sighup() {
    runtime().block_on(async {
        let cluster = Cluster::start(1).await.unwrap();
        let place = cluster.place(0).clone();
        let http = wait::http();
        let report = || async { wait::get::<api::cluster::Report>(&http, &place.url("/api/report")).await };
        let hup = || {
            let pid = rustix::process::Pid::from_raw(cluster.pid(0).unwrap() as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        };
        edit(&place.config, |config| {
            config["log_level"] = json!("DEBUG");
            config["max_memory_mb"] = json!(64);
            config["heartbeat_interval"] = json!(40);
            config["zone"] = json!("rack-7");
        });
        hup();
        let seen = wait::until("the reload in the report", LIMIT, || async {
            let report = report().await?;
            report
                .config
                .last_reload
                .clone()
                .map(|reload| (reload, report))
                .ok_or_else(|| "no reload yet".into())
        })
        .await
        .unwrap();
        assert_eq!(seen.0.applied, ["zone", "max_memory_mb", "log_level"]);
        assert_eq!(seen.0.needs_restart, ["heartbeat_interval"]);
        assert_eq!(seen.1.config.zone.as_deref(), Some("rack-7"));
        let health = seen.1.health.checks.iter().find(|check| check.name == "memory").unwrap();
        assert!(health.detail.ends_with("of 64 MiB"), "{health:?}");
        // The level counts at once.
        http.post(place.url("/api/maintenance/disable")).send().await.unwrap();
        let logged: api::cluster::LogLines =
            wait::get(&http, &place.url("/api/logs?level=DEBUG&limit=500")).await.unwrap();
        assert!(logged.lines.iter().any(|line| line.level == "DEBUG"), "no DEBUG line");

        edit(&place.config, |config| config["log_level"] = json!("LOUD"));
        hup();
        let refused = wait::until("the refusal in the report", LIMIT, || async {
            let report = report().await?;
            report.config.last_reload.filter(|r| !r.faults.is_empty()).ok_or_else(|| "not refused yet".into())
        })
        .await
        .unwrap();
        assert!(refused.faults[0].contains("LOUD"), "{refused:?}");
        assert!(refused.applied.is_empty());
    });
}

#[test]
fn a_log_file_that_cant_be_written_does_not_keep_a_node_from_serving() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(1).await.unwrap();
        cluster.stop_node(0).unwrap();
        let place = cluster.place(0).clone();
        edit(&place.config, |config| config["log_file"] = json!("/dev/full"));
        cluster.start_node(0).unwrap();
        cluster.wait_ready(0, LIMIT).await.unwrap();
        let http = wait::http();
        let logged: api::cluster::LogLines = wait::get(&http, &place.url("/api/logs")).await.unwrap();
        assert!(logged.lost_lines > 0 && !logged.lines.is_empty(), "{} lost", logged.lost_lines);
        let said = std::fs::read_to_string(&place.log_file).unwrap();
        assert_eq!(said.matches("/dev/full can't be written").count(), 1, "{said}");
    });
}

#[test]
fn maintenance_outlives_its_leader_and_waits_for_running_tasks() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        cluster.start_worker("", 1).await.unwrap();
        let client = cluster.client().unwrap();
        let gate = cluster.folder().join("gate");
        let command = format!("while [ ! -e {} ]; do sleep 0.1; done", gate.display());
        let task = json!({"task_id": "long", "type": "command", "config": {"command": command}});
        let _: Value = client.post("/api/tasks", &task, api::client::Repeat::Idempotent).await.unwrap();
        wait::until("the task to run", LIMIT, || async {
            let task: Value = client.get("/api/tasks/long").await.map_err(|e| e.to_string())?;
            if task["state"] == "running" { Ok(()) } else { Err(task["state"].to_string()) }
        })
        .await
        .unwrap();

        let program = testbed::binaries::Binaries::find().unwrap().path("coordinator").unwrap();
        let maintenance = |arguments: &[&str]| {
            let mut command = std::process::Command::new(&program);
            command
                .arg("maintenance")
                .args(arguments)
                .args(["--coordinators", &cluster.addresses().join(",")]);
            command
        };
        // Not all is done within a second: exit code 1, and maintenance stays on.
        let run =
            maintenance(&["enable", "--wait", "--wait-seconds", "1"]).env("USER", "ann").output().unwrap();
        assert_eq!(run.status.code(), Some(1), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(String::from_utf8_lossy(&run.stderr).contains("1 tasks still run after 1 s"));

        // The leader dies for good; the others know all the same, also who and when.
        let leader = cluster.leader(LIMIT).await.unwrap();
        cluster.kill9(leader);
        let next = cluster.leader(LIMIT).await.unwrap();
        let addresses = cluster.addresses();
        let maintenance = |arguments: &[&str]| {
            let mut command = std::process::Command::new(&program);
            command.arg("maintenance").args(arguments).args(["--coordinators", &addresses.join(",")]);
            command
        };
        let seen = wait::until("maintenance on the new leader", LIMIT, || async {
            let status = cluster.status(next).await?;
            if status.maintenance.enabled { Ok(status.maintenance) } else { Err("off".into()) }
        })
        .await
        .unwrap();
        assert!(
            seen.since.is_some() && seen.by.as_deref().is_some_and(|by| by.starts_with("ann@")),
            "{seen:?}"
        );
        let refused =
            client.post::<_, Value>("/api/tasks", &json!({"type": "noop"}), api::client::Repeat::Never).await;
        assert_eq!(refused.unwrap_err().code(), Some(api::ErrorCode::Maintenance));

        // A wait ends when the last task does.
        let mut waiting = maintenance(&["enable", "--wait", "--wait-seconds", "60", "--json"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::fs::write(&gate, "").unwrap();
        let ended = wait::until("the wait to end", LIMIT, || {
            let state = waiting.try_wait().unwrap();
            async move { state.ok_or_else(|| "it waits".to_owned()) }
        })
        .await
        .unwrap();
        assert_eq!(ended.code(), Some(0));
        let task: Value = client.get("/api/tasks/long").await.unwrap();
        assert_eq!(task["state"], "completed");
        assert_eq!(maintenance(&["status"]).status().unwrap().code(), Some(0));
        assert_eq!(maintenance(&["disable"]).status().unwrap().code(), Some(0));
        assert_eq!(maintenance(&["status"]).status().unwrap().code(), Some(1));
    });
}

#[test]
fn a_single_node_does_everything_a_cluster_does() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(1).await.unwrap();
        cluster.start_worker("", 2).await.unwrap();
        let client = cluster.client().unwrap();
        let done = |id: &str| {
            let (client, path) = (client.clone(), format!("/api/tasks/{id}"));
            async move {
                wait::until("the task to end", LIMIT, || async {
                    let task: Value = client.get(&path).await.map_err(|e| e.to_string())?;
                    if task["state"] == "completed" { Ok(()) } else { Err(task.to_string()) }
                })
                .await
                .unwrap();
            }
        };
        let submit = |id: &str| json!({"task_id": id, "type": "command", "config": {"command": "true"}});
        let _: Value =
            client.post("/api/tasks", &submit("one"), api::client::Repeat::Idempotent).await.unwrap();
        done("one").await;
        let status = cluster.status(0).await.unwrap();
        assert_eq!((status.role, status.voters.len()), (api::cluster::Role::Leader, 1));
        assert!(status.peers.is_empty());
        // Nobody can take over, and that is said.
        let refused =
            client.post::<_, Value>("/api/cluster/transfer", &json!({}), api::client::Repeat::Never).await;
        assert!(refused.is_err());
        // It comes back with all it had, also after a crash.
        cluster.kill9(0);
        cluster.start_node(0).unwrap();
        cluster.wait_ready(0, LIMIT).await.unwrap();
        done("one").await;
        let _: Value =
            client.post("/api/tasks", &submit("two"), api::client::Repeat::Idempotent).await.unwrap();
        done("two").await;
        let health: api::cluster::Health =
            wait::get(&wait::http(), &cluster.place(0).url("/api/health")).await.unwrap();
        assert_ne!(health.status, api::cluster::HealthStatus::Failing, "{health:?}");
    });
}

/// Waits for what a request gives.
async fn asked<T>(what: &str, url: &str, holds: impl Fn(Value) -> Option<T>) -> T {
    let http = wait::http();
    wait::until(what, LIMIT, || async {
        let answer: Value = wait::get(&http, url).await?;
        holds(answer.clone()).ok_or_else(|| answer.to_string().chars().take(600).collect())
    })
    .await
    .unwrap()
}

/// Keys that count at once do more than stand in a report: each is changed in a node that leads, and its
/// effect is waited for.
#[test]
fn what_a_reload_takes_has_its_effect() {
    runtime().block_on(async {
        let mut cluster = Cluster::prepare(3, Binaries::find().unwrap(), "coordinator").unwrap();
        let file = cluster.folder().join("node-1.jsonl");
        // The one that is looked at leads, and goes on leading on a busy machine.
        let timers =
            json!({"heartbeat_interval": 100, "election_timeout_min": 3000, "election_timeout_max": 5000});
        for index in 0..3 {
            cluster.configure(index, &timers).unwrap();
        }
        edit(&cluster.place(0).config, |config| config["log_file"] = json!(file));
        cluster.start_all().await.unwrap();
        let client = cluster.client().unwrap();
        let lead = json!({"to": cluster.place(0).id});
        let _: Value = client.post("/api/cluster/transfer", &lead, Repeat::Idempotent).await.unwrap();
        let place = cluster.place(0).clone();
        let leads = |status: Value| (status["role"] == "leader").then_some(());
        asked("node-1 to lead", &place.url("/api/status"), leads).await;
        let reload = async |cluster: &Cluster, settings: Value| {
            let taken = cluster.reload(0, &settings).await.unwrap();
            for key in settings.as_object().unwrap().keys() {
                assert!(taken.applied.contains(key), "{key}: {taken:?}");
            }
        };

        // peers: a voter that is gone, and was edited out, is told with the command that removes it.
        cluster.stop_node(2).unwrap();
        let peers = json!([{"id": "node-2", "host": "127.0.0.1", "port": cluster.place(1).port}]);
        reload(&cluster, json!({"peers": peers})).await;

        // max_log_size and snapshot_threshold: a snapshot where there was none.
        let snapshot = |status: Value| status["snapshot_index"].as_u64().filter(|index| *index > 0);
        let status: Value = wait::get(&wait::http(), &place.url("/api/status")).await.unwrap();
        assert_eq!(snapshot(status), None);
        reload(&cluster, json!({"snapshot_threshold": 10, "max_log_size": 20})).await;
        for number in 0..40 {
            let task = json!({"task_id": format!("task-{number}"), "type": "noop"});
            let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
        }
        asked("a snapshot", &place.url("/api/status"), snapshot).await;

        // max_batch_size: commands that come at once are no longer packed.
        reload(&cluster, json!({"max_batch_size": 1})).await;
        let status: Value = wait::get(&wait::http(), &place.url("/api/status")).await.unwrap();
        let from = status["last_log_index"].as_u64().unwrap() + 1;
        let many = (0..60).map(|_| async {
            let _: Value = client.post("/api/tasks", &json!({"type": "noop"}), Repeat::Never).await.unwrap();
        });
        futures_util::future::join_all(many).await;
        let log: Value =
            wait::get(&wait::http(), &place.url(&format!("/api/debug/raft_log?from={from}&limit=500")))
                .await
                .unwrap();
        let commands = |entry: &Value| entry["commands"].as_array().map_or(0, Vec::len);
        let most = log["entries"].as_array().unwrap().iter().map(commands).max();
        assert_eq!(most, Some(1), "{log}");

        // log_level, log_max_size and log_backup_count: the file turns over, and one is kept.
        reload(&cluster, json!({"log_level": "DEBUG", "log_max_size": 4096, "log_backup_count": 1})).await;
        let rotated = |number: usize| std::path::PathBuf::from(format!("{}.{number}", file.display()));
        wait::until("the log file to turn over", LIMIT, || async {
            let _: Value = wait::get(&wait::http(), &place.url("/api/tasks")).await?;
            if rotated(1).exists() { Ok(()) } else { Err("it has not".to_owned()) }
        })
        .await
        .unwrap();
        assert!(!rotated(2).exists());

        // allow_insecure_network: the warning about an open network, told with each reading, falls silent.
        // The file is written behind the node's back, so that what it tells is complete only up to a line that
        // is there: the one of a reload that comes after. (That reload's own warnings follow its line.)
        let warnings = async |cluster: &Cluster, number: usize| {
            reload(cluster, json!({"zone": format!("rack-{number}")})).await;
            wait::until(&format!("the line of the reload to rack-{number}"), LIMIT, || async {
                let mut told = lines(&rotated(1));
                told.extend(lines(&file));
                let reloads = |line: &Value| {
                    line["message"] == "the config was read again" && line["applied"] == "zone"
                };
                if told.iter().filter(|line| reloads(line)).count() != number {
                    return Err(format!("{:?} is the last line", told.last()));
                }
                let upto = told.iter().rposition(reloads).unwrap_or_default();
                let warns = |line: &&Value| {
                    line["level"] == "WARN"
                        && line.to_string().contains("whoever names the right cluster and node")
                };
                Ok(told[..upto].iter().filter(warns).count())
            })
            .await
            .unwrap()
        };
        reload(&cluster, json!({"log_max_size": 1 << 30})).await;
        let told = warnings(&cluster, 1).await;
        assert!(told > 0, "an open network is warned of");
        reload(&cluster, json!({"allow_insecure_network": true})).await;
        // One more: of the reload to rack-1 itself.
        assert_eq!(warnings(&cluster, 2).await, told + 1);
        assert_eq!(warnings(&cluster, 3).await, told + 1);
        reload(&cluster, json!({"allow_insecure_network": false})).await;
        assert_eq!(warnings(&cluster, 4).await, told + 2);

        // log_raft_events: Raft's own lines.
        reload(&cluster, json!({"log_raft_events": true})).await;
        let of_raft = |logs: Value| {
            let lines = logs["lines"].as_array()?;
            lines.iter().any(|line| line["target"] == "raft").then_some(())
        };
        let _: Value = client.post("/api/cluster/transfer", &json!({}), Repeat::Idempotent).await.unwrap();
        asked("a line of Raft", &place.url("/api/logs?level=DEBUG&limit=1000"), of_raft).await;

        // max_concurrent_connections: the next one is told to come again.
        reload(&cluster, json!({"max_concurrent_connections": 8})).await;
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(std::net::TcpStream::connect(place.address()).unwrap());
        }
        wait::until("a client to be told to come again", LIMIT, || async {
            let answer =
                wait::http().get(place.url("/api/status")).send().await.map_err(|e| e.to_string())?;
            if answer.status() == 503 { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await
        .unwrap();
        drop(held);

        let warned = |status: Value| {
            let text = status["warnings"].to_string();
            text.contains("coordinator members remove node-3").then_some(())
        };
        asked("the forgotten voter to be told", &place.url("/api/status"), warned).await;
        let metrics = format!("http://127.0.0.1:{}/metrics", place.prometheus_port);
        let text = wait::http().get(metrics).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("holdfast_members{state=\"forgotten\"} 1"), "{text}");
    });
}
