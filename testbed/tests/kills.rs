//! Real processes, real kills: what was acknowledged must be there in the end.
//!
//! HOLDFAST_SEED repeats a run's choices; the seed of every run is printed.

use api::Client;
use api::task::{AttemptOutcome, NewTask, TaskRecord, TaskState};
use futures_util::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use testbed::cluster::READY_LIMIT;
use testbed::load::{Told, Writers};
use testbed::{Cluster, wait};

const NODES: usize = 3;
const WRITERS: usize = 4;
const KILLS: usize = 20;
/// One task a writer at most this often.
const PACE: Duration = Duration::from_millis(10);
/// Acknowledgements that must come between two kills: the cluster serves in between.
const PROGRESS_BETWEEN_KILLS: u64 = 20;
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
const CHECKSUM_LIMIT: Duration = Duration::from_secs(60);
const READ_CONCURRENCY: usize = 16;

fn seed() -> u64 {
    let seed = match std::env::var("HOLDFAST_SEED") {
        Ok(text) => text.parse().expect("HOLDFAST_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    println!("HOLDFAST_SEED={seed}");
    seed
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// Mostly tasks that end at once, and some real processes among them.
fn task(number: u64) -> NewTask {
    let command = number.is_multiple_of(10);
    let config = if command { r#"{"command": "echo done"}"# } else { "{}" };
    NewTask {
        task_id: None,
        kind: if command { "command" } else { "noop" }.into(),
        priority: Some((number % 10) as u8),
        config: Some(serde_json::from_str(config).expect("a config")),
        requirements: None,
        timeout_seconds: Some(30.0),
        max_retries: Some(5),
        retry_backoff_seconds: Some(0.1),
    }
}

#[test]
fn acked_write_survives_leader_loss() {
    runtime().block_on(async {
        let mut random = StdRng::seed_from_u64(seed());
        let mut cluster = Cluster::start(NODES).await.unwrap();
        cluster.start_worker("zone=a", 4).await.unwrap();
        cluster.start_worker("zone=b", 4).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), WRITERS, PACE, task).unwrap();

        for kill in 1..=KILLS {
            await_progress(&writers, kill).await;
            // Every other kill goes to the leader, the rest to anybody.
            let victim = if kill % 2 == 0 {
                cluster.leader(READY_LIMIT).await.unwrap()
            } else {
                random.random_range(0..NODES)
            };
            cluster.kill9(victim);
            // The length of the outage is part of the fault.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..800))).await;
            cluster.start_node(victim).unwrap();
            cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        }
        await_progress(&writers, KILLS + 1).await;
        let told = writers.finish().await;
        println!(
            "{} acknowledged, {} unknown, {} refused",
            told.acknowledged.len(),
            told.unknown.len(),
            told.refused.len()
        );

        let client = cluster.client().unwrap().with_deadline(Duration::from_secs(30));
        await_drained(&client).await;
        judge_tasks(&client, &told).await;
        judge_checksums(&cluster, &told).await;
    });
}

/// A paused leader must lose its office, and what it acknowledged must stay.
#[test]
fn acked_write_survives_a_paused_leader() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(NODES).await.unwrap();
        cluster.start_worker("", 4).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), WRITERS, PACE, task).unwrap();
        await_progress(&writers, 1).await;
        let paused = cluster.leader(READY_LIMIT).await.unwrap();
        assert!(cluster.pause(paused));
        let others: Vec<usize> = (0..NODES).filter(|i| *i != paused).collect();
        let awaited = wait::until("another leader", READY_LIMIT, || async {
            for index in &others {
                let status = cluster.status(*index).await?;
                if status.role == api::cluster::Role::Leader {
                    return Ok(());
                }
            }
            Err("none of the others leads".into())
        });
        awaited.await.unwrap();
        await_progress(&writers, 2).await;
        assert!(cluster.resume(paused));
        cluster.wait_ready(paused, READY_LIMIT).await.unwrap();
        await_progress(&writers, 3).await;
        let told = writers.finish().await;
        let client = cluster.client().unwrap().with_deadline(Duration::from_secs(30));
        await_drained(&client).await;
        judge_tasks(&client, &told).await;
        judge_checksums(&cluster, &told).await;
    });
}

