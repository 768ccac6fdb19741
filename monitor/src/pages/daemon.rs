//! PURE. The recovery daemon as it is shown: what it did, what it would do, and how that answers a
//! finding.

use super::format::{capital, escape_path, moment};
use super::{Seen, words};
use crate::chronicle::Case;
use crate::report::{Span, shorten};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use web::fragments::{ActionRow, Answer, Fact, Mark, PlanRow, Recovery, RecoveryCase, Tone};
use web::pages::{CasePage, Here, RecoveryPage};

/// Records that the cluster view shows.
const SHOWN_ON_CLUSTER_VIEW: usize = 5;
/// Evidence of one record or plan.
const SHOWN_EVIDENCE: usize = 8;
/// How much sooner than the monitor the daemon may see a fault and still mean the same one.
const SAME_FAULT_MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// A record of the recovery daemon's audit, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// When, as it wrote it.
    pub at: String,
    /// The fault's id.
    pub id: String,
    /// The kind of fault.
    pub kind: String,
    /// The nodes it concerns.
    pub nodes: Vec<String>,
    /// Which phase of a repair.
    pub phase: String,
    /// How it ended.
    pub outcome: String,
    /// Whether the brake was put on (or taken off), where that is what it tells.
    pub on: Option<bool>,
    /// The gate that denied.
    pub gate: String,
    /// More about it.
    pub detail: String,
    /// What showed it.
    pub evidence: Vec<String>,
}

/// What the daemon would do about a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The fault's id.
    pub id: String,
    /// The kind of fault.
    pub kind: String,
    /// The nodes it concerns.
    pub nodes: Vec<String>,
    /// `allowed`, `denied` or `verifying`.
    pub standing: String,
    /// The gate that denies it.
    pub gate: String,
    /// Why it stands there.
    pub why: String,
    /// The steps, each in words.
    pub steps: Vec<String>,
    /// What shows the fault.
    pub evidence: Vec<String>,
    /// For how long it is known.
    pub age_ms: u64,
}

/// How the daemon stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why the brake is on.
    pub brake: Option<String>,
    /// Why nothing is repaired at all.
    pub halted: Option<String>,
    /// True where it sees nobody.
    pub blind: bool,
    /// Nodes that reported to it, of how many.
    pub nodes: (u64, u64),
    /// When its last round ended, as it wrote it.
    pub last_round_at: String,
    /// Its version.
    pub version: String,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its last records, the latest first.
    pub records: Vec<AuditRecord>,
    /// What it would do now, or why that is not known.
    pub plans: Result<Vec<Plan>, String>,
    /// How it stands, or why that is not known.
    pub standing: Result<Standing, String>,
}

/// What the daemon said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFeed {
    /// Where the daemon is.
    pub url: String,
    /// What it said, or why it said nothing.
    pub outcome: Result<Daemon, String>,
}

fn text(value: &Value, key: &str, most: usize) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => shorten(text, most),
        Some(other) => shorten(&other.to_string(), most),
    }
}

fn texts(value: &Value, key: &str, most: usize, each: usize) -> Vec<String> {
    let list = value.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).take(most).map(|t| shorten(t, each)).collect()
}

impl AuditRecord {
    /// Takes from a record what is shown; what is missing is empty.
    pub fn read(value: &Value) -> Self {
        AuditRecord {
            at: text(value, "at", 40),
            id: text(value, "id", 128),
            kind: text(value, "kind", 40),
            nodes: texts(value, "nodes", 16, 80),
            phase: text(value, "phase", 40),
            outcome: text(value, "outcome", 40),
            on: value.get("on").and_then(Value::as_bool),
            gate: text(value, "gate", 40),
            detail: text(value, "detail", 300),
            evidence: texts(value, "evidence", SHOWN_EVIDENCE, 300),
        }
    }

    fn time(&self) -> Option<Timestamp> {
        self.at.parse().ok()
    }
}

