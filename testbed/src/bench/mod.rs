//! `testbed bench`: durable submissions a second, beside what HTTP itself can do here.
//!
//! Three real coordinators and the bare handler run on this machine, and are loaded in turns, so
//! that what else the machine does hits both alike. Only answers of 201 count, by the wall clock.
//! Afterwards the cluster is asked how many tasks it holds: fewer than it acknowledged is an error,
//! whatever the speed.

pub mod http_limit;
pub mod raw;
pub mod report;

use crate::process::{Lifetime, Started, last_lines};
use crate::{Cluster, Error, wait};
use clap::Args;
use http_limit::ANNOUNCEMENT;
use raw::Sample;
use report::{Machine, Report, Run, Series, Settings};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a submission's body.
const BODY_BYTES: usize = 256;
/// Load before each measurement that is not counted in it.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long an election may take.
const LEADER_LIMIT: Duration = Duration::from_secs(10);
/// Clients at once at most.
const MAX_CLIENTS: usize = 10_000;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Closed loops at once, one case each
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
    /// File for the figures as JSON
    #[arg(long, default_value = "bench.json")]
    pub json: PathBuf,
}

/// The command.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    if arguments.clients.iter().any(|c| *c == 0 || *c > MAX_CLIENTS) || arguments.clients.is_empty() {
        return Err(Error::Setting(format!("--clients: counts from 1 to {MAX_CLIENTS}")));
    }
    if arguments.runs == 0 || !(0.1..=3600.0).contains(&arguments.seconds) {
        return Err(Error::Setting("--runs must be at least 1, --seconds from 0.1 to 3600".into()));
    }
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
    println!("starting {} coordinators", arguments.nodes);
    let cluster = Cluster::start(arguments.nodes).await?;
    let limit = Limit::start(&cluster).await?;
    let duration = Duration::from_secs_f64(arguments.seconds);
    let mut runs: BTreeMap<(usize, &'static str), Vec<Run>> = BTreeMap::new();
    let mut acknowledged = 0;
    for round in 1..=arguments.runs {
        for (place, clients) in arguments.clients.iter().enumerate() {
            let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
            for (case, address) in [("http_limit", limit.address.clone()), ("submit", leader)] {
                let request = raw::post_bytes(&address, "/api/tasks", &body());
                let warm: Sample = raw::load(&address, &request, *clients, WARM_UP).await?;
                let sample = raw::load(&address, &request, *clients, duration).await?;
                if case == "submit" {
                    acknowledged += warm.acknowledged + sample.acknowledged;
                }
                println!(
                    "run {round} of {}: {case}, {clients} clients: {:.0} a second",
                    arguments.runs,
                    sample.per_second()
                );
                runs.entry((place, case)).or_default().push(Run::of(&sample));
            }
        }
    }
    let series = runs
        .into_iter()
        .map(|((place, case), runs)| Series::of(case, arguments.clients[place], runs))
        .collect();
    let found = count_tasks(&cluster).await?;
    Ok(Report {
        at: jiff::Timestamp::now(),
        version: api::VERSION,
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        machine: Machine::this(),
        settings: Settings {
            nodes: arguments.nodes,
            seconds: arguments.seconds,
            warm_up_seconds: WARM_UP.as_secs_f64(),
            runs: arguments.runs,
            body_bytes: BODY_BYTES,
            generator: "load from the testbed's own process on the same machine, straight to the leader",
        },
        series,
        acknowledged,
        found,
    })
}

/// A submission whose body has exactly [`BODY_BYTES`] bytes.
fn body() -> String {
    let empty = r#"{"type":"noop","config":{"pad":""}}"#;
    let pad = "x".repeat(BODY_BYTES - empty.len());
    format!(r#"{{"type":"noop","config":{{"pad":"{pad}"}}}}"#)
}

/// How many tasks the leader holds.
async fn count_tasks(cluster: &Cluster) -> Result<u64, Error> {
    let leader = cluster.leader(LEADER_LIMIT).await?;
    let status = wait::until("the leader's count of tasks", LEADER_LIMIT, || cluster.status(leader)).await?;
    Ok(status.tasks.values().sum())
}

/// The bare handler in a process of its own.
struct Limit {
    address: String,
    process: Started,
}

impl Limit {
    async fn start(cluster: &Cluster) -> Result<Limit, Error> {
        let own = std::env::current_exe().map_err(Error::io("find the running program"))?;
        let log = cluster.folder().join("logs").join("http-limit.log");
        let process =
            Started::spawn("http-limit", &own, &["http-limit".to_owned()], &log, Lifetime::WithParent)?;
        let address = wait::until("the HTTP limit to listen", LEADER_LIMIT, || async {
            let lines = last_lines(&log, 1);
            let address = lines.first().and_then(|line| line.strip_prefix(ANNOUNCEMENT));
            address.map(str::to_owned).ok_or_else(|| "no line of output".to_owned())
        })
        .await?;
        Ok(Limit { address, process })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.process.kill9();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_its_size_and_is_a_task() {
        assert_eq!(body().len(), BODY_BYTES);
        let task: api::task::NewTask = serde_json::from_str(&body()).unwrap();
        assert_eq!(task.kind, "noop");
    }
}
