//! PURE. Tiers: the finer, the shorter they last.
//!
//! Every sample stands in the first tier as it was taken. Each further tier joins the one before
//! into wider buckets: least, greatest, sum, count and last. A question is answered from the
//! coarsest tier that is fine enough; what that tier does not have any more comes from a coarser
//! one, and what it does not have yet from a finer one.

/// Seconds of each tier's buckets; the first holds samples as they were taken.
pub const SECONDS: [u64; 4] = [1, 10, 60, 3_600];
/// How many tiers there are.
pub const COUNT: usize = SECONDS.len();

/// The table of a tier.
pub const fn table(tier: usize) -> &'static str {
    ["samples_1s", "samples_10s", "samples_1m", "samples_1h"][tier]
}

/// What a tier holds: buckets that begin at `from_ms` or later and before `to_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The first.
    pub from_ms: i64,
    /// Where it ends; for the first tier nowhere.
    pub to_ms: i64,
}

/// A part of an answer: which tier gives which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The tier.
    pub tier: usize,
    /// From here.
    pub from_ms: i64,
    /// Up to and without this.
    pub to_ms: i64,
}

/// The coarsest tier whose buckets are no wider than `step_seconds`.
pub fn fitting(step_seconds: u64) -> usize {
    SECONDS.iter().rposition(|seconds| *seconds <= step_seconds).unwrap_or(0)
}

/// From which tiers the time from `from_ms` to `to_ms` is answered, in order of time and without
/// overlap.
pub fn parts(held: &[Held; COUNT], tier: usize, from_ms: i64, to_ms: i64) -> Vec<Part> {
    let mut parts = Vec::new();
    older(held, tier, from_ms, to_ms.min(held[tier].from_ms), &mut parts);
    add(&mut parts, tier, from_ms.max(held[tier].from_ms), to_ms.min(held[tier].to_ms));
    newer(held, tier, from_ms.max(held[tier].to_ms), to_ms, &mut parts);
    parts
}

fn add(parts: &mut Vec<Part>, tier: usize, from_ms: i64, to_ms: i64) {
    if from_ms < to_ms {
        parts.push(Part { tier, from_ms, to_ms });
    }
}

/// What `tier` has lost already: from the coarser ones, which keep it longer.
fn older(held: &[Held; COUNT], tier: usize, from_ms: i64, to_ms: i64, parts: &mut Vec<Part>) {
    let coarser = tier + 1;
    if from_ms >= to_ms || coarser >= COUNT {
        return;
    }
    older(held, coarser, from_ms, to_ms.min(held[coarser].from_ms), parts);
    // A bucket is drawn where it begins. The first one of a history begins before its first sample, and
    // holds no more than the finer tier has from there on.
    if held[coarser].from_ms + SECONDS[coarser] as i64 * 1_000 > held[tier].from_ms {
        return;
    }
    add(parts, coarser, from_ms.max(held[coarser].from_ms), to_ms.min(held[coarser].to_ms));
}

/// What `tier` does not have yet: from the finer ones.
fn newer(held: &[Held; COUNT], tier: usize, from_ms: i64, to_ms: i64, parts: &mut Vec<Part>) {
    if from_ms >= to_ms || tier == 0 {
        return;
    }
    let finer = tier - 1;
    add(parts, finer, from_ms.max(held[finer].from_ms), to_ms.min(held[finer].to_ms));
    newer(held, finer, from_ms.max(held[finer].to_ms), to_ms, parts);
}

/// The end of the buckets of a tier that are complete when the newest sample is of `newest_ms`.
pub const fn complete_to(tier: usize, newest_ms: i64) -> i64 {
    let width = SECONDS[tier] as i64 * 1_000;
    newest_ms.div_euclid(width) * width
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: i64 = i64::MAX;

    fn held(ranges: [(i64, i64); COUNT]) -> [Held; COUNT] {
        ranges.map(|(from_ms, to_ms)| Held { from_ms, to_ms })
    }

    fn of(parts: Vec<Part>) -> Vec<(usize, i64, i64)> {
        parts.into_iter().map(|p| (p.tier, p.from_ms, p.to_ms)).collect()
    }

    #[test]
    fn the_step_chooses_the_tier() {
        assert_eq!([1, 9, 10, 59, 60, 3_599, 3_600, 86_400].map(fitting), [0, 0, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn what_is_not_joined_yet_comes_from_finer_tiers() {
        let held = held([(900_000, OPEN), (800_000, 990_000), (600_000, 960_000), (0, 0)]);
        assert_eq!(
            of(parts(&held, 2, 700_000, 1_000_000)),
            [(2, 700_000, 960_000), (1, 960_000, 990_000), (0, 990_000, 1_000_000)]
        );
    }

    #[test]
    fn what_a_tier_has_lost_comes_from_coarser_ones() {
        let held = held([(900_000, OPEN), (800_000, 990_000), (600_000, 960_000), (-3_600_000, 3_600_000)]);
        assert_eq!(
            of(parts(&held, 0, 100_000, 1_000_000)),
            [(3, 100_000, 600_000), (2, 600_000, 800_000), (1, 800_000, 900_000), (0, 900_000, 1_000_000)]
        );
        assert_eq!(of(parts(&held, 1, 0, 100_000)), [(3, 0, 100_000)]);
    }

    #[test]
    fn nothing_is_told_of_the_time_before_the_first_sample() {
        // All tiers begin with the sample of 115 s; their buckets begin before it.
        let held = held([(115_000, OPEN), (110_000, 190_000), (60_000, 180_000), (0, 0)]);
        assert_eq!(of(parts(&held, 0, 0, 200_000)), [(0, 115_000, 200_000)]);
        assert_eq!(of(parts(&held, 1, 0, 200_000)), [(1, 110_000, 190_000), (0, 190_000, 200_000)]);
    }

    #[test]
    fn parts_never_overlap_and_lie_within_what_was_asked() {
        let mut seed = 7_u64;
        let mut next = |below: i64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as i64 % below
        };
        for _ in 0..20_000 {
            // Finer tiers begin later and reach further.
            let mut from = [next(100), next(100), next(100), next(100)];
            from.sort_unstable_by(|a, b| b.cmp(a));
            let mut to = [0, next(100), next(100), next(100)];
            to[1..].sort_unstable_by(|a, b| b.cmp(a));
            to[0] = OPEN;
            let held = held([0, 1, 2, 3].map(|i| (from[i], to[i].max(from[i]))));
            let (a, b) = (next(120), next(120));
            let found = parts(&held, next(4) as usize, a, b);
            assert!(found.windows(2).all(|w| w[0].to_ms <= w[1].from_ms), "{held:?} {found:?}");
            assert!(found.iter().all(|p| a <= p.from_ms && p.to_ms <= b && p.from_ms < p.to_ms), "{found:?}");
        }
    }

    #[test]
    fn a_bucket_is_complete_when_a_later_sample_came() {
        assert_eq!(complete_to(1, 12_345), 10_000);
        assert_eq!(complete_to(2, 60_000), 60_000);
        assert_eq!(complete_to(2, -1), -60_000);
    }
}
