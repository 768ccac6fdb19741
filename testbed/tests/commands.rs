//! The command line against a real cluster, and what the guide names: every flag, key and endpoint.

use serde_json::{Value, json};
use std::process::{Command, Output};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn program(name: &'static str) -> Command {
    Command::new(Binaries::find().unwrap().path(name).unwrap())
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_command_works_for_people_and_for_programs() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        cluster.start_worker("os=linux", 2).await.unwrap();
        let addresses = cluster.addresses().join(",");
        let coordinator = |arguments: &[&str]| {
            program("coordinator").args(arguments).env("HOLDFAST_COORDINATORS", &addresses).output().unwrap()
        };
        let list = cluster.folder().join("tasks.txt");
        std::fs::write(&list, "true\ntrue\n").unwrap();
        let list = list.display().to_string();
        let client = cluster.client().unwrap();
        let held = json!({"task_id": "held", "type": "noop", "requirements": {"labels": {"os": "none"}}});
        let _: Value = client.post("/api/tasks", &held, api::client::Repeat::Idempotent).await.unwrap();

        for (arguments, code, says) in [
            (vec!["status"], 0, "ROLE"),
            (vec!["members"], 0, "voter, leader"),
            (vec!["submit", "--wait", &list], 0, "2"),
            (vec!["tasks", "list"], 0, "held"),
            (vec!["tasks", "show", "held"], 0, "os=none"),
            (vec!["tasks", "show", "nowhere"], 1, "there is no task"),
            (vec!["tasks", "cancel", "held"], 0, "cancelled"),
            (vec!["tasks", "retry", "held"], 0, "pending"),
            (vec!["maintenance", "status"], 1, "off"),
            (vec!["maintenance", "enable"], 0, "maintenance is on since"),
            (vec!["maintenance", "disable"], 0, "off"),
            (vec!["settings", "get"], 0, "unfinished_tasks"),
            (vec!["settings", "set", "unfinished_tasks=123456"], 0, "123456"),
            (vec!["settings", "get", "unfinished_tasks"], 0, "123456"),
            (vec!["settings", "set", "unfinished_tasks=0"], 1, "unfinished_tasks"),
            (vec!["settings", "set", "nothing=1"], 1, "nothing"),
            (vec!["snapshot"], 0, "BYTES"),
            (vec!["transfer"], 0, "leads (before"),
            (vec!["transfer", "--to", "nobody"], 1, "no voter"),
            (vec!["status", "--coordinators", "nonsense"], 2, "host:port"),
        ] {
            let run = coordinator(&arguments);
            assert_eq!(run.status.code(), Some(code), "{arguments:?}: {}", text(&run));
            assert!(text(&run).contains(says), "{arguments:?}: {}", text(&run));
            if code != 2
                && arguments[..1] != ["submit"]
                && !["nowhere", "nobody", "unfinished_tasks=0", "nothing=1"]
                    .iter()
                    .any(|w| arguments.contains(w))
            {
                let mut arguments = arguments;
                arguments.push("--json");
                let run = coordinator(&arguments);
                let read = serde_json::from_slice::<Value>(&run.stdout);
                assert!(read.is_ok(), "{arguments:?}: {}", text(&run));
            }
        }
        // A disk that is nearly full, or a clock that is off, is this machine's and rightly named.
        let doctor = coordinator(&["doctor", "--no-archive"]);
        assert!(matches!(doctor.status.code(), Some(0 | 1)), "{}", text(&doctor));
        assert!(text(&doctor).starts_with("3 of 3 nodes answer"), "{}", text(&doctor));
        assert!(!text(&doctor).contains("FAULT"), "{}", text(&doctor));
        let nobody =
            program("coordinator").args(["status", "--coordinators", "127.0.0.1:1"]).output().unwrap();
        assert_eq!(nobody.status.code(), Some(2), "{}", text(&nobody));
    });
}

/// What the guide documents is there: it once was not, and crashed the argument parser.
#[test]
fn documented_flag_exists() {
    for (name, flags) in [
        ("coordinator", &["--config", "--force-sync", "--check-config", "--check-peers"][..]),
        ("monitor", &["--nodes", "--interval", "--output-dir"]),
        ("recovery", &["--config", "--interval", "--daemon"]),
    ] {
        let run = program(name).arg("--help").output().unwrap();
        assert!(run.status.success(), "{}", text(&run));
        for flag in flags {
            assert!(text(&run).contains(flag), "{name} has no {flag}");
        }
    }
    let commands = text(&program("coordinator").arg("--help").output().unwrap());
    for command in ["worker", "submit", "status", "members", "tasks", "maintenance", "transfer", "doctor"] {
        assert!(commands.contains(&format!("  {command} ")), "coordinator has no {command}:\n{commands}");
    }
    // The guide's keys, with other values than the defaults, as the node then has them.
    let folder = tempfile::tempdir().unwrap();
    let keys = json!({
        "node_id": "node-9", "host": "127.0.0.1", "port": 8085, "data_dir": folder.path(), "db_path": folder.path().join("x.duckdb"),
        "log_level": "WARN", "enable_redundancy": true, "peers": [{"id": "node-8", "host": "127.0.0.2", "port": 8085}, {"id": "node-7", "host": "127.0.0.3", "port": 8085}],
        "election_timeout_min": 200, "election_timeout_max": 400, "heartbeat_interval": 30,
        "snapshot_threshold": 500, "max_log_size": 5000, "enable_prometheus": false, "prometheus_port": 9099,
        "max_batch_size": 100, "max_memory_mb": 2048, "connection_timeout": 6, "connection_retry_limit": 4,
        "max_concurrent_connections": 100, "db_memory_limit": 256, "db_pragma": {"cache_size": 10000},
        "log_file": folder.path().join("n.log"), "log_max_size": 20_000_000, "log_backup_count": 3, "log_raft_events": true,
    });
    let path = folder.path().join("node.json");
    std::fs::write(&path, keys.to_string()).unwrap();
    let run = program("coordinator")
        .args(["--check-config", "--config"])
        .arg(&path)
        .env_clear()
        .envs(library())
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&run)));
    for (key, value) in keys.as_object().unwrap() {
        assert_eq!(shown[key], *value, "{key}");
    }

    runtime().block_on(async {
        let cluster = Cluster::start(1).await.unwrap();
        let http = wait::http();
        for path in [
            "/api/status",
            "/api/health",
            "/api/health/db",
            "/api/health/log",
            "/api/health/state_checksum",
            "/api/health/resources",
            "/api/health/operations",
            "/api/debug/raft_log",
            "/api/tasks?status=running",
            "/api/maintenance",
            "/api/logs",
            "/api/report",
            "/api/config",
        ] {
            let read: Value = wait::get(&http, &cluster.place(0).url(path)).await.unwrap();
            assert!(read.is_object(), "{path}: {read}");
        }
        for path in ["/api/maintenance/enable", "/api/maintenance/disable"] {
            let answer = http.post(cluster.place(0).url(path)).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
        }
        let metrics = format!("http://127.0.0.1:{}/metrics", cluster.place(0).prometheus_port);
        wait::until("the metrics", LIMIT, || wait::answers(&http, &metrics)).await.unwrap();
    });
}

/// Where the loader finds DuckDB, in an environment that has nothing else.
fn library() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name == "LD_LIBRARY_PATH")
}
