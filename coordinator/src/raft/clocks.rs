//! PURE. How far a peer's clock is from ours.
//!
//! Every pulse carries our time, every echo the peer's. The offset is the peer's time minus the
//! middle between sending and receiving, and is wrong by at most half the round trip; so the sample
//! with the shortest round trip among the last ones is believed (as NTP does it). Both clocks may be
//! stepped, so old samples are forgotten.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples that are compared: a few seconds of pulses.
const SAMPLES: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Sample {
    rtt: Duration,
    offset_us: i64,
}

/// The last samples of one peer's clock.
#[derive(Debug, Default)]
pub struct PeerClock {
    samples: VecDeque<Sample>,
    rtt: Option<Duration>,
}

impl PeerClock {
    /// A pulse was sent when our wall clock said `sent_us`, and its echo, made when the peer's said
    /// `theirs_us`, came back after `rtt`.
    pub fn sample(&mut self, sent_us: i64, theirs_us: i64, rtt: Duration) {
        let half_us = i64::try_from(rtt.as_micros() / 2).unwrap_or(i64::MAX);
        let middle_us = sent_us.saturating_add(half_us);
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { rtt, offset_us: theirs_us.saturating_sub(middle_us) });
        self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
    }

    /// The peer's clock minus ours; none before the first sample.
    pub fn offset_us(&self) -> Option<i64> {
        self.samples.iter().min_by_key(|sample| sample.rtt).map(|sample| sample.offset_us)
    }

    /// The round trip, smoothed.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The connection is new: what was measured over the old one counts no more.
    pub fn forget(&mut self) {
        *self = PeerClock::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn the_shortest_round_trip_is_believed() {
        let mut clock = PeerClock::default();
        assert_eq!((clock.offset_us(), clock.rtt()), (None, None));
        // The peer is 250 ms ahead. A slow way back makes it look 40 ms less.
        clock.sample(1_000_000, 1_000_000 + 250_000 + 10_000, us(100_000));
        assert_eq!(clock.offset_us(), Some(210_000));
        clock.sample(2_000_000, 2_000_000 + 250_000 + 100, us(200));
        clock.sample(3_000_000, 3_000_000 + 250_000 + 40_000, us(50_000));
        assert_eq!(clock.offset_us(), Some(250_000));
    }

    #[test]
    fn a_step_of_either_clock_shows_within_the_samples() {
        let mut clock = PeerClock::default();
        (0..SAMPLES).for_each(|_| clock.sample(0, 50, us(100)));
        assert_eq!(clock.offset_us(), Some(0));
        (0..SAMPLES).for_each(|_| clock.sample(0, 3_600_000_100, us(200)));
        assert_eq!(clock.offset_us(), Some(3_600_000_000));
    }

    #[test]
    fn the_round_trip_is_smoothed() {
        let mut clock = PeerClock::default();
        clock.sample(0, 0, us(800));
        clock.sample(0, 0, us(1600));
        assert_eq!(clock.rtt(), Some(us(900)));
        clock.forget();
        assert_eq!(clock.rtt(), None);
    }
}
