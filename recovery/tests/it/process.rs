//! The process actuator on real processes.

use crate::fake::{Fakes, wait_for};
use recovery::act::process::ProcessActuator;
use recovery::error::RecoveryError;
use recovery::observation::ProcessState;
use std::sync::Arc;

fn actuator(fakes: &Fakes, node: &str) -> ProcessActuator {
    std::fs::create_dir_all(fakes.recovery_dir()).unwrap();
    ProcessActuator::new(fakes.spec(node), &fakes.recovery_dir())
}

fn refusal(result: Result<recovery::act::process::Started, RecoveryError>) -> String {
    match result {
        Err(e @ RecoveryError::NotStarted { .. }) => e.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn recovery_does_not_start_a_twin() {
    let mut fakes = Fakes::prepare();
    let n1 = actuator(&fakes, "n1");
    fakes.start_by_hand("n1");
    let pid = fakes.pid("n1");
    assert_eq!(n1.probe(), ProcessState::Running { pid });
    assert!(refusal(n1.start()).contains("it runs"));
    // One that holds its lock and answers nothing is alive too.
    std::fs::write(fakes.data_dir("n2").join("mute"), "").unwrap();
    fakes.start_by_hand("n2");
    wait_for("n2 to hold its lock", || fakes.pid("n2").is_some() && fakes.starts("n2") == 1);
    assert!(refusal(actuator(&fakes, "n2").start()).contains("it runs"));
    assert_eq!((fakes.starts("n1"), fakes.starts("n2")), (1, 1));
}

#[test]
fn a_process_without_its_lock_and_a_foreign_listener_are_no_dead_node() {
    let fakes = Fakes::prepare();
    std::fs::write(fakes.data_dir("n1").join("LOCK"), "1").unwrap();
    let spec = fakes.spec("n1");
    let mut child = std::process::Command::new(&spec.command[0])
        .args(&spec.command[1..])
        .envs(&spec.env)
        .env("FAKE_WITHOUT_LOCK", "1")
        .spawn()
        .unwrap();
    wait_for("n1 to listen", || std::net::TcpStream::connect(&spec.address).is_ok());
    assert_eq!(actuator(&fakes, "n1").probe(), ProcessState::Running { pid: Some(child.id() as i32) });
    child.kill().unwrap();
    child.wait().unwrap();
    // Somebody else listens on n2's port.
    std::fs::write(fakes.data_dir("n2").join("LOCK"), "1").unwrap();
    let _stranger = std::net::TcpListener::bind((fakes.host.as_str(), fakes.ports[1])).unwrap();
    let state = actuator(&fakes, "n2").probe();
    assert!(
        matches!(&state, ProcessState::Unclear { why } if why.contains("something listens")),
        "{state:?}"
    );
}

#[test]
fn unknown_error_fails_closed() {
    let fakes = Fakes::prepare();
    let why = |node: &str| match actuator(&fakes, node).probe() {
        ProcessState::Unclear { why } => why,
        other => panic!("{node}: {other:?}"),
    };
    assert!(why("n1").contains("never started here"));
    std::fs::create_dir(fakes.data_dir("n2").join("LOCK")).unwrap();
    assert!(why("n2").contains("is no file"));
    std::os::unix::fs::symlink("LOCK", fakes.data_dir("n3").join("LOCK")).unwrap();
    assert!(why("n3").contains("can't open"));
    for node in crate::fake::NODES {
        refusal(actuator(&fakes, node).start());
        assert_eq!(fakes.starts(node), 0);
    }
}

#[test]
fn a_dead_node_is_started_once_however_many_try() {
    let mut fakes = Fakes::prepare();
    fakes.start_by_hand("n1");
    fakes.kill("n1");
    let n1 = Arc::new(actuator(&fakes, "n1"));
    let ProcessState::Dead { proof } = n1.probe() else { panic!("{:?}", n1.probe()) };
    assert_eq!(proof.len(), 3, "{proof:?}");
    // Several daemons with one recovery_dir, and one with another.
    std::fs::create_dir_all(fakes.dir.path().join("elsewhere")).unwrap();
    let elsewhere = Arc::new(ProcessActuator::new(fakes.spec("n1"), &fakes.dir.path().join("elsewhere")));
    let results: Vec<_> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|i| if i == 7 { elsewhere.clone() } else { n1.clone() })
            .map(|actuator| scope.spawn(move || actuator.start()))
            .collect();
        tries.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().any(Result::is_ok), "{results:?}");
    wait_for("n1 to listen", || std::net::TcpStream::connect(&fakes.spec("n1").address).is_ok());
    // The two folders may both have seen it dead; the data directory's lock decides between them.
    assert_eq!(fakes.starts("n1"), 2, "one start by hand, one by all of these: {results:?}");
}

#[test]
fn a_start_that_fails_tells_the_last_words_and_leaves_no_zombie() {
    let mut fakes = Fakes::prepare();
    fakes.start_by_hand("n1");
    fakes.kill("n1");
    std::fs::write(fakes.data_dir("n1").join("fail"), "").unwrap();
    let n1 = actuator(&fakes, "n1");
    let error = n1.start().unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("the disk is on fire"), "{error}");
    let ProcessState::Dead { proof } = n1.probe() else { panic!("{:?}", n1.probe()) };
    assert!(proof.iter().any(|line| line.contains("exit status: 3")), "{proof:?}");
    // The same once it is mended: the child is ours, and its end is reaped.
    std::fs::remove_file(fakes.data_dir("n1").join("fail")).unwrap();
    let pid = n1.start().unwrap().pid as i32;
    fakes.kill("n1");
    wait_for("the dead child to be reaped", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(matches!(n1.probe(), ProcessState::Dead { .. }));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let fakes = Fakes::prepare();
    std::fs::write(fakes.data_dir("n1").join("LOCK"), "1").unwrap();
    let mut spec = fakes.spec("n1");
    spec.command = vec!["/nowhere/coordinator".into(), "--config".into(), "x".into()];
    std::fs::create_dir_all(fakes.recovery_dir()).unwrap();
    let error = ProcessActuator::new(spec, &fakes.recovery_dir()).start().unwrap_err().to_string();
    assert!(error.starts_with("n1: `/nowhere/coordinator --config x` can't be run"), "{error}");
}
