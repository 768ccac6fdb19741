//! `chaos record`: makes failures as `chaos detect` does, and keeps what the monitor saw round it.
//!
//! A recording is what the detectors are tried on ever after (`monitor/tests/recorded`): some quiet
//! rounds, the failure until it is named, its end, and some quiet rounds again. It holds every node's
//! report or why there was none, as `/api/cluster` tells it, without what no detector looks at and
//! without anything that names this machine. Each line is a round, told as its difference to the one
//! before: in an object the keys that changed (`null`: gone), in an array of equal length the places
//! that changed, by number.

use super::detect::{calm, choose};
use super::injure::{Failure, Injury};
use super::patient::{LIMIT, Patient};
use crate::load::Writers;
use crate::{Error, wait};
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at the monitor, which makes a round a second.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rounds before the failure, after it was named, and after it was gone.
const QUIET_ROUNDS: u64 = 6;
const NAMED_ROUNDS: u64 = 4;
/// Clients that write meanwhile, and how often each.
const WRITERS: usize = 4;
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// Checkpoints that are kept of those that a report has.
const CHECKPOINTS: usize = 6;
/// Digits of hashes and ids that are kept: enough to tell them apart.
const HASH_DIGITS: usize = 12;

/// What to make, and where to keep it.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Only these failures, by their names in /api/anomalies
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    pub only: Vec<String>,
    /// Folder for the recordings, one file a failure
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
}

/// The command.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    let chosen = choose(&arguments.only)?;
    std::fs::create_dir_all(&arguments.to).map_err(Error::io(format!("make {}", arguments.to.display())))?;
    let injury = Injury::prepare().await?;
    let writers = Writers::start(&injury.patient.addresses(), WRITERS, WRITE_EVERY, crate::judge::task)
        .map_err(Error::client("start writers"))?;
    for failure in chosen {
        println!("{}: {}", failure.kind, failure.made_by);
        calm(&injury.patient).await?;
        let recording = record(&injury, failure).await?;
        let file = arguments.to.join(format!("{}.jsonl", failure.kind));
        std::fs::write(&file, &recording).map_err(Error::io(format!("write {}", file.display())))?;
        println!("  {} rounds, {} bytes", recording.lines().count() - 1, recording.len());
    }
    writers.finish().await;
    Ok(())
}

/// Rounds as they come, oldest first.
#[derive(Clone, Default)]
struct Rounds(Arc<Mutex<Vec<Value>>>);

impl Rounds {
    fn take(&self, round: Value) {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rounds.last().is_none_or(|last| last["round"] != round["round"]) {
            rounds.push(round);
        }
    }

    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last(&self) -> u64 {
        self.all().last().map_or(0, number)
    }

    /// Waits for that many rounds more; gives the number of the last.
    async fn wait_for(&self, more: u64) -> Result<u64, Error> {
        let first = self.last();
        wait::until("rounds of the monitor", LIMIT, || async {
            let last = self.last();
            if first > 0 && last >= first + more { Ok(last) } else { Err(format!("round {last}")) }
        })
        .await
    }
}

fn number(round: &Value) -> u64 {
    round["round"].as_u64().unwrap_or(0)
}

/// Makes a failure, waits until it is named and until it is gone, and gives the recording.
async fn record(injury: &Injury, failure: Failure) -> Result<String, Error> {
    let patient = &injury.patient;
    let rounds = Rounds::default();
    let watching = tokio::spawn(watch(patient.http.clone(), patient.cluster_url(), rounds.clone()));
    let outcome = async {
        wait::until("the first round", LIMIT, || async {
            if rounds.last() > 0 { Ok(()) } else { Err("none".to_owned()) }
        })
        .await?;
        let began = rounds.wait_for(QUIET_ROUNDS).await?;
        injury.make(failure).await?;
        // Some take long to make; what nobody has seen yet begins here.
        let made =
            if patient.findings().await.is_ok_and(|found| found.is_empty()) { rounds.last() } else { began };
        let named = (failure.kind.to_owned(), failure.node.map(str::to_owned));
        wait::until("the failure to be named", LIMIT, || async {
            let findings = patient.findings().await?;
            if findings.contains(&named) { Ok(()) } else { Err(format!("{findings:?}")) }
        })
        .await?;
        let undone = rounds.wait_for(NAMED_ROUNDS).await?;
        injury.undo(failure).await?;
        patient.brake(false).await?;
        wait::until("nothing to be found any more", LIMIT, || async {
            let findings = patient.findings().await?;
            if findings.is_empty() { Ok(()) } else { Err(format!("{findings:?}")) }
        })
        .await?;
        let ended = rounds.wait_for(QUIET_ROUNDS).await?;
        Ok((made, undone, ended))
    }
    .await;
    watching.abort();
    let (made, undone, ended) = outcome?;
    let first = made.saturating_sub(QUIET_ROUNDS);
    let kept: Vec<Value> =
        rounds.all().into_iter().filter(|r| (first..=ended).contains(&number(r))).collect();
    if kept.len() as u64 != ended - first + 1 {
        let why =
            format!("{} of {} rounds were seen: the machine is too busy", kept.len(), ended - first + 1);
        return Err(Error::Setting(why));
    }
    let header = json!({
        "kind": failure.kind, "node": failure.node, "made_by": failure.made_by,
        "made_after_round": made - first, "undone_after_round": undone - first,
    });
    Ok(written(&header, &thinned(kept, undone, ended), patient))
}

