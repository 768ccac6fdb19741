//! `chaos detect`: makes failures on the released programs, one after another, and measures how
//! soon each is named: in the monitor's `/api/anomalies`, on its page, and as a firing alert.
//!
//! It works on what `testbed up --observability` starts, under a light load, with the recovery
//! daemon's brake on, so that nothing is mended before it was seen.

use super::injure::{FAILURES, Failure, Injury};
use super::patient::{LIMIT, Named, Patient};
use crate::load::Writers;
use crate::{Error, wait};
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a failure is watched at most.
const WATCH: Duration = Duration::from_secs(180);
/// Clients that write meanwhile, and how often each.
const WRITERS: usize = 4;
const WRITE_EVERY: Duration = Duration::from_millis(100);

/// What to make.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Only these failures, by their names in /api/anomalies
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    pub only: Vec<String>,
    /// File for the figures as JSON
    #[arg(long, default_value = "chaos-detect.json")]
    pub json: PathBuf,
}

/// What came of one failure.
#[derive(Debug, Serialize)]
struct Outcome {
    kind: &'static str,
    made_by: &'static str,
    alert: &'static str,
    /// Until `/api/anomalies` named it.
    named_s: Option<f64>,
    /// Until the page showed it.
    shown_s: Option<f64>,
    /// Until the alert fired.
    fired_s: Option<f64>,
    /// What else was found, above info.
    also: BTreeSet<String>,
}

/// The command.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    let chosen = choose(&arguments.only)?;
    let injury = Injury::prepare().await?;
    let patient = &injury.patient;
    let writers = Writers::start(&patient.addresses(), WRITERS, WRITE_EVERY, crate::judge::task)
        .map_err(Error::client("start writers"))?;
    let mut outcomes = Vec::new();
    for failure in chosen {
        println!("{}: {}", failure.kind, failure.made_by);
        calm(patient).await?;
        let outcome = undergo(&injury, failure).await?;
        println!(
            "  named after {}, on the page after {}, fired after {}",
            seconds(outcome.named_s),
            seconds(outcome.shown_s),
            seconds(outcome.fired_s)
        );
        outcomes.push(outcome);
        // Written as they come: what was measured is not lost with what fails later.
        write(&outcomes, &arguments.json)?;
    }
    writers.finish().await;
    judge(&outcomes)
}

/// The failures of these names; all without any.
pub(super) fn choose(only: &[String]) -> Result<Vec<Failure>, Error> {
    let known: Vec<&str> = FAILURES.iter().map(|failure| failure.kind).collect();
    if let Some(other) = only.iter().find(|kind| !known.contains(&kind.as_str())) {
        return Err(Error::Setting(format!("--only {other}: what can be made is {}", known.join(", "))));
    }
    Ok(FAILURES.into_iter().filter(|f| only.is_empty() || only.iter().any(|kind| kind == f.kind)).collect())
}

/// Alerts of these failures among those that fire. Others look back over minutes, and would speak of
/// the failure before.
fn ours(firing: Named) -> Named {
    firing.into_iter().filter(|(name, _)| FAILURES.iter().any(|failure| failure.alert == name)).collect()
}

/// Lets the daemon mend what is left of the failure before, and waits until nothing is found.
pub(super) async fn calm(patient: &Patient) -> Result<(), Error> {
    patient.brake(false).await?;
    wait::until("the cluster to be calm", LIMIT, || async {
        let (findings, alerts) = (patient.findings().await?, ours(patient.firing().await?));
        if !findings.is_empty() || !alerts.is_empty() {
            return Err(format!("{findings:?} {alerts:?}"));
        }
        for place in patient.whole.places() {
            wait::answers(&patient.http, &place.url("/api/health/ready")).await?;
        }
        Ok(())
    })
    .await?;
    // What is hurt is a follower, so that every trial is alike.
    if patient.leader().await? == "node-2" {
        patient.transfer(Some("node-1")).await?;
    }
    patient.brake(true).await
}

