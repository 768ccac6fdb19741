//! `chaos crash`: coordinators are killed while tasks are written, run and reported.
//!
//! Every other kill comes at a failpoint, in turn at each of them; the others at a random moment,
//! half of those at the leader. In the end every acknowledged task must be there, with one
//! accepted result, and all nodes must agree.

use super::points::{self, Point};
use super::report::{Gaps, Report};
use crate::bench::report::Machine;
use crate::binaries::Binaries;
use crate::cluster::READY_LIMIT;
use crate::load::Writers;
use crate::{Cluster, Error, judge, wait};
use clap::Args;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Acknowledgements that must come between two kills: the cluster serves in between.
const PROGRESS_BETWEEN_KILLS: u64 = 20;
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
const MAX_KILLS: usize = 100_000;

/// How to kill.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// How many kills
    #[arg(long, default_value_t = 100)]
    pub kills: usize,
    /// Repeats the choices of an earlier run
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many coordinators
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Clients that write at once
    #[arg(long, default_value_t = 4)]
    pub writers: usize,
    /// Milliseconds between two tasks of a writer
    #[arg(long, default_value_t = 40)]
    pub pace_ms: u64,
    /// File for the figures as JSON
    #[arg(long, default_value = "chaos-crash.json")]
    pub json: PathBuf,
}

/// The command.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    if !(3..=crate::layout::MAX_NODES).contains(&arguments.nodes) {
        return Err(Error::Setting(format!(
            "--nodes: from 3 (fewer survive no kill) to {}",
            crate::layout::MAX_NODES
        )));
    }
    if !(1..=MAX_KILLS).contains(&arguments.kills) || arguments.writers == 0 || arguments.pace_ms == 0 {
        return Err(Error::Setting(format!(
            "--kills: from 1 to {MAX_KILLS}; --writers and --pace-ms: at least 1"
        )));
    }
    let report = tokio::select! {
        report = kill_all(&arguments) => report?,
        _ = tokio::signal::ctrl_c() => return Err(Error::Interrupted("Ctrl-C")),
    };
    println!("{report}");
    report.write(&arguments.json)?;
    println!("figures: {}", arguments.json.display());
    report.judge()
}

/// A run under way.
struct Run {
    cluster: Cluster,
    random: StdRng,
    writers: Writers,
    kills: BTreeMap<String, u64>,
    moments: Vec<Instant>,
}

async fn kill_all(arguments: &Arguments) -> Result<Report, Error> {
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}");
    let began = Instant::now();
    let binaries = Binaries::find()?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut points = points::list(&binaries)?;
    points.retain(|point| point.when.in_a_serving_cluster());
    points.shuffle(&mut random);
    let mut cluster = points::prepare(arguments.nodes, binaries)?;
    cluster.start_all().await?;
    cluster.start_worker("zone=a", 4).await?;
    cluster.start_worker("zone=b", 4).await?;
    let pace = Duration::from_millis(arguments.pace_ms);
    let writers = Writers::start(&cluster.addresses(), arguments.writers, pace, judge::task)
        .map_err(Error::client("start the writers"))?;
    let mut run = Run { cluster, random, writers, kills: BTreeMap::new(), moments: Vec::new() };
    let mut next_point = points.iter().cycle();
    for kill in 1..=arguments.kills {
        run.await_progress(&format!("kill {kill}")).await?;
        match (kill % 2, next_point.next()) {
            (0, Some(point)) => run.kill_at(point).await?,
            _ => run.kill_at_random().await?,
        }
        if kill.is_multiple_of(10) {
            println!(
                "{kill} of {} kills, {} tasks acknowledged",
                arguments.kills,
                run.writers.acknowledged()
            );
        }
    }
    run.await_progress("the end").await?;
    run.judge(arguments, seed, began).await
}

impl Run {
    async fn await_progress(&self, before: &str) -> Result<(), Error> {
        let goal = self.writers.acknowledged() + PROGRESS_BETWEEN_KILLS;
        let what = format!("{PROGRESS_BETWEEN_KILLS} acknowledgements before {before}");
        wait::until(&what, PROGRESS_LIMIT, || async {
            let now = self.writers.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await
    }

    /// The leader in half of the cases, anybody else otherwise.
    async fn victim(&mut self) -> Result<usize, Error> {
        if self.random.random_bool(0.5) {
            return self.cluster.leader(READY_LIMIT).await;
        }
        Ok(self.random.random_range(0..self.cluster.len()))
    }

    async fn kill_at_random(&mut self) -> Result<(), Error> {
        // The moment is part of the fault, and so is the length of the outage below.
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..300))).await;
        let leader = self.cluster.leader(READY_LIMIT).await?;
        let victim = self.victim().await?;
        let kind = if victim == leader { "random moment, leader" } else { "random moment, follower" };
        self.moments.push(Instant::now());
        self.cluster.kill9(victim);
        self.count(kind);
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..800))).await;
        self.restart(victim).await
    }

    async fn kill_at(&mut self, point: &Point) -> Result<(), Error> {
        let mut victim = self.victim().await?;
        if point.name.starts_with("hard_state") {
            // A vote is a follower's.
            victim = (self.cluster.leader(READY_LIMIT).await? + 1) % self.cluster.len();
        }
        self.moments.push(Instant::now());
        points::end_at(&mut self.cluster, victim, point).await?;
        self.count(&point.name);
        self.restart(victim).await
    }

    fn count(&mut self, kind: &str) {
        *self.kills.entry(kind.to_owned()).or_default() += 1;
    }

    async fn restart(&mut self, victim: usize) -> Result<(), Error> {
        self.cluster.start_node(victim)?;
        self.cluster.wait_ready(victim, READY_LIMIT).await
    }

    async fn judge(self, arguments: &Arguments, seed: u64, began: Instant) -> Result<Report, Error> {
        let acknowledgements = self.writers.moments();
        let told = self.writers.finish().await;
        let verdict = judge::all(&self.cluster, &told).await?;
        Ok(Report {
            at: jiff::Timestamp::now(),
            version: api::VERSION,
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            machine: Machine::this(),
            seed,
            nodes: arguments.nodes,
            writers: arguments.writers,
            seconds: began.elapsed().as_secs_f64(),
            kills: self.moments.len() as u64,
            kills_by_kind: self.kills,
            acknowledged: told.acknowledged.len() as u64,
            unknown: told.unknown.len() as u64,
            refused: told.refused.len() as u64,
            lost: verdict.lost,
            doubled: verdict.doubled,
            refused_but_there: verdict.undead,
            unfinished: verdict.unfinished,
            checksums_differ: verdict.differ,
            write_gap: Gaps::around(&self.moments, &acknowledgements),
        })
    }
}
