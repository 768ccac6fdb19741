//! `testbed bench`: what the cluster can do, beside what the machine can do.
//!
//! Real coordinators run on this machine and are loaded in turns with a bare HTTP handler (and, with
//! `--peers`, with etcd), so that what else the machine does hits all alike: compare the ratios, and
//! the processor time of an operation, rather than absolute rates. Only acknowledgements count, by
//! the wall clock. Afterwards the cluster is asked how many tasks it holds: fewer than it
//! acknowledged is an error, whatever the speed.
//!
//! One file a case: [`rates`] (writes, batches, reads, one to five nodes), [`life`] (a task from its
//! submission to its result), [`gaps`] (how long no write succeeds when the leader goes), [`mass`]
//! (memory, restart and snapshot with many tasks), [`signals`] (what metrics and traces cost), [`idle`].

pub mod etcd;
pub mod gaps;
pub mod grpc;
pub mod http_limit;
pub mod idle;
pub mod life;
pub mod mass;
pub mod rates;
pub mod raw;
pub mod report;
pub mod sample;
pub mod signals;

use crate::{Cluster, Error, wait};
use clap::{Args, ValueEnum};
use report::{Figure, Machine, Report, Series, Settings};
use std::path::PathBuf;
use std::time::Duration;

/// The subject that is ours.
pub const HOLDFAST: &str = "holdfast";
/// The bare handlers.
pub const HTTP_LIMIT: &str = "HTTP limit";
/// etcd by its own protocol.
pub const ETCD_GRPC: &str = "etcd gRPC";
/// etcd by its JSON gateway.
pub const ETCD_HTTP: &str = "etcd HTTP";

/// Bytes of a submission's body.
const BODY_BYTES: usize = 256;
/// Load before each measurement that is not counted in it.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long an election may take.
const LEADER_LIMIT: Duration = Duration::from_secs(20);
/// Clients at once at most.
const MAX_CLIENTS: usize = 10_000;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Durable submissions, one a request
    Writes,
    /// Durable submissions, 100 a request
    Batches,
    /// One task by its id: local and linearizable
    Reads,
    /// Submit, lease, result, by 64 workers
    Life,
    /// Writes and reads with 1, 3 and 5 nodes
    Nodes,
    /// The gap in a writer's successes when the leader is killed, stopped or handed over
    Gaps,
    /// Memory, restart and snapshot with many tasks
    Mass,
    /// Writes without metrics, with them, and with traces
    Signals,
    /// Processor time and memory of a cluster that has nothing to do
    Idle,
}

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["writes", "batches", "reads", "life", "idle"])]
    pub cases: Vec<Case>,
    /// Every case
    #[arg(long)]
    pub all: bool,
    /// Closed loops at once, one series each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256])]
    pub clients: Vec<usize>,
    /// Seconds a run
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How many coordinators
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Runs of each case
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Leaders killed, stopped and handed over in `gaps`, of each as many
    #[arg(long, default_value_t = 10)]
    pub trials: usize,
    /// Tasks that `mass` fills the cluster with; a tenth is measured on the way
    #[arg(long, default_value_t = 100_000)]
    pub tasks: u64,
    /// Measure etcd in turns with it (needs Debian's etcd-server)
    #[arg(long)]
    pub peers: bool,
    /// File for the figures as JSON
    #[arg(long, default_value = "bench.json")]
    pub json: PathBuf,
}

impl Arguments {
    fn check(&self) -> Result<(), Error> {
        if self.clients.iter().any(|c| *c == 0 || *c > MAX_CLIENTS) || self.clients.is_empty() {
            return Err(Error::Setting(format!("--clients: counts from 1 to {MAX_CLIENTS}")));
        }
        if self.runs == 0 || !(0.1..=3600.0).contains(&self.seconds) {
            return Err(Error::Setting("--runs must be at least 1, --seconds from 0.1 to 3600".into()));
        }
        if self.trials == 0 || self.tasks < mass::BATCH_TASKS * 10 {
            let least = mass::BATCH_TASKS * 10;
            return Err(Error::Setting(format!("--trials must be at least 1, --tasks at least {least}")));
        }
        Ok(())
    }

