//! IO: asks coordinators what one page wants to know, within bounds.
//!
//! A page waits for a node at most [`TIMEOUT`], and reads at most as many bytes as its question
//! allows. At most [`MAX_QUESTIONS`] are under way at once, however many browsers there are.

use crate::pages::Seen;
use crate::pages::asked::{Answered, Asked, Refused};
use crate::report::shorten;
use crate::scrape::ScraperError;
use crate::snapshot::{NodeState, NodeView};
use api::http::Access;
use api::{ErrorCode, Problem};
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a node may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at once.
const MAX_QUESTIONS: usize = 12;
/// How much of an error's body is read.
const ERROR_BODY_BYTES: usize = 16 * 1024;

/// Why a node gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No answer in time.
    #[error("{node} did not answer in {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// The node.
        node: String,
    },
    /// No connection, or it broke.
    #[error("{node} can't be reached: {why}")]
    Unreachable {
        /// The node.
        node: String,
        /// What the client said.
        why: String,
    },
    /// It answered, and refused.
    #[error("{node} refused: {why}")]
    Refused {
        /// The node.
        node: String,
        /// What it said.
        why: String,
        /// The code, where it gave one.
        code: Option<ErrorCode>,
    },
    /// The answer is longer than a page may read.
    #[error("{node} has an answer of more than {most_mib} MiB; ask for less")]
    TooLong {
        /// The node.
        node: String,
        /// The bound.
        most_mib: usize,
    },
    /// The answer can't be read.
    #[error("{node} gave an answer that can't be read: {why}")]
    Unreadable {
        /// The node.
        node: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too many pages ask at once.
    #[error("{node} was not asked: too many pages ask at once")]
    Busy {
        /// The node.
        node: String,
    },
}

impl AskError {
    /// True where the node says that the thing asked for is not there.
    fn is_unknown(&self) -> bool {
        matches!(self, AskError::Refused { code: Some(ErrorCode::UnknownTask), .. })
    }
}

/// Asks coordinators.
#[derive(Debug)]
pub struct Asker {
    http: reqwest::Client,
    access: Access,
    secure: bool,
    places: Semaphore,
}

impl Asker {
    /// One that shows and trusts what `access` says; over https where `secure`.
    pub fn new(access: Access, secure: bool) -> Result<Self, ScraperError> {
        let http = access
            .builder(secure)?
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(2)
            .tcp_nodelay(true)
            .user_agent(concat!("holdfast-monitor/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Asker { http, access, secure, places: Semaphore::new(MAX_QUESTIONS) })
    }

    /// One question to one node, and how many milliseconds the answer took.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        node: &NodeView,
        path: &str,
        most_bytes: usize,
    ) -> Result<(T, f64), AskError> {
        let name = || node.name().to_owned();
        let place = tokio::time::timeout(TIMEOUT, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else { return Err(AskError::Busy { node: name() }) };
        let started = Instant::now();
        let fetched = tokio::time::timeout(TIMEOUT, self.fetch(node, path, most_bytes)).await;
        let body = fetched.unwrap_or_else(|_| Err(AskError::TimedOut { node: name() }))?;
        let took_ms = started.elapsed().as_secs_f64() * 1_000.0;
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((value, took_ms)),
            Err(error) => Err(AskError::Unreadable { node: name(), why: shorten(&error.to_string(), 200) }),
        }
    }

    async fn fetch(&self, node: &NodeView, path: &str, most_bytes: usize) -> Result<Vec<u8>, AskError> {
        let name = || node.name().to_owned();
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => AskError::TimedOut { node: name() },
            false => AskError::Unreachable { node: name(), why: cause(&error) },
        };
        let url = format!("{}://{}{path}", api::http::scheme(self.secure), node.address);
        let mut response = self.access.authorize(self.http.get(url)).send().await.map_err(failed)?;
        let status = response.status();
        let limit = if status.is_success() { most_bytes } else { ERROR_BODY_BYTES };
        let mut body: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > limit {
                if !status.is_success() {
                    break;
                }
                return Err(AskError::TooLong { node: name(), most_mib: most_bytes >> 20 });
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(body);
        }
        let (why, code) = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => (problem.to_string(), Some(problem.code)),
            Err(_) => (format!("status {}", status.as_u16()), None),
        };
        Err(AskError::Refused { node: name(), why: shorten(&why, 240), code })
    }

    /// The same question to one node after another until one answers: the leader first, then those
    /// furthest ahead. Nodes that do not report are not asked.
    pub async fn ask_any<T: DeserializeOwned>(&self, seen: &Seen, path: &str, most_bytes: usize) -> Asked<T> {
        let mut missing = Vec::new();
        let mut unknown = false;
        for node in by_freshness(seen) {
            match self.ask(node, path, most_bytes).await {
                Ok((value, took_ms)) => {
                    let leads = seen.snapshot.leader.as_deref() == Some(node.name());
                    let answered = Answered { node: node.name().to_owned(), leads, took_ms, value };
                    return Asked { outcome: Ok(answered), missing };
                }
                Err(error) if error.is_unknown() => unknown = true,
                Err(error) => missing.push(error.to_string()),
            }
        }
        missing.extend(silent(seen));
        Asked { outcome: Err(if unknown { Refused::Unknown } else { Refused::Nobody }), missing }
    }
}

/// The last cause says what happened; those before it only where in the client.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    shorten(&cause.to_string(), 160)
}

/// Reporting nodes, the leader first, then by what they have applied.
fn by_freshness(seen: &Seen) -> Vec<&NodeView> {
    let leader = seen.snapshot.leader.as_deref();
    let mut nodes: Vec<&NodeView> = seen.snapshot.nodes.iter().filter(|n| n.report.is_some()).collect();
    nodes.sort_by_key(|node| {
        let applied = node.report.as_ref().map_or(0, |r| r.status.applied_index);
        (leader != Some(node.name()), std::cmp::Reverse(applied))
    });
    nodes
}

/// A sentence for each node that does not report and so is not asked.
pub(super) fn silent(seen: &Seen) -> impl Iterator<Item = String> {
    seen.snapshot.nodes.iter().filter_map(|node| match &node.state {
        NodeState::Reporting => None,
        NodeState::Unknown { why } => Some(format!("{} does not report: {why}", node.name())),
        NodeState::Down { why } => Some(format!("{} is down: {why}", node.name())),
    })
}
