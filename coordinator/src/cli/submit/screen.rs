//! What a waiting `submit` shows: a bar on a terminal, plain lines elsewhere.

use crate::cli::print;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two plain progress lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Standard error, with or without a bar.
#[derive(Debug)]
pub struct Screen {
    bar: Option<ProgressBar>,
    quiet: bool,
    last_line: Instant,
    shown_percent: u64,
}

/// How the run stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All tasks.
    pub total: u64,
    /// Those that completed.
    pub passed: u64,
    /// Those that failed, for whatever reason.
    pub failed: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Those of which nothing could be learnt.
    pub unknown: u64,
}

impl Counts {
    /// How many have ended.
    pub fn ended(&self) -> u64 {
        self.passed + self.failed + self.cancelled + self.unknown
    }

    /// `3 passed, 1 failed`: what is zero and not important is left out.
    pub fn describe(&self) -> String {
        let mut text = format!("{} passed, {} failed", self.passed, self.failed);
        for (n, name) in [(self.cancelled, "cancelled"), (self.unknown, "unknown")] {
            if n > 0 {
                text.push_str(&format!(", {n} {name}"));
            }
        }
        text
    }
}

impl Screen {
    /// A screen for `total` tasks.
    pub fn new(total: u64, quiet: bool) -> Screen {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} [{elapsed}]");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Screen { bar, quiet, last_line: Instant::now(), shown_percent: 0 }
    }

    /// Shows how the run stands.
    pub fn progress(&mut self, counts: &Counts) {
        if let Some(bar) = &self.bar {
            bar.set_position(counts.ended());
            bar.set_message(counts.describe());
            return;
        }
        let percent = counts.ended() * 100 / counts.total.max(1);
        let due = percent >= self.shown_percent + 10 || self.last_line.elapsed() >= LINE_INTERVAL;
        if !self.quiet && due {
            print::say(&format!("{}/{} ended: {}", counts.ended(), counts.total, counts.describe()));
            self.last_line = Instant::now();
            self.shown_percent = percent;
        }
    }

    /// A remark; nothing with `--quiet`.
    pub fn remark(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// A line that is shown in any case.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print::say(text)),
            None => print::say(text),
        }
    }

    /// Takes the bar away.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
    }
}
