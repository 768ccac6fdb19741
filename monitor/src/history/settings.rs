//! PURE. How long what is remembered.

use super::tier;
use serde::Deserialize;

/// The section `history` of the config file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Hours that samples are kept as they were taken.
    pub raw_hours: f64,
    /// Hours that steps of 10 s are kept.
    pub ten_seconds_hours: f64,
    /// Days that steps of a minute are kept.
    pub minute_days: f64,
    /// Days that steps of an hour, events and findings are kept.
    pub hour_days: f64,
    /// Rows of each tier, and of events and findings; the oldest go first.
    pub max_rows: u64,
    /// What DuckDB may use, MiB.
    pub memory_limit_mb: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            raw_hours: 2.0,
            ten_seconds_hours: 24.0,
            minute_days: 14.0,
            hour_days: 400.0,
            max_rows: 20_000_000,
            memory_limit_mb: 256,
        }
    }
}

impl Settings {
    /// Where there is no file, everything lies in memory, and less is kept.
    pub fn in_memory(&self) -> Settings {
        Settings {
            raw_hours: self.raw_hours.min(0.5),
            ten_seconds_hours: self.ten_seconds_hours.min(6.0),
            minute_days: self.minute_days.min(3.0),
            hour_days: self.hour_days.min(30.0),
            max_rows: self.max_rows.min(2_000_000),
            memory_limit_mb: self.memory_limit_mb,
        }
    }

    /// How long a tier lasts, milliseconds.
    pub fn age_ms(&self, tier: usize) -> i64 {
        const HOUR_MS: f64 = 3_600_000.0;
        let hours = [self.raw_hours, self.ten_seconds_hours, self.minute_days * 24.0, self.hour_days * 24.0];
        (hours[tier] * HOUR_MS) as i64
    }

    /// What is wrong with it, if anything is.
    pub fn fault(&self) -> Option<String> {
        for tier in 0..tier::COUNT {
            // Three buckets of the next tier, so that it has always been made from whole ones.
            let least_ms = tier::SECONDS.get(tier + 1).map_or(0, |seconds| 3_000 * *seconds as i64);
            let known = self.age_ms(tier);
            if known < least_ms.max(1) || known > 3_660 * 86_400_000 {
                let name = ["raw_hours", "ten_seconds_hours", "minute_days", "hour_days"][tier];
                return Some(format!(
                    "{name}: steps of {} s must be kept for {} s to ten years",
                    tier::SECONDS[tier],
                    least_ms / 1_000
                ));
            }
        }
        if !(10_000..=1_000_000_000).contains(&self.max_rows) {
            return Some(format!("max_rows: {} is not between 10000 and 1000000000", self.max_rows));
        }
        if !(32..=65_536).contains(&self.memory_limit_mb) {
            return Some(format!("memory_limit_mb: {} is not between 32 and 65536", self.memory_limit_mb));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_together_and_nonsense_is_named() {
        assert_eq!(Settings::default().fault(), None);
        assert_eq!(Settings::default().in_memory().fault(), None);
        for (settings, part) in [
            (Settings { raw_hours: 0.001, ..Settings::default() }, "raw_hours"),
            (Settings { minute_days: f64::NAN, ..Settings::default() }, "minute_days"),
            (Settings { hour_days: 1e9, ..Settings::default() }, "hour_days"),
            (Settings { max_rows: 1, ..Settings::default() }, "max_rows"),
            (Settings { memory_limit_mb: 0, ..Settings::default() }, "memory_limit_mb"),
        ] {
            assert!(settings.fault().is_some_and(|why| why.starts_with(part)), "{part}");
        }
    }
}