async fn await_progress(writers: &Writers, round: usize) {
    let goal = writers.acknowledged() + PROGRESS_BETWEEN_KILLS;
    let what = format!("{PROGRESS_BETWEEN_KILLS} acknowledgements before fault {round}");
    let awaited = wait::until(&what, PROGRESS_LIMIT, || async {
        let now = writers.acknowledged();
        if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
    });
    awaited.await.unwrap();
}

/// Waits until no task is left that has not ended.
async fn await_drained(client: &Client) {
    let awaited = wait::until("every task to end", DRAIN_LIMIT, || async {
        let status: api::cluster::Status = client.get("/api/status").await.map_err(|e| e.to_string())?;
        let open: u64 =
            status.tasks.iter().filter(|(state, _)| !state.is_final()).map(|(_, count)| count).sum();
        if open == 0 { Ok(()) } else { Err(format!("{open} open: {:?}", status.tasks)) }
    });
    awaited.await.unwrap();
}

/// Every acknowledged id exists once, has ended, and has one accepted result; no refused id exists.
async fn judge_tasks(client: &Client, told: &Told) {
    let listed = list_all(client).await;
    let twice: Vec<_> = listed.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "listed more than once: {twice:?}");
    let lost: Vec<_> = told.acknowledged.iter().filter(|(id, _)| !listed.contains_key(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let undead: Vec<_> = told.refused.iter().filter(|(id, _)| listed.contains_key(id)).collect();
    assert!(undead.is_empty(), "refused, but there: {undead:?}");

    let faults: Vec<String> = stream::iter(told.acknowledged.iter())
        .map(|(id, _)| async move {
            match client.get::<TaskRecord>(&format!("/api/tasks/{id}")).await {
                Ok(record) => fault_of(&record),
                Err(error) => Some(format!("{id}: {error}")),
            }
        })
        .buffer_unordered(READ_CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(faults.is_empty(), "{} tasks are not as they must be:\n{}", faults.len(), faults.join("\n"));
}

fn fault_of(record: &TaskRecord) -> Option<String> {
    let accepted = record.attempts.iter().filter(|a| a.outcome == Some(AttemptOutcome::Completed)).count();
    let open = record.attempts.iter().filter(|a| a.outcome.is_none()).count();
    if record.state == TaskState::Completed && accepted == 1 && open == 0 {
        return None;
    }
    Some(format!(
        "{}: {}, {accepted} accepted results, attempts {:?}",
        record.task_id, record.state, record.attempts
    ))
}

/// Every task id with how often the list names it.
async fn list_all(client: &Client) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/tasks?limit={}{after}", api::task::PAGE_MAX);
        let page: api::task::TaskPage = client.get(&path).await.expect("a page of tasks");
        for task in page.tasks {
            *found.entry(task.task_id).or_default() += 1;
        }
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

/// All nodes agree at a checkpoint behind the last acknowledged write, and wherever else they can
/// be compared.
async fn judge_checksums(cluster: &Cluster, told: &Told) {
    let last = told.acknowledged.iter().map(|(_, index)| *index).max().unwrap_or_default();
    let common = wait::until("a common checkpoint", CHECKSUM_LIMIT, || async {
        let mut by_index: BTreeMap<u64, Vec<(String, String)>> = BTreeMap::new();
        for index in 0..NODES {
            for point in cluster.state_checksum(index).await?.checkpoints {
                by_index.entry(point.index).or_default().push((point.checksum, point.log_chain));
            }
        }
        by_index.retain(|_, seen| seen.len() == NODES);
        match by_index.last_key_value() {
            Some((newest, _)) if *newest >= last => Ok(by_index),
            newest => Err(format!("newest is {:?}, the last write is at {last}", newest.map(|(i, _)| i))),
        }
    });
    for (index, seen) in common.await.unwrap() {
        assert!(
            seen.windows(2).all(|pair| pair[0] == pair[1]),
            "the nodes differ at index {index}: {seen:?}"
        );
    }
}
