//! `chaos calm`: load, hand-overs of leadership and rolling restarts, for as long as one likes. None of
//! that is a fault, so nothing may be found above info, no alert may fire, and nothing be repaired.
//!
//! It watches what an operator watches, and asks Prometheus in the end what it missed between two
//! looks.

use super::patient::{LIMIT, Patient};
use crate::load::Writers;
use crate::prometheus::Alert;
use crate::{Error, wait};
use api::cluster::CanLose;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at findings and alerts.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two disturbances. More than three leader changes within a minute are a fault, whoever
/// makes them.
const DISTURB_EVERY: Duration = Duration::from_secs(30);
/// Hand-overs before each rolling restart.
const TRANSFERS: usize = 2;
/// Clients that write, and how often each.
const WRITERS: usize = 4;
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// The alert that always fires.
const WATCHDOG: &str = "HoldfastWatchdog";
/// Looks that may go without an answer, of a hundred.
const BLIND_PERCENT: u64 = 1;

/// For how long.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Minutes of load
    #[arg(long, default_value_t = 10)]
    pub minutes: u64,
    /// File for the outcome as JSON
    #[arg(long, default_value = "chaos-calm.json")]
    pub json: PathBuf,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    minutes: u64,
    acknowledged_writes: usize,
    refused_writes: usize,
    unknown_writes: usize,
    transfers: u64,
    restarts: u64,
    looks: u64,
    /// Looks that got no answer.
    blind_looks: u64,
    /// What was found or fired, with what was seen at first.
    wrong: BTreeMap<String, Value>,
}

/// The command.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    let patient = Patient::start().await?;
    let writers = Writers::start(&patient.addresses(), WRITERS, WRITE_EVERY, crate::judge::task)
        .map_err(Error::client("start writers"))?;
    let outcome = RefCell::new(Outcome { minutes: arguments.minutes, ..Outcome::default() });
    let until = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    println!("load, transfers and rolling restarts for {} minutes", arguments.minutes);
    tokio::select! {
        disturbed = disturb(&patient, &outcome, until) => disturbed?,
        never = watch(&patient, &outcome) => match never {},
    }
    let told = writers.finish().await;
    let mut outcome = outcome.into_inner();
    outcome.acknowledged_writes = told.acknowledged.len();
    outcome.refused_writes = told.refused.len();
    outcome.unknown_writes = told.unknown.len();
    ask_prometheus(&patient, &mut outcome).await?;
    println!(
        "{} writes acknowledged ({} refused, {} unknown), {} transfers, {} restarts, {} looks ({} without an answer)",
        outcome.acknowledged_writes,
        outcome.refused_writes,
        outcome.unknown_writes,
        outcome.transfers,
        outcome.restarts,
        outcome.looks,
        outcome.blind_looks
    );
    write(&outcome, &arguments.json)?;
    judge(&outcome)
}

