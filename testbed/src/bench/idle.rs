//! What a cluster costs that has nothing to do.

use super::report::Figure;
use super::sample::{Processor, resident_bytes};
use super::{Arguments, Findings, HOLDFAST, LEADER_LIMIT, pids};
use crate::{Cluster, Error};
use std::time::{Duration, Instant};

/// Rest before the measurement, so that starting up does not count.
const REST: Duration = Duration::from_secs(3);
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(10);

/// Measures it.
pub async fn measure(arguments: &Arguments, findings: &mut Findings) -> Result<(), Error> {
    println!("watching {} idle coordinators", arguments.nodes);
    let cluster = Cluster::start(arguments.nodes).await?;
    cluster.leader(LEADER_LIMIT).await?;
    tokio::time::sleep(REST).await;
    let own = pids(&cluster);
    let began = Instant::now();
    let before: Vec<_> = own.iter().map(|pid| Processor::used(&[*pid])).collect();
    tokio::time::sleep(WATCHED).await;
    let seconds = began.elapsed().as_secs_f64();
    let percent: Vec<f64> = own
        .iter()
        .zip(before)
        .map(|(pid, before)| Processor::used(&[*pid]).since(before).tested_seconds / seconds * 100.0)
        .collect();
    let memory: Vec<f64> = own.iter().map(|pid| resident_bytes(*pid) as f64 / 1e6).collect();
    findings.figures.push(Figure::of(HOLDFAST, "idle: processor time a node", "% of a core", &percent));
    findings.figures.push(Figure::of(HOLDFAST, "idle: memory a node", "MB", &memory));
    Ok(())
}
