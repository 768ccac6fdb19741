//! Many tasks at once: what they take of memory, how long a node needs to come back, and what a
//! snapshot of them does to writers.

use super::raw::{self, Connection, Request};
use super::report::Figure;
use super::sample::resident_bytes;
use super::{Arguments, Findings, HOLDFAST, LEADER_LIMIT, batch_body, body, pids};
use crate::{Cluster, Error, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Tasks in one request.
pub const BATCH_TASKS: u64 = 1_000;
/// Requests at once.
const FILLERS: u64 = 4;
/// How often filling begins anew at most, after a refusal.
const FILL_ROUNDS: usize = 100;
/// How long a node may take to serve again.
const BACK_LIMIT: Duration = Duration::from_secs(120);
/// How long a request to write a snapshot may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(120);
/// Closed loops that write while a snapshot is made.
const WRITERS: usize = 16;

/// Measures it: idle, with a tenth of the tasks, with all.
pub async fn measure(arguments: &Arguments, findings: &mut Findings) -> Result<(), Error> {
    println!("filling {} coordinators", arguments.nodes);
    let mut cluster = Cluster::start(arguments.nodes).await?;
    make_room(&cluster).await?;
    let mut acknowledged = 0;
    let mut note = |cluster: &Cluster, name: String| {
        let memory: Vec<f64> = pids(cluster).iter().map(|pid| resident_bytes(*pid) as f64 / 1e6).collect();
        println!("{name}: {memory:.0?} MB");
        findings.figures.push(Figure::of(HOLDFAST, name, "MB", &memory));
    };
    note(&cluster, "memory a node, empty".into());
    for goal in [arguments.tasks / 10, arguments.tasks] {
        let began = Instant::now();
        let before = acknowledged;
        acknowledged += fill(&cluster, goal.saturating_sub(acknowledged).div_ceil(BATCH_TASKS)).await?;
        let rate = (acknowledged - before) as f64 / began.elapsed().as_secs_f64();
        println!("{acknowledged} tasks, {rate:.0} a second");
        settle(&cluster).await?;
        note(&cluster, format!("memory a node, {goal} tasks"));
    }
    let (figures, written) = snapshot(&cluster, arguments).await?;
    acknowledged += written;
    findings.figures.extend(figures);
    let seconds = restart(&mut cluster).await?;
    let name = format!("restart of a follower with {} tasks: first linearizable read", arguments.tasks);
    findings.figures.push(Figure::of(HOLDFAST, name, "s", &seconds));
    findings.count(&cluster, acknowledged).await
}

/// Raises the limit of unfinished tasks as far as it goes: what is submitted here is never done.
pub(super) async fn make_room(cluster: &Cluster) -> Result<(), Error> {
    let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
    let mut connection = Connection::open(&leader).await?;
    match connection.post("/api/settings", r#"{"unfinished_tasks":100000000}"#).await? {
        200 => Ok(()),
        status => Err(Error::Http { address: leader, why: format!("{status}: {}", connection.excerpt()) }),
    }
}

/// Submits so many batches; goes on with the next leader where one is lost.
async fn fill(cluster: &Cluster, batches: u64) -> Result<u64, Error> {
    let left = Arc::new(AtomicU64::new(batches));
    let mut done = 0;
    let mut refusal = None;
    for _ in 0..FILL_ROUNDS {
        let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
        let request = Request::post(&leader, "/api/tasks/batch", &batch_body(BATCH_TASKS));
        let fillers: Vec<_> =
            (0..FILLERS).map(|_| tokio::spawn(submit_batches(request.clone(), left.clone()))).collect();
        for filler in fillers {
            let (tasks, why) = filler.await.map_err(|e| Error::io("fill")(std::io::Error::other(e)))?;
            done += tasks;
            refusal = why.or(refusal);
        }
        if left.load(Ordering::Relaxed) == 0 {
            return Ok(done);
        }
    }
    let why = refusal.unwrap_or_else(|| "no answers".to_owned());
    Err(Error::Http { address: "the cluster".into(), why: format!("it can't be filled: {why}") })
}

/// Submits batches until none is left or one is refused. Gives the tasks that were acknowledged, and
/// the refusal; what was refused is left for the next.
async fn submit_batches(request: Request, left: Arc<AtomicU64>) -> (u64, Option<String>) {
    let mut done = 0;
    let Ok(mut connection) = Connection::open(&request.address).await else {
        return (done, Some(format!("{} can't be reached", request.address)));
    };
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        match connection.ask(&request).await {
            Ok(201) => done += BATCH_TASKS,
            outcome => {
                left.fetch_add(1, Ordering::Relaxed);
                let why = match outcome {
                    Ok(status) => format!("{status}: {}", connection.excerpt()),
                    Err(error) => error.to_string(),
                };
                return (done, Some(why));
            }
        }
    }
    (done, None)
}