impl Plan {
    /// Takes from a plan what is shown.
    pub fn read(value: &Value) -> Self {
        let steps = value.get("steps").and_then(Value::as_array).into_iter().flatten().take(16);
        Plan {
            id: text(value, "id", 128),
            kind: text(value, "kind", 40),
            nodes: texts(value, "nodes", 16, 80),
            standing: text(value, "standing", 40),
            gate: text(value, "gate", 40),
            why: text(value, "why", 300),
            steps: steps.map(step).collect(),
            evidence: texts(value, "evidence", SHOWN_EVIDENCE, 300),
            age_ms: value.get("age_ms").and_then(Value::as_u64).unwrap_or(0),
        }
    }
}

impl Standing {
    /// Takes from the daemon's health what is shown.
    pub fn read(value: &Value) -> Self {
        let some = |key| Some(text(value, key, 200)).filter(|t| !t.is_empty());
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
        Standing {
            brake: some("brake"),
            halted: some("halted"),
            blind: value.get("blind").and_then(Value::as_bool).unwrap_or(false),
            nodes: (number("nodes_reporting"), number("nodes")),
            last_round_at: text(value, "last_round_at", 40),
            version: text(value, "version", 40),
        }
    }
}

/// `start process of node-3`, whatever steps there will be: the name of the step, then its values.
fn step(value: &Value) -> String {
    let Some(fields) = value.as_object() else { return shorten(&value.to_string(), 120) };
    let name = fields.get("step").and_then(Value::as_str).unwrap_or("step").replace('_', " ");
    let others = fields.iter().filter(|(key, value)| *key != "step" && !value.is_null());
    let others = others.map(|(key, value)| match value {
        Value::String(text) if key == "node" => format!("on {text}"),
        Value::String(text) => format!("{} {text}", key.replace('_', " ")),
        other => format!("{} {other}", key.replace('_', " ")),
    });
    let all: Vec<String> = std::iter::once(capital(&name)).chain(others).collect();
    shorten(&all.join(" "), 160)
}

fn case_href(id: &str) -> String {
    match id {
        "" | "daemon" => String::new(),
        id => format!("/recovery/{}", escape_path(id)),
    }
}

fn phase(record: &AuditRecord) -> Mark {
    let tone = match (record.phase.as_str(), record.outcome.as_str()) {
        ("outcome", "repaired" | "gone") | ("cleared", _) => Tone::Good,
        ("outcome", "failed") | ("needs_person", _) => Tone::Bad,
        ("brake", _) if record.on == Some(false) => Tone::Good,
        ("denied" | "brake", _) => Tone::Warn,
        _ => Tone::Idle,
    };
    let what = if record.outcome.is_empty() { &record.phase } else { &record.outcome };
    let mut text = words(what);
    if let Some(on) = record.on {
        text.push_str(if on { " on" } else { " off" });
    }
    if !record.gate.is_empty() {
        text.push_str(&format!(" ({})", words(&record.gate)));
    }
    Mark::new(tone, text)
}

fn action(record: &AuditRecord, now: Timestamp, with_evidence: bool) -> ActionRow {
    let at = match record.time() {
        Some(at) => moment(at, now),
        None => web::fragments::Moment { iso: String::new(), text: record.at.clone() },
    };
    ActionRow {
        at,
        kind: if record.kind.is_empty() { "the daemon itself".into() } else { words(&record.kind) },
        nodes: record.nodes.join(", "),
        phase: phase(record),
        detail: record.detail.clone(),
        evidence: if with_evidence { record.evidence.clone() } else { Vec::new() },
        href: case_href(&record.id),
    }
}

fn plan_mark(plan: &Plan) -> Mark {
    match plan.standing.as_str() {
        "allowed" => Mark::new(Tone::Good, "under way"),
        "verifying" => Mark::new(Tone::Good, "done, being verified"),
        "denied" if plan.gate.is_empty() => Mark::new(Tone::Warn, "held back"),
        "denied" => Mark::new(Tone::Warn, format!("held back by {}", words(&plan.gate))),
        other => Mark::new(Tone::Idle, words(other)),
    }
}

fn plan_row(plan: &Plan) -> PlanRow {
    PlanRow {
        title: capital(&words(&plan.kind)),
        nodes: plan.nodes.join(", "),
        standing: plan_mark(plan),
        why: plan.why.clone(),
        steps: plan.steps.clone(),
        evidence: plan.evidence.clone(),
        age: Span((plan.age_ms / 1_000) as f64).to_string(),
        href: case_href(&plan.id),
    }
}

