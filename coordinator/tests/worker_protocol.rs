//! The worker against a fake coordinator that follows a script.

mod fake;

use api::ErrorCode;
use api::task::{CommandOutput, ReportedStatus};
use api::worker::FinishedAttempt;
use coordinator::worker::{self, Shutdown, WorkerConfig, WorkerError};
use fake::{Fake, PATIENCE};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A worker in this process; ended with the test.
struct Worker {
    shutdown: Shutdown,
    running: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    fn start(fake: &Fake, slots: u32) -> Worker {
        let config = WorkerConfig {
            worker_id: "w/1".into(),
            labels: BTreeMap::new(),
            resources: BTreeMap::new(),
            slots,
            types: vec!["command".into(), "noop".into()],
            drain_report_limit: Duration::from_secs(1),
            tracer: otlp::Tracer::default(),
        };
        let shutdown = Shutdown::default();
        Worker { running: tokio::spawn(worker::run(config, fake.client(), shutdown.clone())), shutdown }
    }

    async fn ended(&mut self) -> Result<(), WorkerError> {
        tokio::time::timeout(PATIENCE, &mut self.running).await.expect("the worker ends").unwrap()
    }

    async fn drain(&mut self) {
        self.shutdown.drain.cancel();
        self.ended().await.unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shutdown.kill.cancel();
        self.running.abort();
    }
}

