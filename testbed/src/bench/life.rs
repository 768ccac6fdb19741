//! The whole life of a task: submitted, leased, reported.
//!
//! Each of the workers does one after the other: it submits a task, leases one (whosever it is),
//! reports its result. At full speed that gives the rate; paced at half of it, the time from a
//! submission to the lease: the workers then begin one after the other, evenly spread, with an empty
//! queue. What an earlier run left behind would else stand before every task for as long as the run lasts.

use super::raw::Connection;
use super::report::{Figure, Run, Series};
use super::sample::{Processor, Sample};
use super::{Arguments, BODY_BYTES, Findings, HOLDFAST, LEADER_LIMIT, WARM_UP, pids};
use crate::{Cluster, Error};
use api::worker::{LeaseAnswer, LeasedTask};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Slots of a worker.
const SLOTS: usize = 8;
/// Workers at once.
const WORKERS: usize = 64;
/// How long a lease call waits at the server.
const WAIT_MS: u64 = 1_000;
/// How long it waits for what may still come where the queue is emptied.
const EMPTY_WAIT_MS: u64 = 200;

/// When each task was submitted, and how long it took to be leased.
#[derive(Default)]
struct Leases {
    submitted: HashMap<String, Instant>,
    waits_ms: Vec<f64>,
}

/// Measures it.
pub async fn measure(arguments: &Arguments, findings: &mut Findings) -> Result<(), Error> {
    println!("starting {} coordinators for tasks' whole lives", arguments.nodes);
    let cluster = Cluster::start(arguments.nodes).await?;
    let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
    let own = pids(&cluster);
    let mut runs = Vec::new();
    let mut waits_ms = Vec::new();
    for round in 1..=arguments.runs {
        let pace = Duration::ZERO;
        run_workers(&leader, WARM_UP, pace, &Arc::default()).await?;
        let before = Processor::used(&own);
        let sample = run_workers(&leader, arguments.duration(), pace, &Arc::default()).await?;
        let run = Run::of(&sample, Processor::used(&own).since(before), 1);
        let half = Duration::from_secs_f64(2.0 * WORKERS as f64 / run.per_second.max(1.0));
        let leases = Arc::new(Mutex::new(Leases::default()));
        empty_queue(&leader).await?;
        run_workers(&leader, arguments.duration(), half, &leases).await?;
        let seen = std::mem::take(&mut *leases.lock().unwrap_or_else(|e| e.into_inner()));
        waits_ms.extend(seen.waits_ms);
        println!(
            "run {round} of {}: a task's life, {WORKERS} workers: {:.0} a second, {:.1} us of processor time each",
            arguments.runs, run.per_second, run.cpu_us
        );
        runs.push(run);
    }
    findings.series.push(Series::of(HOLDFAST, "a task's life", WORKERS, runs));
    waits_ms.sort_by(f64::total_cmp);
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let place = (waits_ms.len().saturating_sub(1) as f64 * part) as usize;
        let Some(value) = waits_ms.get(place).copied() else {
            let why = "no task was leased by the worker that had noted its submission".into();
            return Err(Error::Http { address: leader, why });
        };
        let name = format!("submission to lease at half that load, {name}");
        findings.figures.push(Figure::of(HOLDFAST, name, "ms", &[value]));
    }
    Ok(())
}

async fn run_workers(
    leader: &str,
    duration: Duration,
    pace: Duration,
    leases: &Arc<Mutex<Leases>>,
) -> Result<Sample, Error> {
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        workers.push(Worker::register(leader, format!("bench-{number}"), leases).await?);
    }
    let began = Instant::now();
    let loops = workers.into_iter().zip(0..).map(|(worker, number)| {
        let first = began + pace * number / WORKERS as u32;
        tokio::spawn(worker.work(first, began + duration, pace))
    });
    Sample::gather(loops.collect(), began).await
}

