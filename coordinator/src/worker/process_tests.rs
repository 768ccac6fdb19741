use super::*;

fn shell(line: &str) -> Spec {
    Spec {
        argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
        cwd: None,
        env: BTreeMap::new(),
        output_limit_bytes: 1024 * 1024,
        timeout: Duration::from_secs(60),
    }
}

async fn ran(spec: Spec) -> Ran {
    run(&spec, &Guard::default(), &Stop::default()).await
}

/// True while the process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn until(awaited: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {awaited}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The pid that a task wrote to `path`, once it is there.
async fn pid_in(path: &Path) -> String {
    until("the task writes its pid", || std::fs::read_to_string(path).is_ok_and(|t| t.ends_with('\n'))).await;
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[tokio::test]
async fn output_exit_code_directory_and_environment_are_the_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let cwd = folder.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    let mut spec = shell("pwd; echo $WORD; echo oops >&2; cat; exit 3");
    spec.cwd = Some(cwd.clone());
    spec.env = BTreeMap::from([("WORD".into(), "a b".into())]);
    let ran = ran(spec).await;
    assert_eq!(ran.stdout, format!("{cwd}\na b\n"), "standard input is empty");
    assert_eq!((ran.stderr.as_str(), ran.exit_code, ran.signal), ("oops\n", Some(3), None));
    assert!(ran.error.is_none() && !ran.timed_out && !ran.stopped);
}

#[tokio::test]
async fn a_task_that_the_guard_does_not_know_yet_has_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let spec = shell(&format!("echo begun > {}", mark.display()));
    let mut killed = Process::spawn(&spec).await.unwrap();
    // What the kernel does to a worker that is killed before it told the guard: the pipe's end closes.
    drop(killed.word.take());
    killed.exited().await;
    assert!(!mark.exists(), "it ran though nobody could have ended it");
    let mut released = Process::spawn(&spec).await.unwrap();
    released.release();
    released.exited().await;
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "begun\n");
}

#[tokio::test]
async fn processor_time_is_measured() {
    let ran = ran(shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")).await;
    let cpu = ran.cpu.unwrap();
    assert!(cpu > Duration::from_millis(5) && cpu <= ran.duration + Duration::from_millis(200), "{cpu:?}");
}

#[tokio::test]
async fn a_signal_is_told_from_an_exit_code() {
    let ran = ran(shell("kill -9 $$")).await;
    assert_eq!((ran.exit_code, ran.signal), (None, Some(9)));
}

#[tokio::test]
async fn what_can_not_be_started_says_why() {
    let mut spec = shell("");
    spec.argv = vec!["no-such-program-anywhere".into()];
    let missing = ran(spec.clone()).await;
    assert!(
        missing.error.as_ref().unwrap().contains("\"no-such-program-anywhere\" can't be started"),
        "{missing:?}"
    );
    let plain = tempfile::NamedTempFile::new().unwrap();
    spec.argv = vec![plain.path().display().to_string()];
    let forbidden = ran(spec.clone()).await.error.unwrap();
    assert!(forbidden.contains("can't be started: Permission denied"), "{forbidden}");
    spec.argv = vec!["true".into()];
    spec.cwd = Some("/no/such/folder".into());
    let nowhere = ran(spec).await;
    assert!(
        nowhere.error.as_ref().unwrap().contains("\"/no/such/folder\" is not a directory"),
        "{nowhere:?}"
    );
}

#[tokio::test]
async fn much_output_is_bounded_to_head_and_tail() {
    let mut spec = shell("echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last");
    spec.output_limit_bytes = 1000;
    let ran = ran(spec).await;
    assert!(ran.stdout.starts_with("first\nxxx") && ran.stdout.ends_with("xxx\nlast\n"));
    assert_eq!(ran.dropped_bytes, 3_000_000 + 6 + 1 + 5 - 1000);
    assert!(ran.stdout.len() < 1100, "{}", ran.stdout.len());
}

#[tokio::test]
async fn the_time_limit_ends_grandchildren_that_ignore_the_polite_signal() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let mut spec = shell(
        "(trap '' TERM; sh -c 'echo $$ > pid; trap \"\" TERM; while :; do sleep 1; done') & wait; wait",
    );
    spec.cwd = Some(folder.path().to_str().unwrap().into());
    spec.timeout = Duration::from_millis(500);
    let started = Instant::now();
    let ran = ran(spec).await;
    assert!(ran.timed_out && ran.exit_code.is_none(), "{ran:?}");
    assert!(started.elapsed() < TERM_GRACE + PIPE_GRACE + Duration::from_secs(3));
    let pid = pid_in(&pid_file).await;
    until("the grandchild is gone", || !runs(&pid)).await;
}