/// Waits until every node has applied what the leader has.
async fn settle(cluster: &Cluster) -> Result<(), Error> {
    let leader = cluster.leader(LEADER_LIMIT).await?;
    wait::until("all nodes to apply the same", BACK_LIMIT, || async {
        let goal = cluster.status(leader).await?.commit_index;
        for index in 0..cluster.len() {
            let applied = cluster.status(index).await?.applied_index;
            if applied < goal {
                return Err(format!("node {index} has applied {applied} of {goal}"));
            }
        }
        Ok(())
    })
    .await
}

/// Writers while nothing else happens, then while the leader makes a snapshot.
async fn snapshot(cluster: &Cluster, arguments: &Arguments) -> Result<(Vec<Figure>, u64), Error> {
    let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
    let request = [Request::post(&leader, "/api/tasks", &body())];
    let calm = raw::load(&request, 201, WRITERS, arguments.duration()).await?;
    let mut figures =
        vec![Figure::of(HOLDFAST, "p99 of 16 writers, calm", "ms", &[calm.percentile_ms(0.99)])];
    let mut written = calm.acknowledged;
    let taking = tokio::spawn({
        let leader = leader.clone();
        async move {
            let mut connection = Connection::open(&leader).await?;
            let began = Instant::now();
            let asked = connection.post("/api/admin/snapshot", "{}");
            let status = tokio::time::timeout(SNAPSHOT_LIMIT, asked).await.unwrap_or(Ok(504))?;
            Ok::<_, Error>((status, began.elapsed(), connection.excerpt()))
        }
    });
    let busy = raw::load(&request, 201, WRITERS, arguments.duration()).await?;
    written += busy.acknowledged;
    let (status, took, answer) =
        taking.await.map_err(|e| Error::io("take a snapshot")(std::io::Error::other(e)))??;
    if (200..300).contains(&status) {
        let seconds = took.as_secs_f64();
        figures.push(Figure::of(HOLDFAST, "a snapshot under that load takes", "s", &[seconds]));
        let p99 = busy.percentile_ms(0.99);
        figures.push(Figure::of(HOLDFAST, "p99 of 16 writers while one is made", "ms", &[p99]));
    } else {
        let why = format!("no snapshot was made: {status}: {answer}");
        return Err(Error::Http { address: leader, why });
    }
    Ok((figures, written))
}

/// Kills a follower and starts it again; seconds until it answers a linearizable read.
async fn restart(cluster: &mut Cluster) -> Result<Vec<f64>, Error> {
    let mut seconds = Vec::new();
    for _ in 0..3 {
        let leader = cluster.leader(LEADER_LIMIT).await?;
        let follower = (leader + 1) % cluster.len();
        cluster.kill9(follower);
        let began = Instant::now();
        cluster.start_node(follower)?;
        let (http, url) = (wait::http(), cluster.place(follower).url("/api/tasks?limit=1"));
        wait::until("a linearizable read of a restarted node", BACK_LIMIT, || wait::answers(&http, &url))
            .await?;
        seconds.push(began.elapsed().as_secs_f64());
        println!("restarted in {:.2} s", began.elapsed().as_secs_f64());
        cluster.wait_all_ready(BACK_LIMIT).await?;
        settle(cluster).await?;
    }
    Ok(seconds)
}
