//! What a lease asks for, and what is said of it afterwards.

use super::output;
use super::process::{self, Ran, Spec, Stop};
use super::session::Session;
use api::task::{CommandConfig, CommandLine, CommandOutput, ReportedStatus};
use api::worker::{FinishedAttempt, LeasedTask};
use jiff::Timestamp;
use otlp::context::TRACEPARENT_VARIABLE;
use otlp::{Context, Span, SpanKind};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A report's result may have this many bytes of JSON; a coordinator takes bodies of 8 MiB.
const MAX_RESULT_BYTES: usize = 6 * 1024 * 1024;
/// The longest error text, in bytes.
const MAX_ERROR_BYTES: usize = 4096;

/// Runs one lease to its end and delivers the result.
pub async fn carry_out(session: Arc<Session>, task: LeasedTask, taken_back: CancellationToken) {
    let started_at = Timestamp::now();
    let mut span = begin(&session, &task);
    let told = || task.traceparent.as_deref().and_then(Context::sampled);
    let place = span.as_ref().map(Span::context).or_else(told);
    let done = match task.kind.as_str() {
        "noop" => Some(Done { status: ReportedStatus::Completed, ..Done::failed(None) }),
        "command" => command(&session, &task, place, &taken_back).await,
        other => Some(Done::failed(Some(format!("this worker can't run tasks of type {other:?}")))),
    };
    if let (Some(span), Some(error)) = (&mut span, done.as_ref().and_then(|done| done.error.clone())) {
        span.fail(error);
    }
    drop(span);
    let mut accepted = false;
    if done.is_none() && !taken_back.is_cancelled() {
        session.left_unfinished(&task.task_id);
    }
    if let Some(done) = done.filter(|_| !taken_back.is_cancelled()) {
        let report = FinishedAttempt {
            task_id: task.task_id.clone(),
            token: task.token,
            status: done.status,
            result: done.result,
            error: done.error,
            started_at,
            finished_at: Timestamp::now(),
            resources: done.resources,
            traceparent: place.map(|place| place.traceparent()),
        };
        session.reports(task.token);
        accepted = super::report::deliver(&session, &task.task_id, report, &taken_back).await;
    }
    session.release(task.token, accepted);
}

/// The span of the work, below that of the lease.
fn begin(session: &Session, task: &LeasedTask) -> Option<Span> {
    let parent = session.config.tracer.accept(task.traceparent.as_deref(), false)?;
    let span = session.config.tracer.span("task.run", SpanKind::Consumer, parent)?;
    Some(
        span.with("holdfast.task.id", task.task_id.clone())
            .with("holdfast.task.token", task.token as i64)
            .with("holdfast.task.attempt", i64::from(task.attempt))
            .with("holdfast.worker.id", session.config.worker_id.clone()),
    )
}

/// What there is to report.
struct Done {
    status: ReportedStatus,
    result: Option<Box<RawValue>>,
    error: Option<String>,
    resources: Option<BTreeMap<String, u64>>,
}

impl Done {
    fn failed(error: Option<String>) -> Done {
        Done { status: ReportedStatus::Failed, result: None, error, resources: None }
    }
}

/// Runs a `command` task. None when it was stopped from outside.
async fn command(
    session: &Session,
    task: &LeasedTask,
    place: Option<Context>,
    taken_back: &CancellationToken,
) -> Option<Done> {
    let spec = match spec(task, place) {
        Ok(spec) => spec,
        Err(error) => return Some(Done::failed(Some(error))),
    };
    let worker_id = session.config.worker_id.as_str();
    tracing::info!(task_id = %task.task_id, worker_id, token = task.token, attempt = task.attempt, "starts");
    let stop = Stop { cancel: taken_back.clone(), kill: session.shutdown.kill.clone() };
    let ran = process::run(&spec, &session.guard, &stop).await;
    if ran.stopped {
        tracing::info!(task_id = %task.task_id, worker_id, token = task.token, "stopped");
        return None;
    }
    let done = judge(ran, spec.timeout);
    let (status, error) = (done.status, done.error.as_deref());
    tracing::info!(task_id = %task.task_id, worker_id, token = task.token, ?status, error, "ended");
    Some(done)
}

/// The process that a task's config asks for.
fn spec(task: &LeasedTask, place: Option<Context>) -> Result<Spec, String> {
    let config: CommandConfig = serde_json::from_str(task.config.get())
        .map_err(|e| format!("the config of this command task can't be read: {e}"))?;
    let argv = match config.command {
        CommandLine::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line],
        CommandLine::Argv(argv) => argv,
    };
    if argv.first().is_none_or(String::is_empty) {
        return Err("the config names no program: command is empty".into());
    }
    if let Some(name) = config.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(format!("env: {name:?} can't be the name of a variable"));
    }
    let timeout = Duration::try_from_secs_f64(task.timeout_seconds)
        .map_err(|_| format!("timeout_seconds {} is not a time", task.timeout_seconds))?;
    let mut env = config.env;
    env.insert("HOLDFAST_TASK_ID".into(), task.task_id.clone());
    env.insert("HOLDFAST_ATTEMPT".into(), task.attempt.to_string());
    if let Some(place) = place {
        env.insert(TRACEPARENT_VARIABLE.into(), place.traceparent());
    }
    Ok(Spec {
        argv,
        cwd: config.cwd,
        env,
        output_limit_bytes: config.output_limit_bytes.unwrap_or(output::DEFAULT_LIMIT_BYTES),
        timeout,
    })
}

