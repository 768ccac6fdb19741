//! A stand-in for a coordinator: a real process that locks its data directory and reports.
//!
//! It is this test program itself, started again with [`fake_node`] as the only test to run. What
//! it does is told by its environment, and by files in its data directory.

use crate::sample;
use axum::Json;
use axum::routing::get;
use recovery::act::processes::pid_is_alive;
use recovery::config::ProcessSpec;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Does nothing as a test; with `FAKE_NODE` set it is a node until it is killed.
#[test]
fn fake_node() {
    let Ok(node) = std::env::var("FAKE_NODE") else { return };
    let data_dir = PathBuf::from(std::env::var("DATA_DIR").unwrap());
    if data_dir.join("fail").exists() {
        eprintln!("the disk is on fire");
        std::process::exit(3);
    }
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join("LOCK")).unwrap();
    if std::env::var("FAKE_WITHOUT_LOCK").is_err() {
        if lock.try_lock().is_err() {
            eprintln!("the data directory is in use");
            std::process::exit(4);
        }
        lock.set_len(0).unwrap();
        writeln!(&lock, "{}", std::process::id()).unwrap();
        let mut starts = OpenOptions::new().create(true).append(true).open(data_dir.join("starts")).unwrap();
        writeln!(starts, "{}", std::process::id()).unwrap();
    }
    if data_dir.join("mute").exists() {
        loop {
            std::thread::park();
        }
    }
    serve(&node, std::env::var("FAKE_PORT").unwrap().parse().unwrap());
}

#[tokio::main(flavor = "current_thread")]
async fn serve(node: &str, port: u16) {
    let report = sample::report(node, 100, std::process::id());
    let router = axum::Router::new().route("/api/report", get(|| async { Json(report) }));
    let host = std::env::var("FAKE_HOST").unwrap();
    let listener = tokio::net::TcpListener::bind((host, port)).await.unwrap();
    axum::serve(listener, router).await.unwrap();
}

/// Three fake nodes and a folder for the daemon. All processes end with it.
pub struct Fakes {
    /// Holds everything.
    pub dir: tempfile::TempDir,
    /// A loopback address of this program's own: a port there stays free while its node is down.
    pub host: String,
    /// The API ports of `n1`, `n2`, `n3`.
    pub ports: [u16; 3],
    children: Vec<std::process::Child>,
}

pub const NODES: [&str; 3] = ["n1", "n2", "n3"];

impl Fakes {
    /// Three nodes, none of them started.
    pub fn prepare() -> Fakes {
        // Kept open together, so that they differ.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let host = format!("127.{}.{b}.{c}", 64 + a % 64);
        let listeners = [(); 3].map(|()| TcpListener::bind((host.as_str(), 0)).unwrap());
        let ports = [0, 1, 2].map(|i| listeners[i].local_addr().unwrap().port());
        let dir = tempfile::tempdir().unwrap();
        for node in NODES {
            std::fs::create_dir(dir.path().join(node)).unwrap();
        }
        Fakes { dir, host, ports, children: Vec::new() }
    }

    /// Three nodes that report.
    pub fn start() -> Fakes {
        let mut fakes = Fakes::prepare();
        for node in NODES {
            fakes.start_by_hand(node);
        }
        fakes
    }

    /// Starts a node as a person would, and waits until it listens.
    pub fn start_by_hand(&mut self, node: &str) {
        let spec = self.spec(node);
        let log = OpenOptions::new().create(true).append(true).open(self.data_dir(node).join("log")).unwrap();
        let child = std::process::Command::new(&spec.command[0])
            .args(&spec.command[1..])
            .envs(&spec.env)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
        if !self.data_dir(node).join("mute").exists() {
            wait_for(&format!("{node} to listen"), || std::net::TcpStream::connect(&spec.address).is_ok());
        }
    }

    /// The data directory of a node.
    pub fn data_dir(&self, node: &str) -> PathBuf {
        self.dir.path().join(node)
    }

    /// The folder of the daemon.
    pub fn recovery_dir(&self) -> PathBuf {
        self.dir.path().join("recovery")
    }

    fn port(&self, node: &str) -> u16 {
        self.ports[NODES.iter().position(|n| *n == node).unwrap()]
    }

