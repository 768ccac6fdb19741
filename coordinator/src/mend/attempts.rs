//! PURE. How often something is tried: with a growing pause, and not for ever.

use std::time::Duration;

/// Attempts before it is given up.
pub const MOST: u32 = 5;
/// After the first attempt; doubled after each.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Without a further attempt for this long, those before are forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// What was tried so far. Times are those of any monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    made: u32,
    last: Option<Duration>,
}

impl Attempts {
    /// True where another attempt may be made.
    pub fn due(&self, now: Duration) -> bool {
        let pause = FIRST_PAUSE * 2u32.pow(self.made.saturating_sub(1).min(16));
        self.made < MOST && self.last.is_none_or(|last| now >= last + pause)
    }

    /// An attempt is made; gives its number, from 1.
    pub fn begin(&mut self, now: Duration) -> u32 {
        (self.made, self.last) = (self.made + 1, Some(now));
        self.made
    }

    /// Nothing is wrong now.
    pub fn sound(&mut self, now: Duration) {
        if self.last.is_some_and(|last| now >= last + FORGET) {
            *self = Attempts::default();
        }
    }

    /// True where no further attempt will be made before somebody else has mended it.
    pub fn given_up(&self) -> bool {
        self.made >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_pause_is_twice_the_last_and_there_is_an_end() {
        let (mut attempts, mut now, mut made) = (Attempts::default(), s(100), Vec::new());
        for _ in 0..100_000 {
            if attempts.due(now) {
                attempts.begin(now);
                made.push(now.as_secs() - 100);
            }
            now += s(1);
        }
        assert_eq!(made, [0, 10, 30, 70, 150]);
        assert!(attempts.given_up());
    }

    #[test]
    fn what_failed_is_forgotten_after_an_hour_without_a_fault_only() {
        let mut attempts = Attempts::default();
        for at in 0..MOST {
            attempts.begin(s(at.into()));
        }
        attempts.sound(s(60));
        assert!(attempts.given_up(), "sound for a minute: it may be the same fault again");
        assert!(!attempts.due(s(10_000)), "it was never sound");
        attempts.sound(s(3700));
        assert!(attempts.due(s(3700)));
    }
}
