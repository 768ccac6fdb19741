//! Rules of the house that a compiler does not check.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of code a Rust file may have, its tests not counted.
const MAX_LINES: usize = 700;

/// Modules that are pure: values in, values out. A name may be a file or a folder.
const PURE: [&str; 21] = [
    "coordinator/src/command.rs",
    "coordinator/src/machine.rs",
    "coordinator/src/members/checks.rs",
    "coordinator/src/members/watch.rs",
    "coordinator/src/machine",
    "coordinator/src/replica.rs",
    "coordinator/src/replica",
    "coordinator/src/scheduler.rs",
    "coordinator/src/telemetry/traces/entry.rs",
    "coordinator/src/telemetry/traces/tasks.rs",
    "monitor/src/access/guard.rs",
    "monitor/src/discovery.rs",
    "monitor/src/history/metric.rs",
    "monitor/src/history/query.rs",
    "monitor/src/history/sample.rs",
    "monitor/src/history/settings.rs",
    "monitor/src/history/tier.rs",
    "monitor/src/snapshot.rs",
    "monitor/src/snapshot",
    "monitor/src/detectors",
    "recovery/src",
];

/// Of `recovery/src` only these are pure.
const PURE_IN_RECOVERY: [&str; 3] = ["diagnosis", "plan", "policy"];

/// What a pure module must not touch, with the reason.
const FORBIDDEN: [(&str, &str); 9] = [
    ("tokio", "its caller decides on which thread and when"),
    ("axum", "it knows nothing of HTTP"),
    ("reqwest", "it asks nobody"),
    ("duckdb", "its effects are values; the store writes them"),
    ("SystemTime::now", "time is an argument, or two nodes would decide differently"),
    ("Instant::now", "time is an argument, or the simulation could not replay it"),
    ("Timestamp::now", "time is an argument, or two nodes would decide differently"),
    ("rand::", "randomness is an argument, or the simulation could not replay it"),
    ("std::fs", "what it needs is an argument"),
];

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("testbed lies in the workspace").to_owned()
}

/// The files that git knows; every file below the root, build folders left out, where this is no
/// clone.
fn files() -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    if let Ok(output) = listed
        && output.status.success()
        && !output.stdout.is_empty()
    {
        let text = String::from_utf8(output.stdout).expect("file names are UTF-8");
        let known = text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned);
        return known.filter(|name| root().join(name).is_file()).collect();
    }
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read").flatten() {
            let name = entry.file_name();
            if entry.path().is_dir() {
                if name != "target" && name != "node_modules" && !name.to_string_lossy().starts_with('.') {
                    folders.push(entry.path());
                }
            } else if let Ok(relative) = entry.path().strip_prefix(root()) {
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// A Rust file's lines with their numbers, up to where its unit tests begin.
fn code(file: &str) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(root().join(file)).expect("a listed file can be read");
    let lines: Vec<&str> = text.lines().collect();
    let end = lines
        .windows(2)
        .position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod "))
        .unwrap_or(lines.len());
    lines[..end].iter().enumerate().map(|(i, line)| (i + 1, (*line).to_owned())).collect()
}

fn is_test_file(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("/tests.rs") || file.ends_with("_test.rs")
}

fn is_pure(file: &str) -> bool {
    let listed = PURE.iter().any(|pure| file == *pure || file.starts_with(&format!("{pure}/")));
    match file.strip_prefix("recovery/src/") {
        Some(rest) => {
            PURE_IN_RECOVERY.iter().any(|m| rest == format!("{m}.rs") || rest.starts_with(&format!("{m}/")))
        }
        None => listed,
    }
}

/// Does the line use it? Comments may speak of it.
fn uses(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let pure: Vec<String> =
        files().into_iter().filter(|f| f.ends_with(".rs") && is_pure(f) && !is_test_file(f)).collect();
    assert!(!pure.is_empty(), "no pure module was found: does the list still fit the tree?");
    let mut faults = Vec::new();
    for file in pure {
        for (number, line) in code(&file) {
            for (word, why) in FORBIDDEN.iter().filter(|(word, _)| uses(&line, word)) {
                faults.push(format!("{file}:{number}: uses {word}: {why}"));
            }
        }
    }
    assert!(faults.is_empty(), "pure modules must stay pure:\n{}", faults.join("\n"));
}

#[test]
fn the_purity_rule_sees_uses_and_no_comments() {
    assert!(uses("    let now = Instant::now();", "Instant::now"));
    assert!(uses("use tokio::sync::mpsc;", "tokio"));
    assert!(!uses("// tokio is not used here", "tokio"));
    assert!(!uses("let strand::x = 1;", "rand::"));
    assert!(is_pure("coordinator/src/machine/mod.rs") && is_pure("recovery/src/plan.rs"));
    assert!(!is_pure("recovery/src/driver.rs") && !is_pure("coordinator/src/raft/driver.rs"));
}

/// Folders of the machines it is made on don't belong into the tree; the documented folders of an
/// installation do.
#[test]
fn no_file_names_a_folder_of_one_machine() {
    let folders = ["work", "root", "farm"].map(|name| format!("/{name}/"));
    let mut faults = Vec::new();
    for file in files() {
        let Ok(bytes) = std::fs::read(root().join(&file)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        for (index, line) in text.lines().enumerate() {
            for folder in folders.iter().filter(|folder| names_folder(line, folder)) {
                faults.push(format!("{file}:{}: {folder}", index + 1));
            }
        }
    }
    assert!(faults.is_empty(), "paths of one machine:\n{}", faults.join("\n"));
}

/// An absolute path: nothing that could be an earlier part of it stands before the slash.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}/$*".contains(c))
    })
}

#[test]
fn no_file_grows_too_long() {
    let faults: Vec<String> = files()
        .into_iter()
        .filter(|file| file.ends_with(".rs") && !is_test_file(file))
        .map(|file| (code(&file).len(), file))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, file)| format!("{file}: {lines} lines"))
        .collect();
    assert!(faults.is_empty(), "above {MAX_LINES} lines, tests not counted:\n{}", faults.join("\n"));
}
