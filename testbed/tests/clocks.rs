//! Wall clocks that jump: nobody's lease ends, nothing stops.
//!
//! The coordinators run under libfaketime, which shifts the wall clock and leaves the monotonic
//! one alone, as a step by an administrator or a time server does.

use api::client::Repeat;
use api::cluster::Role;
use api::task::{Submitted, TaskRecord, TaskState};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, judge, load::Told, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// libfaketime as Debian lays it, also where `./dev test` unpacked it.
fn library() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
    let roots = [PathBuf::from("/"), unpacked];
    let machines = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let all = roots.iter().flat_map(|root| machines.map(|m| root.join("usr/lib").join(m)));
    all.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}

fn set_clock(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n")).and_then(|()| std::fs::rename(&new, file)).unwrap();
}

#[test]
fn a_clock_that_jumps_by_an_hour_ends_no_lease() {
    let Some(library) = library() else {
        println!("SKIPPED: libfaketime is not here (Debian package libfaketime)");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI=true allows no skip");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut cluster = Cluster::prepare(3, Binaries::find().unwrap(), "coordinator").unwrap();
        let clocks: Vec<PathBuf> = (0..3).map(|i| cluster.folder().join(format!("clock-{i}"))).collect();
        for (index, clock) in clocks.iter().enumerate() {
            set_clock(clock, "+0");
            for (name, value) in [
                ("LD_PRELOAD", library.display().to_string()),
                ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
                ("FAKETIME_NO_CACHE", "1".into()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                ("DONT_FAKE_MONOTONIC", "1".into()),
            ] {
                cluster.set_environment(index, name, &value);
            }
        }
        cluster.start_all().await.unwrap();
        cluster.start_worker("", 2).await.unwrap();
        let client = cluster.client().unwrap().with_deadline(LIMIT);
        let running = json!({
            "task_id": "long", "type": "command", "config": {"command": "sleep 8"}, "timeout_seconds": 60, "max_retries": 3,
        });
        let submitted: Submitted = client.post("/api/tasks", &running, Repeat::Idempotent).await.unwrap();
        let mut told = Told { acknowledged: vec![("long".into(), submitted.index)], ..Told::default() };
        wait::until("the task to run", LIMIT, || async {
            let task: TaskRecord = client.get("/api/tasks/long").await.map_err(|e| e.to_string())?;
            if task.state == TaskState::Running { Ok(()) } else { Err(task.state.to_string()) }
        })
        .await
        .unwrap();
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        for (step, offset) in ["+3600", "-3600", "+0"].into_iter().enumerate() {
            set_clock(&clocks[leader], offset);
            for number in 0..20 {
                let id = format!("step-{step}-{number}");
                let task = json!({"task_id": id, "type": "noop"});
                let answer: Submitted = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
                told.acknowledged.push((id, answer.index));
            }
        }
        let verdict = judge::all(&cluster, &told).await.unwrap();
        assert!(verdict.is_clean(), "{verdict:#?}");
        let task: TaskRecord = client.get("/api/tasks/long").await.unwrap();
        assert_eq!(task.attempts.len(), 1, "its lease was ended by the clock: {:?}", task.attempts);
        assert_ne!(cluster.status(leader).await.unwrap().role, Role::Failed);
    });
}
