//! IO: round after round. Asks, joins, remembers, shows; and follows who there is to ask.

use crate::chronicle::{self, Chronicle};
use crate::config::MonitorConfig;
use crate::discovery::sources::{NodesFile, NodesName, resolve};
use crate::discovery::{Change, Roster};
use crate::events::{Event, EventKind, EventLog, is_first_sight};
use crate::history::sample::{OwnFigures, Sampling, above_info};
use crate::history::{Begun, Ended, HistoryError, Record};
use crate::journal::Journal;
use crate::observer::{Observer, Round};
use crate::own::{OwnProcess, OwnState, Pace};
use crate::pages::Seen;
use crate::scrape::Scraper;
use crate::service::Shared;
use crate::snapshot::{ClusterSnapshot, Severity};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// How far back findings of earlier runs are shown.
const REMEMBERED_HOURS: i64 = 30 * 24;
/// Earlier runs of which it is looked up when they ended.
const MAX_RECALLED_RUNS: usize = 50;

/// Whom to ask, and how that is found out.
struct Discovery {
    roster: Roster,
    file: Option<NodesFile>,
    name: Option<NodesName>,
}

impl Discovery {
    fn new(config: &MonitorConfig) -> Self {
        Discovery {
            roster: Roster::new(config.nodes.clone(), config.follow_members),
            file: config.nodes_file.clone().map(|path| NodesFile::new(path, config.secure)),
            name: config.dns.clone().map(NodesName::new),
        }
    }

    /// Reads the sources that are due.
    async fn read(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(file) = &mut self.file
            && let Some(outcome) = file.changed().await
        {
            changes.extend(self.roster.set("file", &file.path().display().to_string(), outcome));
        }
        if let Some(name) = &mut self.name
            && let Some(outcome) = name.due().await
        {
            let asked = name.name().to_owned();
            changes.extend(self.roster.set("dns", &asked, outcome));
        }
        changes
    }

    /// Learns members from a round.
    async fn learn(&mut self, snapshot: &ClusterSnapshot) -> Vec<Change> {
        let doubtful = self.roster.doubtful(snapshot);
        let places = if doubtful.is_empty() { Default::default() } else { resolve(&doubtful).await };
        self.roster.learn(snapshot, |a, b| {
            let (Some(a), Some(b)) = (places.get(a), places.get(b)) else { return false };
            a.iter().any(|place| b.contains(place))
        })
    }
}

/// Round after round until the end; gives the journal back.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    config: &MonitorConfig,
    mut scraper: Scraper,
    mut journal: Option<Journal>,
) -> Option<Journal> {
    let mut observer = Observer::new(config.limits.clone(), config.interval.as_secs_f64());
    let mut log = EventLog::default();
    let mut sampling = Sampling::default();
    let mut discovery = Discovery::new(config);
    let mut chronicle = remembered(shared).await;
    let (mut process, mut pace) = (OwnProcess::default(), Pace::default());
    let mut ticks = tokio::time::interval(config.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let late;
        tokio::select! {
            () = shared.end.cancelled() => return journal,
            planned = ticks.tick() => late = planned.elapsed(),
        }
        let started = Instant::now();
        let mut changes = discovery.read().await;
        scraper.watch(discovery.roster.addresses());
        let reports = tokio::select! {
            () = shared.end.cancelled() => return journal,
            reports = scraper.round() => reports,
        };
        let mut round = observer.take(&reports, Timestamp::now());
        changes.extend(discovery.learn(&round.snapshot).await);
        round.events.extend(changes.iter().map(|change| of_change(change, round.snapshot.at)));
        for event in &round.events {
            tracing::info!(kind = event.kind.title(), severity = event.severity.as_str(), "{}", event.text);
        }
        if let Some(journal) = &mut journal {
            journal.record(&round.snapshot, &round.events);
        }
        let took = started.elapsed();
        shared.history.record(past(&mut sampling, &round, took, late));
        let (rounds, dropped_rounds) = pace.began(late, config.interval);
        let own = OwnState {
            interval_ms: config.interval.as_millis() as u64,
            nodes: scraper.nodes().len(),
            round_ms: milliseconds(took),
            late_ms: milliseconds(late),
            rounds,
            dropped_rounds,
            process: process.look(),
            history: shared.history.standing(),
            sources: discovery.roster.sources(),
            troubles: Vec::new(),
        }
        .judge();
        shared.metrics.take(&reports, &round, &own);
        chronicle.take(&round);
        log.extend(round.events);
        shared.show(Seen {
            snapshot: round.snapshot,
            findings: round.findings,
            events: log.latest_first().cloned().collect(),
            chronicle: chronicle.clone(),
            audit: shared.audit(),
            has_recovery: config.recovery.is_some(),
            interval: config.interval,
            own,
        });
    }
}

/// What earlier runs of this monitor found.
async fn remembered(shared: &Shared) -> Chronicle {
    let now = Timestamp::now();
    let from = now.checked_sub(SignedDuration::from_hours(REMEMBERED_HOURS)).unwrap_or(now);
    let mut chronicle = match shared.history.findings(from, now, chronicle::MAX_PAST).await {
        Ok(findings) => Chronicle::recall(&findings),
        Err(error) => {
            tracing::warn!(%error, "what was found before is not known");
            Chronicle::default()
        }
    };
    if let Err(error) = recall_reigns(shared, from, now, &mut chronicle).await {
        tracing::warn!(%error, "who led before is not known");
    }
    chronicle
}

/// Who led in earlier runs of this monitor.
async fn recall_reigns(
    shared: &Shared,
    from: Timestamp,
    now: Timestamp,
    chronicle: &mut Chronicle,
) -> Result<(), HistoryError> {
    let mut told = shared.history.leader_events(from, now, chronicle::MAX_REIGNS).await?;
    told.reverse();
    let mut last_rounds = BTreeMap::from([(None, shared.history.last_round(None).await?)]);
    let begun = told.iter().skip(1).filter(|event| is_first_sight(&event.text));
    for at in begun.rev().take(MAX_RECALLED_RUNS).map(|event| event.at) {
        last_rounds.insert(Some(at), shared.history.last_round(Some(at)).await?);
    }
    chronicle.recall_reigns(&told, |before| last_rounds.get(&before).copied().flatten());
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// An address that is asked from now on, or no longer.
fn of_change(change: &Change, at: Timestamp) -> Event {
    let Change { address, added, why } = change;
    let (kind, what) = match added {
        true => (EventKind::NodeWatched, "is watched from now on"),
        false => (EventKind::NodeUnwatched, "is no longer watched"),
    };
    let text = format!("{address} {what}: {why}");
    Event { at, kind, severity: Severity::Info, nodes: vec![address.clone()], text, fault: None }
}

/// What a round leaves to history.
fn past(sampling: &mut Sampling, round: &Round, took: Duration, late: Duration) -> Record {
    let at = round.snapshot.at;
    let own = OwnFigures { round_ms: milliseconds(took), late_ms: milliseconds(late) };
    let ended = |f: &crate::detectors::Finding| Ended { kind: f.kind, nodes: f.nodes.clone(), at };
    Record {
        at,
        samples: sampling.take(&round.snapshot, above_info(&round.findings), own),
        events: round.events.clone(),
        begun: round.begun.iter().map(|finding| Begun { finding: finding.clone(), at }).collect(),
        ended: round.ended.iter().map(ended).collect(),
    }
}