/// The daemon; on the cluster view only the last of it.
pub(super) fn recovery(seen: &Seen, whole: bool) -> Recovery {
    let now = seen.snapshot.at;
    let empty = |url, mark| Recovery {
        url,
        mark,
        brake: None,
        facts: vec![],
        plans: vec![],
        plans_empty: "Not known: it was not heard.".into(),
        rows: vec![],
        rows_empty: "Not known: its audit was not read.".into(),
        whole,
        older: 0,
    };
    let (url, daemon) = match &seen.audit {
        None if seen.has_recovery => return empty(None, Mark::new(Tone::Idle, "not asked yet")),
        None => return empty(None, Mark::new(Tone::Idle, "no recovery daemon was named (--recovery)")),
        Some(AuditFeed { url, outcome: Err(why) }) => {
            return empty(Some(url.clone()), Mark::new(Tone::Warn, format!("does not answer: {why}")));
        }
        Some(AuditFeed { url, outcome: Ok(daemon) }) => (url, daemon),
    };
    let most = if whole { usize::MAX } else { SHOWN_ON_CLUSTER_VIEW };
    let (mark, brake, facts) = standing(daemon, now);
    Recovery {
        url: Some(url.clone()),
        mark,
        brake,
        facts,
        plans: daemon.plans.iter().flatten().map(plan_row).collect(),
        plans_empty: match &daemon.plans {
            Ok(_) => "Nothing: it sees no fault.".into(),
            Err(why) => format!("Not known: {why}."),
        },
        rows_empty: "Its audit holds nothing that can be shown.".into(),
        rows: daemon.records.iter().take(most).map(|r| action(r, now, whole)).collect(),
        whole,
        older: daemon.records.len().saturating_sub(most),
    }
}

fn standing(daemon: &Daemon, now: Timestamp) -> (Mark, Option<Mark>, Vec<Fact>) {
    let standing = match &daemon.standing {
        Ok(standing) => standing,
        Err(why) => {
            return (Mark::new(Tone::Warn, format!("answers, but not how it stands: {why}")), None, vec![]);
        }
    };
    let mark = match (&standing.halted, standing.blind) {
        (Some(why), _) => Mark::new(Tone::Bad, format!("repairs nothing: {why}")),
        (None, true) => Mark::new(Tone::Warn, "sees too little to act"),
        (None, false) if daemon.records.is_empty() => Mark::new(Tone::Good, "answers, nothing in its audit"),
        (None, false) => Mark::new(Tone::Good, "answers"),
    };
    let brake = match &standing.brake {
        Some(why) => Mark::new(Tone::Warn, format!("brake on: {why}")),
        None => Mark::new(Tone::Good, "brake off"),
    };
    let fact = |name: &str, value: String| Fact { name: name.into(), value };
    let mut facts = vec![fact("It sees", format!("{} of {} nodes", standing.nodes.0, standing.nodes.1))];
    if let Ok(at) = standing.last_round_at.parse() {
        facts.push(fact("Last round", moment(at, now).text));
    }
    facts.push(fact("Version", standing.version.clone()));
    (mark, Some(brake), facts)
}

/// The same fault in the daemon's words: its kind, on one of its nodes (none of them named: any).
fn concerns(kind: &str, nodes: &[String], case: &Case) -> bool {
    let own = &case.finding.nodes;
    kind == case.finding.kind.as_str()
        && (own.is_empty() || nodes.is_empty() || nodes.iter().any(|node| own.contains(node)))
}

/// What the daemon wrote about a finding, the latest first.
pub(super) fn records_on(seen: &Seen, case: &Case) -> Vec<ActionRow> {
    let Some(AuditFeed { outcome: Ok(daemon), .. }) = &seen.audit else { return vec![] };
    records_of(daemon, case).map(|record| action(record, seen.snapshot.at, true)).collect()
}

fn records_of<'a>(daemon: &'a Daemon, case: &'a Case) -> impl Iterator<Item = &'a AuditRecord> {
    let from = case.finding.since.checked_sub(SAME_FAULT_MARGIN).unwrap_or(case.finding.since);
    let until = case.until.and_then(|at| at.checked_add(SAME_FAULT_MARGIN).ok());
    let in_time = move |at: Timestamp| at >= from && until.is_none_or(|until| at <= until);
    daemon.records.iter().filter(move |r| concerns(&r.kind, &r.nodes, case) && r.time().is_some_and(in_time))
}

