//! Golden scripts: `tests/golden/*.txt` say in order what goes in and what comes out.
//!
//! A block is some input lines, a line `---`, and what they print; an empty line ends it. Lines
//! that begin with `#` are for the reader. `HOLDFAST_REWRITE_GOLDEN=1` writes what comes out into
//! the scripts; read the diff before committing it.

use crate::script::Session;
use std::path::Path;

/// Runs a script; gives it back with its outputs as they came.
fn run(text: &str) -> String {
    let mut session = Session::default();
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line == "---" {
            out.push_str(&session.take_output());
            while lines.peek().is_some_and(|line| !line.is_empty()) {
                lines.next();
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            session.run(line);
        }
    }
    assert!(session.take_output().is_empty(), "the last block has no `---`");
    out
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let found = run(&expected);
    if found == expected {
        return;
    }
    if std::env::var_os("HOLDFAST_REWRITE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let differs = expected.lines().zip(found.lines()).enumerate().find(|(_, (a, b))| a != b);
    let (at, (was, is)) = differs.unwrap_or((expected.lines().count(), ("", "")));
    panic!("{name}, line {}:\n expected: {was}\n found:    {is}\n\nwhole output:\n{found}", at + 1);
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"));
        })*

        #[test]
        fn every_script_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
            let mut found: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let mut named = vec![$(concat!(stringify!($name), ".txt")),*];
            named.sort_unstable();
            assert_eq!(found, named);
        }
    };
}

scripts!(
    any_of,
    assignment,
    attempts_kept,
    bulk_retry,
    cancellation,
    checkpoints,
    dedup,
    drain_and_loss,
    effects,
    eviction,
    fencing,
    idempotency,
    lifecycle,
    lists,
    maintenance,
    named_leases,
    resources,
    retries,
    scheduler,
    scheduler_retries,
    settings,
    time,
);
