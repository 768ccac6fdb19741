//! Every declared metric is there in a running cluster, and says what was.

use api::client::Repeat;
use api::cluster::Role;
use api::metrics::{ALL, Kind, TLS_CERTIFICATE_END};
use api::task::{NewTask, TaskRecord};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::ports::Ports;
use testbed::process::{Lifetime, Started};
use testbed::scrape::Samples;
use testbed::whole::Whole;
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(90);

/// What a cluster as `testbed up` lays it out does not show, and why.
const NOT_HERE: [(&str, &str); 1] =
    [(TLS_CERTIFICATE_END.name, "this cluster has no TLS; tests/access.rs looks at it")];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn task(id: &str, kind: &str, config: Value) -> NewTask {
    serde_json::from_value(json!({"task_id": id, "type": kind, "config": config, "max_retries": 0})).unwrap()
}

async fn post(http: &reqwest::Client, url: &str, body: Value) -> Value {
    let answer = http.post(url).timeout(LIMIT).json(&body).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{url}: {status}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Scrapes every program of a cluster and adds what it finds.
async fn collect(whole: &Whole, http: &reqwest::Client, seen: &mut BTreeSet<String>) {
    for url in whole.metrics_urls() {
        // A node that was killed for the test does not answer.
        if let Ok(samples) = Samples::of(http, &url).await {
            seen.extend(samples.names().into_iter().map(str::to_owned));
        }
    }
}

#[test]
fn every_declared_metric_is_produced() {
    runtime().block_on(async {
        let whole = Whole::start(3, &["--workers", "2"]).await.unwrap();
        let (http, client, places) = (wait::http(), whole.client().unwrap(), whole.places());
        let mut seen = BTreeSet::new();

        // The suite has run. More: a cancelled task, a linearizable read, a change of leaders, a
        // snapshot, a check of everything, a backup.
        let waits = task("never", "nobody-runs-this", json!({}));
        client.post::<_, Value>("/api/tasks", &waits, Repeat::Never).await.unwrap();
        client.post::<_, Value>("/api/tasks/never/cancel", &json!({}), Repeat::Never).await.unwrap();
        client.get::<TaskRecord>("/api/tasks/never").await.unwrap();
        post(&http, &places[0].url("/api/cluster/transfer"), json!({})).await;
        for place in &places {
            post(&http, &place.url("/api/admin/snapshot"), json!({"by_hand": true})).await;
            post(&http, &place.url("/api/admin/verify"), json!({"by_hand": true})).await;
        }
        let backup = http.get(places[0].url("/api/backup")).timeout(LIMIT).send().await.unwrap();
        assert!(backup.error_for_status().unwrap().bytes().await.unwrap().len() > 1000);
        collect(&whole, &http, &mut seen).await;

        // A fault that is held up by the brake, and then mended.
        let brake = format!("http://127.0.0.1:{}/api/brake", whole.layout().recovery_port());
        post(&http, &brake, json!({"on": true, "why": "the test wants to see a gate close"})).await;
        let node = whole.coordinator("node-2").unwrap();
        assert!(node.signal(rustix::process::Signal::KILL));
        let wanted = ["holdfast_monitor_anomalies", "holdfast_recovery_gate_denials_total"];
        let whole = &whole;
        see(whole, &http, &mut seen, &wanted).await;
        post(&http, &brake, json!({"on": false, "why": "the gate has been seen"})).await;
        see(
            whole,
            &http,
            &mut seen,
            &["holdfast_recovery_outcomes_total", "holdfast_recovery_duration_seconds_count"],
        )
        .await;

        let missing: Vec<String> = ALL
            .iter()
            .filter(|metric| !NOT_HERE.iter().any(|(name, _)| *name == metric.name))
            .map(|metric| match metric.kind {
                Kind::Histogram => format!("{}_count", metric.prometheus_name()),
                Kind::Counter | Kind::Gauge => metric.prometheus_name(),
            })
            .filter(|name| !seen.contains(name))
            .collect();
        assert!(missing.is_empty(), "declared, but in no scrape of a running cluster: {missing:?}");
        assert!(seen.iter().any(|name| name.starts_with("raft_engine_")), "the log engine's own are missing");
    });
}

/// Scrapes until all of `wanted` were seen.
async fn see(whole: &Whole, http: &reqwest::Client, seen: &mut BTreeSet<String>, wanted: &[&str]) {
    let shared = tokio::sync::Mutex::new(seen);
    wait::until("metrics of a fault", LIMIT, || async {
        let mut seen = shared.lock().await;
        collect(whole, http, &mut seen).await;
        let missing: Vec<_> = wanted.iter().filter(|name| !seen.contains(**name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("not seen: {missing:?}")) }
    })
    .await
    .unwrap();
}

/// The metrics of one node of a cluster.
async fn of_node(cluster: &Cluster, index: usize) -> Samples {
    let url = format!("http://127.0.0.1:{}/metrics", cluster.place(index).prometheus_port);
    Samples::of(&wait::http(), &url).await.unwrap()
}

#[test]
fn metrics_are_measured() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let before = of_node(&cluster, leader).await;
        let of =
            |samples: &Samples, name: &str| samples.sum(name, &[]).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(of(&before, "holdfast_tasks_submitted_total"), 0.0);

        // So many tasks, one of them failing, one cancelled.
        const TASKS: usize = 20;
        let client = cluster.client().unwrap();
        for number in 0..TASKS {
            let command = if number == 0 { "exit 3" } else { "true" };
            let task = task(&format!("t{number}"), "command", json!({"command": command}));
            client.post::<_, Value>("/api/tasks", &task, Repeat::Never).await.unwrap();
        }
        let waits = task("never", "nobody-runs-this", json!({}));
        client.post::<_, Value>("/api/tasks", &waits, Repeat::Never).await.unwrap();
        client.post::<_, Value>("/api/tasks/never/cancel", &json!({}), Repeat::Never).await.unwrap();
        cluster.start_worker("", 2).await.unwrap();
        let done = [("submitted", TASKS + 1), ("completed", TASKS - 1), ("failed", 1), ("cancelled", 1)];
        for index in 0..3 {
            wait::until("every node to have counted the tasks", LIMIT, || async {
                let samples = of_node(&cluster, index).await;
                for (what, wanted) in done {
                    let count = of(&samples, &format!("holdfast_tasks_{what}_total"));
                    if count != wanted as f64 {
                        return Err(format!("node {index}: {what} is {count}, not {wanted}"));
                    }
                }
                let waited = of(&samples, "holdfast_task_queue_wait_seconds_count");
                let ran = of(&samples, "holdfast_task_run_time_seconds_count");
                match (waited, ran) == (TASKS as f64, TASKS as f64) {
                    true => Ok(()),
                    false => Err(format!("{waited} waits, {ran} runs")),
                }
            })
            .await
            .unwrap();
        }

        // What the leader did for them: a sync, a commit and an answer each at least.
        let after = of_node(&cluster, leader).await;
        let grown = |name: &str| of(&after, name) - of(&before, name);
        assert!(
            of(&after, "holdfast_raft_proposals_total") - of(&before, "holdfast_raft_proposals_total")
                >= 22.0
        );
        for name in ["holdfast_log_sync_duration_seconds_count", "holdfast_raft_apply_duration_seconds_count"]
        {
            assert!(grown(name) >= 1.0, "{name}");
        }
        let commits = of(&after, "holdfast_raft_commit_duration_seconds_sum");
        let answers = of(&after, "holdfast_raft_proposal_duration_seconds_sum");
        assert!(
            commits > 0.0 && answers >= commits,
            "an answer ({answers}) can't come before its commit ({commits})"
        );
        assert!(
            grown("holdfast_uptime_seconds") > 0.0 && grown("holdfast_process_cpu_time_seconds_total") >= 0.0
        );
        let requests = after.sum(
            "http_server_request_duration_seconds_count",
            &[("http_route", "/api/tasks"), ("http_request_method", "POST")],
        );
        assert!(requests >= Some(TASKS as f64), "{requests:?}");

        // The process and its place, against what the system says.
        let pid = cluster.pid(leader).unwrap();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64;
        let told = of(&after, "holdfast_process_open_fds");
        assert!((told - open).abs() < 64.0, "{told} descriptors told, {open} open");
        let disk = rustix::fs::statvfs(cluster.folder()).unwrap();
        // Without what is reserved for the superuser, as df counts.
        let usable = ((disk.f_blocks - disk.f_bfree + disk.f_bavail) * disk.f_frsize) as f64;
        let told = of(&after, "holdfast_disk_size_bytes");
        assert!((told - usable).abs() < 0.01 * usable, "{told} bytes told, {usable} usable");
        let resident = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        let resident = resident.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0;
        let told = of(&after, "holdfast_process_memory_bytes");
        assert!(told > resident / 2.0 && told < resident * 2.0, "{told} told, {resident} resident");

        role_and_leader_changes_follow(&mut cluster, leader).await;
        maintenance_shows(&cluster).await;
        the_monitor_counts_no_task_twice(&cluster, TASKS + 1).await;
    });
}

