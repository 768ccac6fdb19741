//! PURE. Has this leader looked long enough to call a member dead?
//!
//! How long a member was silent is counted by whoever listens. A process that stood still itself (paused,
//! swapped out, a machine put to sleep) has heard nobody, and what it counts then is its own absence. So a
//! leader takes nobody out before it has looked, round after round and as the leader, for
//! [`LOOK_MS`]: in that time everybody who is alive was heard.

/// A leader that has looked for less takes nobody out.
pub const LOOK_MS: u64 = 10_000;
/// Between two rounds that belong together.
const PAUSE_MS: u64 = 2_000;

/// The rounds that one leader has looked without a break.
#[derive(Debug, Default)]
pub struct Watch {
    /// First and last of them, by any monotonic clock.
    rounds: Option<(u64, u64)>,
}

impl Watch {
    /// A round as the leader; true where it may count on what it has not heard.
    pub fn look(&mut self, now_ms: u64) -> bool {
        let unbroken = |(_, last): &(u64, u64)| now_ms.saturating_sub(*last) <= PAUSE_MS;
        let since = self.rounds.filter(unbroken).map_or(now_ms, |(since, _)| since);
        self.rounds = Some((since, now_ms));
        now_ms - since >= LOOK_MS
    }

    /// It does not lead.
    pub fn rest(&mut self) {
        self.rounds = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(watch: &mut Watch, from_ms: u64, to_ms: u64) -> bool {
        (from_ms..=to_ms).step_by(250).map(|now| watch.look(now)).last().unwrap()
    }

    #[test]
    fn who_stood_still_begins_again() {
        let mut watch = Watch::default();
        assert!(!rounds(&mut watch, 5_000, 14_750), "not long enough");
        assert!(rounds(&mut watch, 15_000, 15_000));
        assert!(rounds(&mut watch, 17_000, 17_000), "a busy machine");
        assert!(!rounds(&mut watch, 19_250, 19_250), "it was away for longer than that");
        assert!(!rounds(&mut watch, 19_500, 29_000));
        assert!(rounds(&mut watch, 29_250, 29_250));
    }

    #[test]
    fn a_new_leader_begins_again() {
        let mut watch = Watch::default();
        assert!(rounds(&mut watch, 0, 20_000));
        watch.rest();
        assert!(!watch.look(20_250));
    }
}
