use super::asked::{Answered, Asked, Refused};
use super::daemon::{AuditRecord, Daemon, Plan, Standing};
use super::logs::{LogQuery, NodeLines};
use super::tasks::TaskQuery;
use super::*;
use crate::chronicle::Chronicle;
use crate::detectors::FaultKind;
use crate::detectors::fixture::Scene;
use crate::observer::Round;
use api::cluster::LogLine;
use api::task::{TaskPage, TaskRecord};
use serde_json::json;

const HOSTILE: &str = "<script>alert(1)</script>\"'&\u{202e}\u{1b}[31m\0";

fn seen() -> Seen {
    let (snapshot, _) = Scene::new(3).round(|_| {});
    Seen {
        snapshot: Arc::new(snapshot),
        findings: vec![],
        events: vec![],
        chronicle: Chronicle::default(),
        audit: None,
        has_recovery: false,
        interval: Duration::from_secs(1),
        own: Default::default(),
    }
}

/// The same with a crash of node-3, found by the observer.
fn seen_crash() -> Seen {
    let mut seen = seen();
    let finding = Finding {
        kind: FaultKind::ProcessCrash,
        nodes: vec!["node-3".into()],
        severity: Severity::Critical,
        evidence: vec![HOSTILE.into()],
        look_at: vec![],
        since: seen.snapshot.at,
        rounds: 2,
    };
    let round = Round {
        snapshot: seen.snapshot.clone(),
        findings: vec![finding.clone()],
        begun: vec![],
        ended: vec![],
        events: vec![],
    };
    seen.chronicle.take(&round);
    seen.findings = vec![finding];
    seen
}

fn answered<T>(value: T) -> Asked<T> {
    let answered = Answered { node: "node-2".into(), leads: true, took_ms: 3.0, value };
    Asked { outcome: Ok(answered), missing: vec![] }
}

fn record(more: serde_json::Value) -> TaskRecord {
    let mut record = json!({
        "task_id": HOSTILE, "type": HOSTILE, "priority": 5, "state": "failed", "config": {"note": HOSTILE},
        "timeout_seconds": 600.0, "max_retries": 2, "retry_backoff_seconds": 1.0,
        "created_at": "2026-09-21T13:00:00Z", "finished_at": "2026-09-21T13:00:09Z", "attempt": 2,
        "worker_id": HOSTILE, "error": HOSTILE,
        "attempts": [
            {"attempt": 1, "worker_id": "w-1", "token": 7, "assigned_at": "2026-09-21T13:00:01Z",
             "started_at": "2026-09-21T13:00:02Z", "finished_at": "2026-09-21T13:00:04Z", "outcome": "lease_expired"},
            {"attempt": 2, "worker_id": HOSTILE, "token": 9, "assigned_at": "2026-09-21T13:00:06Z",
             "started_at": "2026-09-21T13:00:06Z", "finished_at": "2026-09-21T13:00:09Z", "outcome": "failed",
             "error": HOSTILE}
        ],
        "result": {"exit_code": 3, "signal": null, "stdout": HOSTILE, "stderr": "x".repeat(1 << 20),
                   "dropped_bytes": 2048, "duration_seconds": 2.5}
    });
    record.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    // A raw value can only be read from text.
    serde_json::from_str(&record.to_string()).unwrap()
}

fn assert_harmless(html: &str) {
    assert!(!html.contains("<script>alert"), "markup got through");
    for hidden in ['\u{202e}', '\u{1b}', '\0'] {
        assert!(!html.contains(hidden), "{hidden:?} got through");
    }
    assert!(!html.contains(" style=") && !html.contains(" onclick"), "the policy forbids both");
}

#[test]
fn a_list_of_hostile_tasks_is_a_list() {
    let page = TaskPage { tasks: vec![record(json!({}))], next: Some("17".into()) };
    let wanted =
        TaskQuery { kind: HOSTILE.into(), worker: HOSTILE.into(), limit: 25, ..TaskQuery::default() };
    let html = tasks::tasks_page(&seen(), &wanted, &answered(page)).render().unwrap();
    assert_harmless(&html);
    assert!(html.contains("&#60;script&#62;") && html.contains("⟨U+202E⟩"), "{html}");
    assert!(html.contains("&#38;after=17\"") && html.contains("As node-2 has it, which leads"), "{html}");
}

