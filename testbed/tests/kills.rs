//! Real processes, real kills: what was acknowledged must be there in the end.
//!
//! HOLDFAST_SEED repeats a run's choices; the seed of every run is printed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use testbed::cluster::READY_LIMIT;
use testbed::load::{Told, Writers};
use testbed::{Cluster, judge, wait};

const NODES: usize = 3;
const WRITERS: usize = 4;
const KILLS: usize = 20;
/// One task a writer at most this often.
const PACE: Duration = Duration::from_millis(10);
/// Acknowledgements that must come between two kills: the cluster serves in between.
const PROGRESS_BETWEEN_KILLS: u64 = 20;
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);

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

#[test]
fn acked_write_survives_leader_loss() {
    runtime().block_on(async {
        let mut random = StdRng::seed_from_u64(seed());
        let mut cluster = Cluster::start(NODES).await.unwrap();
        cluster.start_worker("zone=a", 4).await.unwrap();
        cluster.start_worker("zone=b", 4).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), WRITERS, PACE, judge::task).unwrap();

        await_progress(&writers, 0).await;
        end_with_what_it_alone_has(&mut cluster).await;
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

        judge_all(&cluster, &told).await;
    });
}

/// The others stand still while clients go on writing to the leader, which then ends for ever with what
/// it took: a leader that answered before a majority had it would have lost it by now.
async fn end_with_what_it_alone_has(cluster: &mut Cluster) {
    let leader = cluster.leader(READY_LIMIT).await.unwrap();
    let others: Vec<usize> = (0..NODES).filter(|i| *i != leader).collect();
    others.iter().for_each(|index| assert!(cluster.pause(*index)));
    // Without them it steps down; until then it takes what it is asked.
    let alone = wait::until("the lonely leader to step down", READY_LIMIT, || async {
        let status = cluster.status(leader).await?;
        if status.role == api::cluster::Role::Leader { Err("it leads".to_owned()) } else { Ok(status) }
    });
    let alone = alone.await.unwrap();
    assert!(alone.last_log_index > alone.commit_index, "it took something that nobody else has: {alone:?}");
    cluster.kill9(leader);
    others.iter().for_each(|index| assert!(cluster.resume(*index)));
    wait::until("another leader", READY_LIMIT, || async {
        for index in &others {
            if cluster.status(*index).await?.role == api::cluster::Role::Leader {
                return Ok(());
            }
        }
        Err("none of the others leads".to_owned())
    })
    .await
    .unwrap();
    cluster.start_node(leader).unwrap();
    cluster.wait_ready(leader, READY_LIMIT).await.unwrap();
}

/// A paused leader must lose its office, and what it acknowledged must stay.
#[test]
fn acked_write_survives_a_paused_leader() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(NODES).await.unwrap();
        cluster.start_worker("", 4).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), WRITERS, PACE, judge::task).unwrap();
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
        judge_all(&cluster, &told).await;
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

/// What was acknowledged is there, once, and all nodes agree.
async fn judge_all(cluster: &Cluster, told: &Told) {
    let verdict = judge::all(cluster, told).await.unwrap();
    assert!(verdict.is_clean(), "{verdict:#?}");
}
