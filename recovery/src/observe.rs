//! IO. A fresh look at the cluster: nothing in it is remembered from an earlier one, except what
//! the detectors need to say for how long something has lasted.

use crate::act::Actuators;
use crate::config::Config;
use crate::error::RecoveryError;
use crate::observation::{NodeView, Observation, ProcessState, Sighting};
use jiff::Timestamp;
use monitor::detectors::{Limits, Window, detect_all, is_pardoned};
use monitor::{ClusterSnapshot, Memory, Scraper, Severity};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The longest a node may take to answer.
const MAX_ANSWER: Duration = Duration::from_secs(2);
/// The least it is given: a busy machine is not a stuck node.
const MIN_ANSWER: Duration = Duration::from_secs(1);
/// Findings of the monitor that are passed on as a witness at most.
const MAX_WITNESS: usize = 20;

/// A clock that starts from the wall clock and then only goes forward at its own pace, so that a
/// step of the wall clock neither shortens a cooldown nor makes evidence fresh.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Timestamp,
    since: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Clock { began: Timestamp::now(), since: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.began.checked_add(self.since.elapsed()).unwrap_or(self.began)
    }

    /// The same in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millisecond()).unwrap_or(0)
    }
}

/// Looks at the nodes.
#[derive(Debug)]
pub struct Observer {
    scraper: Scraper,
    by_address: BTreeMap<String, String>,
    actuators: Actuators,
    window: Window,
    memory: Memory,
    limits: Limits,
    round: u64,
    monitor: Option<(reqwest::Client, String)>,
}

impl Observer {
    /// An observer of the configured nodes.
    pub fn new(config: &Config, actuators: Actuators, interval: Duration) -> Result<Self, RecoveryError> {
        let setup = |what, why: String| RecoveryError::Setup { what, why };
        let by_address: BTreeMap<_, _> =
            config.nodes.iter().map(|node| (node.address(), node.id.clone())).collect();
        let addresses = config.nodes.iter().map(|node| node.address()).collect();
        let access = api::http::Access::from_flags(config.token_file.as_deref(), config.ca_path.as_deref())
            .map_err(|e| setup("access to the nodes", e.to_string()))?;
        let answer_limit = interval.clamp(MIN_ANSWER, MAX_ANSWER);
        let scraper = Scraper::with_access(addresses, answer_limit, access, config.enable_tls)
            .map_err(|e| setup("scraper", e.to_string()))?;
        let monitor = match &config.monitor_url {
            Some(url) => {
                let client = api::http::builder()
                    .no_proxy()
                    .timeout(interval.clamp(MIN_ANSWER, MAX_ANSWER))
                    .build()
                    .map_err(|e| setup("client of the monitor", e.to_string()))?;
                Some((client, format!("{}/api/anomalies", url.trim_end_matches('/'))))
            }
            None => None,
        };
        // The confirmation is counted here, over this daemon's own rounds.
        let limits = Limits { confirmations: 1, ..Limits::default() };
        let window = Window::reaching_back(60.0, interval.as_secs_f64());
        let memory = Memory::default();
        Ok(Observer { scraper, by_address, actuators, window, memory, limits, round: 0, monitor })
    }

    /// One look: every node's report, the process of those that gave none, and the findings.
    pub async fn look(&mut self, clock: &Clock) -> Observation {
        let (reports, witness) = tokio::join!(self.scraper.round(), self.ask_monitor());
        self.round += 1;
        let snapshot = ClusterSnapshot::join(&reports, &self.memory, self.round, clock.now());
        let findings = detect_all(&snapshot, &self.window, &self.limits);
        let sightings = findings
            .into_iter()
            .filter(|finding| finding.severity > Severity::Info)
            .map(|finding| {
                let mut nodes: Vec<String> = finding
                    .nodes
                    .iter()
                    .map(|name| self.by_address.get(name).unwrap_or(name).clone())
                    .collect();
                nodes.sort();
                nodes.dedup();
                Sighting { kind: finding.kind, nodes, evidence: finding.evidence }
            })
            .collect();
        self.memory.learn(&snapshot);
        self.window.push(&snapshot);
        let mut nodes = BTreeMap::new();
        for answer in reports {
            let Some(id) = self.by_address.get(&answer.address) else { continue };
            let process = match &answer.outcome {
                Ok(_) => ProcessState::NotAsked,
                Err(_) => self.actuators.probe(id).await,
            };
            let startable = self.actuators.can_start(id);
            let seen = snapshot.nodes.iter().find(|n| n.address == answer.address);
            let pardoned = seen.is_some_and(|n| is_pardoned(n, &snapshot, &self.window, &self.limits));
            let report = answer.outcome.map(Box::new);
            nodes.insert(id.clone(), NodeView { report, process, startable, pardoned });
        }
        Observation { at_ms: clock.now_ms(), nodes, sightings, witness }
    }

    /// What the monitor says, as one more witness. Its silence says nothing.
    async fn ask_monitor(&self) -> Vec<String> {
        let Some((client, url)) = &self.monitor else { return Vec::new() };
        let Ok(answer) = client.get(url).send().await else { return Vec::new() };
        let Ok(body) = answer.json::<serde_json::Value>().await else { return Vec::new() };
        let list = body.as_array().or_else(|| body.get("anomalies").and_then(|a| a.as_array()));
        list.into_iter()
            .flatten()
            .take(MAX_WITNESS)
            .filter_map(|anomaly| {
                let kind = anomaly.get("kind")?.as_str()?;
                let nodes: Vec<&str> =
                    anomaly.get("nodes")?.as_array()?.iter().filter_map(|node| node.as_str()).collect();
                Some(format!("the monitor sees {kind} of {}", nodes.join(", ")))
            })
            .collect()
    }
}
