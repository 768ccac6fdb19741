//! PURE. From a round to samples: what [`super::metric`] declares, as this round shows it.
//!
//! Invariant: what a round does not show leaves a gap. A node that gave no report has no figures,
//! a rate needs two reports of one process, and a quantile needs something that happened.

use super::metric::{self, Metric};
use crate::report::seconds_between;
use crate::snapshot::{ClusterSnapshot, Severity};
use api::cluster::Report;
use api::performance::Latency;
use api::task::TaskState;
use api::worker::WorkerState;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The longest pause between two reports over which a rate still means something, seconds.
const MAX_RATE_SECONDS: f64 = 300.0;

/// What a sample says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A figure.
    Number(f64),
    /// One of several things, by name.
    Name(String),
}

/// One value of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which metric.
    pub metric: &'static Metric,
    /// Of which node.
    pub node: Option<String>,
    /// About which peer.
    pub peer: Option<String>,
    /// The value.
    pub value: Value,
}

/// What the monitor knows of its own round.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OwnFigures {
    /// How long the round took, milliseconds.
    pub round_ms: f64,
    /// How much later than planned it began, milliseconds.
    pub late_ms: f64,
}

/// Totals of a node's last report, for the rates of the next.
#[derive(Debug, Clone)]
struct Before {
    boot_nonce: String,
    at: Timestamp,
    report: Totals,
}

#[derive(Debug, Clone)]
struct Totals {
    writes: u64,
    writes_failed: u64,
    reads: u64,
    requests: u64,
    requests_failed: u64,
    log_syncs: u64,
    applied_entries: u64,
    commit: Latency,
    log_sync: Latency,
    tasks: BTreeMap<String, u64>,
}

/// Turns rounds into samples. Keeps the totals of the round before.
#[derive(Debug, Default)]
pub struct Sampling {
    before: BTreeMap<String, Before>,
}

impl Sampling {
    /// The samples of one round.
    pub fn take(&mut self, now: &ClusterSnapshot, findings: usize, own: OwnFigures) -> Vec<Sample> {
        let mut out = Samples(Vec::with_capacity(32 * now.nodes.len() + 16));
        for node in &now.nodes {
            let name = node.name();
            out.state(&metric::STANDING, name, node.state.as_str());
            out.node(&metric::SCRAPE, name, node.took_ms);
            if let Some(report) = &node.report {
                figures(&mut out, name, report);
                if let Some(lag) = now.lag_entries(name) {
                    out.node(&metric::LAG, name, lag as f64);
                }
                self.rates(&mut out, name, report, now);
            }
        }
        self.before.retain(|name, _| now.nodes.iter().any(|n| n.name() == name));
        cluster(&mut out, now, findings);
        out.add(&metric::ROUND, None, None, Value::Number(own.round_ms));
        out.add(&metric::LATE, None, None, Value::Number(own.late_ms));
        out.0
    }

    /// What a node did since its last report, if that was of the same process.
    fn rates(&mut self, out: &mut Samples, name: &str, report: &Report, now: &ClusterSnapshot) {
        let totals = totals(report);
        let next =
            Before { boot_nonce: report.status.boot_nonce.clone(), at: report.now, report: totals.clone() };
        let Some(before) = self.before.insert(name.to_owned(), next) else { return };
        // By the node's own clock: both figures are of the moment it looked.
        let seconds = seconds_between(before.at, report.now);
        if before.boot_nonce != report.status.boot_nonce || seconds <= 0.0 || seconds > MAX_RATE_SECONDS {
            return;
        }
        let then = &before.report;
        let mut rate = |metric, now: u64, then: u64| {
            if let Some(done) = now.checked_sub(then) {
                out.node(metric, name, done as f64 / seconds);
            }
        };
        rate(&metric::WRITES, totals.writes, then.writes);
        rate(&metric::WRITES_FAILED, totals.writes_failed, then.writes_failed);
        rate(&metric::READS, totals.reads, then.reads);
        rate(&metric::REQUESTS, totals.requests, then.requests);
        rate(&metric::REQUESTS_FAILED, totals.requests_failed, then.requests_failed);
        rate(&metric::LOG_SYNCS, totals.log_syncs, then.log_syncs);
        rate(&metric::APPLIED, totals.applied_entries, then.applied_entries);
        let mut quantile = |metric, now: &Latency, then: &Latency, q| {
            if let Some(seconds) = now.since(then).and_then(|between| between.quantile(q)) {
                out.node(metric, name, seconds * 1_000.0);
            }
        };
        quantile(&metric::COMMIT_P50, &totals.commit, &then.commit, 0.5);
        quantile(&metric::COMMIT_P99, &totals.commit, &then.commit, 0.99);
        quantile(&metric::LOG_SYNC_P99, &totals.log_sync, &then.log_sync, 0.99);
        // Each replica counts all tasks: one of them speaks, they are never added up.
        if now.work.as_ref().is_some_and(|work| work.from == name) {
            for (metric, key) in [
                (&metric::SUBMITTED, "submitted"),
                (&metric::COMPLETED, "completed"),
                (&metric::FAILED, "failed"),
            ] {
                if let (Some(now), Some(then)) = (totals.tasks.get(key), then.tasks.get(key))
                    && let Some(done) = now.checked_sub(*then)
                {
                    out.add(metric, None, None, Value::Number(done as f64 / seconds));
                }
            }
        }
    }
}

