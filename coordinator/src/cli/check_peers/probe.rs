//! Measuring: names, ports, peers, clocks, syncs.

use super::{Answer, Measured, PeerSeen, PortTaken, SyncTimes};
use crate::access::Access;
use crate::access::outbound::{Outbound, PeerError};
use crate::config::{Config, Peer, join_host_port};
use crate::raft::founding::{IDENTITY_PATH, IdentityCard};
use futures_util::future::join_all;
use jiff::Timestamp;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Round trips that are measured to each peer.
const ROUND_TRIPS: usize = 20;
/// What is asked for a round trip: it needs no proof, so it is one request and one answer.
const LIVE_PATH: &str = "/api/health/live";
/// Syncs that are measured.
const SYNCS: usize = 50;
/// Bytes written before each sync: one block, as a small log entry.
const SYNC_BYTES: usize = 4096;

/// Measures everything the config names.
pub(super) async fn measure(config: &Config) -> Measured {
    let asking = Asking::new(config);
    let access = asking.as_ref().map(drop).map_err(Clone::clone);
    // Without a usable certificate or secret, only names, ports and the disk can be looked at.
    let http = asking.ok();
    let data_dir = config.data_dir.clone();
    let disk = tokio::task::spawn_blocking(move || sync_times(&data_dir));
    let own = resolve(&config.host, config.port).await;
    let mut keys = vec![("port", config.port)];
    if config.enable_prometheus {
        keys.push(("prometheus_port", config.prometheus_port));
    }
    let running = match &http {
        Some(http) => {
            matches!(who(http, &config.address()).await, Answer::Node(id) if id == config.node_id)
        }
        None => false,
    };
    let mut ports = Vec::new();
    for (key, port) in keys {
        let bound = tokio::net::TcpListener::bind(join_host_port(config.bind_host(), port)).await;
        let taken = bound.map(drop).map_err(|_| PortTaken::ByItself);
        let taken = match taken {
            Err(_) if !running => Err(PortTaken::Otherwise(why_not(config.bind_host(), port).await)),
            other => other,
        };
        ports.push((key, port, taken));
    }
    let peers: &[Peer] = if config.enable_redundancy { &config.peers } else { &[] };
    let peers = join_all(peers.iter().map(|peer| look_at(http.as_ref(), config, peer))).await;
    let disk = disk.await.unwrap_or_else(|e| Err(format!("the disk could not be measured: {e}")));
    Measured { peers, own, access, ports, disk }
}

/// Asks as this node does when it runs: with its certificate, and with the proof that it knows the
/// cluster secret.
struct Asking {
    outbound: Outbound,
    limit: Duration,
}

impl Asking {
    fn new(config: &Config) -> Result<Asking, String> {
        let access = Access::from_config(config).map_err(|e| e.to_string())?;
        let outbound = access.outbound().map_err(|e| e.to_string())?;
        Ok(Asking { outbound, limit: Duration::from_secs(config.connection_timeout + 2) })
    }

    async fn get(&self, address: &str, path: &str) -> Result<reqwest::Response, PeerError> {
        self.outbound.get(address, path, Some(self.limit)).await
    }
}

async fn why_not(host: &str, port: u16) -> String {
    match tokio::net::TcpListener::bind(join_host_port(host, port)).await {
        Ok(_) => "it was taken for a moment".into(),
        Err(error) => error.to_string(),
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<String>, String> {
    let found = tokio::net::lookup_host((host.trim_start_matches('[').trim_end_matches(']'), port)).await;
    let mut addresses: Vec<String> =
        found.map_err(|e| e.to_string())?.map(|address| address.ip().to_string()).collect();
    addresses.dedup();
    if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
}

async fn look_at(http: Option<&Asking>, config: &Config, peer: &Peer) -> PeerSeen {
    let address = peer.address();
    let mut seen = PeerSeen {
        name: peer.id.clone().unwrap_or_else(|| address.clone()),
        expected_id: peer.id.clone(),
        resolved: resolve(&peer.host, peer.port).await,
        answer: Answer::Refused,
        round_trips_ms: Vec::new(),
        clock_offset_ms: None,
        address,
    };
    if seen.resolved.is_err() {
        return seen;
    }
    let itself = peer.id.as_ref() == Some(&config.node_id) || seen.address == config.address();
    let Some(http) = http else {
        seen.answer = Answer::Unasked;
        return seen;
    };
    seen.answer = match who(http, &seen.address).await {
        // A node that is not running can't answer itself.
        Answer::Refused if itself => Answer::Node(config.node_id.clone()),
        other => other,
    };
    if matches!(&seen.answer, Answer::Node(id) if *id != config.node_id) {
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            if http.get(&seen.address, LIVE_PATH).await.is_ok() {
                seen.round_trips_ms.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
        seen.round_trips_ms.sort_by(f64::total_cmp);
        seen.clock_offset_ms = clock_offset_ms(http, &seen.address).await;
    }
    seen
}

/// Asks who listens at an address.
async fn who(http: &Asking, address: &str) -> Answer {
    match http.get(address, IDENTITY_PATH).await {
        Err(PeerError::Refused(_)) => Answer::Refused,
        Err(error @ (PeerError::Unproved { .. } | PeerError::Untrusted(_))) => {
            Answer::Closed(error.to_string())
        }
        Err(error) => Answer::Silent(error.to_string()),
        Ok(answer) if matches!(answer.status().as_u16(), 401 | 403) => Answer::Closed(why(answer).await),
        Ok(answer) => {
            let status = answer.status();
            match answer.json::<IdentityCard>().await {
                Ok(card) => Answer::Node(card.node_id),
                Err(_) => Answer::Foreign(format!("status {status}")),
            }
        }
    }
}

/// What a refusal says.
async fn why(answer: reqwest::Response) -> String {
    let status = answer.status();
    let problem = answer.json::<api::Problem>().await;
    problem.map_or_else(|_| format!("status {status}"), |problem| problem.detail)
}

/// The peer's clock minus ours, taken in the middle of the round trip.
async fn clock_offset_ms(http: &Asking, address: &str) -> Option<i64> {
    let sent_ms = Timestamp::now().as_millisecond();
    let answer = http.get(address, "/api/report").await.ok()?;
    let report: serde_json::Value = answer.error_for_status().ok()?.json().await.ok()?;
    let middle_ms = (sent_ms + Timestamp::now().as_millisecond()) / 2;
    let theirs: Timestamp = report["now"].as_str()?.parse().ok()?;
    Some(theirs.as_millisecond() - middle_ms)
}

/// How long it takes until a block is on the disk under `data_dir`.
fn sync_times(data_dir: &Path) -> Result<SyncTimes, String> {
    // Before the first start the directory is not there; its disk is that of what is.
    let folder = data_dir
        .ancestors()
        .find(|folder| folder.is_dir())
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    let failed = |e: std::io::Error| {
        format!("{} can't be written: {e}; the node needs a directory of its own there", folder.display())
    };
    let mut file = tempfile::Builder::new().prefix(".sync-probe-").tempfile_in(&folder).map_err(failed)?;
    let block = [0x5a_u8; SYNC_BYTES];
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&block).and_then(|()| file.as_file().sync_data()).map_err(failed)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(SyncTimes {
        median_ms: times[times.len() / 2],
        longest_ms: times[times.len() - 1],
        count: times.len(),
    })
}
