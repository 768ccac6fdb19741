//! PURE. History as charts: which lines stand together, and how an answer becomes even steps.

use super::format::query;
use super::leadership::Axis;
use crate::history::metric::{self, Kind, Metric, Scope};
use crate::history::{Answer, Series};
use crate::report::Span;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use web::charts::{Chart, Charts, Plot};
use web::listings::Choice;

/// Points of a line.
pub const POINTS: u64 = 180;
/// Lines of one chart; a cluster has seven nodes at most.
const MAX_LINES: usize = 14;

/// The stretch of time that drawings show, always up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its name in addresses.
    pub name: &'static str,
    seconds: i64,
}

const RANGES: [Range; 6] = [
    Range { name: "5m", seconds: 300 },
    Range { name: "15m", seconds: 900 },
    Range { name: "1h", seconds: 3_600 },
    Range { name: "6h", seconds: 6 * 3_600 },
    Range { name: "24h", seconds: 86_400 },
    Range { name: "7d", seconds: 7 * 86_400 },
];

impl Default for Range {
    fn default() -> Self {
        RANGES[1]
    }
}

impl Range {
    /// The range of that name; the usual one for no name.
    pub fn named(name: &str) -> Option<Range> {
        match name {
            "" => Some(Range::default()),
            name => RANGES.into_iter().find(|range| range.name == name),
        }
    }

    /// How long it is.
    pub fn duration(self) -> SignedDuration {
        SignedDuration::from_secs(self.seconds)
    }

    /// How long it is, seconds.
    pub fn seconds(self) -> u64 {
        self.seconds.unsigned_abs()
    }

    /// The same page with another range.
    fn href(self, path: &str) -> String {
        let usual = self == Range::default();
        format!("{path}{}", query(&[("range", if usual { "" } else { self.name })]))
    }
}

/// A chart: its lines' metrics.
struct Sketch {
    id: &'static str,
    title: &'static str,
    lines: &'static [(&'static Metric, &'static str)],
    whole: Option<f64>,
}

const fn sketch(
    id: &'static str,
    title: &'static str,
    lines: &'static [(&'static Metric, &'static str)],
) -> Sketch {
    Sketch { id, title, lines, whole: None }
}

/// The charts of the cluster view.
const OF_CLUSTER: [Sketch; 6] = [
    sketch(
        "throughput",
        "Tasks a second",
        &[(&metric::SUBMITTED, "submitted"), (&metric::COMPLETED, "completed"), (&metric::FAILED, "failed")],
    ),
    sketch("queue", "Tasks in the queue", &[(&metric::PENDING, "pending"), (&metric::RUNNING, "running")]),
    sketch("writes", "Writes a second", &[(&metric::WRITES, "")]),
    sketch("latency", "Write latency, p99", &[(&metric::COMMIT_P99, "")]),
    sketch("lag", "Replication lag", &[(&metric::LAG, "")]),
    sketch("sync", "Log sync time, p99", &[(&metric::LOG_SYNC_P99, "")]),
];

/// The charts of a node's page.
const OF_NODE: [Sketch; 8] = [
    sketch("writes", "Writes a second", &[(&metric::WRITES, "done"), (&metric::WRITES_FAILED, "failed")]),
    sketch("latency", "Write latency", &[(&metric::COMMIT_P50, "p50"), (&metric::COMMIT_P99, "p99")]),
    sketch("sync", "Log sync time, p99", &[(&metric::LOG_SYNC_P99, "sync")]),
    sketch("lag", "Lag", &[(&metric::LAG, "machine"), (&metric::DB_LAG, "database")]),
    sketch(
        "requests",
        "Requests a second",
        &[(&metric::REQUESTS, "all"), (&metric::REQUESTS_FAILED, "failed")],
    ),
    sketch("cpu", "CPU, percent of one core", &[(&metric::CPU, "CPU")]),
    sketch("memory", "Memory", &[(&metric::MEMORY, "resident")]),
    Sketch { id: "disk", title: "Disk used", lines: &[(&metric::DISK, "used")], whole: Some(100.0) },
];

fn sketches(of_node: bool) -> &'static [Sketch] {
    if of_node { &OF_NODE } else { &OF_CLUSTER }
}

/// What a page's charts ask of history.
pub fn metrics(of_node: bool) -> Vec<&'static Metric> {
    let mut metrics: Vec<&'static Metric> = Vec::new();
    for (metric, _) in sketches(of_node).iter().flat_map(|sketch| sketch.lines) {
        if !metrics.contains(metric) {
            metrics.push(metric);
        }
    }
    metrics
}

/// The charts of the cluster view, or of one node's page, from what history answered.
pub fn charts(path: &str, node: Option<&str>, range: Range, answer: &Result<Answer, String>) -> Charts {
    let ranges = RANGES.into_iter().map(|choice| Choice {
        name: choice.name.to_owned(),
        count: String::new(),
        href: choice.href(path),
        chosen: choice == range,
    });
    let ranges = ranges.collect();
    match answer {
        Err(why) => Charts { ranges, charts: vec![], note: format!("History does not answer: {why}.") },
        Ok(answer) => {
            let steps = Steps::of(answer);
            let drawn = sketches(node.is_some()).iter().map(|sketch| draw(sketch, node, answer, &steps));
            let charts: Vec<Chart> = drawn.collect();
            let source =
                if answer.source == "embedded" { String::new() } else { format!(" From {}.", answer.source) };
            let note = match charts.iter().all(|chart| chart.is_empty) {
                true => {
                    format!("Nothing was recorded in the last {} yet.{source}", Span(range.seconds() as f64))
                }
                false => format!("A point is the mean of {}.{source}", Span(answer.step_seconds as f64)),
            };
            Charts { ranges, charts, note }
        }
    }
}

