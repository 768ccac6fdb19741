//! `coordinator --check-peers`: would this node and its peers make a cluster here?
//!
//! [`probe`] measures: names, ports, who answers, clocks, round trips, the disk's syncs. [`judge`]
//! holds the figures against the config's timers and says what to do. Nothing is changed but a
//! probe file in the data directory, which is removed.

mod judge;
mod probe;

use super::{EXIT_NOT_SO, EXIT_UNKNOWN, print};
use crate::config::Config;
use serde::Serialize;
use std::process::ExitCode;

pub use judge::judge;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, but not well.
    Warning,
    /// It can't be told yet.
    Unknown,
    /// It keeps the cluster from working.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How it stands.
    pub grade: Grade,
    /// What was looked at.
    pub subject: String,
    /// What was seen, and what to do.
    pub says: String,
}

/// What was measured of the machine and the network.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The peers.
    pub peers: Vec<PeerSeen>,
    /// Addresses of the own host.
    pub own: Result<Vec<String>, String>,
    /// What keeps this node from showing who it is: a certificate or secret that can't be used.
    pub access: Result<(), String>,
    /// The own ports: name of the key, port, and why it can't be bound.
    pub ports: Vec<(&'static str, u16, Result<(), PortTaken>)>,
    /// The disk under the data directory.
    pub disk: Result<SyncTimes, String>,
}

/// Why a port of our own can't be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortTaken {
    /// By this very node, which is running.
    ByItself,
    /// By something else.
    Otherwise(String),
}

/// A peer as it was seen.
#[derive(Debug, Clone)]
pub struct PeerSeen {
    /// As the config names it.
    pub name: String,
    /// The node id that the config expects.
    pub expected_id: Option<String>,
    /// `host:port`.
    pub address: String,
    /// What the name resolves to.
    pub resolved: Result<Vec<String>, String>,
    /// Who answered.
    pub answer: Answer,
    /// Round trips, ms, in order of size.
    pub round_trips_ms: Vec<f64>,
    /// Its clock minus ours, ms, give or take half a round trip.
    pub clock_offset_ms: Option<i64>,
}

/// What came of asking a peer who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A coordinator with this node id.
    Node(String),
    /// A coordinator that does not take this node for a peer, and why.
    Closed(String),
    /// This node could not ask.
    Unasked,
    /// The host is there, the port is not open.
    Refused,
    /// Nothing came back.
    Silent(String),
    /// Something else listens there.
    Foreign(String),
}

/// How long syncs take, ms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SyncTimes {
    /// Half of them took no longer.
    pub median_ms: f64,
    /// The longest.
    pub longest_ms: f64,
    /// How many were made.
    pub count: usize,
}

/// Measures, judges, prints, and gives the exit code: 0 a cluster works here, 1 it would not, 2
/// it can't be told (a peer is not running).
pub async fn check_peers(config: &Config, json: bool) -> ExitCode {
    let lines = judge(config, &probe::measure(config).await);
    let worst = lines.iter().map(|line| line.grade).max().unwrap_or(Grade::Ok);
    let (code, verdict) = match worst {
        Grade::Ok => (0, "all is well: a cluster works here"),
        Grade::Warning => (0, "a cluster works here, but see the warnings"),
        Grade::Unknown => (EXIT_UNKNOWN, "not everything could be told; start the peers and check again"),
        Grade::Failure => (EXIT_NOT_SO, "a cluster would not work here; mend what failed and check again"),
    };
    if json {
        print::json(&serde_json::json!({"verdict": worst, "says": verdict, "lines": lines}));
    } else {
        let rows = lines.iter().map(|line| {
            let grade = match line.grade {
                Grade::Ok => "ok",
                Grade::Warning => "warning",
                Grade::Unknown => "unknown",
                Grade::Failure => "FAILURE",
            };
            [grade.to_owned(), line.subject.clone(), line.says.clone()]
        });
        print::table(["", "WHAT", "SEEN"], rows);
        print::out(&format!("\n{verdict}"));
    }
    ExitCode::from(code)
}