    fn wants(&self, case: Case) -> bool {
        self.all || self.cases.contains(&case)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// What the cases have found so far.
#[derive(Default)]
pub struct Findings {
    /// Rates.
    pub series: Vec<Series>,
    /// Everything else.
    pub figures: Vec<Figure>,
    /// Tasks that were acknowledged by clusters that were counted afterwards.
    pub acknowledged: u64,
    /// Tasks these held.
    pub found: u64,
}

impl Findings {
    /// Counts the tasks of a cluster that acknowledged so many.
    pub async fn count(&mut self, cluster: &Cluster, acknowledged: u64) -> Result<(), Error> {
        self.acknowledged += acknowledged;
        self.found += count_tasks(cluster).await?;
        Ok(())
    }
}

/// The command.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    arguments.check()?;
    let report = tokio::select! {
        report = measure(&arguments) => report?,
        _ = tokio::signal::ctrl_c() => return Err(Error::Interrupted("Ctrl-C")),
    };
    report.print();
    report.write(&arguments.json)?;
    println!("figures: {}", arguments.json.display());
    if report.found < report.acknowledged {
        return Err(Error::LostWrites { acknowledged: report.acknowledged, found: report.found });
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Report, Error> {
    if cfg!(debug_assertions) {
        println!("note: this is a debug build; its figures say little");
    }
    let etcd = arguments.peers.then(etcd::Etcd::version).transpose()?;
    let mut findings = Findings::default();
    if [Case::Writes, Case::Batches, Case::Reads].into_iter().any(|case| arguments.wants(case)) {
        rates::measure(arguments, &mut findings).await?;
    }
    if arguments.wants(Case::Nodes) {
        rates::by_nodes(arguments, &mut findings).await?;
    }
    if arguments.wants(Case::Life) {
        life::measure(arguments, &mut findings).await?;
    }
    if arguments.wants(Case::Idle) {
        idle::measure(arguments, &mut findings).await?;
    }
    if arguments.wants(Case::Gaps) {
        gaps::measure(arguments, &mut findings).await?;
    }
    if arguments.wants(Case::Signals) {
        signals::measure(arguments, &mut findings).await?;
    }
    if arguments.wants(Case::Mass) {
        mass::measure(arguments, &mut findings).await?;
    }
    let cases = Case::value_variants().iter().filter(|case| arguments.wants(**case));
    let mut report = Report {
        at: jiff::Timestamp::now(),
        version: api::VERSION,
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        machine: Machine::this(),
        settings: Settings {
            cases: cases.map(|case| format!("{case:?}").to_lowercase()).collect(),
            nodes: arguments.nodes,
            seconds: arguments.seconds,
            warm_up_seconds: WARM_UP.as_secs_f64(),
            runs: arguments.runs,
            body_bytes: BODY_BYTES,
            generator: "load from the testbed's own process on the same machine",
            etcd,
        },
        series: findings.series,
        figures: findings.figures,
        acknowledged: findings.acknowledged,
        found: findings.found,
    };
    report.compare();
    Ok(report)
}

/// A submission whose body has exactly [`BODY_BYTES`] bytes.
fn body() -> String {
    let empty = r#"{"type":"noop","config":{"pad":""}}"#;
    let pad = "x".repeat(BODY_BYTES - empty.len());
    format!(r#"{{"type":"noop","config":{{"pad":"{pad}"}}}}"#)
}

/// A batch of `count` such submissions.
fn batch_body(count: u64) -> String {
    let tasks: Vec<String> = (0..count).map(|_| body()).collect();
    format!(r#"{{"tasks":[{}]}}"#, tasks.join(","))
}

/// How many tasks the leader holds.
async fn count_tasks(cluster: &Cluster) -> Result<u64, Error> {
    let leader = cluster.leader(LEADER_LIMIT).await?;
    let status = wait::until("the leader's count of tasks", LEADER_LIMIT, || cluster.status(leader)).await?;
    Ok(status.tasks.values().sum())
}

/// Pids of the coordinators that run.
fn pids(cluster: &Cluster) -> Vec<u32> {
    (0..cluster.len()).filter_map(|index| cluster.pid(index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_its_size_and_is_a_task() {
        assert_eq!(body().len(), BODY_BYTES);
        let task: api::task::NewTask = serde_json::from_str(&body()).unwrap();
        assert_eq!(task.kind, "noop");
        let batch: api::task::NewBatch = serde_json::from_str(&batch_body(100)).unwrap();
        assert_eq!(batch.tasks.len(), 100);
    }
}
