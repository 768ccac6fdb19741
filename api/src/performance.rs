//! How fast a node works: totals since its process started, for whoever compares two reports.
//!
//! Totals instead of rates, because only the reader knows between which two moments it wants them.
//! A [`Latency`] is a histogram by the boundaries of [`crate::metrics::LATENCY`]: two of one process
//! can be subtracted, and what is left tells the quantiles of what happened in between.

use crate::metrics::LATENCY;
use serde::{Deserialize, Serialize};

/// Work done since the process started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Performance {
    /// Proposed commands whose reply is known: the writes that this node saw through.
    pub writes: u64,
    /// Proposed commands that were not taken, or whose outcome is unknown.
    pub writes_failed: u64,
    /// Linearizable reads that were served.
    pub reads: u64,
    /// HTTP requests answered, those of peers and of the monitor included.
    pub requests: u64,
    /// Those of them that were answered with a status of 500 or more.
    pub requests_failed: u64,
    /// From a command's proposal to its reply.
    pub commit: Latency,
    /// One synced write of the log.
    pub log_sync: Latency,
}

/// A distribution of times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Latency {
    /// All of them together, seconds.
    pub sum_seconds: f64,
    /// How many there were in each bucket: the first up to 50 us, …, the last beyond 10 s. Empty
    /// where nothing is known.
    pub buckets: Vec<u64>,
}

impl Latency {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// What happened after `earlier`, which must be of the same process; none where it can't be.
    pub fn since(&self, earlier: &Latency) -> Option<Latency> {
        if self.buckets.len() != earlier.buckets.len() {
            return None;
        }
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        let buckets = pairs.map(|(now, then)| now.checked_sub(*then)).collect::<Option<Vec<u64>>>()?;
        Some(Latency { sum_seconds: (self.sum_seconds - earlier.sum_seconds).max(0.0), buckets })
    }

    /// The time that the share `q` (0 to 1) of all stayed below, seconds, by even spread inside a
    /// bucket. Beyond the last boundary it is that boundary. None where there was nothing.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 || self.buckets.len() != LATENCY.len() + 1 {
            return None;
        }
        let wanted = q.clamp(0.0, 1.0) * count as f64;
        let mut below = 0.0;
        for (i, n) in self.buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            let n = *n as f64;
            if below + n >= wanted {
                let lower = if i == 0 { 0.0 } else { LATENCY[i - 1] };
                let Some(upper) = LATENCY.get(i) else { return Some(lower) };
                return Some(lower + (upper - lower) * ((wanted - below) / n).clamp(0.0, 1.0));
            }
            below += n;
        }
        LATENCY.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counts: &[(usize, u64)]) -> Latency {
        let mut buckets = vec![0; LATENCY.len() + 1];
        for (i, n) in counts {
            buckets[*i] += n;
        }
        Latency { sum_seconds: 1.0, buckets }
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        // Bucket 4 is 0.5 to 1 ms, bucket 10 is 50 to 100 ms.
        let latency = of(&[(4, 99), (10, 1)]);
        let half = latency.quantile(0.5).unwrap();
        assert!((0.0005..=0.001).contains(&half), "{half}");
        assert!(latency.quantile(0.995).unwrap() > 0.025);
        assert_eq!(of(&[(LATENCY.len(), 3)]).quantile(0.5), Some(10.0));
        assert_eq!(of(&[]).quantile(0.5), None);
        assert_eq!(Latency::default().quantile(0.5), None);
    }

    #[test]
    fn what_happened_in_between_is_the_difference() {
        let (earlier, later) = (of(&[(4, 10)]), of(&[(4, 10), (10, 5)]));
        let between = later.since(&earlier).unwrap();
        assert_eq!((between.count(), between.buckets[10]), (5, 5));
        assert_eq!(earlier.since(&later), None, "a process that began anew counts from nothing");
        assert_eq!(later.since(&Latency::default()), None);
    }
}
