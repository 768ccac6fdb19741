//! The figures of `chaos crash` as a table and as JSON.

use crate::Error;
use crate::bench::report::Machine;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Instant;

/// How long no write was acknowledged round a kill, over all kills.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// The middle one, ms.
    pub median_ms: f64,
    /// The longest, ms.
    pub worst_ms: f64,
}

impl Gaps {
    /// For each kill the longest pause between two acknowledgements that ends behind it and
    /// begins before the next kill.
    pub fn around(kills: &[Instant], acknowledgements: &[Instant]) -> Gaps {
        let mut longest: Vec<f64> = kills
            .iter()
            .enumerate()
            .map(|(at, kill)| {
                let next = kills.get(at + 1);
                let from = acknowledgements.partition_point(|a| a < kill).saturating_sub(1);
                let pairs = acknowledgements[from..].windows(2);
                let pairs = pairs.take_while(|pair| next.is_none_or(|next| pair[0] < *next));
                pairs.map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1000.0).fold(0.0, f64::max)
            })
            .collect();
        longest.sort_by(f64::total_cmp);
        let middle = longest.len().saturating_sub(1) / 2;
        Gaps {
            median_ms: longest.get(middle).copied().unwrap_or_default(),
            worst_ms: longest.last().copied().unwrap_or_default(),
        }
    }
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When.
    pub at: jiff::Timestamp,
    /// Holdfast's version.
    pub version: &'static str,
    /// `release` or `debug`.
    pub build: &'static str,
    /// Where.
    pub machine: Machine,
    /// Repeats the choices.
    pub seed: u64,
    /// Coordinators.
    pub nodes: usize,
    /// Clients that wrote.
    pub writers: usize,
    /// How long it took.
    pub seconds: f64,
    /// Processes that were ended.
    pub kills: u64,
    /// By failpoint or moment.
    pub kills_by_kind: BTreeMap<String, u64>,
    /// Tasks that were answered with 201.
    pub acknowledged: u64,
    /// Tasks whose outcome nobody was told.
    pub unknown: u64,
    /// Tasks that were refused.
    pub refused: u64,
    /// Acknowledged tasks that are not there.
    pub lost: Vec<String>,
    /// Tasks that are there twice, or have two accepted results.
    pub doubled: Vec<String>,
    /// Refused tasks that are there.
    pub refused_but_there: Vec<String>,
    /// Acknowledged tasks that did not end with one result.
    pub unfinished: Vec<String>,
    /// Where the nodes disagree.
    pub checksums_differ: Vec<String>,
    /// How long writes paused.
    pub write_gap: Gaps,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["what", "count"]);
        let mut row = |what: &str, count: String| {
            table.add_row([what.to_owned(), count]);
        };
        row("kills", self.kills.to_string());
        row("acknowledged writes", self.acknowledged.to_string());
        row("unknown outcomes", self.unknown.to_string());
        row("refused writes", self.refused.to_string());
        row("acknowledged writes lost", self.lost.len().to_string());
        row("results doubled", self.doubled.len().to_string());
        row("refused writes that are there", self.refused_but_there.len().to_string());
        row("tasks without one result", self.unfinished.len().to_string());
        row("checkpoints at which nodes differ", self.checksums_differ.len().to_string());
        row("write gap round a kill, median", format!("{:.0} ms", self.write_gap.median_ms));
        row("write gap round a kill, worst", format!("{:.0} ms", self.write_gap.worst_ms));
        for (kind, count) in &self.kills_by_kind {
            row(&format!("killed: {kind}"), count.to_string());
        }
        writeln!(
            f,
            "{} nodes, {} writers, seed {}, {:.0} s, {} build",
            self.nodes, self.writers, self.seed, self.seconds, self.build
        )?;
        write!(f, "{table}")
    }
}

impl Report {
    /// Writes it as JSON.
    pub fn write(&self, file: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other);
        text.and_then(|text| std::fs::write(file, text + "\n"))
            .map_err(Error::io(format!("write {}", file.display())))
    }

    /// An error where anything is wrong.
    pub fn judge(&self) -> Result<(), Error> {
        let wrong: Vec<String> =
            [&self.lost, &self.doubled, &self.refused_but_there, &self.unfinished, &self.checksums_differ]
                .into_iter()
                .flatten()
                .cloned()
                .collect();
        match wrong.len() {
            0 => Ok(()),
            count => Err(Error::NotHeld { seed: self.seed, count, first: wrong[0].clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_gap_of_a_kill_is_the_longest_pause_until_the_next() {
        let origin = Instant::now();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let acknowledgements: Vec<Instant> = [0, 10, 20, 320, 330, 340, 440, 450].map(at).to_vec();
        let gaps = Gaps::around(&[at(25), at(341)], &acknowledgements);
        assert_eq!(gaps, Gaps { median_ms: 100.0, worst_ms: 300.0 });
        assert_eq!(Gaps::around(&[], &acknowledgements), Gaps::default());
        assert_eq!(Gaps::around(&[at(500)], &acknowledgements).worst_ms, 0.0);
    }
}
