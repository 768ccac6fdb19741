//! What a run of faults is judged by: what was acknowledged is there, once, and all nodes agree.

use crate::cluster::READY_LIMIT;
use crate::load::Told;
use crate::{Cluster, Error, wait};
use api::Client;
use api::task::{AttemptOutcome, NewTask, TaskRecord, TaskState};
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::time::Duration;

const DRAIN_LIMIT: Duration = Duration::from_secs(400);
const CHECKSUM_LIMIT: Duration = Duration::from_secs(90);
const READ_CONCURRENCY: usize = 16;

/// What is wrong; empty lists where all is well.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged, and not there.
    pub lost: Vec<String>,
    /// There more than once, or with more than one accepted result.
    pub doubled: Vec<String>,
    /// Refused, and there all the same.
    pub undead: Vec<String>,
    /// There, and not ended with one accepted result.
    pub unfinished: Vec<String>,
    /// Where nodes differ.
    pub differ: Vec<String>,
}

impl Verdict {
    /// True where nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.undead.is_empty()
            && self.unfinished.is_empty()
            && self.differ.is_empty()
    }
}

/// A writer's tasks: mostly such as end at once, and some real processes among them.
pub fn task(number: u64) -> NewTask {
    let command = number.is_multiple_of(10);
    let config = if command { r#"{"command": "echo done"}"# } else { "{}" };
    NewTask {
        task_id: None,
        kind: if command { "command" } else { "noop" }.into(),
        priority: Some((number % 10) as u8),
        config: serde_json::from_str(config).ok(),
        requirements: None,
        timeout_seconds: Some(30.0),
        max_retries: Some(9),
        retry_backoff_seconds: Some(0.1),
    }
}

/// Waits until no task is left that has not ended.
pub async fn await_drained(client: &Client) -> Result<(), Error> {
    wait::until("every task to end", DRAIN_LIMIT, || async {
        let status: api::cluster::Status = client.get("/api/status").await.map_err(|e| e.to_string())?;
        let open: u64 =
            status.tasks.iter().filter(|(state, _)| !state.is_final()).map(|(_, count)| count).sum();
        if open == 0 { Ok(()) } else { Err(format!("{open} open: {:?}", status.tasks)) }
    })
    .await
}

/// Waits until every task has ended, and judges the tasks and the nodes.
pub async fn all(cluster: &Cluster, told: &Told) -> Result<Verdict, Error> {
    let client = cluster.client()?.with_deadline(READY_LIMIT);
    await_drained(&client).await?;
    let verdict = tasks(&client, told).await?;
    Ok(Verdict { differ: checksums(cluster, told).await?, ..verdict })
}

/// Every acknowledged id exists once, has ended, and has one accepted result; no refused id exists.
async fn tasks(client: &Client, told: &Told) -> Result<Verdict, Error> {
    let listed = list_all(client).await?;
    let mut verdict = Verdict {
        doubled: listed.iter().filter(|(_, count)| **count != 1).map(|(id, _)| id.clone()).collect(),
        undead: told
            .refused
            .iter()
            .map(|(id, _)| id)
            .filter(|id| listed.contains_key(*id))
            .cloned()
            .collect(),
        ..Verdict::default()
    };
    let records = stream::iter(&told.acknowledged)
        .map(|(id, _)| async move { (id, client.get::<TaskRecord>(&format!("/api/tasks/{id}")).await) })
        .buffer_unordered(READ_CONCURRENCY)
        .collect::<Vec<_>>()
        .await;
    for (id, record) in records {
        match record {
            Err(api::ClientError::Problem(p)) if p.code == api::ErrorCode::UnknownTask => {
                verdict.lost.push(id.clone());
            }
            Err(error) => return Err(Error::client(format!("read task {id}"))(error)),
            Ok(record) => verdict.sort_in(&record),
        }
    }
    Ok(verdict)
}

impl Verdict {
    fn sort_in(&mut self, record: &TaskRecord) {
        let accepted =
            record.attempts.iter().filter(|a| a.outcome == Some(AttemptOutcome::Completed)).count();
        let open = record.attempts.iter().filter(|a| a.outcome.is_none()).count();
        let told = || {
            format!(
                "{}: {}, {accepted} accepted results, attempts {:?}",
                record.task_id, record.state, record.attempts
            )
        };
        if accepted > 1 {
            self.doubled.push(told());
        } else if record.state != TaskState::Completed || accepted != 1 || open != 0 {
            self.unfinished.push(told());
        }
    }
}

/// Every task id with how often the list names it.
async fn list_all(client: &Client) -> Result<BTreeMap<String, usize>, Error> {
    let mut found = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/tasks?limit={}{after}", api::task::PAGE_MAX);
        let page: api::task::TaskPage = client.get(&path).await.map_err(Error::client("list the tasks"))?;
        for task in page.tasks {
            *found.entry(task.task_id).or_default() += 1;
        }
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(found),
        }
    }
}

/// Waits for a checkpoint behind the last acknowledged write that all nodes have, and gives the
/// common checkpoints at which they differ.
pub async fn checksums(cluster: &Cluster, told: &Told) -> Result<Vec<String>, Error> {
    let last = told.acknowledged.iter().map(|(_, index)| *index).max().unwrap_or_default();
    let common = wait::until("a common checkpoint", CHECKSUM_LIMIT, || async {
        let mut by_index: BTreeMap<u64, Vec<(String, String)>> = BTreeMap::new();
        for index in 0..cluster.len() {
            for point in cluster.state_checksum(index).await?.checkpoints {
                by_index.entry(point.index).or_default().push((point.checksum, point.log_chain));
            }
        }
        by_index.retain(|_, seen| seen.len() == cluster.len());
        match by_index.last_key_value() {
            Some((newest, _)) if *newest >= last => Ok(by_index),
            newest => Err(format!("newest is {:?}, the last write is at {last}", newest.map(|(i, _)| i))),
        }
    })
    .await?;
    let differ = common.into_iter().filter(|(_, seen)| seen.windows(2).any(|pair| pair[0] != pair[1]));
    Ok(differ.map(|(index, seen)| format!("the nodes differ at index {index}: {seen:?}")).collect())
}

/// Waits until these nodes stand at one index, with one checksum and one log chain.
pub async fn await_equal(cluster: &Cluster, nodes: &[usize]) -> Result<(), Error> {
    wait::until(&format!("equal checksums on nodes {nodes:?}"), CHECKSUM_LIMIT, || async {
        let mut all = Vec::new();
        for node in nodes {
            let sums = cluster.state_checksum(*node).await?;
            all.push((sums.applied_index, sums.checksum, sums.log_chain));
        }
        if all.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await
}

/// As [`await_equal`], for every node.
pub async fn await_all_equal(cluster: &Cluster) -> Result<(), Error> {
    await_equal(cluster, &(0..cluster.len()).collect::<Vec<_>>()).await
}
