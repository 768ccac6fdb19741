//! PURE. When a leader hands over because its own threads stand still.
//!
//! A leader whose disk hangs still sends heartbeats, so nobody elects another, and nothing it is
//! asked is answered. It is the only one that can tell: its log writer, or its applier, has been in
//! one piece of work for too long.
//!
//! One slow sync is no stall, and a node that was slow once is not handed leadership to and fro: the
//! work must have gone on for three of the longest election time-outs, there must be somebody who
//! does not say that he stalls too, and after a hand-over the node looks away for a while.

use std::time::Duration;

/// The least that counts as a stall, whatever the election time-out.
const LEAST_LIMIT: Duration = Duration::from_millis(750);
/// A batch of the applier, which may hold a snapshot's making, counts as a stall after so many limits.
const APPLY_LIMITS: u32 = 3;
/// After a hand-over nothing more is handed over for so many limits.
const QUIET_LIMITS: u32 = 10;
/// After an attempt, which may come to nothing, for so many.
const ATTEMPT_LIMITS: u32 = 2;

/// Watches the busy times of log writer and applier.
#[derive(Debug, Clone)]
pub struct Stall {
    limit: Duration,
    quiet_until: Duration,
}

impl Stall {
    /// With the limit that fits the election time-out.
    pub fn new(election_timeout_max: Duration) -> Self {
        Stall { limit: (3 * election_timeout_max).max(LEAST_LIMIT), quiet_until: Duration::ZERO }
    }

    /// True where either has been in one piece of work for too long.
    pub fn stalled(&self, log_busy: Duration, apply_busy: Duration) -> bool {
        log_busy >= self.limit || apply_busy >= APPLY_LIMITS * self.limit
    }

    /// True where a stalled leader should try to hand over now; `now` is any monotonic clock.
    pub fn may_hand_over(&self, now: Duration) -> bool {
        now >= self.quiet_until
    }

    /// It is being tried.
    pub fn tried(&mut self, now: Duration) {
        self.quiet_until = now + ATTEMPT_LIMITS * self.limit;
    }

    /// It was done.
    pub fn handed_over(&mut self, now: Duration) {
        self.quiet_until = now + QUIET_LIMITS * self.limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_slow_sync_is_no_stall() {
        let stall = Stall::new(ms(300));
        assert!(!stall.stalled(ms(899), ms(0)));
        assert!(stall.stalled(ms(900), ms(0)) && !stall.stalled(ms(0), ms(900)));
        assert!(stall.stalled(ms(0), ms(2700)));
        assert!(!Stall::new(ms(10)).stalled(ms(700), ms(700)), "short timers don't make a busy node stall");
        assert!(!Stall::new(ms(5000)).stalled(ms(14_999), ms(0)), "long timers bear long syncs");
    }

    #[test]
    fn leadership_does_not_flap() {
        let mut stall = Stall::new(ms(300));
        assert!(stall.may_hand_over(ms(1)));
        stall.tried(ms(100));
        assert!(!stall.may_hand_over(ms(1_899)) && stall.may_hand_over(ms(1_900)), "it came to nothing");
        stall.handed_over(ms(1_000));
        assert!(!stall.may_hand_over(ms(9_999)));
        assert!(stall.may_hand_over(ms(10_000)));
    }
}
