//! The bench's figures as a table and as JSON.

use super::raw::Sample;
use crate::Error;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::path::Path;

/// One run of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Acknowledged requests a second.
    pub per_second: f64,
    /// Median latency, ms.
    pub p50_ms: f64,
    /// 99th percentile of the latency, ms.
    pub p99_ms: f64,
    /// Acknowledged requests.
    pub acknowledged: u64,
    /// Requests answered otherwise.
    pub refused: u64,
    /// Exchanges that broke.
    pub broken: u64,
    /// What was answered first instead of 201.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_refusal: Option<String>,
}

impl Run {
    /// The figures of a sample.
    pub fn of(sample: &Sample) -> Run {
        Run {
            per_second: sample.per_second(),
            p50_ms: sample.percentile_ms(0.5),
            p99_ms: sample.percentile_ms(0.99),
            acknowledged: sample.acknowledged,
            refused: sample.refused,
            broken: sample.broken,
            first_refusal: sample.first_refusal.clone(),
        }
    }
}

/// Median, least and greatest of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one (the lower of two).
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these figures; zeros where there are none.
    pub fn of(figures: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let last = sorted.len().saturating_sub(1);
        Spread { median: at(last / 2), min: at(0), max: at(last) }
    }
}

/// Every run of one case at one count of clients.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// `submit` or `http_limit`.
    pub case: &'static str,
    /// Closed loops at once.
    pub clients: usize,
    /// Acknowledged requests a second.
    pub per_second: Spread,
    /// Median latency, ms.
    pub p50_ms: Spread,
    /// 99th percentile, ms.
    pub p99_ms: Spread,
    /// Each run.
    pub runs: Vec<Run>,
}

impl Series {
    /// The series of these runs.
    pub fn of(case: &'static str, clients: usize, runs: Vec<Run>) -> Series {
        Series {
            case,
            clients,
            per_second: Spread::of(runs.iter().map(|r| r.per_second)),
            p50_ms: Spread::of(runs.iter().map(|r| r.p50_ms)),
            p99_ms: Spread::of(runs.iter().map(|r| r.p99_ms)),
            runs,
        }
    }
}

/// The machine it ran on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Kernel.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        Machine {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_kib * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Coordinators.
    pub nodes: usize,
    /// Seconds a run.
    pub seconds: f64,
    /// Seconds of warm-up before each run.
    pub warm_up_seconds: f64,
    /// Runs of each case.
    pub runs: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Where the load came from.
    pub generator: &'static str,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When.
    pub at: jiff::Timestamp,
    /// Holdfast's version.
    pub version: &'static str,
    /// `release` or `debug`: how the testbed, and so the programs beside it, were built.
    pub build: &'static str,
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// The figures.
    pub series: Vec<Series>,
    /// Tasks the cluster acknowledged, warm-ups included.
    pub acknowledged: u64,
    /// Tasks the cluster held afterwards.
    pub found: u64,
}

impl Report {
    /// The table for people.
    pub fn print(&self) {
        println!(
            "{}, {} cores, {:.0} GiB, Linux {}; holdfast {} ({} build)",
            self.machine.cpu,
            self.machine.cores,
            self.machine.memory_bytes as f64 / f64::from(1 << 30),
            self.machine.kernel,
            self.version,
            self.build,
        );
        println!(
            "{} coordinators; {} B bodies; {} runs of {} s after {} s of warm-up; {}",
            self.settings.nodes,
            self.settings.body_bytes,
            self.settings.runs,
            self.settings.seconds,
            self.settings.warm_up_seconds,
            self.settings.generator,
        );
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header([
            "",
            "clients",
            "a second",
            "(min to max)",
            "p50 ms",
            "p99 ms",
            "of the HTTP limit",
        ]);
        for series in &self.series {
            let name = match series.case {
                "submit" => "durable submissions",
                _ => "HTTP limit",
            };
            table.add_row([
                name.to_owned(),
                series.clients.to_string(),
                format!("{:.0}", series.per_second.median),
                format!("{:.0} to {:.0}", series.per_second.min, series.per_second.max),
                format!("{:.2}", series.p50_ms.median),
                format!("{:.2}", series.p99_ms.median),
                self.ratio(series).map(|r| format!("{r:.2}")).unwrap_or_default(),
            ]);
        }
        println!("{table}");
        println!("acknowledged {} tasks, warm-ups included; read back {}", self.acknowledged, self.found);
        for run in self.series.iter().flat_map(|s| &s.runs) {
            if let Some(refusal) = &run.first_refusal {
                println!("{} refused and {} broken in one run, first: {refusal}", run.refused, run.broken);
            }
        }
    }

    fn ratio(&self, series: &Series) -> Option<f64> {
        let limit = self.series.iter().find(|s| s.case == "http_limit" && s.clients == series.clients)?;
        (series.case == "submit").then(|| series.per_second.median / limit.per_second.median)
    }

    /// Writes it as JSON.
    pub fn write(&self, file: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other);
        text.and_then(|text| std::fs::write(file, text + "\n"))
            .map_err(Error::io(format!("write {}", file.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_a_series() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).median, 1.0);
        assert_eq!(Spread::of(std::iter::empty()).max, 0.0);
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
    }
}