struct Samples(Vec<Sample>);

impl Samples {
    fn add(&mut self, metric: &'static Metric, node: Option<&str>, peer: Option<&str>, value: Value) {
        if matches!(value, Value::Number(number) if !number.is_finite()) {
            return;
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        self.0.push(Sample { metric, node: owned(node), peer: owned(peer), value });
    }

    fn node(&mut self, metric: &'static Metric, node: &str, value: f64) {
        self.add(metric, Some(node), None, Value::Number(value));
    }

    fn state(&mut self, metric: &'static Metric, node: &str, value: &str) {
        self.add(metric, Some(node), None, Value::Name(value.to_owned()));
    }
}

/// What stands in a report as it is.
fn figures(out: &mut Samples, name: &str, report: &Report) {
    let (status, resources) = (&report.status, &report.resources);
    out.state(&metric::ROLE, name, status.role.as_str());
    out.node(&metric::TERM, name, status.term as f64);
    out.node(&metric::APPLIED_INDEX, name, status.applied_index as f64);
    out.node(&metric::COMMIT_INDEX, name, status.commit_index as f64);
    if let Some(lag) = report.db.details.get("lag_entries").and_then(serde_json::Value::as_f64) {
        out.node(&metric::DB_LAG, name, lag);
    }
    if resources.disk_total_bytes > 0 {
        out.node(&metric::DISK, name, resources.disk_usage);
        out.node(&metric::DISK_FREE, name, resources.disk_free_bytes as f64);
    }
    out.node(&metric::MEMORY, name, resources.memory_bytes as f64);
    out.node(&metric::CPU, name, resources.cpu_usage);
    out.node(&metric::OPEN_FDS, name, resources.open_fds as f64);
    for peer in status.peers.iter().filter(|peer| peer.reachable) {
        if let Some(rtt_ms) = peer.rtt_ms {
            out.add(&metric::RTT, Some(name), Some(&peer.node_id), Value::Number(rtt_ms));
        }
        if let Some(offset_ms) = peer.clock_offset_ms {
            let value = Value::Number(offset_ms as f64);
            out.add(&metric::CLOCK_OFFSET, Some(name), Some(&peer.node_id), value);
        }
    }
}

fn cluster(out: &mut Samples, now: &ClusterSnapshot, findings: usize) {
    let mut number = |metric, value: f64| out.add(metric, None, None, Value::Number(value));
    number(&metric::REPORTING, now.reporting().count() as f64);
    number(&metric::FINDINGS, findings as f64);
    if let Some(work) = &now.work {
        let tasks = |state| work.tasks.get(&state).copied().unwrap_or(0) as f64;
        number(&metric::PENDING, tasks(TaskState::Pending));
        number(&metric::RUNNING, tasks(TaskState::Running));
        let workers = |state| work.workers.get(&state).copied().unwrap_or(0);
        number(&metric::WORKERS, (workers(WorkerState::Active) + workers(WorkerState::Busy)) as f64);
    }
    if let Some(leader) = &now.leader {
        out.add(&metric::LEADER, None, None, Value::Name(leader.clone()));
    }
}

fn totals(report: &Report) -> Totals {
    let did = &report.performance;
    Totals {
        writes: did.writes,
        writes_failed: did.writes_failed,
        reads: did.reads,
        requests: did.requests,
        requests_failed: did.requests_failed,
        log_syncs: report.progress.log_syncs,
        applied_entries: report.progress.applied_entries,
        commit: did.commit.clone(),
        log_sync: did.log_sync.clone(),
        tasks: report.totals.clone(),
    }
}

/// Findings that count in the metric `findings`.
pub fn above_info(findings: &[crate::detectors::Finding]) -> usize {
    findings.iter().filter(|finding| finding.severity > Severity::Info).count()
}

/// Which value of `metric` a name is, if the metric lists its names.
pub fn place_of(metric: &Metric, name: &str) -> Option<f64> {
    metric.states.iter().position(|state| *state == name).map(|place| place as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::fixture::{Answers, reports};
    use crate::report::ScrapeFailure;
    use crate::snapshot::Memory;

    fn round(seconds: f64, bend: impl FnOnce(&mut Answers)) -> ClusterSnapshot {
        let mut answers = Answers::healthy(3, 2, 7, seconds);
        bend(&mut answers);
        ClusterSnapshot::join(&answers.0, &Memory::default(), seconds as u64, reports::after(seconds))
    }

    fn value(samples: &[Sample], metric: &Metric, node: Option<&str>) -> Option<Value> {
        let of = |s: &&Sample| s.metric == metric && s.node.as_deref() == node;
        let found: Vec<&Sample> = samples.iter().filter(of).collect();
        assert!(found.len() <= 1, "{found:?}");
        found.first().map(|s| s.value.clone())
    }

    #[test]
    fn counters_become_rates_between_two_reports_of_one_process() {
        let mut sampling = Sampling::default();
        let own = OwnFigures::default();
        let first = sampling.take(&round(1.0, |_| {}), 0, own);
        assert_eq!(value(&first, &metric::WRITES, Some("node-1")), None);
        let second = sampling.take(&round(3.0, |_| {}), 0, own);
        assert_eq!(value(&second, &metric::WRITES, Some("node-1")), Some(Value::Number(200.0)));
        let Some(Value::Number(p99)) = value(&second, &metric::COMMIT_P99, Some("node-2")) else { panic!() };
        assert!((1.0..=2.5).contains(&p99), "{p99}");
        let third = sampling.take(
            &round(4.0, |a| {
                let report = a.report(1);
                report.status.boot_nonce = "another".into();
                report.performance.writes = 3;
            }),
            0,
            own,
        );
        assert_eq!(value(&third, &metric::WRITES, Some("node-1")), None);
        assert_eq!(value(&third, &metric::WRITES, Some("node-2")), Some(Value::Number(200.0)));
    }

    #[test]
    fn what_a_round_does_not_show_leaves_a_gap() {
        let mut sampling = Sampling::default();
        let own = OwnFigures { round_ms: 3.0, late_ms: 0.5 };
        sampling.take(&round(1.0, |_| {}), 0, own);
        let samples = sampling.take(
            &round(2.0, |a| {
                a.kill(2);
            }),
            2,
            own,
        );
        assert_eq!(value(&samples, &metric::TERM, Some("node-2")), None);
        assert_eq!(value(&samples, &metric::LEADER, None), None);
        assert_eq!(value(&samples, &metric::STANDING, Some(&crate::detectors::fixture::address(2))), None);
        assert_eq!(value(&samples, &metric::REPORTING, None), Some(Value::Number(2.0)));
        assert_eq!(value(&samples, &metric::FINDINGS, None), Some(Value::Number(2.0)));
        assert_eq!(value(&samples, &metric::LATE, None), Some(Value::Number(0.5)));
        let silent = sampling.take(
            &round(3.0, |a| {
                a.fail(1, ScrapeFailure::Refused)
                    .fail(2, ScrapeFailure::Refused)
                    .fail(3, ScrapeFailure::Refused);
            }),
            0,
            own,
        );
        assert_eq!(value(&silent, &metric::PENDING, None), None);
    }

    #[test]
    fn every_metric_of_a_round_is_there_and_replicas_are_not_added_up() {
        let mut sampling = Sampling::default();
        sampling.take(&round(1.0, |_| {}), 0, OwnFigures::default());
        let samples = sampling.take(
            &round(2.0, |a| {
                for n in 1..=3 {
                    a.report(n).db.details.insert("lag_entries".into(), 5.into());
                }
            }),
            0,
            OwnFigures::default(),
        );
        for metric in metric::ALL {
            let count = samples.iter().filter(|s| s.metric == metric).count();
            let wanted = match metric.scope {
                metric::Scope::Cluster | metric::Scope::Monitor => 1,
                metric::Scope::Node => 3,
                metric::Scope::Peer => 6,
            };
            assert_eq!(count, wanted, "{}", metric.name);
        }
        assert_eq!(value(&samples, &metric::PENDING, None), Some(Value::Number(412.0)));
        let role = value(&samples, &metric::ROLE, Some("node-2"));
        assert_eq!(role, Some(Value::Name("leader".into())));
        assert_eq!(place_of(&metric::ROLE, "follower"), Some(1.0));
    }
}
