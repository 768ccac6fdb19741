//! The program itself against three fake nodes.

use crate::fake::{Fakes, NODES, audit, wait_for, wait_within};
use recovery::policy::Gate;
use recovery::record::{Outcome, Phase};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn recovery(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recovery"));
    command.arg("--config").arg(config).args(["--interval", "0.4"]).env("RUST_LOG", "info");
    command
}

fn one_pass(config: &Path, more: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = recovery(config).args(more).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().unwrap_or(-1), text)
}

/// A daemon that ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(config: &Path) -> Daemon {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(config.with_file_name("daemon.log"));
        let child = recovery(config)
            .args(["--daemon", "--listen", "127.0.0.1:0"])
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        Daemon(child)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn outcomes(fakes: &Fakes, outcome: Outcome) -> usize {
    audit(&fakes.recovery_dir()).iter().filter(|record| record.outcome == Some(outcome)).count()
}

#[test]
fn a_killed_node_comes_back_again_and_again() {
    let fakes = Fakes::start();
    let config = fakes.config(60.0, &[]);
    let daemon = Daemon::start(&config);
    wait_for("the daemon's audit", || fakes.recovery_dir().join("audit.jsonl").exists());
    for round in 1..=4 {
        let node = if round == 4 { "n1" } else { "n2" };
        let old = fakes.kill(node);
        let killed = Instant::now();
        wait_within(Duration::from_secs(20), "the repair to be verified", || {
            outcomes(&fakes, Outcome::Repaired) == round
        });
        println!("repair {round} of {node} verified {} ms after kill -9", killed.elapsed().as_millis());
        assert!(fakes.pid(node).is_some_and(|pid| pid != old));
    }
    assert_eq!((fakes.starts("n1"), fakes.starts("n2"), fakes.starts("n3")), (2, 4, 1));
    // The node outlives the daemon that started it.
    let pid = fakes.pid("n2");
    daemon.signal(rustix::process::Signal::TERM);
    let mut daemon = daemon;
    assert!(daemon.0.wait().unwrap().success());
    assert_eq!(fakes.pid("n2"), pid);
    let phases: Vec<_> = audit(&fakes.recovery_dir()).iter().map(|r| r.phase).take(4).collect();
    assert_eq!(phases, [Phase::Seen, Phase::Planned, Phase::Intent, Phase::Outcome]);
}

#[test]
fn one_pass_says_by_its_exit_code_how_it_went() {
    let fakes = Fakes::start();
    let config = fakes.config(60.0, &["n3"]);
    let (code, text) = one_pass(&config, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("3 of 3 nodes report\nhealthy"), "{text}");
    fakes.kill("n2");
    let (code, text) = one_pass(&config, &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("repaired: process_crash of n2: follower at 100, checksum equal to"), "{text}");
    fakes.kill("n3");
    let (code, text) = one_pass(&config, &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("no actuator: start it on its host"), "{text}");
    assert_eq!(fakes.starts("n3"), 1);
}

#[test]
fn a_total_loss_of_power_comes_back_without_a_person() {
    let fakes = Fakes::start();
    let config = fakes.config(60.0, &[]);
    for node in NODES {
        fakes.kill(node);
    }
    let (code, text) = one_pass(&config, &[]);
    assert_eq!(code, 1, "{text}");
    assert_eq!(NODES.map(|node| fakes.starts(node)), [2, 2, 2]);
}

#[test]
fn dry_run_changes_nothing() {
    let fakes = Fakes::start();
    let config = fakes.config(60.0, &[]);
    fakes.kill("n2");
    let before = listing(fakes.dir.path());
    let (code, text) = one_pass(&config, &["--dry-run"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("(dry_run): only looking"), "{text}");
    assert_eq!(listing(fakes.dir.path()), before);
    assert_eq!(fakes.pid("n2"), None);
}

/// Every file below a folder with its length.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            found.extend(listing(&entry.path()));
        }
        found.push((entry.path().display().to_string(), if meta.is_dir() { 0 } else { meta.len() }));
    }
    found.sort();
    found
}

