//! Every query of every dashboard, asked of a real Prometheus.

use std::time::Duration;
use testbed::dashboards::{ALL, annotation_queries, full};
use testbed::prometheus::Prometheus;
use testbed::wait;

const LIMIT: Duration = Duration::from_secs(120);

/// Metrics that have no series before something goes wrong.
const OF_FAULTS: [&str; 8] = [
    "holdfast_monitor_anomalies",
    "holdfast_monitor_detection_delay_seconds",
    "holdfast_monitor_scrape_failures_total",
    "holdfast_recovery_attempts_total",
    "holdfast_recovery_outcomes_total",
    "holdfast_recovery_gate_denials_total",
    "holdfast_recovery_last_action_timestamp_seconds",
    "holdfast_recovery_duration_seconds",
];
/// What stands in a query that has something to show all the same.
const FALLS_BACK: &str = " or 0 * ";

/// Which queries are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Those that a cluster under load fills.
    Load,
    /// Those that need a fault and its repair.
    Fault,
}

/// Where each query stands, and what Prometheus is asked.
fn queries() -> Vec<(String, String)> {
    let mut queries = annotation_queries().map(|q| ("annotation".to_owned(), q)).to_vec();
    for board in ALL {
        for panel in board.rows.iter().flat_map(|row| row.panels) {
            let place = format!("{}: {}", board.name, panel.title);
            queries.extend(panel.queries.iter().map(|(query, _)| (place.clone(), full(query))));
        }
    }
    let filled = |query: String| {
        let query = query.replace("$__rate_interval", "30s");
        ["cluster", "job", "instance"]
            .into_iter()
            .fold(query, |query, name| query.replace(&format!("\"${name}\""), "\".*\""))
    };
    queries.into_iter().map(|(place, query)| (place, filled(query))).collect()
}

/// Asks until each has an answer with a number in it; an error of Prometheus is none.
pub async fn all_have_something_to_show(prometheus: &Prometheus, of: Of) {
    let mut open: Vec<_> = queries()
        .into_iter()
        .filter(|(_, query)| {
            let fault = OF_FAULTS.iter().any(|metric| query.contains(metric)) && !query.contains(FALLS_BACK);
            fault == (of == Of::Fault)
        })
        .collect();
    assert!(!open.is_empty());
    let open = std::cell::RefCell::new(&mut open);
    wait::until("every query of the dashboards to have something to show", LIMIT, || async {
        let asked: Vec<_> = open.borrow().clone();
        let mut empty = Vec::new();
        for (place, query) in asked {
            assert!(!query.contains('$'), "{place}: a variable that is not known: {query}");
            match prometheus.query(&query).await {
                Ok(series) if series.iter().any(|series| series.value.is_finite()) => {}
                Ok(_) => empty.push((place, query)),
                Err(why) => panic!("{place}: {query}: {why}"),
            }
        }
        **open.borrow_mut() = empty.clone();
        if empty.is_empty() { Ok(()) } else { Err(format!("empty: {empty:#?}")) }
    })
    .await
    .unwrap();
}
