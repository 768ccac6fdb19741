//! A hundred thousand tasks stay well below 100 MB, and a snapshot of them comes back.

use coordinator::command::{Command, Stamp};
use coordinator::machine::Machine;
use std::process::Command as Process;

const TASKS: usize = 100_000;
const BOUND_BYTES: u64 = 100_000_000;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Runs alone in a process of its own, where nothing else takes memory.
#[test]
fn memory_of_a_full_machine() {
    if std::env::var_os("HOLDFAST_MEMORY_CHILD").is_none() {
        let test = ["memory::memory_of_a_full_machine", "--exact", "--nocapture"];
        let mut child = Process::new(std::env::current_exe().unwrap());
        let output = child.args(test).env("HOLDFAST_MEMORY_CHILD", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let before = resident_bytes();
    let mut machine = Machine::new();
    let config = format!("config={{\"command\":\"{}\"}}", "x".repeat(242));
    for batch in 0..TASKS / 1000 {
        let spec =
            |n| crate::script::task(&[&format!("01JABCDEFGHJKMNPQRSTV{:05}", batch * 1000 + n), &config]);
        let submit = Command::Submit { tasks: (0..1000).map(spec).collect() };
        let index = batch as u64 + 1;
        machine.apply(index, 1, Stamp { log_ms: index, wall_ms: 0 }, &submit, &mut Vec::new());
        machine.finish_entry(index, 1, &submit.encode());
    }
    let used = resident_bytes() - before;
    let each = used / TASKS as u64;
    println!("{TASKS} tasks with 256 bytes of config: {} MB, {each} bytes each", used / 1_000_000);
    assert_eq!(machine.tasks_in_memory(), TASKS);
    assert!(used < BOUND_BYTES, "{used} bytes");
    let bytes = machine.encode_snapshot();
    let again = Machine::decode_snapshot(&bytes).unwrap();
    assert_eq!(again.state_checksum(), machine.state_checksum());
}
