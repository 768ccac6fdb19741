//! The totals of `/api/report`: what [`api::performance::Performance`] shows.
//!
//! The histograms of the metrics can't be read back cheaply, so the two times that the monitor
//! follows are counted here as well: one search among 17 boundaries and two additions each.

use super::{Counters, Telemetry};
use api::metrics::LATENCY;
use api::performance::{Latency, Performance};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BUCKETS: usize = 18;
const _: () = assert!(LATENCY.len() + 1 == BUCKETS);

/// A distribution that is added to in passing.
#[derive(Debug, Default)]
pub(crate) struct Times {
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Times {
    pub(super) fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets[LATENCY.partition_point(|b| *b < seconds)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Latency {
        Latency {
            sum_seconds: self.sum_us.load(Ordering::Relaxed) as f64 / 1_000_000.0,
            buckets: self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).collect(),
        }
    }
}

/// What is counted for the report alone.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(super) commit: Times,
    pub(super) log_sync: Times,
    requests: AtomicU64,
    requests_failed: AtomicU64,
}

impl Work {
    pub(super) fn request(&self, status: u16) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if status >= 500 {
            self.requests_failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn performance(counters: &Counters) -> Performance {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let [applied, dropped, unknown] = &counters.proposals;
    Performance {
        writes: load(applied),
        writes_failed: load(dropped).saturating_add(load(unknown)),
        reads: load(&counters.reads[0]),
        requests: load(&counters.work.requests),
        requests_failed: load(&counters.work.requests_failed),
        commit: counters.work.commit.read(),
        log_sync: counters.work.log_sync.read(),
    }
}

impl Telemetry {
    /// Work done since the process started.
    pub fn performance(&self) -> Performance {
        performance(&self.counters)
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::{ProposalOutcome, ReadOutcome, Telemetry};
    use std::time::Duration;

    #[test]
    fn the_report_counts_what_was_done() {
        let telemetry = Telemetry::new("n1").unwrap();
        for took in [Duration::from_millis(2), Duration::from_secs(60)] {
            telemetry.committed(took);
            telemetry.answered(1, took);
        }
        telemetry.proposals_ended(ProposalOutcome::Dropped, 1);
        telemetry.proposals_ended(ProposalOutcome::Unknown, 1);
        telemetry.read(ReadOutcome::Served);
        telemetry.log_sync(Duration::from_micros(300), 3);
        telemetry.http_request("/x", "GET", 200, Duration::from_millis(1));
        telemetry.http_request("/x", "GET", 503, Duration::from_millis(1));
        let seen = telemetry.performance();
        assert_eq!((seen.writes, seen.writes_failed, seen.reads), (2, 2, 1));
        assert_eq!((seen.requests, seen.requests_failed), (2, 1));
        assert_eq!(seen.commit.count(), 2);
        let half = seen.commit.quantile(0.5).unwrap();
        assert!((0.001..=0.0025).contains(&half), "{half}");
        assert_eq!(seen.commit.quantile(1.0), Some(10.0));
        assert!((seen.log_sync.sum_seconds - 0.000_3).abs() < 1e-9);
    }
}
