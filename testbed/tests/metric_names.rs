//! Alerts, dashboards and scrape configs name only metrics that the programs have.

use api::metrics::{ALL, Kind};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders whose files are searched for metric names.
const FOLDERS: [&str; 5] = ["alerts", "dashboards", "deploy", "docs", "web/templates"];

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("testbed lies in the workspace").to_owned()
}

/// Every name that Prometheus can have from us.
fn known() -> BTreeSet<String> {
    ALL.iter()
        .flat_map(|metric| {
            let name = metric.prometheus_name();
            match metric.kind {
                Kind::Histogram => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
                Kind::Counter | Kind::Gauge => vec![name],
            }
        })
        .collect()
}

/// The words of a text that begin like one of our metrics.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .filter(|word| word.starts_with("holdfast_") || word.starts_with("http_server_"))
        .map(str::to_owned)
        .collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| {
            let path = entry.path();
            match path.is_dir() {
                true if path.ends_with("node_modules") => Vec::new(),
                true => files_below(&path),
                false => vec![path],
            }
        })
        .collect()
}

#[test]
fn every_named_metric_exists() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for folder in FOLDERS {
        let mut known = known();
        if folder == "docs" {
            // People are told of a histogram as such, too.
            known.extend(ALL.iter().map(|metric| metric.prometheus_name()));
        }
        for file in files_below(&root().join(folder)) {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            for name in named(&text) {
                seen += 1;
                if !known.contains(&name) {
                    faults.push(format!("{}: {name}", file.strip_prefix(root()).unwrap_or(&file).display()));
                }
            }
        }
    }
    assert!(seen > 0, "no metric is named anywhere: does the search still fit the tree?");
    assert!(faults.is_empty(), "named, but not declared in api::metrics:\n{}", faults.join("\n"));
}

#[test]
fn a_misspelt_metric_is_seen() {
    let names = named("rate(holdfast_raft_terms[5m]) + holdfast_raft_term{job=\"x\"}");
    assert_eq!(names.difference(&known()).collect::<Vec<_>>(), ["holdfast_raft_terms"]);
}
