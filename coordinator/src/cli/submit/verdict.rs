//! PURE. What a finished task means for the run it belongs to.

use crate::cli::print::visible;
use api::task::{AttemptOutcome, CommandOutput, TaskRecord, TaskState};

/// Lines of each output stream that a printed failure shows.
const SHOWN_LINES: usize = 10;
/// Bytes of each output stream that a printed failure shows.
const SHOWN_BYTES: usize = 2048;

/// How a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It completed.
    Passed,
    /// The command itself failed: an exit code or a signal.
    Failed(&'static str),
    /// It was not the command's verdict: time limit, lost worker, not startable, cancelled.
    Error(&'static str),
    /// What became of it could not be learnt.
    Unknown,
}

/// A task's end.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// How it counts.
    pub kind: Kind,
    /// What went wrong, in one line.
    pub message: String,
    /// What the command printed.
    pub output: CommandOutput,
    /// How long its last attempt ran.
    pub seconds: f64,
}

impl Verdict {
    /// The verdict on a task in a final state.
    pub fn of(task: &TaskRecord) -> Verdict {
        // Results of other task types have another form; they have no output to show.
        let output: Option<CommandOutput> =
            task.result.as_ref().and_then(|r| serde_json::from_str(r.get()).ok());
        let last = task.attempts.last();
        let kind = match task.state {
            TaskState::Completed => Kind::Passed,
            TaskState::Cancelled => Kind::Error("cancelled"),
            _ => match (last.and_then(|a| a.outcome), &output) {
                (Some(AttemptOutcome::LeaseExpired), _) => Kind::Error("lost"),
                (Some(AttemptOutcome::TimedOut), _) => Kind::Error("timeout"),
                (_, Some(output)) if output.timed_out => Kind::Error("timeout"),
                (_, Some(CommandOutput { signal: Some(_), .. })) => Kind::Failed("signal"),
                (_, Some(CommandOutput { exit_code: Some(_), .. })) => Kind::Failed("exit_code"),
                (_, Some(_)) => Kind::Error("not_run"),
                (_, None) if task.result.is_some() => Kind::Failed("failed"),
                (_, None) => Kind::Error("not_run"),
            },
        };
        let message = match kind {
            Kind::Passed => String::new(),
            Kind::Error("cancelled") => "cancelled".into(),
            _ => task
                .error
                .clone()
                .or_else(|| last.and_then(|a| a.error.clone()))
                .unwrap_or_else(|| "failed without an error".into()),
        };
        let ran_seconds = last.and_then(|a| {
            let span = a.finished_at?.duration_since(a.started_at.unwrap_or(a.assigned_at));
            Some(span.as_secs_f64().max(0.0))
        });
        let seconds =
            output.as_ref().map(|o| o.duration_seconds).filter(|s| *s > 0.0).or(ran_seconds).unwrap_or(0.0);
        Verdict { kind, message, output: output.unwrap_or_default(), seconds }
    }

    /// The verdict on a task of which nothing could be learnt.
    pub fn unknown(why: impl Into<String>) -> Verdict {
        Verdict { kind: Kind::Unknown, message: why.into(), output: CommandOutput::default(), seconds: 0.0 }
    }

    /// The task's name, what went wrong, and the last lines it printed.
    pub fn describe(&self, line: &str) -> String {
        let mut text = format!("FAILED {}: {}", visible(line), visible(&self.message));
        for (name, stream) in [("stdout", &self.output.stdout), ("stderr", &self.output.stderr)] {
            for shown in last_lines(stream) {
                text.push_str(&format!("\n  {name} | {}", visible(shown)));
            }
        }
        text
    }
}

fn last_lines(text: &str) -> Vec<&str> {
    let text = text.trim_end();
    let mut start = text.len().saturating_sub(SHOWN_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let lines: Vec<&str> = text[start..].lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(state: &str, rest: &str) -> TaskRecord {
        serde_json::from_str(&format!(
            r#"{{"task_id":"r-1","type":"command","priority":5,"state":"{state}","config":{{}},
                "timeout_seconds":1,"max_retries":0,"retry_backoff_seconds":1,
                "created_at":"2026-01-01T00:00:00Z","attempt":1{rest}}}"#
        ))
        .unwrap()
    }

    fn attempt(outcome: &str) -> String {
        format!(
            r#","attempts":[{{"attempt":1,"worker_id":"w","token":1,"assigned_at":"2026-01-01T00:00:00Z",
               "started_at":"2026-01-01T00:00:01Z","finished_at":"2026-01-01T00:00:03.5Z","outcome":"{outcome}"}}]"#
        )
    }

    #[test]
    fn every_end_has_its_kind() {
        let result = |fields: &str| format!(r#","error":"e","result":{{{fields}}}"#);
        for (state, rest, kind) in [
            ("completed", result(r#""exit_code":0,"duration_seconds":1.5"#), Kind::Passed),
            ("failed", result(r#""exit_code":3"#), Kind::Failed("exit_code")),
            ("failed", result(r#""signal":9"#), Kind::Failed("signal")),
            ("failed", result(r#""signal":15,"timed_out":true"#), Kind::Error("timeout")),
            ("failed", result(""), Kind::Error("not_run")),
            ("failed", r#","result":[1]"#.into(), Kind::Failed("failed")),
            ("failed", attempt("lease_expired"), Kind::Error("lost")),
            ("failed", attempt("timed_out"), Kind::Error("timeout")),
            ("failed", String::new(), Kind::Error("not_run")),
            ("cancelled", String::new(), Kind::Error("cancelled")),
        ] {
            assert_eq!(Verdict::of(&task(state, &rest)).kind, kind, "{state} {rest}");
        }
    }

    #[test]
    fn the_time_is_the_commands_or_else_the_attempts() {
        let with_result = task("completed", r#","result":{"exit_code":0,"duration_seconds":1.5}"#);
        assert_eq!(Verdict::of(&with_result).seconds, 1.5);
        assert_eq!(Verdict::of(&task("failed", &attempt("timed_out"))).seconds, 2.5);
    }

    #[test]
    fn a_printed_failure_shows_the_end_of_the_output() {
        let mut verdict = Verdict::unknown("exit code 1");
        verdict.output.stdout = (1..=30).map(|n| format!("line {n}\n")).collect();
        verdict.output.stderr = "\u{1b}[31mred".into();
        let text = verdict.describe("a test");
        assert!(text.starts_with("FAILED a test: exit code 1\n  stdout | line 21\n"), "{text}");
        assert!(text.ends_with("line 30\n  stderr | \\u{1b}[31mred"), "{text}");
    }
}