#[test]
fn a_node_that_can_not_start_is_tried_to_its_budget_and_no_further() {
    let fakes = Fakes::start();
    let config = fakes.config(0.2, &[]);
    fakes.kill("n2");
    std::fs::write(fakes.data_dir("n2").join("fail"), "").unwrap();
    let _daemon = Daemon::start(&config);
    let pages = || {
        let records = audit(&fakes.recovery_dir());
        records.iter().filter(|r| r.gate == Some(Gate::Budget)).cloned().collect::<Vec<_>>()
    };
    wait_for("the page", || !pages().is_empty());
    let page = pages().remove(0);
    assert!(page.detail.contains("3 attempts in a row failed"), "{}", page.detail);
    assert!(page.evidence.iter().any(|line| line.contains("the disk is on fire")), "{:?}", page.evidence);
    assert_eq!(outcomes(&fakes, Outcome::Failed), 3);
}

#[test]
fn a_daemon_killed_in_the_middle_does_not_lose_count() {
    let fakes = Fakes::start();
    let config = fakes.config(60.0, &[]);
    let daemon = Daemon::start(&config);
    wait_for("the daemon's audit", || fakes.recovery_dir().join("audit.jsonl").exists());
    fakes.kill("n2");
    // It locks its directory but never answers: the repair stays under way.
    std::fs::write(fakes.data_dir("n2").join("mute"), "").unwrap();
    wait_for("the step", || fakes.pid("n2").is_some());
    daemon.signal(rustix::process::Signal::KILL);
    drop(daemon);
    assert_eq!(outcomes(&fakes, Outcome::Repaired), 0);
    let _second = Daemon::start(&config);
    let adopted = || audit(&fakes.recovery_dir()).iter().any(|r| r.detail.contains("is verified now"));
    wait_for("the unfinished plan to be examined", adopted);
    assert_eq!(fakes.starts("n2"), 2, "it was not started again");
}

#[test]
fn a_second_daemon_and_a_broken_config_are_refused() {
    let fakes = Fakes::start();
    let config = fakes.config(60.0, &[]);
    let daemon = Daemon::start(&config);
    let lock = fakes.recovery_dir().join("recovery.lock");
    let named = || std::fs::read_to_string(&lock).is_ok_and(|text| text.trim() == daemon.0.id().to_string());
    wait_for("the first daemon's lock", named);
    let (code, text) = one_pass(&config, &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains(&format!("another recovery daemon (pid {})", daemon.0.id())), "{text}");
    // A config that is broken while the daemon runs leaves the last good policy in force.
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("auto_restart", "auto_restrat")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    let refused =
        || audit(&fakes.recovery_dir()).iter().any(|r| r.detail.contains("did you mean `auto_restart`"));
    wait_for("the broken config to be refused", refused);
    fakes.kill("n3");
    wait_for("the repair under the last good policy", || outcomes(&fakes, Outcome::Repaired) == 1);
    drop(daemon);
    let (code, text) = one_pass(&config, &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("did you mean `auto_restart`"), "{text}");
}

#[test]
fn an_audit_that_can_not_be_written_stops_repairs() {
    let fakes = Fakes::start();
    let config = fakes.config(60.0, &[]);
    fakes.kill("n2");
    std::fs::create_dir_all(fakes.recovery_dir()).unwrap();
    // A file size limit of 1 KiB below an audit that is longer than that.
    let filler = (0..40).map(|n| {
        let line = serde_json::json!({"at": "2026-01-01T00:00:00Z", "id": "daemon", "phase": "config",
            "generation": n, "detail": "filler"});
        format!("{line}\n")
    });
    std::fs::write(fakes.recovery_dir().join("audit.jsonl"), filler.collect::<String>()).unwrap();
    let line =
        "trap '' XFSZ; ulimit -f 1; exec \"$0\" --config \"$1\" --interval 0.2 --daemon --listen 127.0.0.1:0";
    let child = Command::new("sh")
        .args(["-c", line, env!("CARGO_BIN_EXE_recovery"), &config.display().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut daemon = Daemon(child);
    let stderr = daemon.0.stderr.take().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let refusals = lines
        .map_while(Result::ok)
        .inspect(|line| println!("{line}"))
        .filter(|line| line.contains("nothing is repaired"))
        .take(3)
        .count();
    assert_eq!(refusals, 3, "it says so round after round");
    assert_eq!((fakes.pid("n2"), fakes.starts("n2")), (None, 1));
}