/// Even steps of time.
struct Steps {
    from: Timestamp,
    step_seconds: i64,
    count: usize,
    times: Vec<String>,
}

impl Steps {
    fn of(answer: &Answer) -> Steps {
        let step_seconds = (answer.step_seconds.max(1)) as i64;
        let seconds = answer.to.duration_since(answer.from).as_secs().max(0);
        let count = (seconds.div_euclid(step_seconds) + 1).clamp(2, 2 * POINTS as i64) as usize;
        let form = match (seconds, step_seconds) {
            (86_401.., _) => "%m-%d\u{a0}%H:%M",
            (_, 60..) => "%H:%M",
            _ => "%H:%M:%S",
        };
        let at = |n: usize| answer.from + SignedDuration::from_secs(step_seconds * n as i64);
        let times = (0..count).map(|n| at(n).strftime(form).to_string()).collect();
        Steps { from: answer.from, step_seconds, count, times }
    }

    fn values(&self, series: &Series) -> Vec<Option<f64>> {
        let mut values = vec![None; self.count];
        for point in &series.points {
            let nth = point.at.duration_since(self.from).as_secs().div_euclid(self.step_seconds);
            let value = if series.metric.kind == Kind::State { point.last } else { point.mean };
            if let Some(place) = usize::try_from(nth).ok().and_then(|nth| values.get_mut(nth)) {
                *place = value.is_finite().then_some(value);
            }
        }
        values
    }
}

/// A line for every node the answer names, in one order, so that a node looks alike in all charts.
fn of_nodes(metric: &Metric, answer: &Answer, steps: &Steps) -> Vec<(String, Vec<Option<f64>>)> {
    let nodes: BTreeSet<&str> = answer.series.iter().filter_map(|series| series.node.as_deref()).collect();
    let line = |node: &str| {
        let fits =
            |series: &&Series| series.metric.name == metric.name && series.node.as_deref() == Some(node);
        let values = answer.series.iter().find(fits).map(|series| steps.values(series));
        (node.to_owned(), values.unwrap_or_else(|| vec![None; steps.count]))
    };
    nodes.into_iter().take(MAX_LINES).map(line).collect()
}

fn draw(sketch: &Sketch, node: Option<&str>, answer: &Answer, steps: &Steps) -> Chart {
    let mut lines: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    for (metric, name) in sketch.lines {
        if metric.scope == Scope::Node && node.is_none() {
            lines.extend(of_nodes(metric, answer, steps));
            continue;
        }
        let fits = |series: &&Series| {
            series.metric.name == metric.name
                && (metric.scope != Scope::Node || series.node.as_deref() == node)
        };
        let values = answer.series.iter().find(fits).map(|series| steps.values(series));
        lines.push(((*name).to_owned(), values.unwrap_or_else(|| vec![None; steps.count])));
    }
    let names: BTreeSet<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
    debug_assert_eq!(names.len(), lines.len(), "{}: two lines of one name", sketch.id);
    let unit = sketch.lines[0].0.unit;
    let plot = Plot { id: sketch.id, title: sketch.title.to_owned(), unit, lines, whole: sketch.whole };
    let until = steps.from + SignedDuration::from_secs(steps.step_seconds * (steps.count as i64 - 1));
    Chart::draw(plot, &steps.times, Axis { from: steps.from, until }.ticks())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Point;
    use std::collections::BTreeMap;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn series(metric: &'static Metric, node: Option<&str>, points: &[(i64, f64)]) -> Series {
        let point = |(second, value): &(i64, f64)| Point {
            at: at(*second),
            mean: *value,
            min: *value,
            max: *value,
            last: *value,
        };
        Series {
            metric,
            node: node.map(str::to_owned),
            peer: None,
            points: points.iter().map(point).collect(),
            states: BTreeMap::new(),
        }
    }

    fn answer(series: Vec<Series>) -> Answer {
        Answer { from: at(0), to: at(60), step_seconds: 10, source: "embedded".into(), series }
    }

    #[test]
    fn points_find_their_steps_and_gaps_stay() {
        let lag =
            series(&metric::LAG, Some("node-1"), &[(0, 1.0), (20, 3.0), (60, 7.0), (900, 9.0), (-5, 9.0)]);
        let answer = answer(vec![lag]);
        let steps = Steps::of(&answer);
        let expected = [Some(1.0), None, Some(3.0), None, None, None, Some(7.0)];
        assert_eq!(steps.values(&answer.series[0]), expected);
    }

    #[test]
    fn a_nodes_page_has_only_its_own_lines() {
        let answer = answer(vec![
            series(&metric::CPU, Some("node-1"), &[(60, 5.0)]),
            series(&metric::CPU, Some("node-2"), &[(60, 9.0)]),
        ]);
        let drawn = charts("/nodes/node-2", Some("node-2"), Range::default(), &Ok(answer));
        let cpu = drawn.charts.iter().find(|chart| chart.id == "cpu").unwrap();
        assert_eq!(cpu.latest, "Last: CPU 9 %");
        assert!(drawn.ranges.iter().any(|range| range.href == "/nodes/node-2?range=1h"));
        assert!(drawn.ranges.iter().any(|range| range.href == "/nodes/node-2" && range.chosen));
    }

    #[test]
    fn without_history_the_page_says_so() {
        let drawn = charts("/", None, Range::default(), &Err("it is busy".into()));
        assert!(drawn.charts.is_empty() && drawn.note.contains("it is busy"));
        let drawn = charts("/", None, Range::default(), &Ok(answer(vec![])));
        assert!(drawn.note.starts_with("Nothing was recorded"), "{}", drawn.note);
        assert_eq!(Range::named("8h"), None);
    }
}
