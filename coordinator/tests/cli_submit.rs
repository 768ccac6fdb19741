//! `submit`, `worker` and the small commands as real processes against a fake coordinator.

mod fake;

use fake::{Fake, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// The program in `folder`; it is killed with its handle.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command
        .args(arguments)
        .env_remove("HOLDFAST_COORDINATORS")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap()));
    kill_process(pid.expect("it runs"), signal).unwrap();
}

/// How a program ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs the program to its end.
async fn run(folder: &Path, input: &str, arguments: &[&str]) -> Ended {
    let mut child = command(folder, arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that refuses its arguments does not read its input.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    ended(child).await
}

async fn ended(child: Child) -> Ended {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends").unwrap().into()
}

/// A worker process, killed with its handle.
fn worker(fake: &Fake, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("worker.log")).unwrap();
    command(folder, &["worker", &at(fake), "--id", "w", "--slots", "4"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn at(fake: &Fake) -> String {
    format!("--coordinators={}", fake.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collected_suite_runs_through_a_real_worker_into_a_junit_file() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    // Stands for pytest: fails what is named so, and proves that it runs here with one argument.
    let script = "#!/bin/sh\n[ $# = 1 ] || exit 9\necho \"ran <$1>\"\ncase $1 in *fails*) echo 'assert 1 == 2' >&2; exit 1;; esac\n";
    std::fs::write(folder.path().join("pytest.sh"), script).unwrap();
    let _worker = worker(&fake, folder.path());
    let collected = "tests/test_a.py::test_one\ntests/test_a.py::TestX::test_two[it's $HOME; `x`]\n\
                     tests/test_b.py::test_fails\n\n=== warnings summary ===\n3 tests collected in 0.01s\n";
    let ended = run(
        folder.path(),
        collected,
        &["submit", &at(&fake), "--template", "sh pytest.sh {}", "--wait", "--junit", "results.xml"],
    )
    .await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("2 lines skipped"), "{ended:?}");
    assert!(ended.err.contains("FAILED tests/test_b.py::test_fails: exit code 1"), "{ended:?}");
    assert!(ended.err.contains("stderr | assert 1 == 2"), "{ended:?}");
    assert!(ended.out.starts_with("2 passed, 1 failed of 3 tasks in "), "{ended:?}");

    let xml = std::fs::read_to_string(folder.path().join("results.xml")).unwrap();
    assert!(xml.contains(r#"tests="3" failures="1" errors="0""#), "{xml}");
    assert_eq!(xml.matches("<testcase ").count(), 3, "{xml}");
    assert!(xml.contains("ran &lt;tests/test_a.py::TestX::test_two[it's $HOME; `x`]&gt;"), "{xml}");
    let book = fake.book.lock();
    assert!(book.tasks.iter().all(|task| task.max_retries == 0), "a test is run once");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_stable_so_that_a_lost_answer_submits_nothing_twice() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    fake.book.lock().lose_batch_answers = 1;
    let input: String = (0..1200).map(|n| format!("true {n}\n")).collect();
    let ended =
        run(folder.path(), &input, &["submit", &at(&fake), "--id-prefix", "nightly-7", "--json"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let answer = ended.json();
    assert_eq!(answer["run_id"], "nightly-7");
    assert_eq!(answer["task_ids"].as_array().unwrap().len(), 1200);
    assert_eq!(answer["task_ids"][1199], "nightly-7-01200");
    {
        let book = fake.book.lock();
        assert_eq!((book.tasks.len(), book.batch_calls), (1200, 4), "500, 500 again, 500, 200");
        let order: Vec<_> = book.tasks.iter().map(|t| t.task_id.clone()).collect();
        assert!(order.is_sorted(), "in the order of the input");
    }
    let again = run(folder.path(), &input, &["submit", &at(&fake), "--id-prefix", "nightly-7"]).await;
    assert_eq!(again.code, Some(0));
    assert!(again.err.contains("1200 tasks submitted as nightly-7 (1200 were there before)"), "{again:?}");
    assert_eq!(fake.book.lock().tasks.len(), 1200);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_reach_the_tasks() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("list"), "a b\n").unwrap();
    let line = "submit list --template x\u{1}{} --label os=linux --resource mem=2 --priority 9 --timeout-seconds 2.5 \
                --max-retries 3 --cwd sub --env A=b=c";
    let options: Vec<String> = line.split_whitespace().map(|word| word.replace('\u{1}', " ")).collect();
    let at = at(&fake);
    let mut arguments: Vec<&str> = options.iter().map(String::as_str).collect();
    arguments.push(&at);
    let ended = run(folder.path(), "", &arguments).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let book = fake.book.lock();
    let task = &book.tasks[0];
    assert_eq!(ended.out.trim(), task.task_id);
    assert_eq!((task.priority, task.timeout_seconds, task.max_retries), (9, 2.5, 3));
    assert_eq!((&*task.requirements.labels["os"], task.requirements.resources["mem"]), ("linux", 2));
    let config: Value = serde_json::from_str(task.config.get()).unwrap();
    let cwd = folder.path().canonicalize().unwrap().join("sub");
    assert_eq!(config, json!({ "command": "x 'a b'", "cwd": cwd, "env": { "A": "b=c" } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_directory_is_where_submit_runs() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "pwd\n", &["submit", &at(&fake)]).await;
    let book = fake.book.lock();
    let config: Value = serde_json::from_str(book.tasks[0].config.get()).unwrap();
    assert_eq!(config["cwd"], json!(folder.path().canonicalize().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_are_followed_with_few_requests() {
    let fake = Fake::start().await;
    fake.book.lock().run_at_once = Some(|command| i32::from(command.ends_with("13")));
    let folder = tempfile::tempdir().unwrap();
    let input: String = (0..3000).map(|n| format!("run {n}\n")).collect();
    let ended = run(
        folder.path(),
        &input,
        &["submit", &at(&fake), "--wait", "--quiet", "--json", "--junit", "out.xml"],
    )
    .await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let answer = ended.json();
    assert_eq!((answer["completed"].as_u64(), answer["failed"].as_u64()), (Some(2970), Some(30)), "{answer}");
    assert_eq!(answer["failures"].as_array().unwrap().len(), 30);
    assert_eq!(ended.err, "", "quiet");
    let xml = std::fs::read_to_string(folder.path().join("out.xml")).unwrap();
    assert_eq!(xml.matches("<testcase ").count(), 3000);
    let book = fake.book.lock();
    assert!(book.task_calls == 3000 && book.list_calls < 30, "{} and {}", book.task_calls, book.list_calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_wait_in_front_do_not_hide_those_that_have_ended_behind() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    // Another run's backlog, and of ours the first 1,000 wait.
    for n in 0..700 {
        fake.add(&format!("other-{n}"), "elsewhere", json!({}), 60.0);
    }
    let input: String = (0..1500).map(|n| format!("run {n}\n")).collect();
    let sent = run(folder.path(), &input, &["submit", &at(&fake), "--id-prefix", "r"]).await;
    assert_eq!(sent.code, Some(0));
    for number in 1001..=1500 {
        finish(&fake, &format!("r-{number:05}"), "completed");
    }
    let arguments = ["submit", &at(&fake), "--id-prefix", "r", "--wait", "--json"];
    let waiting = run(folder.path(), &input, &arguments);
    let rest = async {
        fake.until("the 500 ended ones are found", |book| (book.task_calls >= 500).then_some(())).await;
        for number in 1..=1000 {
            finish(&fake, &format!("r-{number:05}"), "cancelled");
        }
    };
    let (ended, ()) = tokio::join!(waiting, rest);
    assert_eq!(ended.code, Some(1));
    let answer = ended.json();
    assert_eq!(
        (answer["completed"].as_u64(), answer["cancelled"].as_u64()),
        (Some(500), Some(1000)),
        "{answer}"
    );
}

/// Puts a task into a final state.
fn finish(fake: &Fake, task_id: &str, state: &str) {
    let mut book = fake.book.lock();
    let at = book.by_id[task_id];
    book.tasks[at].state = api::task::TaskState::parse(state).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_told_is_exit_code_two() {
    let mut fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = at(&fake);
    // Nobody there at all.
    let nobody =
        run(folder.path(), "true\n", &["submit", "--coordinators=127.0.0.1:1", "--give-up-seconds", "1"])
            .await;
    assert_eq!(nobody.code, Some(2), "{nobody:?}");
    assert!(
        nobody.err.contains("127.0.0.1:1") && nobody.err.contains("0 of 1 tasks are submitted"),
        "{nobody:?}"
    );

    // The cluster goes away while submit waits.
    let arguments = ["submit", &at, "--wait", "--give-up-seconds", "1", "--junit", "out.xml"];
    let waiting = run(folder.path(), "true\nfalse\n", &arguments);
    let away = async {
        fake.until("it waits", |book| (book.list_calls > 0).then_some(())).await;
        fake.go_away().await;
    };
    let (ended, ()) = tokio::join!(waiting, away);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("the tasks go on") && ended.err.contains("--id-prefix run-"), "{ended:?}");
    assert!(ended.out.contains("0 passed, 0 failed, 2 unknown"), "{ended:?}");
    let xml = std::fs::read_to_string(folder.path().join("out.xml")).unwrap();
    assert!(xml.contains(r#"tests="2" failures="0" errors="2""#), "{xml}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_wait_says_how_to_go_on() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        command(folder.path(), &["submit", &at(&fake), "--wait", "--id-prefix", "mine"]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"true\n").await.unwrap();
    fake.until("it waits", |book| (book.list_calls > 0).then_some(())).await;
    signal(&child, Signal::INT);
    let ended = ended(child).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.err.contains("interrupted; the tasks go on") && ended.err.contains("--id-prefix mine"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_the_cluster_does_not_know_is_unknown() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["submit", &at(&fake), "--wait", "--json", "--id-prefix", "r"];
    let waiting = run(folder.path(), "true\n", &arguments);
    let forget = async {
        fake.until("it waits", |book| {
            (book.list_calls > 0).then(|| {
                book.by_id.clear();
                book.tasks.clear();
            })
        })
        .await;
    };
    let (ended, ()) = tokio::join!(waiting, forget);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.json()["unknown"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_told_before_anything_is_sent() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = at(&fake);
    for (input, options, named) in [
        ("", &["submit"][..], "the input has no task"),
        ("no tests ran in 0.01s\n", &["submit", "--template", "pytest {}"], "the input has no task"),
        ("a\n", &["submit", "--template", "pytest '{}'"], "inside quotes"),
        ("a\n", &["submit", "--template", "pytest"], "has no {}"),
        ("a\0b\n", &["submit"], "line 1 contains a NUL"),
        ("a\n", &["submit", "--wait", "--junit", "no/such/folder/out.xml"], "out.xml"),
        ("a\n", &["submit", "--junit", "out.xml"], "--wait"),
        ("a\n", &["submit", "--id-prefix", "a b"], "a b"),
        ("a\n", &["submit", "--timeout-seconds", "-1"], "--timeout-seconds"),
        ("a\n", &["submit", "--priority", "10"], "10"),
        ("a\n", &["submit", "--type", "render"], "is JSON"),
        ("a\n", &["submit", "no-such-file"], "no-such-file"),
    ] {
        let mut arguments = options.to_vec();
        arguments.push(&at);
        let ended = run(folder.path(), input, &arguments).await;
        assert_eq!(ended.code, Some(2), "{options:?}: {ended:?}");
        assert!(ended.err.contains(named), "{options:?}: {ended:?}");
    }
    assert!(fake.book.lock().tasks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drains_on_sigterm_and_ends_with_zero() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "touch runs; until [ -e go ]; do sleep 0.02; done";
    fake.add("last", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let mut worker = worker(&fake, folder.path());
    fake.until("it runs", |_| folder.path().join("runs").exists().then_some(())).await;
    signal(&worker, Signal::TERM);
    fake.until("it drains", |book| (book.drains == 1).then_some(())).await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    let status = tokio::time::timeout(PATIENCE, worker.wait()).await.expect("the worker ends").unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fake.book.lock().results.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_no_process_behind() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let line = "trap '' TERM HUP; (trap '' TERM HUP; echo $$ > pid; while :; do sleep 0.2; done) & wait";
    fake.add("orphaned", "command", json!({ "command": line, "cwd": folder.path() }), 60.0);
    let mut worker = worker(&fake, folder.path());
    let pid_file = folder.path().join("pid");
    let pid = fake
        .until("it runs", |_| std::fs::read_to_string(&pid_file).ok()?.strip_suffix('\n').map(str::to_owned))
        .await;
    signal(&worker, Signal::KILL);
    worker.wait().await.unwrap();
    fake.until("its task's processes are gone", |_| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_ask_is_said_with_the_addresses() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        &["status"][..],
        &["members"],
        &["tasks", "list"],
        &["tasks", "cancel", "a"],
        &["maintenance", "status"],
        &["transfer"],
    ] {
        let mut arguments = command.to_vec();
        arguments.push("--coordinators=127.0.0.1:1,127.0.0.1:2");
        let ended = run(folder.path(), "", &arguments).await;
        assert_eq!(ended.code, Some(2), "{command:?}: {ended:?}");
        assert!(ended.err.contains("127.0.0.1:1, 127.0.0.1:2"), "{command:?}: {ended:?}");
    }
}
