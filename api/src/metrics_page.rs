//! `docs/metrics.md`, written from the declarations in [`crate::metrics`].

use crate::metrics::{ALL, Kind, Metric};

/// The program that has a metric.
///
/// The name says it: what is neither the monitor's nor the recovery daemon's is a coordinator's.
pub fn program(metric: &Metric) -> &'static str {
    let name = metric.name;
    if name == crate::metrics::BUILD_INFO.name {
        "all"
    } else if name.starts_with("holdfast.monitor.") {
        "monitor"
    } else if name.starts_with("holdfast.recovery.") {
        "recovery"
    } else {
        "coordinator"
    }
}

/// The page.
pub fn page() -> String {
    let mut text = BEGIN.to_owned();
    for (program, title) in [
        ("all", "Every program"),
        ("coordinator", "Coordinator (`prometheus_port`)"),
        ("monitor", "Monitor"),
        ("recovery", "Recovery daemon"),
    ] {
        text.push_str(&format!(
            "\n## {title}\n\n| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n"
        ));
        ALL.iter()
            .filter(|metric| self::program(metric) == program)
            .for_each(|metric| text.push_str(&row(metric)));
    }
    text.push_str(END);
    text
}

fn row(metric: &Metric) -> String {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let unit = match metric.unit {
        "s" => "seconds",
        "By" => "bytes",
        thing => thing.trim_matches(['{', '}']),
    };
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!(
        "| `{}` | {kind} | {unit} | {} | {} |\n",
        metric.prometheus_name(),
        labels.join(", "),
        metric.help
    )
}

const BEGIN: &str = "\
# Metrics

Written from the declarations in `api/src/metrics.rs`: `UPDATE=1 cargo test -p api the_page_is_current`.

Each program serves them as Prometheus text at `GET /metrics`: a coordinator on its `prometheus_port`, the monitor
and the recovery daemon on the port of their API. Units are base units; a histogram also has `_bucket`, `_sum` and
`_count`. Labels are bounded: never a task id, never an address. What is measured is only what this process saw: sum
counters of tasks over the nodes and you count each task once a node, so take the `max` instead; rates of requests and
proposals are each node's own and are to be added up.

A metric that counts something by label (a peer, a kind of failure) has no series before that happened for the first
time; `holdfast_peer_lag` is the leader's alone, `holdfast_tls_certificate_end_timestamp_seconds` needs TLS.
";

const END: &str = "
## From elsewhere

A coordinator also shows what its log engine measures (`raft_engine_` and so on, described in the text itself) and
`target_info`, whose labels name the service, the node and the version.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == page(),
            "docs/metrics.md is not current: UPDATE=1 cargo test -p api the_page_is_current"
        );
    }

    #[test]
    fn every_metric_is_on_the_page_once() {
        let page = page();
        for metric in ALL {
            let cell = format!("| `{}` |", metric.prometheus_name());
            assert_eq!(page.matches(&cell).count(), 1, "{cell}");
        }
    }
}