/// In a line or two: what the daemon would do about a finding, and what it did last.
pub(super) fn answers(seen: &Seen, case: &Case) -> Vec<Answer> {
    let Some(AuditFeed { outcome: Ok(daemon), .. }) = &seen.audit else { return vec![] };
    let mut answers = Vec::new();
    let plans = daemon.plans.iter().flatten().filter(|p| concerns(&p.kind, &p.nodes, case));
    for plan in plans.filter(|_| case.until.is_none()).take(3) {
        let steps =
            if plan.steps.is_empty() { "no step by itself".into() } else { plan.steps.join(", then ") };
        let text = if plan.why.is_empty() { steps } else { format!("{steps}: {}", plan.why) };
        let mark = plan_mark(plan);
        let mark = Mark::new(mark.tone, format!("Recovery: {}", mark.text));
        answers.push(Answer { mark, text, href: case_href(&plan.id) });
    }
    if let Some(last) = records_of(daemon, case).find(|r| r.phase != "seen" && r.phase != "planned") {
        let mark = phase(last);
        let mark = Mark::new(mark.tone, format!("Recovery, last: {}", mark.text));
        answers.push(Answer { mark, text: last.detail.clone(), href: case_href(&last.id) });
    }
    answers
}

/// Why there is nothing from the daemon on a finding.
pub(super) fn silence(seen: &Seen) -> String {
    match &seen.audit {
        None if !seen.has_recovery => "This monitor was told of no recovery daemon (--recovery).".into(),
        None => "The recovery daemon was not asked yet.".into(),
        Some(AuditFeed { outcome: Err(why), .. }) => format!("The recovery daemon does not answer: {why}."),
        Some(_) => "The recovery daemon wrote nothing about it.".into(),
    }
}

/// The daemon's page.
pub fn recovery_page(seen: &Seen) -> RecoveryPage {
    RecoveryPage { frame: super::polled(seen, "Recovery", Here::Recovery), recovery: recovery(seen, true) }
}

/// Everything the daemon wrote about one fault; none where nothing is known of it.
pub fn case_page(seen: &Seen, id: &str) -> Option<CasePage> {
    let Some(AuditFeed { outcome: Ok(daemon), .. }) = &seen.audit else { return None };
    let records: Vec<&AuditRecord> = daemon.records.iter().filter(|r| r.id == id).collect();
    let plan = daemon.plans.iter().flatten().find(|p| p.id == id);
    let (kind, nodes) = match (records.first(), plan) {
        (Some(record), _) => (&record.kind, &record.nodes),
        (None, Some(plan)) => (&plan.kind, &plan.nodes),
        (None, None) => return None,
    };
    let mut title = capital(&words(kind));
    if !nodes.is_empty() {
        title.push_str(&format!(" on {}", nodes.join(", ")));
    }
    let case = RecoveryCase {
        id: id.to_owned(),
        title: title.clone(),
        rows: records.into_iter().map(|r| action(r, seen.snapshot.at, true)).collect(),
        empty: "It has a plan for it, and wrote nothing yet.".into(),
    };
    Some(CasePage { frame: super::polled(seen, &title, Here::Recovery), case })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_step_is_told_in_words_whatever_it_is() {
        assert_eq!(step(&json!({"step": "start_process", "node": "node-3"})), "Start process on node-3");
        assert_eq!(step(&json!({"step": "rebuild_db", "node": "n", "epoch": 4})), "Rebuild db epoch 4 on n");
        assert_eq!(step(&json!("odd")), "\"odd\"");
    }

    #[test]
    fn what_is_missing_in_a_record_is_empty() {
        let record = AuditRecord::read(&json!({"at": "yesterday", "nodes": [1, "a"], "phase": "outcome"}));
        assert_eq!(record.nodes, ["a"]);
        assert!(record.time().is_none());
        assert_eq!(action(&record, Timestamp::UNIX_EPOCH, true).at.text, "yesterday");
        assert_eq!(AuditRecord::read(&json!(7)).phase, "");
    }
}