/// A new leader shows on every node, in role, term and count.
async fn role_and_leader_changes_follow(cluster: &mut Cluster, old: usize) {
    let other = (old + 1) % 3;
    let before = of_node(cluster, other).await;
    let to = cluster.place(other).id.clone();
    post(&wait::http(), &cluster.place(old).url("/api/cluster/transfer"), json!({"to": to})).await;
    wait::until("the new leader", LIMIT, || async {
        let status = cluster.status(other).await?;
        if status.role == Role::Leader { Ok(()) } else { Err(status.role.to_string()) }
    })
    .await
    .unwrap();
    let (status, after) = (cluster.status(other).await.unwrap(), of_node(cluster, other).await);
    let changes = |samples: &Samples| samples.sum("holdfast_raft_leader_changes_total", &[]).unwrap();
    assert!(changes(&after) > changes(&before), "{} then {}", changes(&before), changes(&after));
    assert_eq!(after.sum("holdfast_raft_role", &[("state", "leader")]), Some(1.0));
    assert_eq!(after.sum("holdfast_raft_role", &[]), Some(1.0), "one role only");
    assert_eq!(after.sum("holdfast_raft_term", &[]), Some(status.term as f64));
    let lags = after.of_name("holdfast_peer_lag", &[]).count();
    assert_eq!(lags, 2, "the leader shows the lag of both others");
}