/// Leases and reports what is left, until nothing comes.
async fn empty_queue(leader: &str) -> Result<(), Error> {
    let mut worker = Worker::register(leader, "bench-rest".into(), &Arc::default()).await?;
    loop {
        worker.lease(SLOTS, EMPTY_WAIT_MS).await?;
        if worker.held.is_empty() {
            return Ok(());
        }
        worker.report().await?;
    }
}

struct Worker {
    id: String,
    connection: Connection,
    held: Vec<LeasedTask>,
    leases: Arc<Mutex<Leases>>,
}

impl Worker {
    async fn register(leader: &str, id: String, leases: &Arc<Mutex<Leases>>) -> Result<Worker, Error> {
        let connection = Connection::open(leader).await?;
        let mut worker = Worker { id, connection, held: Vec::new(), leases: leases.clone() };
        let register = format!(r#"{{"worker_id":"{}","slots":{SLOTS},"types":["bench"]}}"#, worker.id);
        worker.expect("/api/workers/register", &register).await?;
        Ok(worker)
    }

    async fn work(mut self, first: Instant, deadline: Instant, pace: Duration) -> Sample {
        let mut sample = Sample::default();
        let mut next = first;
        loop {
            if !pace.is_zero() {
                tokio::time::sleep_until(next.into()).await;
                next += pace;
            }
            let began = Instant::now();
            if began >= deadline {
                return sample;
            }
            match self.one(deadline).await {
                Ok(true) => sample.acknowledge(began),
                Ok(false) => return sample,
                Err(error) => {
                    sample.refuse(|| error.to_string());
                    match Connection::open(self.connection.address()).await {
                        Ok(fresh) => self.connection = fresh,
                        Err(_) => return sample,
                    }
                }
            }
        }
    }

    /// Submits one, leases one, reports one. False where none came before the deadline.
    async fn one(&mut self, deadline: Instant) -> Result<bool, Error> {
        let pad = "x".repeat(BODY_BYTES - 36);
        let began = Instant::now();
        self.expect("/api/tasks", &format!(r#"{{"type":"bench","config":{{"pad":"{pad}"}}}}"#)).await?;
        let submitted: Option<api::task::Submitted> = serde_json::from_slice(self.connection.body()).ok();
        if let Some(submitted) = submitted {
            self.note(|leases| {
                leases.submitted.insert(submitted.task_id, began);
            });
        }
        while self.held.is_empty() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.lease(1, WAIT_MS).await?;
            for task in &self.held {
                self.note(|leases| {
                    if let Some(began) = leases.submitted.remove(&task.task_id) {
                        leases.waits_ms.push(began.elapsed().as_secs_f64() * 1e3);
                    }
                });
            }
        }
        self.report().await?;
        Ok(true)
    }

    async fn lease(&mut self, slots: usize, wait_ms: u64) -> Result<(), Error> {
        let lease = format!(r#"{{"slots":{slots},"wait_ms":{wait_ms},"tokens":[]}}"#);
        self.expect(&format!("/api/workers/{}/lease", self.id), &lease).await?;
        let answer: LeaseAnswer = serde_json::from_slice(self.connection.body())
            .map_err(|e| Error::io("read a lease")(std::io::Error::other(e)))?;
        self.held = answer.tasks;
        Ok(())
    }

    async fn report(&mut self) -> Result<(), Error> {
        while let Some(task) = self.held.pop() {
            let now = Timestamp::now();
            let report = format!(
                r#"{{"worker_id":"{}","token":{},"status":"completed","result":{{"ok":true}},"started_at":"{now}","finished_at":"{now}"}}"#,
                self.id, task.token
            );
            self.expect(&format!("/api/tasks/{}/result", task.task_id), &report).await?;
        }
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Leases)) {
        change(&mut self.leases.lock().unwrap_or_else(|e| e.into_inner()));
    }

    async fn expect(&mut self, path: &str, body: &str) -> Result<(), Error> {
        match self.connection.post(path, body).await? {
            200..300 => Ok(()),
            status => Err(Error::Http {
                address: path.to_owned(),
                why: format!("{status}: {}", self.connection.excerpt()),
            }),
        }
    }
}
