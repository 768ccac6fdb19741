//! What came out against what was expected. Pure: a record in, the differences out.

use super::case::{Case, Expected};
use api::task::{AttemptOutcome, CommandOutput, TaskRecord, TaskState};
use std::collections::BTreeMap;

/// Characters of a captured text that a difference shows.
const EXCERPT_CHARS: usize = 120;

/// How the task really ended, in the suite's own words; none where it has not.
pub fn outcome(record: &TaskRecord) -> Option<Expected> {
    match record.state {
        TaskState::Completed => Some(Expected::Completed),
        TaskState::Failed if timed_out(record) => Some(Expected::TimedOut),
        TaskState::Failed | TaskState::Cancelled => Some(Expected::Failed),
        TaskState::Pending | TaskState::Assigned | TaskState::Running => None,
    }
}

fn timed_out(record: &TaskRecord) -> bool {
    output(record).is_some_and(|o| o.timed_out)
        || record.attempts.last().is_some_and(|a| a.outcome == Some(AttemptOutcome::TimedOut))
}

fn output(record: &TaskRecord) -> Option<CommandOutput> {
    serde_json::from_str(record.result.as_ref()?.get()).ok()
}

/// Everything in which `record` differs from what `case` expects; empty where nothing does.
///
/// `labels_of` are the labels of the workers by id: a task that wants a label must have run on a
/// worker that carries it.
pub fn differences(
    case: &Case,
    record: &TaskRecord,
    labels_of: &BTreeMap<String, BTreeMap<String, String>>,
) -> Vec<String> {
    let mut found = Vec::new();
    let ended = outcome(record);
    if ended != Some(case.expected) {
        let seen = ended.map_or(record.state.as_str(), Expected::as_str);
        let why = record.error.as_deref().map(|e| format!(" ({})", excerpt(e))).unwrap_or_default();
        found.push(format!("expected {}, ended as {seen}{why}", case.expected.as_str()));
    }
    // An attempt whose worker was lost says nothing of the command.
    let attempts = record.attempts.iter().filter(|a| a.outcome != Some(AttemptOutcome::LeaseExpired)).count();
    if attempts != case.attempts as usize {
        found.push(format!("expected {} attempts, took {attempts}", case.attempts));
    }
    if let Some(labels) = record.worker_id.as_ref().and_then(|id| labels_of.get(id)) {
        for (name, value) in case.labels.iter().filter(|(name, value)| labels.get(*name) != Some(value)) {
            found.push(format!("wanted a worker with {name}={value}, ran on one without"));
        }
    } else if !case.labels.is_empty() {
        found.push("wanted labels, but the worker it ran on is not known".into());
    }
    match output(record) {
        Some(output) => found.extend(output_differences(case, &output)),
        None if case.exit.is_some() || !case.stdout.is_empty() => {
            found.push("no captured output in the result".into());
        }
        None => {}
    }
    found
}

fn output_differences(case: &Case, output: &CommandOutput) -> Vec<String> {
    let mut found = Vec::new();
    let expected_exit = case.exit.or((case.expected == Expected::Completed).then_some(0));
    if expected_exit.is_some() && output.exit_code != expected_exit {
        found.push(format!("expected exit code {expected_exit:?}, got {:?}", output.exit_code));
    }
    if case.expected == Expected::Failed && output.exit_code == Some(0) {
        found.push("failed with exit code 0".into());
    }
    for (name, wanted, text) in
        [("stdout", &case.stdout, &output.stdout), ("stderr", &case.stderr, &output.stderr)]
    {
        for part in wanted.iter().filter(|part| !text.contains(part.as_str())) {
            found.push(format!("{name} lacks {:?}, it is {:?}", excerpt(part), excerpt(text)));
        }
    }
    if case.dropped != (output.dropped_bytes > 0) {
        found.push(format!("{} bytes of output were dropped", output.dropped_bytes));
    }
    found
}

fn excerpt(text: &str) -> String {
    if text.chars().count() <= EXCERPT_CHARS {
        return text.to_owned();
    }
    let head: String = text.chars().take(EXCERPT_CHARS).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::case::parse;
    use serde_json::json;

    fn record(state: &str, attempts: &[&str], result: serde_json::Value) -> TaskRecord {
        let at = "2026-01-01T00:00:00Z";
        let attempts: Vec<_> = attempts
            .iter()
            .enumerate()
            .map(|(i, outcome)| {
                json!({"attempt": i + 1, "worker_id": "w", "token": i, "assigned_at": at, "outcome": outcome})
            })
            .collect();
        serde_json::from_value(json!({
            "task_id": "t", "type": "command", "priority": 5, "state": state, "config": {},
            "timeout_seconds": 1.0, "max_retries": 0, "retry_backoff_seconds": 1.0, "created_at": at,
            "attempt": attempts.len(), "worker_id": "w", "attempts": attempts, "result": result,
        }))
        .unwrap()
    }

    fn compare(case: &str, record: &TaskRecord) -> Vec<String> {
        let case = parse("t", &format!("[c]\nrun: x\n{case}")).unwrap().remove(0);
        let labels = [("w".to_owned(), [("zone".to_owned(), "a".to_owned())].into())].into();
        differences(&case, record, &labels)
    }

    #[test]
    fn what_is_as_expected_has_no_differences() {
        let done = record("completed", &["completed"], json!({"exit_code": 0, "stdout": "a b\n"}));
        assert_eq!(compare("stdout: a b", &done), [""; 0]);
        let late =
            record("failed", &["timed_out"], json!({"exit_code": null, "signal": 9, "timed_out": true}));
        assert_eq!(compare("expect: timeout", &late), [""; 0]);
        let again = record("completed", &["lease_expired", "completed"], json!({"exit_code": 0}));
        assert_eq!(compare("needs: zone=a", &again), [""; 0]);
    }

    #[test]
    fn each_difference_is_named() {
        let done = record("completed", &["completed"], json!({"exit_code": 0, "stdout": "a\n"}));
        assert_eq!(compare("expect: failed", &done).len(), 2);
        assert_eq!(compare("stdout: b", &done), [r#"stdout lacks "b", it is "a\n""#]);
        assert_eq!(compare("needs: zone=b", &done), ["wanted a worker with zone=b, ran on one without"]);
        assert_eq!(compare("retries: 1\nattempts: 2", &done), ["expected 2 attempts, took 1"]);
        assert_eq!(compare("dropped: yes", &done), ["0 bytes of output were dropped"]);
        let failed = record("failed", &["failed"], json!({"exit_code": 3}));
        assert_eq!(compare("expect: failed\nexit: 2", &failed), ["expected exit code Some(2), got Some(3)"]);
        let open = record("running", &[], json!(null));
        assert!(compare("", &open)[0].contains("ended as running"));
    }
}