async fn maintenance_shows(cluster: &Cluster) {
    for (path, wanted) in [("enable", 1.0), ("disable", 0.0)] {
        let client = cluster.client().unwrap();
        let path = format!("/api/maintenance/{path}");
        client.post::<_, Value>(&path, &json!({}), Repeat::Never).await.unwrap();
        for index in 0..3 {
            wait::until("maintenance to show", LIMIT, || async {
                let told = of_node(cluster, index).await.sum("holdfast_maintenance", &[]);
                if told == Some(wanted) { Ok(()) } else { Err(format!("{told:?}")) }
            })
            .await
            .unwrap();
        }
    }
}

/// Three replicas hold each task; there is one of it all the same.
async fn the_monitor_counts_no_task_twice(cluster: &Cluster, tasks: usize) {
    let ports = Ports::take(1).unwrap();
    let listen = format!("127.0.0.1:{}", ports.as_slice()[0]);
    let mut arguments = vec!["--nodes".to_owned()];
    arguments.extend(cluster.addresses());
    arguments.extend(["--interval", "1", "--listen", &listen].map(str::to_owned));
    let program = Binaries::find().unwrap().path("monitor").unwrap();
    let log = cluster.folder().join("logs/monitor.log");
    let mut monitor = Started::spawn("monitor", &program, &arguments, &log, Lifetime::WithParent).unwrap();
    let http = wait::http();
    let seen = wait::until("the monitor to have counted the tasks", LIMIT, || async {
        let cluster: Value = wait::get(&http, &format!("http://{listen}/api/cluster")).await?;
        let counts = cluster["work"]["tasks"].as_object().ok_or_else(|| cluster.to_string())?;
        let sum: u64 = counts.values().filter_map(Value::as_u64).sum();
        if sum > 0 { Ok(sum) } else { Err(format!("{counts:?}")) }
    })
    .await;
    monitor.kill9();
    assert_eq!(seen.unwrap(), tasks as u64);
}
