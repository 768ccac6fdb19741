//! What one measurement saw, and what it cost.

use crate::Error;
use std::time::Instant;
use tokio::task::JoinHandle;

/// What one measurement saw.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Requests that were acknowledged.
    pub acknowledged: u64,
    /// Requests answered otherwise.
    pub refused: u64,
    /// Exchanges that broke; nobody knows what became of them.
    pub broken: u64,
    /// Seconds by the wall clock.
    pub seconds: f64,
    /// Latencies of the acknowledged ones, microseconds, ascending.
    pub latencies_us: Vec<u32>,
    /// What was answered first instead of the acknowledgement.
    pub first_refusal: Option<String>,
}

impl Sample {
    /// Waits for closed loops and joins what they saw.
    pub async fn gather(loops: Vec<JoinHandle<Sample>>, began: Instant) -> Result<Sample, Error> {
        let mut sample = Sample::default();
        for one in loops {
            sample.add(one.await.map_err(|e| Error::io("run the load")(std::io::Error::other(e)))?);
        }
        sample.seconds = began.elapsed().as_secs_f64();
        sample.latencies_us.sort_unstable();
        sample.checked()
    }

    /// Nothing measured is no measurement: it must not stand in a table as 0.
    fn checked(self) -> Result<Sample, Error> {
        if self.acknowledged > 0 {
            return Ok(self);
        }
        let why = self.first_refusal.unwrap_or_else(|| format!("{} connections broke", self.broken));
        Err(Error::Http {
            address: "the load".into(),
            why: format!("no request was answered as it should be: {why}"),
        })
    }

    /// Counts an acknowledgement of a request sent at `began`.
    pub fn acknowledge(&mut self, began: Instant) {
        self.acknowledged += 1;
        self.latencies_us.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }

    /// Counts a refusal; the first one is kept.
    pub fn refuse(&mut self, why: impl FnOnce() -> String) {
        self.refused += 1;
        if self.first_refusal.is_none() {
            self.first_refusal = Some(why());
        }
    }

    /// Acknowledged requests a second, by the wall clock.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.acknowledged as f64 / self.seconds } else { 0.0 }
    }

    /// The latency that `part` (0 to 1) of the requests did not exceed, milliseconds.
    pub fn percentile_ms(&self, part: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let place = (last as f64 * part).round() as usize;
        self.latencies_us.get(place).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }

    /// Joins another sample of the same measurement.
    pub fn add(&mut self, other: Sample) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.broken += other.broken;
        self.latencies_us.extend(other.latencies_us);
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
    }
}

/// Processor time of processes, this one apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processor {
    /// Seconds used by the processes under test.
    pub tested_seconds: f64,
    /// Seconds used by this process, which makes the load.
    pub own_seconds: f64,
}

impl Processor {
    /// What these processes and this one have used so far.
    pub fn used(pids: &[u32]) -> Processor {
        Processor {
            tested_seconds: pids.iter().map(|pid| seconds_of(&pid.to_string())).sum(),
            own_seconds: seconds_of("self"),
        }
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Processor) -> Processor {
        Processor {
            tested_seconds: self.tested_seconds - earlier.tested_seconds,
            own_seconds: self.own_seconds - earlier.own_seconds,
        }
    }
}

/// User and system time of a process, all its threads together.
fn seconds_of(pid: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some(end) = text.rfind(')') else { return 0.0 };
    let fields: Vec<f64> =
        text[end + 1..].split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    fields.iter().sum::<f64>() / rustix::param::clock_ticks_per_second() as f64
}

/// Bytes of memory that a process holds, shared libraries included.
pub fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_series() {
        let sample = Sample {
            acknowledged: 101,
            seconds: 2.0,
            latencies_us: (0..=100).map(|i| i * 1000).collect(),
            ..Sample::default()
        };
        assert_eq!((sample.percentile_ms(0.5), sample.percentile_ms(0.99)), (50.0, 99.0));
        assert_eq!(sample.per_second(), 50.5);
        let refused = Sample { refused: 3, first_refusal: Some("503: full".into()), ..Sample::default() };
        assert!(refused.checked().unwrap_err().to_string().contains("503: full"));
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        assert!(resident_bytes(std::process::id()) > 1 << 20);
        let before = Processor::used(&[]);
        let mut sum = 0u64;
        while Processor::used(&[]).since(before).own_seconds == 0.0 {
            (0..100_000u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
        }
        assert_eq!(Processor::used(&[]).tested_seconds, 0.0);
    }
}
