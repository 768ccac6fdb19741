//! PURE. What one question to one node brought back: its report, or why there is none.
//!
//! The kinds of failure are kept apart because they say different things. A refused connection
//! is an answer: the host is up and nothing listens there. A time-out is no answer at all, and
//! says nothing of the process behind it. Only the first can ever support "down".

use api::cluster::Report;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most members, peers or learners a report may name and still be believed.
const MAX_MEMBERS: usize = 64;
/// The most checkpoints a report may carry; a node keeps 64.
const MAX_CHECKPOINTS: usize = 256;
/// The most operations a report may carry.
const MAX_OPERATIONS: usize = 1_000;
/// The longest node id or cluster id, bytes.
const MAX_ID_BYTES: usize = 256;

/// One node's answer in one round.
#[derive(Debug, Clone)]
pub struct NodeReport {
    /// Where it was asked, `host:port`, as configured.
    pub address: String,
    /// When the answer, or its absence, was complete; the observer's clock.
    pub at: Timestamp,
    /// Milliseconds from the question to the answer.
    pub took_ms: f64,
    /// The report, or why there is none.
    pub outcome: Result<Report, ScrapeFailure>,
}

/// Why a node gave no report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ScrapeFailure {
    /// Nothing listens on the port: the host answered at once, the process did not.
    #[error("connection refused")]
    Refused,
    /// No answer in time.
    #[error("{}", if *.connected {
        format!("accepts connections, but gave no answer within {waited_ms} ms")
    } else {
        format!("no connection within {waited_ms} ms")
    })]
    TimedOut {
        /// True where a connection stood, so that something on the host took it. Just after a
        /// cut this is still true for the one round that used the old connection.
        connected: bool,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The network failed in another way: no route, unknown name, connection reset.
    #[error("unreachable: {why}")]
    Unreachable {
        /// What the system said.
        why: String,
    },
    /// It answered, but not with a report.
    #[error("answered with status {status}{}", if text.is_empty() { String::new() } else { format!(": {text}") })]
    HttpStatus {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        text: String,
    },
    /// It answered with something that is no report.
    #[error("its report can't be read: {why}")]
    Malformed {
        /// What is wrong with it.
        why: String,
    },
}

impl ScrapeFailure {
    /// The kind, for labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            ScrapeFailure::Refused => "refused",
            ScrapeFailure::TimedOut { .. } => "timed_out",
            ScrapeFailure::Unreachable { .. } => "unreachable",
            ScrapeFailure::HttpStatus { .. } => "http_status",
            ScrapeFailure::Malformed { .. } => "malformed",
        }
    }

    /// Every kind.
    pub const KINDS: [&'static str; 5] = ["refused", "timed_out", "unreachable", "http_status", "malformed"];

    /// True where something behind the address answered, though not with a report.
    pub const fn answered(&self) -> bool {
        matches!(self, ScrapeFailure::HttpStatus { .. } | ScrapeFailure::Malformed { .. })
    }
}

/// Reads a report, and refuses one whose lists are longer than any node's can be.
///
/// The bounds keep one broken node from filling the observer's memory round after round.
pub fn parse(body: &[u8]) -> Result<Report, ScrapeFailure> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let report: Report = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let why = if path == "." { inner.to_string() } else { format!("{path}: {inner}") };
        ScrapeFailure::Malformed { why: shorten(&why, 300) }
    })?;
    json.end().map_err(|error| ScrapeFailure::Malformed { why: error.to_string() })?;
    let status = &report.status;
    let bounds = [
        ("voters", status.voters.len(), MAX_MEMBERS),
        ("learners", status.learners.len(), MAX_MEMBERS),
        ("peers", status.peers.len(), MAX_MEMBERS),
        ("checkpoints", report.state_checksum.checkpoints.len(), MAX_CHECKPOINTS),
        ("operations", report.operations.operations.len(), MAX_OPERATIONS),
        ("bytes of node_id", status.node_id.len(), MAX_ID_BYTES),
        ("bytes of cluster_id", status.cluster_id.as_ref().map_or(0, String::len), MAX_ID_BYTES),
    ];
    for (what, found, most) in bounds {
        if found > most {
            return Err(ScrapeFailure::Malformed {
                why: format!("{found} {what}, at most {most} are believed"),
            });
        }
    }
    if status.node_id.is_empty() {
        return Err(ScrapeFailure::Malformed { why: "status.node_id is empty".into() });
    }
    Ok(report)
}

/// The beginning of `text`, one line, at most `most` characters.
pub fn shorten(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Seconds from `earlier` to `later`, 0 where the clock went back.
pub fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}

/// A number of seconds as people say it: `40 ms`, `1.4 s`, `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub f64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.max(0.0);
        let whole = seconds as u64;
        match whole {
            0 if seconds > 0.0 && seconds < 0.95 => write!(f, "{:.0} ms", (seconds * 1e3).ceil()),
            0..=9 if seconds.fract() >= 0.05 => write!(f, "{seconds:.1} s"),
            0..=119 => write!(f, "{whole} s"),
            120..=7_199 => write!(f, "{} min", whole / 60),
            7_200..=172_799 => write!(f, "{} h {} min", whole / 3_600, whole % 3_600 / 60),
            _ => write!(f, "{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
        }
    }
}

/// `4.2 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!([0, 1_024, 1_048_575, 5 << 30].map(bytes), ["0 B", "1.0 KiB", "1.0 MiB", "5.0 GiB"]);
        let spans = [0.0, 0.42, 3.0, 119.0, 600.0, 7_500.0, 200_000.0].map(|s| Span(s).to_string());
        assert_eq!(spans, ["0 s", "420 ms", "3 s", "119 s", "10 min", "2 h 5 min", "2 d 7 h"]);
    }

    #[test]
    fn a_long_or_broken_text_becomes_one_short_line() {
        assert_eq!(shorten("a\r\n b\tc", 10), "a b c");
        assert_eq!(shorten("abcdefgh", 4), "abc…");
    }
}
