//! How fast a check may go: work and rest in a fixed proportion.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A proportion of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Of one core, above 0 and at most 1.
    share: f64,
}

impl Pace {
    /// At most this share of a core.
    pub fn share(share: f64) -> Pace {
        Pace { share: share.clamp(0.001, 1.0) }
    }

    /// Without rest.
    pub fn unpaced() -> Pace {
        Pace { share: 1.0 }
    }

    /// For what can't be interrupted for long: at least a quarter of a core, for a moment.
    pub fn brisk(self) -> Pace {
        Pace { share: self.share.max(0.25) }
    }

    /// The rest that is due after a piece of work.
    pub fn rest(self, worked: Duration) -> Duration {
        worked.mul_f64(1.0 / self.share - 1.0)
    }

    /// Rests; false where `stop` came.
    pub fn pause(self, worked: Duration, stop: &CancellationToken) -> bool {
        let rest = self.rest(worked);
        if rest.is_zero() {
            return !stop.is_cancelled();
        }
        !super::sleep(stop, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_rest_are_in_proportion() {
        let worked = Duration::from_millis(10);
        assert_eq!(Pace::share(0.02).rest(worked), Duration::from_millis(490));
        assert_eq!(Pace::share(0.02).brisk().rest(worked), Duration::from_millis(30));
        assert_eq!(Pace::unpaced().rest(worked), Duration::ZERO);
        let stop = CancellationToken::new();
        assert!(Pace::unpaced().pause(worked, &stop));
        stop.cancel();
        assert!(!Pace::unpaced().pause(worked, &stop));
        assert!(!Pace::share(0.001).pause(Duration::from_secs(60), &stop));
    }
}
