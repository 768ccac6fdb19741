//! The dashboards are current and keep to their conventions.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use testbed::dashboards::{ALL, Board};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

fn files() -> Vec<(String, Value)> {
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The panels of a dashboard, folded ones included.
fn panels(board: &Value) -> Vec<Value> {
    let outer = board["panels"].as_array().unwrap();
    let inner = outer.iter().flat_map(|panel| panel["panels"].as_array().into_iter().flatten());
    outer.iter().chain(inner).cloned().collect()
}

#[test]
fn the_dashboards_are_current() {
    if std::env::var_os("UPDATE").is_some() {
        for board in ALL {
            std::fs::write(folder().join(board.file()), board.text()).unwrap();
        }
    }
    let wanted: BTreeSet<String> = ALL.iter().map(Board::file).collect();
    assert_eq!(files().into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(), wanted);
    for board in ALL {
        let stands = std::fs::read_to_string(folder().join(board.file())).unwrap_or_default();
        let update = "UPDATE=1 cargo test -p testbed --test dashboards";
        assert!(stands == board.text(), "dashboards/{} is not current: {update}", board.file());
    }
}

#[test]
fn every_dashboard_keeps_to_the_conventions() {
    let mut uids = BTreeSet::new();
    for (name, board) in files() {
        assert!(
            board["id"].is_null() && board["schemaVersion"] == 42 && board["graphTooltip"] == 1,
            "{name}"
        );
        assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()), "{name}: its uid is another's");
        assert_eq!(board["tags"][0], "holdfast", "{name}");
        let variables: Vec<_> =
            board["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].clone()).collect();
        assert_eq!(variables, ["datasource", "cluster", "job", "instance"], "{name}");
        let link = &board["links"][0];
        assert!(link["keepTime"] == true && link["includeVars"] == true, "{name}");
        assert_eq!(board["annotations"]["list"].as_array().unwrap().len(), 2, "{name}");
        let (mut ids, mut places) = (BTreeSet::new(), Vec::new());
        for panel in panels(&board) {
            let title = panel["title"].as_str().unwrap_or_default().to_owned();
            assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{name}: {title}");
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["description"].as_str().is_some_and(|text| text.len() > 10), "{name}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{name}: {title} has no unit");
            places.push((panel["gridPos"].clone(), title.clone()));
            for target in panel["targets"].as_array().unwrap() {
                query_is_well_made(&format!("{name}: {title}"), target["expr"].as_str().unwrap());
            }
        }
        no_overlap(&name, &places);
    }
}

/// Every selector has the matchers, every rate Grafana's interval.
fn query_is_well_made(place: &str, query: &str) {
    let metrics = query.matches("holdfast_").count() + query.matches("http_server_").count();
    for matcher in ["cluster=~\"$cluster\"", "job=~\"$job\"", "instance=~\"$instance\""] {
        assert_eq!(query.matches(matcher).count(), metrics, "{place}: {matcher} is missing in {query}");
    }
    for rate in query.split("rate(").skip(1) {
        let range = rate.split(['[', ']']).nth(1);
        assert_eq!(range, Some("$__rate_interval"), "{place}: {query}");
    }
}

fn no_overlap(name: &str, places: &[(Value, String)]) {
    let edges = |place: &Value| {
        let of = |key: &str| place[key].as_u64().unwrap();
        (of("x"), of("y"), of("x") + of("w"), of("y") + of("h"))
    };
    for (index, (one, title)) in places.iter().enumerate() {
        let a = edges(one);
        assert!(a.2 <= 24, "{name}: {title} is too wide");
        for (other, other_title) in &places[index + 1..] {
            let b = edges(other);
            let apart = a.2 <= b.0 || b.2 <= a.0 || a.3 <= b.1 || b.3 <= a.1;
            assert!(apart, "{name}: {title} and {other_title} overlap");
        }
    }
}

#[test]
fn the_dashboards_that_alerts_name_exist() {
    let uids: BTreeSet<String> = files().iter().map(|(_, b)| b["uid"].as_str().unwrap().to_owned()).collect();
    for (file, text) in testbed::observability::RULES {
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("dashboard_url: /d/")) {
            assert!(uids.contains(line), "{file}: there is no dashboard {line}");
        }
    }
}
