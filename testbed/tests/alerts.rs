//! Every alert is complete: labels, texts, a test that it fires and one that it does not, a runbook.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use testbed::observability::RULES;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The alerts with the keys of each, as the rules have them, one a line.
fn alerts() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut alerts: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (_, text) in RULES {
        let mut last = None;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("- alert: ") {
                assert!(!alerts.contains_key(name), "{name} is there twice");
                last = Some(name.to_owned());
                alerts.insert(name.to_owned(), BTreeMap::new());
            } else if line.starts_with("- record: ") {
                last = None;
            } else if let (Some(alert), Some((key, value))) = (&last, line.split_once(": ")) {
                alerts.get_mut(alert).unwrap().insert(key.to_owned(), value.trim_matches('\'').to_owned());
            }
        }
    }
    alerts
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    let runbooks: BTreeSet<String> = read("docs/runbooks.md")
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(str::to_owned)
        .collect();
    let alerts = alerts();
    assert!(alerts.len() > 40, "{} alerts", alerts.len());
    for (name, keys) in &alerts {
        let of = |key: &str| keys.get(key).map(String::as_str).unwrap_or_default();
        assert!(name.starts_with("Holdfast"), "{name}");
        assert!(["critical", "warning", "info"].contains(&of("severity")), "{name}: severity");
        assert!(of("summary").ends_with(['.', '}']) && of("summary").len() > 20, "{name}: summary");
        assert!(
            of("description").ends_with(['.', '}']) && of("description").len() > 40,
            "{name}: description"
        );
        assert_eq!(of("runbook_url"), format!("docs/runbooks.md#{}", name.to_lowercase()));
        assert!(runbooks.contains(name), "{name} has no section in docs/runbooks.md");
    }
    let gone: Vec<_> = runbooks.iter().filter(|name| !alerts.contains_key(*name)).collect();
    assert!(gone.is_empty(), "runbooks of no alert: {gone:?}");
}

#[test]
fn every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() {
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for (file, _) in RULES {
        let text = read(&format!("alerts/tests/{file}"));
        for case in text.split("eval_time: ").skip(1) {
            let name = case.split("alertname: ").nth(1).and_then(|rest| rest.split_whitespace().next());
            let name = name.unwrap_or_default().to_owned();
            if case.contains("exp_alerts: []") {
                silent.insert(name)
            } else {
                fires.insert(name)
            };
        }
    }
    for name in alerts().into_keys() {
        assert!(fires.contains(&name), "{name}: no test in which it fires");
        // The dead man's switch is never silent.
        assert!(
            silent.contains(&name) || name == "HoldfastWatchdog",
            "{name}: no test in which it is silent"
        );
    }
}

/// The ten failures of the monitor, each with an alert of its own.
#[test]
fn every_failure_that_the_monitor_names_has_an_alert() {
    let faults = RULES.iter().find(|(file, _)| *file == "faults.yml").unwrap().1;
    for kind in [
        "process_crash",
        "network_partition",
        "database_corruption",
        "log_corruption",
        "split_brain",
        "term_divergence",
        "state_divergence",
        "deadlock",
        "resource_exhaustion",
        "slow_follower",
        "bad_report",
    ] {
        assert_eq!(faults.matches(&format!("kind=\"{kind}\"")).count(), 1, "{kind}");
    }
}