    /// How a node is started.
    pub fn spec(&self, node: &str) -> ProcessSpec {
        let exe = std::env::current_exe().unwrap().display().to_string();
        let arguments = ["--exact", "fake::fake_node", "--nocapture"].map(str::to_owned);
        let env = BTreeMap::from([
            ("FAKE_NODE".to_owned(), node.to_owned()),
            ("FAKE_HOST".to_owned(), self.host.clone()),
            ("FAKE_PORT".to_owned(), self.port(node).to_string()),
            ("DATA_DIR".to_owned(), self.data_dir(node).display().to_string()),
        ]);
        ProcessSpec {
            node: node.to_owned(),
            address: format!("{}:{}", self.host, self.port(node)),
            data_dir: self.data_dir(node),
            config: None,
            command: [vec![exe], arguments.to_vec()].concat(),
            cwd: None,
            env,
            log_file: self.dir.path().join(format!("{node}.log")),
        }
    }

    /// Writes `recovery_config.json` and returns its path. Nodes named in `manual` have no actuator.
    pub fn config(&self, cooldown_seconds: f64, manual: &[&str]) -> PathBuf {
        let nodes: Vec<_> = NODES
            .iter()
            .map(|node| {
                let spec = self.spec(node);
                let actuator = if manual.contains(node) {
                    serde_json::json!({"type": "none"})
                } else {
                    serde_json::json!({"type": "process", "command": spec.command, "env": spec.env,
                        "log_file": spec.log_file})
                };
                serde_json::json!({"id": node, "host": self.host, "port": self.port(node),
                    "data_dir": spec.data_dir, "actuator": actuator})
            })
            .collect();
        let config = serde_json::json!({
            "nodes": nodes,
            "recovery_dir": self.recovery_dir(),
            "recovery_options": {"auto_restart": true, "backup_before_recovery": true,
                "max_restart_attempts": 3, "restart_cooldown": cooldown_seconds},
        });
        let path = self.dir.path().join("recovery_config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The pid that holds a node's lock, if any does.
    pub fn pid(&self, node: &str) -> Option<i32> {
        let path = self.data_dir(node).join("LOCK");
        let file = std::fs::File::open(&path).ok()?;
        if file.try_lock_shared().is_ok() {
            return None;
        }
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// How often a node was started.
    pub fn starts(&self, node: &str) -> usize {
        std::fs::read_to_string(self.data_dir(node).join("starts")).unwrap_or_default().lines().count()
    }

    /// Kills a node the hard way, waits until it is gone, and returns its pid.
    pub fn kill(&self, node: &str) -> i32 {
        let mut pid = None;
        // It locks first and writes its pid then: for a moment the file names the one before.
        wait_for(&format!("the pid of {node}"), || {
            pid = self.pid(node);
            pid.is_some_and(pid_is_alive)
        });
        let pid = pid.unwrap();
        kill_hard(pid);
        wait_for(&format!("{node} to die"), || !pid_is_alive(pid) && self.pid(node).is_none());
        pid
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["recovery/audit.jsonl", "daemon.log", "n1.log", "n2.log", "n3.log"] {
                let text = std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
                println!("---- {name}\n{text}");
            }
        }
        // By what they were started with: one may not have locked its directory yet.
        for process in procfs::process::all_processes().into_iter().flatten().flatten() {
            let is_ours = process.environ().is_ok_and(|env| {
                env.get(std::ffi::OsStr::new("DATA_DIR"))
                    .is_some_and(|dir| Path::new(dir).starts_with(self.dir.path()))
            });
            if is_ours {
                kill_hard(process.pid);
            }
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// kill -9.
pub fn kill_hard(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Waits for a condition, and says which one it waited for in vain.
pub fn wait_for(what: &str, is_so: impl FnMut() -> bool) {
    wait_within(Duration::from_secs(30), what, is_so);
}

/// The same with its own limit.
pub fn wait_within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {} s for {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The audit's records as they stand in the file.
pub fn audit(recovery_dir: &Path) -> Vec<recovery::record::Record> {
    let text = std::fs::read_to_string(recovery_dir.join("audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
