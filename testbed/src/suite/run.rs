//! Runs the suite through a cluster and compares what came out.

use super::case::Case;
use super::check::{differences, outcome};
use crate::Error;
use api::Client;
use api::client::Repeat;
use api::task::{BatchSubmitted, NewBatch, TaskRecord};
use api::worker::WorkerList;
use comfy_table::{Table, presets};
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the whole suite may take.
const SUITE_LIMIT: Duration = Duration::from_secs(180);
/// Requests in flight while the tasks are followed.
const FOLLOW_CONCURRENCY: usize = 8;
/// Pause between two rounds of looking.
const FOLLOW_PAUSE: Duration = Duration::from_millis(150);

/// What became of the suite.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Tasks by how they ended.
    pub ended: BTreeMap<&'static str, usize>,
    /// Attempts all tasks took together.
    pub attempts: u64,
    /// Every case that ended otherwise than expected: its name and the differences.
    pub unexpected: Vec<(String, Vec<String>)>,
    /// How many cases there were.
    pub total: usize,
    /// Seconds from submission to the last end.
    pub seconds: f64,
}

impl Summary {
    /// An error where anything was unexpected.
    pub fn verdict(&self) -> Result<(), Error> {
        match self.unexpected.len() {
            0 => Ok(()),
            unexpected => Err(Error::SuiteUnexpected { unexpected, total: self.total }),
        }
    }

    /// The tables for people.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["suite", "tasks"]);
        for (name, count) in &self.ended {
            table.add_row([(*name).to_owned(), count.to_string()]);
        }
        table.add_row(["as expected".to_owned(), (self.total - self.unexpected.len()).to_string()]);
        table.add_row(["otherwise".to_owned(), self.unexpected.len().to_string()]);
        println!("{table}");
        println!(
            "suite: {} tasks, {} attempts, {:.1} s; {} as expected, {} otherwise",
            self.total,
            self.attempts,
            self.seconds,
            self.total - self.unexpected.len(),
            self.unexpected.len()
        );
        for (name, what) in &self.unexpected {
            println!("  {name}: {}", what.join("; "));
        }
    }
}

/// Submits the cases in one batch, follows them until all have ended, and compares.
///
/// `scratch` becomes the folder that the cases share. `run_id` keeps the task ids of two runs on
/// one cluster apart.
pub async fn run(client: &Client, cases: Vec<Case>, scratch: &Path, run_id: &str) -> Result<Summary, Error> {
    std::fs::create_dir_all(scratch).map_err(Error::io(format!("create {}", scratch.display())))?;
    let cases: BTreeMap<String, Case> = cases
        .into_iter()
        .map(|case| (format!("suite-{run_id}-{}", case.name), case.in_scratch(scratch)))
        .collect();
    let tasks = cases.iter().map(|(id, case)| case.to_task(id.clone())).collect::<Result<Vec<_>, _>>()?;
    let began = Instant::now();
    // Every task has an id of its own, so the same batch again changes nothing.
    let submitted: BatchSubmitted = client
        .post("/api/tasks/batch", &NewBatch { tasks }, Repeat::Idempotent)
        .await
        .map_err(Error::client("submit the suite"))?;
    let records = follow(client, submitted.task_ids, began).await?;
    let seconds = began.elapsed().as_secs_f64();

    let workers: WorkerList =
        client.get("/api/workers").await.map_err(Error::client("ask for the workers"))?;
    let labels_of = workers.workers.into_iter().map(|w| (w.worker_id, w.labels)).collect();
    let mut summary = Summary { total: cases.len(), seconds, ..Summary::default() };
    for (id, case) in &cases {
        let Some(record) = records.get(id) else {
            summary.unexpected.push((case.name.clone(), vec!["the cluster did not name its id".into()]));
            continue;
        };
        let ended = outcome(record).map_or("not ended", super::Expected::as_str);
        *summary.ended.entry(ended).or_default() += 1;
        summary.attempts += u64::from(record.attempt);
        let found = differences(case, record, &labels_of);
        if !found.is_empty() {
            summary.unexpected.push((case.name.clone(), found));
        }
    }
    Ok(summary)
}

/// Asks for the tasks that have not ended until all have, or the limit passes; then what is left
/// comes back as it stands.
async fn follow(
    client: &Client,
    ids: Vec<String>,
    began: Instant,
) -> Result<BTreeMap<String, TaskRecord>, Error> {
    let bar = progress_bar(ids.len());
    let mut open: BTreeSet<String> = ids.into_iter().collect();
    let mut records = BTreeMap::new();
    while !open.is_empty() && began.elapsed() < SUITE_LIMIT {
        let looks: Vec<Result<TaskRecord, Error>> = stream::iter(open.iter().cloned())
            .map(|id| async move {
                let what = format!("ask for task {id}");
                client.get(&format!("/api/tasks/{id}")).await.map_err(Error::client(what))
            })
            .buffer_unordered(FOLLOW_CONCURRENCY)
            .collect()
            .await;
        for look in looks {
            let record = look?;
            if record.state.is_final() {
                open.remove(&record.task_id);
                bar.inc(1);
            }
            records.insert(record.task_id.clone(), record);
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
    bar.finish_and_clear();
    Ok(records)
}

fn progress_bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("suite {bar:40} {pos}/{len} ended, {elapsed}") {
        bar.set_style(style);
    }
    bar
}
