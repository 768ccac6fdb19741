//! How the monitor itself stands: is it late, does it lose rounds, what does it use?
//!
//! A monitor that is late shows an old picture with a fresh face. So it measures its own rounds
//! against their plan, and says what is wrong with itself in `/api/cluster`, in its metrics and,
//! where a page shows them, in words.

use crate::discovery::SourceState;
use crate::history::Standing;
use crate::report::Span;
use procfs::WithCurrentSystemInfo;
use serde::Serialize;
use std::time::{Duration, Instant};

/// A round that begins so many intervals after its time is late.
const LATE_INTERVALS: f64 = 1.0;

/// The monitor's own state after a round.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OwnState {
    /// Between two rounds, milliseconds.
    pub interval_ms: u64,
    /// Nodes that are asked.
    pub nodes: usize,
    /// Time the round took, milliseconds.
    pub round_ms: f64,
    /// How much later than planned it began, milliseconds.
    pub late_ms: f64,
    /// Rounds since the monitor started.
    pub rounds: u64,
    /// Rounds that were not held because one before them took too long.
    pub dropped_rounds: u64,
    /// What the process uses.
    pub process: ProcessFigures,
    /// How history stands.
    pub history: Standing,
    /// Where the addresses come from.
    pub sources: Vec<SourceState>,
    /// What is wrong with the monitor itself, in sentences; empty where nothing is.
    pub troubles: Vec<String>,
}

impl OwnState {
    /// Says what is wrong.
    pub fn judge(mut self) -> Self {
        let interval_ms = self.interval_ms as f64;
        let mut troubles = Vec::new();
        if self.late_ms > interval_ms * LATE_INTERVALS {
            let late = Span(self.late_ms / 1_000.0);
            troubles.push(format!(
                "this monitor is late: its last round began {late} after its time, {} rounds were dropped so far",
                self.dropped_rounds
            ));
        }
        if let Some(why) = &self.history.error {
            troubles.push(format!("history is not being written: {why}"));
        }
        if let Some(aside) = &self.history.put_aside {
            troubles.push(format!("history was damaged and begun anew; the old file is {}", aside.display()));
        }
        for source in &self.sources {
            if let Some(why) = &source.error {
                troubles
                    .push(format!("nodes can't be read from {}: {why}; the last ones are kept", source.kind));
            }
        }
        self.troubles = troubles;
        self
    }
}

/// What this process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ProcessFigures {
    /// Processor time since it started, seconds.
    pub cpu_seconds: f64,
    /// The same since the look before, percent of one core.
    pub cpu_percent: f64,
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Threads.
    pub threads: u64,
}

/// Looks at this process, at most once a second.
#[derive(Debug, Default)]
pub struct OwnProcess {
    looked: Option<Instant>,
    figures: ProcessFigures,
}

impl OwnProcess {
    /// The figures as of the last second.
    pub fn look(&mut self) -> ProcessFigures {
        if self.looked.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return self.figures;
        }
        let now = Instant::now();
        match measure() {
            Ok(mut figures) => {
                if let Some(before) = self.looked {
                    let seconds = (now - before).as_secs_f64().max(0.001);
                    let used = (figures.cpu_seconds - self.figures.cpu_seconds).max(0.0);
                    figures.cpu_percent = used * 100.0 / seconds;
                }
                self.figures = figures;
            }
            Err(error) => tracing::warn!(%error, "this process can't be measured"),
        }
        self.looked = Some(now);
        self.figures
    }
}

fn measure() -> procfs::ProcResult<ProcessFigures> {
    let own = procfs::process::Process::myself()?;
    let stat = own.stat()?;
    Ok(ProcessFigures {
        cpu_seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
        cpu_percent: 0.0,
        memory_bytes: stat.rss_bytes().get(),
        open_fds: own.fd_count()? as u64,
        threads: stat.num_threads.max(0) as u64,
    })
}

/// Rounds against their plan.
#[derive(Debug, Default)]
pub struct Pace {
    rounds: u64,
    dropped: u64,
}

impl Pace {
    /// A round began so late. Gives how many rounds there were and how many were dropped.
    pub fn began(&mut self, late: Duration, interval: Duration) -> (u64, u64) {
        self.rounds += 1;
        self.dropped += (late.as_secs_f64() / interval.as_secs_f64().max(0.001)) as u64;
        (self.rounds, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_had_no_time_are_counted() {
        let mut pace = Pace::default();
        let interval = Duration::from_secs(1);
        assert_eq!(pace.began(Duration::from_millis(900), interval), (1, 0));
        assert_eq!(pace.began(Duration::from_millis(3_100), interval), (2, 3));
    }

    #[test]
    fn it_says_when_it_is_itself_late_or_can_not_write() {
        let well = OwnState { interval_ms: 1_000, late_ms: 900.0, ..OwnState::default() };
        assert!(well.judge().troubles.is_empty());
        let history = Standing { error: Some("disk full".into()), ..Standing::default() };
        let error = Some("no such name".to_owned());
        let source = SourceState { kind: "dns", name: Some("a:1".into()), addresses: vec![], error };
        let ill = OwnState {
            interval_ms: 1_000,
            late_ms: 2_500.0,
            dropped_rounds: 4,
            history,
            sources: vec![source],
            ..OwnState::default()
        };
        let troubles = ill.judge().troubles;
        assert!(troubles[0].contains("its last round began 2.5 s after its time, 4 rounds"), "{troubles:?}");
        assert!(troubles[1].contains("disk full") && troubles[2].contains("no such name"), "{troubles:?}");
    }

    #[test]
    fn the_process_is_measured() {
        let figures = OwnProcess::default().look();
        assert!(figures.memory_bytes > 1_000_000 && figures.threads >= 1 && figures.open_fds >= 3);
    }
}