/// Hands leadership over and restarts nodes in turn, until the time has come.
async fn disturb(patient: &Patient, outcome: &RefCell<Outcome>, until: Instant) -> Result<(), Error> {
    for round in 0_usize.. {
        tokio::time::sleep(DISTURB_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
        if Instant::now() >= until {
            break;
        }
        if round % (TRANSFERS + 1) < TRANSFERS {
            patient.transfer(None).await?;
            outcome.borrow_mut().transfers += 1;
        } else {
            outcome.borrow_mut().restarts += rolling_restart(patient).await?;
        }
    }
    Ok(())
}

/// Restarts one node after the other, the leader last, each once the cluster can lose it; says how many.
pub async fn rolling_restart(patient: &Patient) -> Result<u64, Error> {
    let client = patient.whole.client()?;
    let leader = patient.leader().await?;
    let mut places = patient.whole.places();
    places.sort_by_key(|place| place.id == leader);
    for place in &places {
        let path = format!("/api/cluster/can_lose?node={}", place.id);
        wait::until(&format!("the cluster to be able to lose {}", place.id), LIMIT, || async {
            let verdict: CanLose = client.get(&path).await.map_err(|e| e.to_string())?;
            if verdict.can_lose { Ok(()) } else { Err(verdict.why) }
        })
        .await?;
        patient.restart_all(std::slice::from_ref(place)).await?;
    }
    Ok(places.len() as u64)
}

/// Looks at findings and alerts, for ever.
async fn watch(patient: &Patient, outcome: &RefCell<Outcome>) -> std::convert::Infallible {
    loop {
        let (found, firing) = (patient.anomalies().await, patient.prometheus.alerts().await);
        note_look(&mut outcome.borrow_mut(), found, firing);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Takes in what one look showed.
fn note_look(outcome: &mut Outcome, found: Result<Vec<Value>, String>, alerts: Result<Vec<Alert>, String>) {
    outcome.looks += 1;
    outcome.blind_looks += u64::from(found.is_err() || alerts.is_err());
    for finding in found.into_iter().flatten().filter(|finding| finding["severity"] != "info") {
        let name = format!("{} {}", finding["kind"].as_str().unwrap_or_default(), finding["nodes"]);
        note(&mut outcome.wrong, name, &finding);
    }
    for alert in alerts.into_iter().flatten().filter(|alert| alert.firing && alert.name != WATCHDOG) {
        note(&mut outcome.wrong, alert.name, &json!(alert.labels));
    }
}

fn note(wrong: &mut BTreeMap<String, Value>, name: String, what: &Value) {
    wrong.entry(name).or_insert_with_key(|name| {
        let at = jiff::Timestamp::now();
        println!("{at} {name}: {what}");
        json!({"at": at, "seen": what})
    });
}

/// What came and went between two looks, and what the daemon did.
async fn ask_prometheus(patient: &Patient, outcome: &mut Outcome) -> Result<(), Error> {
    let window = format!("{}m", outcome.minutes + 1);
    let asked = [
        (
            "alert",
            format!("count_over_time(ALERTS{{alertstate=\"firing\", alertname!=\"{WATCHDOG}\"}}[{window}])"),
        ),
        ("finding", format!("max_over_time(holdfast_monitor_anomalies{{severity!=\"info\"}}[{window}]) > 0")),
        ("repair", "holdfast_recovery_attempts_total > 0".to_owned()),
    ];
    for (what, query) in asked {
        let series = patient.prometheus.query(&query).await;
        for one in series.map_err(|why| Error::Http { address: "Prometheus".into(), why })? {
            note(&mut outcome.wrong, format!("{what} {:?}", one.labels), &json!(one.value));
        }
    }
    Ok(())
}

fn write(outcome: &Outcome, file: &Path) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(outcome).map_err(std::io::Error::other);
    text.and_then(|text| std::fs::write(file, text + "\n"))
        .map_err(Error::io(format!("write {}", file.display())))
}

fn judge(outcome: &Outcome) -> Result<(), Error> {
    if let Some(first) = outcome.wrong.keys().next() {
        return Err(Error::NotCalm { count: outcome.wrong.len(), first: first.clone() });
    }
    if outcome.blind_looks * 100 > outcome.looks * BLIND_PERCENT {
        return Err(Error::Setting(format!(
            "{} of {} looks at the monitor and Prometheus got no answer: that nothing was seen says nothing",
            outcome.blind_looks, outcome.looks
        )));
    }
    println!("no finding above info, no alert, no repair");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_news_or_only_pending_is_let_pass() {
        let finding = |severity: &str| json!({"kind": "deadlock", "nodes": ["node-1"], "severity": severity});
        let alert = |name: &str, firing| Alert { name: name.into(), labels: BTreeMap::new(), firing };
        let mut outcome = Outcome::default();
        let alerts = vec![alert(WATCHDOG, true), alert("HoldfastMembersDown", false)];
        note_look(&mut outcome, Ok(vec![finding("info")]), Ok(alerts));
        assert!(outcome.wrong.is_empty() && outcome.blind_looks == 0);
        note_look(&mut outcome, Ok(vec![finding("warning")]), Err("no answer".into()));
        note_look(&mut outcome, Ok(vec![]), Ok(vec![alert("HoldfastMembersDown", true)]));
        assert_eq!(
            outcome.wrong.keys().collect::<Vec<_>>(),
            ["HoldfastMembersDown", "deadlock [\"node-1\"]"]
        );
        assert_eq!((outcome.looks, outcome.blind_looks), (3, 1));
    }

    #[test]
    fn what_was_seen_or_could_not_be_seen_is_no_calm() {
        let mut outcome = Outcome { looks: 200, blind_looks: 2, ..Outcome::default() };
        judge(&outcome).unwrap();
        outcome.blind_looks = 3;
        assert!(judge(&outcome).unwrap_err().to_string().contains("3 of 200 looks"));
        note(&mut outcome.wrong, "HoldfastNoLeader".into(), &json!({}));
        note(&mut outcome.wrong, "HoldfastNoLeader".into(), &json!({"later": true}));
        assert!(judge(&outcome).unwrap_err().to_string().contains("first: HoldfastNoLeader"));
    }
}