#[tokio::test]
async fn a_task_may_tidy_up_when_its_time_is_over() {
    let mut spec = shell("trap 'echo tidied; exit 0' TERM; while :; do sleep 0.05; done");
    spec.timeout = Duration::from_millis(300);
    let ran = ran(spec).await;
    assert!(ran.timed_out && ran.exit_code.is_none());
    assert_eq!(ran.stdout, "tidied\n");
    assert!(ran.duration < TERM_GRACE, "{:?}", ran.duration);
}

#[tokio::test]
async fn a_grandchild_that_holds_the_output_open_does_not_hang_the_task() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = shell("sleep 600 & echo $! > pid; echo done");
    spec.cwd = Some(folder.path().to_str().unwrap().into());
    let started = Instant::now();
    let ran = ran(spec).await;
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("done\n", Some(0)));
    assert!(started.elapsed() < PIPE_GRACE + Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(ran.duration < PIPE_GRACE, "the wait for the pipe is not the task's time");
    let pid = pid_in(&folder.path().join("pid")).await;
    until("the grandchild is gone", || !runs(&pid)).await;
}

#[tokio::test]
async fn a_holder_outside_the_group_costs_only_the_grace() {
    let started = Instant::now();
    let ran = ran(shell("setsid sleep 5 & echo done")).await;
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("done\n", Some(0)));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn cancelling_and_killing_stop_it() {
    for kill in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = shell("echo $$ > pid; exec sleep 600");
        spec.cwd = Some(folder.path().to_str().unwrap().into());
        let (guard, stop) = (Guard::default(), Stop::default());
        let running = run(&spec, &guard, &stop);
        let stopping = async {
            let pid = pid_in(&folder.path().join("pid")).await;
            if kill {
                stop.kill.cancel()
            } else {
                stop.cancel.cancel()
            };
            pid
        };
        let (ran, pid) = tokio::join!(running, stopping);
        assert!(ran.stopped);
        assert_eq!(ran.signal, Some(if kill { 9 } else { 15 }));
        assert!(!runs(&pid));
        assert!(guard.is_idle());
    }
}

/// The run may be dropped between the start of its process and its arrival.
#[tokio::test]
async fn a_run_dropped_at_any_moment_of_its_start_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, stop) = (Guard::default(), Stop::default());
    let mut dropped_in_time = 0;
    for number in 0.. {
        let mark = folder.path().join(format!("pid-{number}.")).display().to_string();
        let spec = shell(&format!("echo $$ > {mark}; exec sleep 600"));
        let mut starting = Box::pin(run(&spec, &guard, &stop));
        // Polled once: the thread is asked to start the process. Where it had done so before the poll
        // ended, the guard knows the process and it has begun: another case than this one.
        assert!(futures_util::poll!(&mut starting).is_pending());
        if !guard.is_idle() {
            continue;
        }
        let mut pid = None;
        until("the process is there", || {
            pid = with_argument(&mark);
            pid.is_some()
        })
        .await;
        drop(starting);
        until("the process is gone", || !runs(pid.as_ref().unwrap())).await;
        assert!(!Path::new(&mark).exists(), "it began before anybody could have ended it");
        dropped_in_time += 1;
        if dropped_in_time == 20 {
            break;
        }
    }
}

/// A process of whose command line this is a part.
fn with_argument(part: &str) -> Option<String> {
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut pids = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(part) && runs(pid)
    })
}

#[tokio::test]
async fn a_dropped_run_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = shell("echo $$ > pid; exec sleep 600");
    spec.cwd = Some(folder.path().to_str().unwrap().into());
    let (guard, stop) = (Guard::default(), Stop::default());
    let pid_file = folder.path().join("pid");
    let pid = tokio::select! {
        _ = run(&spec, &guard, &stop) => unreachable!("it sleeps"),
        pid = pid_in(&pid_file) => pid,
    };
    until("the process is gone", || !runs(&pid)).await;
}
