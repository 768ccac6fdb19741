//! What metrics and traces cost: writes to clusters that differ in nothing else, measured in turns.
//!
//! Metrics are read once a second, as a monitor and a Prometheus would. Traces go out by OTLP to a
//! collector in this process that takes everything.

use super::rates::{Load, Shot, in_turns};
use super::report::Figure;
use super::{Arguments, Findings, HOLDFAST, LEADER_LIMIT, body, mass, pids};
use crate::{Cluster, Error, wait};
use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

/// Between two looks at a node's metrics.
const SCRAPED_EVERY: Duration = Duration::from_secs(1);

/// Measures it. The last figures are the rates beside the first cluster's, which has nothing on.
pub async fn measure(arguments: &Arguments, findings: &mut Findings) -> Result<(), Error> {
    // What runs beside the clusters ends with this.
    let mut beside = JoinSet::new();
    let collector = collect(&mut beside).await?;
    let traced = |ratio: f64| {
        json!({
            "otlp_endpoint": format!("http://{collector}"),
            "otlp_signals": "traces",
            "trace_sample_ratio": ratio,
        })
    };
    let subjects = [
        ("write, no metrics", json!({"enable_prometheus": false})),
        ("write, metrics", json!({})),
        ("write, metrics and 1 % of traces", traced(0.01)),
        ("write, metrics and every trace", traced(1.0)),
    ];
    let clients = arguments.clients.iter().copied().max().unwrap_or(1);
    let (mut clusters, mut shots) = (Vec::new(), Vec::new());
    for (case, settings) in subjects {
        println!("starting {} coordinators: {case}", arguments.nodes);
        let cluster = start(arguments.nodes, &settings).await?;
        let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
        let load = Load::post(&leader, "/api/tasks", &body(), 201);
        shots.push(Shot::new(HOLDFAST, case, clients, &pids(&cluster), load));
        if settings.get("enable_prometheus").is_none() {
            scrape(&cluster, &mut beside);
        }
        clusters.push(cluster);
    }
    let from = findings.series.len();
    let mut acknowledged = in_turns(&shots, arguments, &mut findings.series).await?;
    for cluster in &clusters {
        findings.count(cluster, std::mem::take(&mut acknowledged)).await?;
    }
    let measured = &findings.series[from..];
    for with in &measured[1..] {
        let percent = 100.0 * with.ratio_to(&measured[0]);
        let name = format!("{}: rate beside none", with.case);
        findings.figures.push(Figure::of(HOLDFAST, name, "%", &[percent]));
    }
    Ok(())
}

async fn start(nodes: usize, settings: &Value) -> Result<Cluster, Error> {
    let mut cluster = Cluster::prepare(nodes, crate::binaries::Binaries::find()?, "coordinator")?;
    for index in 0..nodes {
        cluster.configure(index, settings)?;
    }
    cluster.start_all().await?;
    mass::make_room(&cluster).await?;
    Ok(cluster)
}

/// A collector that takes everything; its address.
async fn collect(beside: &mut JoinSet<()>) -> Result<String, Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(Error::io("bind a port"))?;
    let address = listener.local_addr().map_err(Error::io("read the bound address"))?;
    beside.spawn(async move {
        let all = Router::new().fallback(|_: axum::body::Bytes| async { StatusCode::OK });
        // It ends with the measurement, or the exports fail and are counted.
        let _ = axum::serve(listener, all).await;
    });
    Ok(address.to_string())
}

/// Reads every node's metrics once a second.
fn scrape(cluster: &Cluster, beside: &mut JoinSet<()>) {
    for index in 0..cluster.len() {
        let url = format!("http://127.0.0.1:{}/metrics", cluster.place(index).prometheus_port);
        beside.spawn(async move {
            let http = wait::http();
            loop {
                if let Ok(answer) = http.get(&url).send().await {
                    let _ = answer.bytes().await;
                }
                tokio::time::sleep(SCRAPED_EVERY).await;
            }
        });
    }
}