/// A finding may have to hold for a minute after its cause is gone: most of these rounds are alike, and
/// left out.
fn thinned(mut rounds: Vec<Value>, undone: u64, ended: u64) -> Vec<Value> {
    let left_out = undone + QUIET_ROUNDS..ended.saturating_sub(2 * QUIET_ROUNDS);
    rounds.retain(|round| !left_out.contains(&number(round)));
    rounds
}

/// Takes every round in, for ever.
async fn watch(http: reqwest::Client, url: String, rounds: Rounds) {
    loop {
        if let Ok(round) = wait::get::<Value>(&http, &url).await {
            rounds.take(round);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The recording as a text.
fn written(header: &Value, rounds: &[Value], patient: &Patient) -> String {
    let places = patient.whole.places();
    let names: BTreeMap<String, String> =
        places.iter().map(|place| (place.address(), format!("{}:8080", place.id))).collect();
    let folder = patient.whole.layout().data.clone();
    let mut text = format!("{header}\n");
    let mut before = Value::Object(Map::new());
    for (at, round) in rounds.iter().enumerate() {
        let now = trimmed(round, at as u64, &names, &folder);
        text.push_str(&difference(&before, &now).unwrap_or_else(|| json!({})).to_string());
        text.push('\n');
        before = now;
    }
    text
}

/// A round without what no detector looks at, and without this machine's names.
fn trimmed(round: &Value, at: u64, names: &BTreeMap<String, String>, folder: &Path) -> Value {
    let mut nodes = round["nodes"].clone();
    for node in nodes.as_array_mut().into_iter().flatten() {
        let kept = ["address", "took_ms", "failure", "report"];
        if let Some(node) = node.as_object_mut() {
            node.retain(|key, _| kept.contains(&key.as_str()));
        }
        node["took_ms"] = json!(1);
        let report = &mut node["report"];
        if report.is_null() {
            continue;
        }
        for (path, empty) in [
            ("/health/checks", json!([])),
            ("/status/tasks", json!({})),
            ("/status/workers", json!({})),
            ("/status/pid", json!(1)),
            ("/totals", json!({})),
            ("/config", json!({"file": null, "loaded_at": null, "reloads": 0})),
            ("/performance/commit", json!({"sum_seconds": 0, "buckets": []})),
            ("/performance/log_sync/sum_seconds", json!(0)),
        ] {
            if let Some(place) = report.pointer_mut(path) {
                *place = empty;
            }
        }
        let uncounted = ["writes", "writes_failed", "reads", "requests", "requests_failed"];
        uncounted.iter().for_each(|key| report["performance"][key] = json!(0));
        let unmeasured = ["cpu_usage", "memory_bytes", "disk_free_bytes", "data_dir_bytes"];
        unmeasured.iter().for_each(|key| report["resources"][key] = json!(0));
        for part in ["db", "log"] {
            // Figures of a sound part change all the time and say nothing.
            let healthy = report[part]["healthy"] == true;
            if let Some(details) = report[part]["details"].as_object_mut() {
                details.retain(|_, detail| !healthy || detail.is_boolean() || detail.is_string());
            }
        }
        let uptime_seconds = report["status"]["uptime_seconds"].as_f64().unwrap_or(0.0).floor();
        report["status"]["uptime_seconds"] = json!(uptime_seconds);
        if let Some(checkpoints) = report["state_checksum"]["checkpoints"].as_array_mut() {
            let surplus = checkpoints.len().saturating_sub(CHECKPOINTS);
            checkpoints.drain(..surplus);
        }
        for peer in report["status"]["peers"].as_array_mut().into_iter().flatten() {
            peer["address"] = json!(format!("{}:8080", peer["node_id"].as_str().unwrap_or_default()));
            if let Some(peer) = peer.as_object_mut() {
                peer.retain(|key, _| !["last_contact_ms", "match_index"].contains(&key.as_str()));
            }
        }
    }
    let mut kept = json!({"round": at, "at": round["at"], "nodes": nodes});
    clean(&mut kept, names, &folder.display().to_string());
    kept
}

/// Drops what is null, rounds figures, shortens hashes, and takes addresses and folders out of texts.
fn clean(value: &mut Value, names: &BTreeMap<String, String>, folder: &str) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(|field| clean(field, names, folder));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, names, folder)),
        Value::Number(figure) if figure.is_f64() => {
            *value = json!((figure.as_f64().unwrap_or(0.0) * 10.0).round() / 10.0);
        }
        Value::String(text) => {
            let is_hash = text.len() > HASH_DIGITS && text.chars().all(|c| c.is_ascii_alphanumeric());
            if is_hash && text.chars().any(|c| c.is_ascii_digit()) {
                text.truncate(HASH_DIGITS);
            }
            for (address, name) in names {
                *text = text.replace(address, name);
            }
            *text = nameless(&text.replace(folder, "data"));
            if let Some((seconds, _)) = text.split_once('.').filter(|_| text.ends_with('Z')) {
                // Of a time, tenths of a second are enough.
                let tenth = text.as_bytes().get(seconds.len() + 1).copied().unwrap_or(b'0');
                *text = format!("{seconds}.{}Z", char::from(tenth));
            }
        }
        _ => {}
    }
}

