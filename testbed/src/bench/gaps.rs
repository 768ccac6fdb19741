//! How long no write succeeds when the leader goes: killed, stopped, or handed over.
//!
//! Writers on every node send one small task after the other, with a short limit on each; followers
//! forward them. The gap is the longest time between two acknowledgements, of whichever writer,
//! round the moment in which the leader goes. As many trials in which nothing is done to it say what
//! of that the machine takes by itself.

use super::raw::Connection;
use super::report::Figure;
use super::{Arguments, Findings, HOLDFAST, LEADER_LIMIT};
use crate::{Cluster, Error, wait};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A write that has no answer by then is given up and another one sent.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(150);
/// Between two attempts of one writer.
const PAUSE: Duration = Duration::from_millis(2);
/// Calm writing before the leader goes.
const CALM: Duration = Duration::from_millis(500);
/// How long the writers are watched at most until they succeed again.
const WATCHED: Duration = Duration::from_secs(15);
/// How long they must have succeeded until the trial is over.
const RECOVERED: Duration = Duration::from_millis(700);
/// How long a node may take to serve again.
const BACK_LIMIT: Duration = Duration::from_secs(30);
/// Sizes of cluster.
const SIZES: [usize; 2] = [3, 5];

/// How the leader goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Kill,
    Stop,
    Transfer,
    Stays,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Kill => "kill -9",
            Way::Stop => "SIGSTOP",
            Way::Transfer => "transfer",
            Way::Stays => "nothing done",
        }
    }
}

/// Measures clusters of three and of five.
pub async fn measure(arguments: &Arguments, findings: &mut Findings) -> Result<(), Error> {
    for size in SIZES {
        let mut cluster = Cluster::start(size).await?;
        for way in [Way::Kill, Way::Stop, Way::Transfer, Way::Stays] {
            let mut gaps_ms = Vec::new();
            let mut failed = 0;
            for trial in 1..=arguments.trials {
                let (gap, failures) = one(&mut cluster, way).await?;
                gaps_ms.push(gap.as_secs_f64() * 1e3);
                failed += failures;
                println!(
                    "{size} nodes, {}, trial {trial}: no write for {:.0} ms",
                    way.name(),
                    gaps_ms[trial - 1]
                );
            }
            let name = format!("write gap, {size} nodes, {}", way.name());
            findings.figures.push(Figure::of(HOLDFAST, &name, "ms", &gaps_ms));
            if matches!(way, Way::Transfer | Way::Stays) {
                let name = format!("failed writes, {size} nodes, {}", way.name());
                let each = failed as f64 / arguments.trials as f64;
                findings.figures.push(Figure::of(HOLDFAST, name, "a trial", &[each]));
            }
        }
    }
    Ok(())
}

async fn one(cluster: &mut Cluster, way: Way) -> Result<(Duration, u64), Error> {
    cluster.wait_all_ready(BACK_LIMIT).await?;
    let leader = cluster.leader(LEADER_LIMIT).await?;
    let writers = Writers::start(&cluster.addresses());
    tokio::time::sleep(CALM).await;
    let failed_before = writers.failed.load(Ordering::Relaxed);
    let began = Instant::now();
    match way {
        Way::Kill => cluster.kill9(leader),
        Way::Stop => drop(cluster.pause(leader)),
        Way::Stays => {}
        Way::Transfer => hand_over(&cluster.place(leader).address()).await?,
    }
    let watched = wait::until("writes to succeed again", WATCHED, || async {
        let gap = writers.gap_since(began - CALM / 2, RECOVERED);
        gap.ok_or_else(|| "no acknowledgements".to_owned())
    })
    .await;
    let failed = writers.failed.load(Ordering::Relaxed) - failed_before;
    writers.stop().await;
    cluster.resume(leader);
    cluster.start_node(leader)?;
    Ok((watched?, failed))
}

async fn hand_over(leader: &str) -> Result<(), Error> {
    let mut connection = Connection::open(leader).await?;
    match connection.post("/api/cluster/transfer", "{}").await? {
        200..300 => Ok(()),
        status => {
            Err(Error::Http { address: leader.into(), why: format!("{status}: {}", connection.excerpt()) })
        }
    }
}

/// One writer a node.
struct Writers {
    end: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    failed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(addresses: &[String]) -> Writers {
        let end = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let failed = Arc::new(AtomicU64::new(0));
        let tasks = addresses
            .iter()
            .map(|address| {
                tokio::spawn(write(address.clone(), end.clone(), acknowledged.clone(), failed.clone()))
            })
            .collect();
        Writers { end, acknowledged, failed, tasks }
    }

    /// The longest time without an acknowledgement since `from`; none until they have come again for
    /// `recovered`.
    fn gap_since(&self, from: Instant, recovered: Duration) -> Option<Duration> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(|e| e.into_inner());
        longest_gap(&acknowledged, from, Instant::now(), recovered)
    }

    async fn stop(self) {
        self.end.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

fn longest_gap(
    acknowledged: &[Instant],
    from: Instant,
    now: Instant,
    recovered: Duration,
) -> Option<Duration> {
    let mut last = from;
    let (mut longest, mut ended) = (Duration::ZERO, from);
    for at in acknowledged.iter().filter(|at| **at >= from) {
        if *at - last > longest {
            (longest, ended) = (*at - last, *at);
        }
        last = *at;
    }
    let over =
        now.saturating_duration_since(ended) > recovered && now.saturating_duration_since(last) < recovered;
    (longest > Duration::ZERO && over && now.saturating_duration_since(from) > 2 * recovered)
        .then_some(longest)
}

async fn write(
    address: String,
    end: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    failed: Arc<AtomicU64>,
) {
    let mut connection = None;
    while !end.load(Ordering::Relaxed) {
        let attempt = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(&address).await.ok()?,
            };
            let status = open.post("/api/tasks", r#"{"type":"bench","config":{}}"#).await.ok()?;
            connection = Some(open);
            Some(status)
        };
        match tokio::time::timeout(ATTEMPT_LIMIT, attempt).await {
            Ok(Some(201)) => {
                acknowledged.lock().unwrap_or_else(|e| e.into_inner()).push(Instant::now());
            }
            _ => drop(failed.fetch_add(1, Ordering::Relaxed)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_counts_once_writes_succeed_again() {
        let from = Instant::now();
        let at = |ms: u64| from + Duration::from_millis(ms);
        let recovered = Duration::from_millis(100);
        let mut seen = vec![at(10), at(20), at(320), at(330)];
        assert_eq!(longest_gap(&seen, from, at(340), recovered), None, "not long enough");
        seen.extend([at(400), at(440)]);
        assert_eq!(longest_gap(&seen, from, at(450), recovered), Some(Duration::from_millis(300)));
        assert_eq!(longest_gap(&seen, from, at(700), recovered), None, "silent again");
        assert_eq!(longest_gap(&[], from, at(700), recovered), None);
    }
}