#[test]
fn a_tasks_life_is_told_from_submission_to_end() {
    let task = record(json!({"type": "command", "config": {"command": ["sh", "-c", HOSTILE]}}));
    let html = tasks::task_page(&seen(), "t", &answered(task), false).unwrap().render().unwrap();
    assert_harmless(&html);
    for part in [
        "submitted",
        "attempt 1 leased",
        "attempt 1 lease expired",
        "attempt 2 failed",
        "+9.0 s",
        "Exit code 3",
        "after 9 s and 2 attempts",
        "The worker dropped 2.0 KiB",
        "are left out here",
        "?output=all",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
    assert!(html.len() < 200_000, "a long output is cut: {}", html.len());
    let task = record(json!({"type": "command"}));
    let all = tasks::task_page(&seen(), "t", &answered(task), true).unwrap().render().unwrap();
    assert!(all.len() > 1 << 20 && !all.contains("are left out here"));
}

#[test]
fn a_task_that_is_not_there_says_why() {
    let asked = |outcome, missing: &[&str]| Asked::<TaskRecord> {
        outcome: Err(outcome),
        missing: missing.iter().map(|m| (*m).to_owned()).collect(),
    };
    let why = tasks::task_page(&seen(), "t-1", &asked(Refused::Unknown, &[]), false).unwrap_err();
    assert!(why.contains("No coordinator knows a task with the id t-1"), "{why}");
    let silent = asked(Refused::Nobody, &["node-3 did not answer in 2 s"]);
    let why = tasks::task_page(&seen(), "t-1", &silent, false).unwrap_err();
    assert!(why.contains("node-3 did not answer in 2 s"), "{why}");
    let list = Asked::<TaskPage> { outcome: Err(Refused::Nobody), missing: silent.missing };
    let html = tasks::tasks_page(&seen(), &TaskQuery::default(), &list).render().unwrap();
    assert!(
        html.contains("node-3 did not answer in 2 s") && html.contains("no coordinator gave one"),
        "{html}"
    );
}

#[test]
fn log_lines_are_merged_by_time_and_filtered() {
    let line = |seq, at: &str, message: &str| LogLine {
        seq,
        at: at.parse().unwrap(),
        level: "WARN".into(),
        target: "raft".into(),
        message: message.into(),
        fields: [("task_id".to_owned(), HOSTILE.to_owned())].into(),
    };
    let of = |node: &str, outcome| NodeLines { node: node.into(), outcome, lost_lines: 0 };
    let from = [
        of(
            "node-1",
            Ok(vec![line(1, "2026-09-21T13:00:01Z", "first"), line(2, "2026-09-21T13:00:03Z", "third")]),
        ),
        of("node-2", Ok(vec![line(1, "2026-09-21T13:00:02Z", HOSTILE)])),
        of("node-3", Err("node-3 did not answer in 2 s".into())),
    ];
    let wanted =
        LogQuery { level: "INFO".into(), node: String::new(), text: String::new(), limit: 200, follow: true };
    let html = logs::logs_page(&seen(), &wanted, &from).render().unwrap();
    assert_harmless(&html);
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} is missing"));
    assert!(place("third") < place("13:00:02.000") && place("13:00:02.000") < place(">first<"));
    assert!(
        html.contains("node-3 did not answer in 2 s") && html.contains("3 of 3 lines that fit"),
        "{html}"
    );
    let searched = LogQuery { text: "THIRD".into(), ..wanted };
    let page = logs::logs_page(&seen(), &searched, &from);
    assert_eq!(page.logs.rows.len(), 1);
    assert!(page.logs.toggle.contains("q=THIRD") && page.logs.toggle.contains("follow=off"));
}

#[test]
fn a_finding_carries_its_evidence_and_what_recovery_does() {
    let mut seen = seen_crash();
    let id = seen.chronicle.open[0].id.clone();
    let page = findings::finding_page(&seen, &id).unwrap();
    assert!(page.records_empty.contains("--recovery"), "{}", page.records_empty);
    let plan = json!({"id": "f-1", "kind": "process_crash", "nodes": ["node-3"], "standing": "denied",
        "gate": "cooldown", "why": HOSTILE, "steps": [{"step": "start_process", "node": "node-3"}], "age_ms": 1200});
    let at = seen.snapshot.at.to_string();
    let written = json!({"at": at, "id": "f-1", "kind": "process_crash", "nodes": ["node-3"], "phase": "outcome",
        "outcome": "repaired", "detail": HOSTILE});
    let standing = json!({"brake": HOSTILE, "nodes": 3, "nodes_reporting": 2, "blind": false});
    let daemon = Daemon {
        records: vec![AuditRecord::read(&written)],
        plans: Ok(vec![Plan::read(&plan)]),
        standing: Ok(Standing::read(&standing)),
    };
    seen.audit = Some(AuditFeed { url: "http://127.0.0.1:1".into(), outcome: Ok(daemon) });
    let html = findings::finding_page(&seen, &id).unwrap().render().unwrap();
    assert_harmless(&html);
    for part in
        ["Process crash", "Start process on node-3", "held back by cooldown", "repaired", "/recovery/f-1"]
    {
        assert!(html.contains(part), "{part} is missing in {html}");
    }
    let html = daemon::recovery_page(&seen).render().unwrap();
    assert_harmless(&html);
    assert!(html.contains("brake on") && html.contains("2 of 3 nodes"), "{html}");
    let silent = AuditFeed { url: "http://127.0.0.1:1".into(), outcome: Err("its audit: refused".into()) };
    let heard = seen.audit.replace(silent);
    let html = daemon::recovery_page(&seen).render().unwrap();
    assert!(html.contains("Not known: it was not heard") && !html.contains("it sees no fault"), "{html}");
    seen.audit = heard;
    assert!(daemon::case_page(&seen, "f-1").is_some() && daemon::case_page(&seen, "f-2").is_none());
    let html = cluster_page(&seen, Range::default(), None).render().unwrap();
    assert_harmless(&html);
    assert!(html.contains(&format!("/anomalies/{}", escape_path(&id))), "{html}");
}

#[test]
fn the_pages_of_findings_and_nodes_are_drawn_with_and_without_history() {
    let seen = seen_crash();
    let html = findings::findings_page(&seen).render().unwrap();
    assert!(html.contains("Nothing else was wrong since"), "{html}");
    let past: Past = Err("it is busy".into());
    let html = node_page(&seen, "node-3", Range::default(), &past).unwrap().render().unwrap();
    assert!(html.contains("it is busy") && html.contains("/logs?node=node-3"), "{html}");
    let html = cluster_page(&seen, Range::default(), Some(&past)).render().unwrap();
    assert!(html.contains("No change of leader") && html.contains("all hear each other"), "{html}");
}