/// Makes a failure, watches until it is named in all three places, and undoes it.
async fn undergo(injury: &Injury, failure: Failure) -> Result<Outcome, Error> {
    let Failure { kind, made_by, alert, node } = failure;
    let mut outcome =
        Outcome { kind, made_by, alert, named_s: None, shown_s: None, fired_s: None, also: BTreeSet::new() };
    let began = injury.make(failure).await?;
    let node = node.map(str::to_owned);
    let patient = &injury.patient;
    while began.elapsed() < WATCH
        && (outcome.named_s.is_none() || outcome.shown_s.is_none() || outcome.fired_s.is_none())
    {
        if let Ok(findings) = patient.findings().await {
            if findings.contains(&(kind.to_owned(), node.clone())) {
                outcome.named_s.get_or_insert(began.elapsed().as_secs_f64());
            }
            outcome.also.extend(findings.into_iter().map(|(found, _)| found).filter(|found| found != kind));
        }
        if outcome.shown_s.is_none() && patient.findings_page().await.is_ok_and(|page| shows(&page, failure))
        {
            outcome.shown_s = Some(began.elapsed().as_secs_f64());
        }
        if patient.firing().await.is_ok_and(|firing| firing.contains(&(alert.to_owned(), node.clone()))) {
            outcome.fired_s.get_or_insert(began.elapsed().as_secs_f64());
        }
        tokio::time::sleep(PAUSE).await;
    }
    injury.undo(failure).await?;
    Ok(outcome)
}

/// The page lists what is found now before what was; a finding links to itself and to its nodes.
fn shows(page: &str, failure: Failure) -> bool {
    let now = page.split("id=\"past\"").next().unwrap_or_default();
    let named = now.contains(&format!("href=\"/anomalies/{}-", failure.kind));
    named && failure.node.is_none_or(|node| now.contains(&format!("href=\"/nodes/{node}\"")))
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.1} s"))
}

fn write(outcomes: &[Outcome], file: &Path) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(outcomes).map_err(std::io::Error::other);
    text.and_then(|text| std::fs::write(file, text + "\n"))
        .map_err(Error::io(format!("write {}", file.display())))
}

/// Prints the table; an error where something was not named.
fn judge(outcomes: &[Outcome]) -> Result<(), Error> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "failure",
        "made by",
        "in /api/anomalies",
        "on the page",
        "alert",
        "fires",
        "found as well",
    ]);
    for outcome in outcomes {
        let also: Vec<&str> = outcome.also.iter().map(String::as_str).collect();
        table.add_row([
            outcome.kind.to_owned(),
            outcome.made_by.to_owned(),
            seconds(outcome.named_s),
            seconds(outcome.shown_s),
            outcome.alert.to_owned(),
            seconds(outcome.fired_s),
            also.join(", "),
        ]);
    }
    println!("\n{table}");
    let silent: Vec<&str> = outcomes
        .iter()
        .filter(|o| o.named_s.is_none() || o.shown_s.is_none() || o.fired_s.is_none())
        .map(|o| o.kind)
        .collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Error::NotNamed { within_s: WATCH.as_secs(), what: silent.join(", ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_shows_of_the_past_does_not_count() {
        let failure = FAILURES[0];
        let finding =
            r#"<a href="/anomalies/process_crash-node-2-1">x</a> on <a href="/nodes/node-2">node-2</a>"#;
        let (now, past) = (r#"<div id="now">"#, r#"<div id="past">"#);
        assert!(shows(&format!("{now}{finding}{past}"), failure));
        assert!(!shows(&format!("{now}{past}{finding}"), failure));
        assert!(!shows(&format!("{now}{}{past}", finding.replace("nodes/node-2", "nodes/node-3")), failure));
    }

    #[test]
    fn an_unknown_failure_is_named() {
        assert_eq!(choose(&[]).unwrap().len(), FAILURES.len());
        assert_eq!(choose(&["deadlock".into()]).unwrap()[0].kind, "deadlock");
        let error = choose(&["deadlok".into()]).unwrap_err().to_string();
        assert!(error.contains("deadlok") && error.contains("process_crash"), "{error}");
    }
}
