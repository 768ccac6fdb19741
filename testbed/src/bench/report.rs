//! The bench's figures as tables and as JSON.

use super::sample::{Processor, Sample};
use crate::Error;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::path::Path;

/// One run of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Acknowledged operations a second.
    pub per_second: f64,
    /// Median latency, ms.
    pub p50_ms: f64,
    /// 99th percentile of the latency, ms.
    pub p99_ms: f64,
    /// Processor time of the tested processes for one operation, microseconds.
    pub cpu_us: f64,
    /// Processor time of the load generator for one operation, microseconds.
    pub generator_cpu_us: f64,
    /// Acknowledged requests.
    pub acknowledged: u64,
    /// Requests answered otherwise.
    pub refused: u64,
    /// Exchanges that broke.
    pub broken: u64,
    /// What was answered first instead of the acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_refusal: Option<String>,
}

impl Run {
    /// The figures of a sample; a request stands for `weight` operations.
    pub fn of(sample: &Sample, processor: Processor, weight: u64) -> Run {
        let operations = (sample.acknowledged * weight).max(1) as f64;
        Run {
            per_second: sample.per_second() * weight as f64,
            p50_ms: sample.percentile_ms(0.5),
            p99_ms: sample.percentile_ms(0.99),
            cpu_us: processor.tested_seconds * 1e6 / operations,
            generator_cpu_us: processor.own_seconds * 1e6 / operations,
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

/// Every run of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// Who was measured.
    pub subject: String,
    /// What it did.
    pub case: String,
    /// Closed loops at once.
    pub clients: usize,
    /// Operations a second.
    pub per_second: Spread,
    /// Median latency, ms.
    pub p50_ms: Spread,
    /// 99th percentile, ms.
    pub p99_ms: Spread,
    /// Processor time of the tested processes for one operation, microseconds.
    pub cpu_us: Spread,
    /// Processor time of the generator for one operation, microseconds.
    pub generator_cpu_us: Spread,
    /// Operations a second beside the HTTP limit's in the same run.
    pub of_http_limit: Option<f64>,
    /// Operations a second beside etcd's (gRPC) in the same run.
    pub of_etcd: Option<f64>,
    /// Each run.
    pub runs: Vec<Run>,
}

impl Series {
    /// The series of these runs.
    pub fn of(subject: &str, case: &str, clients: usize, runs: Vec<Run>) -> Series {
        let spread = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure));
        Series {
            subject: subject.to_owned(),
            case: case.to_owned(),
            clients,
            per_second: spread(|r| r.per_second),
            p50_ms: spread(|r| r.p50_ms),
            p99_ms: spread(|r| r.p99_ms),
            cpu_us: spread(|r| r.cpu_us),
            generator_cpu_us: spread(|r| r.generator_cpu_us),
            of_http_limit: None,
            of_etcd: None,
            runs,
        }
    }

    /// Median ratio of the runs that were made in the same turn.
    pub fn ratio_to(&self, other: &Series) -> f64 {
        let pairs = self.runs.iter().zip(&other.runs).filter(|(_, o)| o.per_second > 0.0);
        Spread::of(pairs.map(|(own, other)| own.per_second / other.per_second)).median
    }
}

/// A figure that is no rate.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Who was measured.
    pub subject: String,
    /// What.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// Median, least and greatest.
    pub spread: Spread,
    /// How many measurements.
    pub count: usize,
}

impl Figure {
    /// A figure of these measurements.
    pub fn of(subject: &str, name: impl Into<String>, unit: &'static str, values: &[f64]) -> Figure {
        let spread = Spread::of(values.iter().copied());
        Figure { subject: subject.to_owned(), name: name.into(), unit, spread, count: values.len() }
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
    /// The cases.
    pub cases: Vec<String>,
    /// Coordinators, where a case does not say otherwise.
    pub nodes: usize,
    /// Seconds a run.
    pub seconds: f64,
    /// Seconds of warm-up before each run.
    pub warm_up_seconds: f64,
    /// Runs of each case.
    pub runs: usize,
    /// Bytes of a submission's body.
    pub body_bytes: usize,
    /// Where the load came from.
    pub generator: &'static str,
    /// The etcd beside it.
    pub etcd: Option<String>,
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
    /// Rates.
    pub series: Vec<Series>,
    /// Everything else.
    pub figures: Vec<Figure>,
    /// Tasks the cluster acknowledged, warm-ups included, where they were counted again.
    pub acknowledged: u64,
    /// Tasks it held afterwards.
    pub found: u64,
}

impl Report {
    /// Fills in the ratios of series that were measured in turns.
    pub fn compare(&mut self) {
        let ratio = |own: &Series, subject: &str, all: &[Series]| {
            let kind = own.case.split(',').next().unwrap_or_default();
            let other = all.iter().find(|o| {
                o.subject == subject && o.clients == own.clients && (o.case == own.case || o.case == kind)
            })?;
            (own.subject != other.subject).then(|| own.ratio_to(other))
        };
        let all = self.series.clone();
        for series in &mut self.series {
            series.of_http_limit = ratio(series, super::HTTP_LIMIT, &all);
            series.of_etcd = ratio(series, super::ETCD_GRPC, &all);
        }
    }

    /// The tables for people.
    pub fn print(&self) {
        println!(
            "{}, {} cores, {:.0} GiB, Linux {}; holdfast {} ({} build){}",
            self.machine.cpu,
            self.machine.cores,
            self.machine.memory_bytes as f64 / f64::from(1 << 30),
            self.machine.kernel,
            self.version,
            self.build,
            self.settings.etcd.as_ref().map(|e| format!("; {e}")).unwrap_or_default(),
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
        if !self.series.is_empty() {
            println!("{}", self.rates());
        }
        if !self.figures.is_empty() {
            println!("{}", self.others());
        }
        if self.acknowledged > 0 {
            println!("acknowledged {} tasks, warm-ups included; read back {}", self.acknowledged, self.found);
        }
        for series in &self.series {
            for run in &series.runs {
                if let Some(refusal) = &run.first_refusal {
                    println!(
                        "{} {}, {} clients: {} refused and {} broken in one run, first: {refusal}",
                        series.subject, series.case, series.clients, run.refused, run.broken
                    );
                }
            }
        }
    }

    fn rates(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "what",
            "of",
            "clients",
            "a second",
            "(min to max)",
            "p50 ms",
            "p99 ms",
            "CPU us",
            "+ generator",
            "x HTTP limit",
            "x etcd",
        ]);
        let ratio = |value: Option<f64>| value.map(|r| format!("{r:.2}")).unwrap_or_default();
        for series in &self.series {
            table.add_row([
                series.case.clone(),
                series.subject.clone(),
                series.clients.to_string(),
                format!("{:.0}", series.per_second.median),
                format!("{:.0} to {:.0}", series.per_second.min, series.per_second.max),
                format!("{:.2}", series.p50_ms.median),
                format!("{:.2}", series.p99_ms.median),
                format!("{:.1}", series.cpu_us.median),
                format!("{:.1}", series.generator_cpu_us.median),
                ratio(series.of_http_limit),
                ratio(series.of_etcd),
            ]);
        }
        table
    }

    fn others(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["what", "of", "median", "min", "max", "", "times"]);
        for figure in &self.figures {
            let digits = |value: f64| {
                if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
            };
            table.add_row([
                figure.name.clone(),
                figure.subject.clone(),
                digits(figure.spread.median),
                digits(figure.spread.min),
                digits(figure.spread.max),
                figure.unit.to_owned(),
                figure.count.to_string(),
            ]);
        }
        table
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