/// Success is exit code 0 and nothing else.
fn judge(ran: Ran, timeout: Duration) -> Done {
    let error = match (&ran.error, ran.timed_out, ran.exit_code, ran.signal) {
        (Some(error), ..) => Some(error.clone()),
        (None, true, ..) => Some(format!("timed out after {} s", timeout.as_secs_f64())),
        (None, false, Some(0), _) => None,
        (None, false, Some(code), _) => Some(format!("exit code {code}")),
        (None, false, None, Some(signal)) => Some(format!("ended by signal {}", signal_name(signal))),
        (None, false, None, None) => Some("ended in an unknown way".into()),
    };
    let status = if error.is_none() { ReportedStatus::Completed } else { ReportedStatus::Failed };
    let resources = ran.cpu.map(|cpu| {
        BTreeMap::from([("cpu_ms".to_owned(), u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX))])
    });
    let output = CommandOutput {
        exit_code: ran.exit_code,
        signal: ran.signal,
        timed_out: ran.timed_out,
        stdout: ran.stdout,
        stderr: ran.stderr,
        dropped_bytes: ran.dropped_bytes,
        duration_seconds: ran.duration.as_secs_f64(),
    };
    let error = error.map(|e| output::shorten(&e, MAX_ERROR_BYTES).text);
    Done { status, result: Some(bounded_json(output)), error, resources }
}

/// The output as JSON of bounded size. Escaping can make text six times longer, so the streams
/// are cut again, by half, until it fits.
fn bounded_json(mut output: CommandOutput) -> Box<RawValue> {
    loop {
        let limit_bytes = output.stdout.len().max(output.stderr.len()) / 2;
        match to_raw_value(&output) {
            Ok(json) if json.get().len() <= MAX_RESULT_BYTES || limit_bytes == 0 => return json,
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the output can't be encoded");
                return RawValue::NULL.to_owned();
            }
        }
        for stream in [&mut output.stdout, &mut output.stderr] {
            let kept = output::shorten(stream, limit_bytes);
            *stream = kept.text;
            output.dropped_bytes += kept.dropped_bytes;
        }
    }
}

/// `9 (SIGKILL)` for the signals that a person meets.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        _ => return signal.to_string(),
    };
    format!("{signal} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leased(config: &str) -> LeasedTask {
        LeasedTask {
            task_id: "t-1".into(),
            kind: "command".into(),
            config: RawValue::from_string(config.into()).unwrap(),
            priority: 5,
            attempt: 2,
            token: 1,
            timeout_seconds: 1.5,
            lease_expires_at: Timestamp::UNIX_EPOCH,
            traceparent: None,
        }
    }

    #[test]
    fn a_string_goes_to_the_shell_and_a_list_is_run_as_it_is() {
        let shell = spec(&leased(r#"{"command":"echo $HOME"}"#), None).unwrap();
        assert_eq!(shell.argv, ["/bin/sh", "-c", "echo $HOME"]);
        assert_eq!(shell.timeout, Duration::from_millis(1500));
        assert_eq!((&*shell.env["HOLDFAST_TASK_ID"], &*shell.env["HOLDFAST_ATTEMPT"]), ("t-1", "2"));
        assert!(!shell.env.contains_key("TRACEPARENT"), "it is not traced");
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let place = Context::sampled(header);
        let argv = spec(&leased(r#"{"command":["echo","$HOME"],"env":{"A":"b"}}"#), place).unwrap();
        assert_eq!(argv.argv, ["echo", "$HOME"]);
        assert_eq!((argv.env["A"].as_str(), argv.env["TRACEPARENT"].as_str()), ("b", header));
    }

    #[test]
    fn a_malformed_config_names_what_is_wrong() {
        for (config, named) in [
            (r#"{}"#, "command"),
            (r#"{"command":[]}"#, "command is empty"),
            (r#"{"command":"x","cvd":"/"}"#, "cvd"),
            (r#"{"command":"x","env":{"A=B":"c"}}"#, "A=B"),
        ] {
            let error = spec(&leased(config), None).unwrap_err();
            assert!(error.contains(named), "{config}: {error}");
        }
    }

    #[test]
    fn only_exit_code_zero_is_success() {
        let judged = |ran: Ran| {
            let done = judge(ran, Duration::from_secs(5));
            (done.status, done.error)
        };
        assert_eq!(judged(Ran { exit_code: Some(0), ..Ran::default() }), (ReportedStatus::Completed, None));
        for (ran, error) in [
            (Ran { exit_code: Some(3), ..Ran::default() }, "exit code 3"),
            (Ran { signal: Some(9), ..Ran::default() }, "ended by signal 9 (SIGKILL)"),
            (Ran { timed_out: true, signal: Some(15), ..Ran::default() }, "timed out after 5 s"),
            (Ran { exit_code: Some(0), error: Some("odd".into()), ..Ran::default() }, "odd"),
        ] {
            assert_eq!(judged(ran), (ReportedStatus::Failed, Some(error.to_owned())));
        }
    }

    #[test]
    fn output_that_swells_in_json_still_fits_a_request() {
        let swelling = "\u{1}".repeat(1024 * 1024);
        let output = CommandOutput { stdout: swelling.clone(), stderr: swelling, ..CommandOutput::default() };
        let json = bounded_json(output);
        assert!(json.get().len() <= MAX_RESULT_BYTES, "{} bytes", json.get().len());
        let read: CommandOutput = serde_json::from_str(json.get()).unwrap();
        assert!(read.dropped_bytes > 0 && read.stdout.contains("bytes left out"));
    }
}