fn output(report: &FinishedAttempt) -> CommandOutput {
    serde_json::from_str(report.result.as_ref().expect("there is a result").get()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn success_failure_timeout_and_what_can_not_run_are_reported() {
    let fake = Fake::start().await;
    fake.add_command("good", "echo hello; echo $HOLDFAST_TASK_ID $HOLDFAST_ATTEMPT");
    fake.add_command("bad", "echo why >&2; exit 7");
    fake.add("slow", "command", json!({ "command": ["sleep", "600"] }), 0.2);
    fake.add("missing", "command", json!({ "command": ["/no/such/program"] }), 60.0);
    fake.add("malformed", "command", json!({ "command": 5 }), 60.0);
    fake.add("nothing", "noop", json!({}), 60.0);
    let mut worker = Worker::start(&fake, 3);

    let good = fake.result("good").await;
    assert_eq!((good.status, good.error.as_deref()), (ReportedStatus::Completed, None));
    assert_eq!(output(&good).stdout, "hello\ngood 1\n");
    assert_eq!(output(&good).exit_code, Some(0));
    assert!(good.resources.as_ref().unwrap().contains_key("cpu_ms") && good.finished_at >= good.started_at);

    let bad = fake.result("bad").await;
    assert_eq!((bad.status, bad.error.as_deref()), (ReportedStatus::Failed, Some("exit code 7")));
    assert_eq!(output(&bad).stderr, "why\n");

    let slow = fake.result("slow").await;
    assert_eq!((slow.status, slow.error.as_deref()), (ReportedStatus::Failed, Some("timed out after 0.2 s")));
    assert!(output(&slow).timed_out && output(&slow).exit_code.is_none());

    let missing = fake.result("missing").await;
    assert!(missing.error.as_ref().unwrap().contains("/no/such/program"), "{missing:?}");
    let malformed = fake.result("malformed").await;
    assert_eq!(malformed.status, ReportedStatus::Failed);
    assert!(malformed.error.as_ref().unwrap().contains("can't be read"), "{malformed:?}");
    assert_eq!(fake.result("nothing").await.status, ReportedStatus::Completed);

    worker.drain().await;
    let book = fake.book.lock();
    assert_eq!((book.results.len(), book.drains, book.registrations), (6, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_slots_run_side_by_side_and_a_third_task_waits() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    // Each of the two waits for the other: one after the other they would never end.
    for (id, mine, other) in [("a", "1", "2"), ("b", "2", "1")] {
        let line = format!("touch {mine}; until [ -e {other} ]; do sleep 0.02; done");
        fake.add(id, "command", json!({ "command": line, "cwd": folder.path() }), 20.0);
    }
    fake.add_command("c", "true");
    let _worker = Worker::start(&fake, 2);
    for id in ["a", "b", "c"] {
        assert_eq!(fake.result(id).await.status, ReportedStatus::Completed, "{id}");
    }
    let book = fake.book.lock();
    assert!(book.lease_calls.iter().all(|call| call.slots as usize + call.tokens.len() <= 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_go_on_during_a_long_run_and_name_its_token() {
    let fake = Fake::start().await;
    fake.add_command("long", "sleep 600");
    let _worker = Worker::start(&fake, 1);
    fake.until("ten heartbeats that name the token", |book| {
        let token = book.token_of("long")?;
        (book.heartbeats.iter().filter(|h| h.tokens == [token]).count() >= 10).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_held_is_not_run_again() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "echo ran >> log; until [ -e go ]; do sleep 0.02; done";
    fake.add("once", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let _worker = Worker::start(&fake, 2);
    fake.until("it runs", |_| folder.path().join("log").exists().then_some(())).await;
    fake.book.lock().deliver_again = true;
    // The next task can only be delivered behind the repeated delivery.
    fake.add_command("after", "true");
    fake.result("after").await;
    assert!(!fake.book.lock().deliver_again, "it was delivered again");
    std::fs::write(folder.path().join("go"), "").unwrap();
    fake.result("once").await;
    assert_eq!(std::fs::read_to_string(folder.path().join("log")).unwrap(), "ran\n");
    assert_eq!(fake.book.lock().results.iter().filter(|(id, _)| id == "once").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_taken_back_ends_its_processes_and_reports_nothing() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "echo $$ > pid; exec sleep 600";
    fake.add("cancelled", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let _worker = Worker::start(&fake, 1);
    let pid = fake
        .until("it runs", |_| {
            let text = std::fs::read_to_string(folder.path().join("pid")).ok()?;
            text.strip_suffix('\n').map(str::to_owned)
        })
        .await;
    fake.until("its token is known", |book| {
        let token = book.token_of("cancelled")?;
        book.cancel.insert(token).then_some(())
    })
    .await;
    // The only slot is free again, so the work has ended.
    fake.add_command("next", "true");
    fake.result("next").await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the process is gone");
    assert!(fake.book.lock().results.iter().all(|(id, _)| id != "cancelled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_sent_until_it_is_accepted_and_held_meanwhile() {
    let fake = Fake::start().await;
    use ErrorCode::*;
    fake.refuse("result", &[UnknownOutcome, NoLeader, Internal, Unavailable, Overloaded]);
    fake.add_command("kept", "echo kept");
    let _worker = Worker::start(&fake, 2);
    let report = fake.result("kept").await;
    assert_eq!(output(&report).stdout, "kept\n");
    let book = fake.book.lock();
    assert!(book.result_calls >= 6, "{} calls", book.result_calls);
    assert_eq!(book.results.len(), 1);
    assert_eq!(book.task("kept").attempt, 1, "never delivered anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_result_is_dropped_and_the_slot_is_free() {
    let fake = Fake::start().await;
    fake.refuse("result", &[ErrorCode::StaleToken]);
    fake.add_command("stale", "true");
    fake.add_command("next", "true");
    let mut worker = Worker::start(&fake, 1);
    fake.result("next").await;
    worker.drain().await;
    let book = fake.book.lock();
    assert_eq!(book.result_calls, 2, "one for each: the stale one was not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_refused_as_invalid_is_reported_without_its_output() {
    let fake = Fake::start().await;
    fake.refuse("result", &[ErrorCode::BodyTooLarge]);
    fake.add_command("large", "echo much");
    let _worker = Worker::start(&fake, 1);
    let report = fake.result("large").await;
    assert_eq!(report.status, ReportedStatus::Failed);
    assert!(report.result.is_none() && report.error.unwrap().contains("refused the result"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_worker_registers_again_under_its_id_and_its_work_goes_on() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "touch runs; until [ -e go ]; do sleep 0.02; done";
    fake.add("through", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let _worker = Worker::start(&fake, 1);
    fake.until("it runs", |_| folder.path().join("runs").exists().then_some(())).await;
    fake.book.lock().workers.clear();
    fake.until("it registers again", |book| book.workers.contains_key("w/1").then_some(())).await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(fake.result("through").await.status, ReportedStatus::Completed);
    assert_eq!(fake.book.lock().task("through").attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_survives_a_cluster_that_is_away_and_results_wait_for_it() {
    let mut fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "touch runs; until [ -e go ]; do sleep 0.02; done; touch ended";
    fake.add("patient", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let _worker = Worker::start(&fake, 1);
    fake.until("it runs", |_| folder.path().join("runs").exists().then_some(())).await;
    fake.go_away().await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    fake.until("it ends", |_| folder.path().join("ended").exists().then_some(())).await;
    fake.come_back().await;
    assert_eq!(fake.result("patient").await.status, ReportedStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_start_before_the_cluster_and_says_so_when_stopped_before() {
    let mut fake = Fake::start().await;
    fake.go_away().await;
    let mut early = Worker::start(&fake, 1);
    early.shutdown.drain.cancel();
    assert!(matches!(early.ended().await, Err(WorkerError::NeverRegistered { .. })));

    let _worker = Worker::start(&fake, 1);
    fake.come_back().await;
    fake.add_command("a", "true");
    fake.result("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_is_refused_ends_the_worker() {
    let fake = Fake::start().await;
    fake.refuse("register", &[ErrorCode::Validation]);
    let mut worker = Worker::start(&fake, 1);
    let error = worker.ended().await.unwrap_err();
    assert!(matches!(error, WorkerError::Refused { .. }) && error.to_string().contains("w/1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_takes_nothing_new() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "touch runs; until [ -e go ]; do sleep 0.02; done";
    fake.add("last", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let mut worker = Worker::start(&fake, 2);
    fake.until("it runs", |_| folder.path().join("runs").exists().then_some(())).await;
    worker.shutdown.drain.cancel();
    fake.until("the coordinator hears of the drain", |book| (book.drains == 1).then_some(())).await;
    fake.add_command("too-late", "true");
    let heartbeats = fake.book.lock().heartbeats.len();
    fake.until("it goes on living", |book| (book.heartbeats.len() > heartbeats + 3).then_some(())).await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    worker.ended().await.unwrap();
    let book = fake.book.lock();
    assert_eq!(book.results.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_the_drain_and_its_processes_at_once() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done";
    fake.add("stubborn", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let mut worker = Worker::start(&fake, 1);
    let pid_file = folder.path().join("pid");
    fake.until("it runs", |_| std::fs::read_to_string(&pid_file).ok()?.ends_with('\n').then_some(())).await;
    worker.shutdown.drain.cancel();
    fake.until("the drain begins", |book| (book.drains == 1).then_some(())).await;
    let killed = Instant::now();
    worker.shutdown.kill.cancel();
    let error = worker.ended().await.unwrap_err();
    assert!(matches!(&error, WorkerError::Killed { tasks } if tasks == &["stubborn"]), "{error}");
    assert!(killed.elapsed() < Duration::from_secs(5));
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists());
    assert!(fake.book.lock().results.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_ended_before_the_drain_was_said_is_named_as_well() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "echo $$ > pid; while :; do sleep 0.1; done";
    fake.add("long", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let mut worker = Worker::start(&fake, 1);
    let pid_file = folder.path().join("pid");
    fake.until("it runs", |_| std::fs::read_to_string(&pid_file).ok()?.ends_with('\n').then_some(())).await;
    let process = format!("/proc/{}", std::fs::read_to_string(&pid_file).unwrap().trim());
    worker.shutdown.kill.cancel();
    fake.until("its process is gone and its lease given up", |book| {
        let held = book.heartbeats.last().is_none_or(|heartbeat| !heartbeat.tokens.is_empty());
        (!std::path::Path::new(&process).exists() && !held).then_some(())
    })
    .await;
    worker.shutdown.drain.cancel();
    let error = worker.ended().await.unwrap_err();
    assert!(matches!(&error, WorkerError::Killed { tasks } if tasks == &["long"]), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_ever_for_a_cluster_that_is_gone() {
    let mut fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "touch runs; until [ -e go ]; do sleep 0.02; done";
    fake.add("orphan", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let mut worker = Worker::start(&fake, 1);
    fake.until("it runs", |_| folder.path().join("runs").exists().then_some(())).await;
    fake.go_away().await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    worker.shutdown.drain.cancel();
    let error = worker.ended().await.unwrap_err();
    assert!(matches!(&error, WorkerError::Undelivered { tasks, .. } if tasks == &["orphan"]), "{error}");
}