/// Ways between nodes lead through proxies on ports of their own.
fn nameless(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("node:8080");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

/// What makes `now` of `before`; none where they are the same.
fn difference(before: &Value, now: &Value) -> Option<Value> {
    match (before, now) {
        _ if before == now => None,
        (Value::Object(before), Value::Object(now)) => {
            let gone =
                before.keys().filter(|key| !now.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let other = now.iter().filter_map(|(key, value)| {
                let changed =
                    before.get(key).map_or_else(|| Some(value.clone()), |old| difference(old, value));
                Some((key.clone(), changed?))
            });
            Some(Value::Object(gone.chain(other).collect()))
        }
        (Value::Array(before), Value::Array(now)) if before.len() == now.len() => {
            let pairs = before.iter().zip(now).enumerate();
            let changed = pairs.filter_map(|(at, (old, new))| Some((at.to_string(), difference(old, new)?)));
            Some(Value::Object(changed.collect()))
        }
        _ => Some(now.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_told_by_what_changed() {
        let before = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2], "f": [1], "g": 1});
        let now = json!({"a": 1, "b": {"c": 4, "d": 3}, "e": [1, 5], "f": [1, 2]});
        let told = difference(&before, &now).unwrap();
        assert_eq!(told, json!({"b": {"c": 4}, "e": {"1": 5}, "f": [1, 2], "g": null}));
        assert_eq!(difference(&now, &now), None);
    }

    #[test]
    fn nothing_names_this_machine() {
        let names = BTreeMap::from([("127.0.0.1:41234".to_owned(), "node-2:8080".to_owned())]);
        let mut value = json!({
            "error": "tcp connect to 127.0.0.1:41234: refused", "file": "/somewhere/up/node-2/raft/1.raftlog",
            "gone": null, "rtt_ms": 0.4567, "at": "2026-11-23T10:37:39.796011198Z", "via": "127.0.0.1:15528/x", "checksum": "0123456789abcdef0123456789abcdef", "role": "uninitialised",
        });
        clean(&mut value, &names, "/somewhere/up");
        assert_eq!(
            value,
            json!({
                "error": "tcp connect to node-2:8080: refused", "file": "data/node-2/raft/1.raftlog",
                "rtt_ms": 0.5, "at": "2026-11-23T10:37:39.7Z", "via": "node:8080/x", "checksum": "0123456789ab", "role": "uninitialised",
            })
        );
    }
}
