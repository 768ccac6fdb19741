//! `coordinator submit`: one task a line, and with `--wait` what became of them.
//!
//! The run gets an id before anything is sent, and every task an id made of it and its number.
//! That makes sending repeatable (`send`), following cheap (`watch`) and the JUnit file
//! complete (`junit`): a task that was sent is in it once, whatever happened to it or to us.

mod input;
mod junit;
mod quote;
mod screen;
mod send;
mod verdict;
mod watch;

use super::{CliError, ClusterArgs, EXIT_NOT_SO, EXIT_UNKNOWN, amount, pair, print};
use api::Client;
use api::task::{CommandConfig, CommandLine, MAX_PRIORITY, NewTask, Requirements};
use input::Chosen;
use junit::{Junit, Run};
use otlp::context::{TRACEPARENT_VARIABLE, Traceparent};
use quote::Template;
use screen::{Counts, Screen};
use send::Job;
pub use send::SendError;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use verdict::{Kind, Verdict};
use watch::{End, Observer, Watch};

/// The most input that is read.
const MAX_INPUT_BYTES: u64 = 256 * 1024 * 1024;
/// The longest prefix of task ids.
const MAX_PREFIX_BYTES: usize = 200;
/// Failures that are printed with their output; further ones get one line.
const DETAILED_FAILURES: usize = 50;
/// Failures that `--json` lists.
const LISTED_FAILURES: usize = 1000;

/// Submit one task a line, and wait for them if asked to.
///
/// The tasks run in the present directory and are not retried unless --max-retries says so: a test
/// that fails once should be seen to fail. Exit code with --wait: 0 all completed; 1 a task failed
/// or was cancelled; 2 it could not be told. Blank lines are skipped; with a template that runs
/// pytest, so is the summary at the end of `pytest --collect-only -q`. The variable TRACEPARENT, where
/// it is set, goes with the tasks.
///
/// Example: pytest --collect-only -q | coordinator submit --template 'pytest {}' --wait --junit results.xml
#[derive(Debug, clap::Args)]
pub struct SubmitCommand {
    /// Where the cluster is.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Files with one task a line; `-` or none is standard input.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The command; the line takes the place of {}, quoted for the shell. Without it the line is
    /// the command.
    #[arg(long)]
    pub template: Option<String>,
    /// Type of the tasks. For types other than command and noop a line is the task's config, JSON.
    #[arg(long = "type", default_value = "command", value_name = "TYPE")]
    pub kind: String,
    /// A label that the worker must have.
    #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
    pub labels: Vec<(String, String)>,
    /// A label of which the worker must have at least one; give it twice and more.
    #[arg(long = "any-label", value_parser = pair, value_name = "KEY=VALUE")]
    pub any_labels: Vec<(String, String)>,
    /// A resource that the task takes from its worker.
    #[arg(long = "resource", value_parser = amount, value_name = "KEY=NUMBER")]
    pub resources: Vec<(String, u64)>,
    /// 0 to 9; higher first.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=i64::from(MAX_PRIORITY)))]
    pub priority: Option<u8>,
    /// Seconds one attempt may run.
    #[arg(long, value_parser = seconds, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_seconds: Option<f64>,
    /// How often a failed task is tried again.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub max_retries: u32,
    /// Working directory of the tasks; by default the present one.
    #[arg(long, value_name = "DIRECTORY")]
    pub cwd: Option<PathBuf>,
    /// A variable for the tasks' environment.
    #[arg(long = "env", value_parser = pair, value_name = "KEY=VALUE")]
    pub env: Vec<(String, String)>,
    /// Prefix of the task ids in place of a new run id. The same input under the same prefix is
    /// the same run: what the cluster has already is not submitted again.
    #[arg(long, value_parser = prefix)]
    pub id_prefix: Option<String>,
    /// Wait until every task has ended.
    #[arg(long)]
    pub wait: bool,
    /// Write a JUnit file with every task.
    #[arg(long, value_name = "FILE", requires = "wait")]
    pub junit: Option<PathBuf>,
    /// Say nothing on the way: no progress, no failures, only the end.
    #[arg(long)]
    pub quiet: bool,
    /// Give up when no coordinator has answered for so many seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub give_up_seconds: u64,
}

/// What is submitted belongs to the trace that this process was started in, if it was told one.
fn in_callers_trace(client: &Client) -> Client {
    let told = std::env::var(TRACEPARENT_VARIABLE).ok().filter(|text| Traceparent::parse(text).is_some());
    told.map_or_else(|| client.clone(), |place| client.with_traceparent(place.trim()))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds above 0")),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    if text.is_empty() || text.len() > MAX_PREFIX_BYTES || !text.chars().all(fits) {
        return Err(format!("{text:?}: up to {MAX_PREFIX_BYTES} letters, digits and . _ : - are taken"));
    }
    Ok(text.to_owned())
}

impl SubmitCommand {
    /// Submits, waits if asked to, and gives the exit code.
    pub async fn run(self) -> Result<u8, CliError> {
        let client = self.cluster.client()?;
        let template = self.template()?;
        let input = self.read()?;
        let chosen = input::choose(&input, template.as_ref().is_some_and(Template::runs_pytest))
            .map_err(|e| CliError::Usage(format!("the input can't be used: {e}")))?;
        self.remark_on(&chosen);
        if chosen.lines.is_empty() {
            return Err(CliError::Usage("the input has no task".into()));
        }
        let run_id = self
            .id_prefix
            .clone()
            .unwrap_or_else(|| format!("run-{}", ulid::Ulid::generate().to_string().to_lowercase()));
        let jobs = self.jobs(&run_id, template.as_ref(), &chosen.lines)?;
        let junit = match &self.junit {
            Some(path) => Some(Junit::create(path, jobs.len()).map_err(|source| writing(path, source))?),
            None => None,
        };
        self.submit(&client, &run_id, jobs, junit).await
    }

    fn template(&self) -> Result<Option<Template>, CliError> {
        match &self.template {
            Some(_) if self.kind != "command" => {
                Err(CliError::Usage("--template is for tasks of type command".into()))
            }
            Some(text) => Template::parse(text).map(Some).map_err(|e| CliError::Usage(e.to_string())),
            None => Ok(None),
        }
    }

    /// The whole input, file after file.
    fn read(&self) -> Result<Vec<u8>, CliError> {
        let mut input = Vec::new();
        let standard_input = [PathBuf::from("-")];
        let files = if self.files.is_empty() { &standard_input[..] } else { &self.files };
        for path in files {
            let reading = |source| CliError::Io { what: format!("reading {}", path.display()), source };
            let left = MAX_INPUT_BYTES + 1 - input.len() as u64;
            if path == Path::new("-") {
                if std::io::stdin().is_terminal() && !self.quiet {
                    print::say("reading tasks from the terminal, one a line; Ctrl-D ends them");
                }
                std::io::stdin().lock().take(left).read_to_end(&mut input).map_err(reading)?;
            } else {
                let file = std::fs::File::open(path).map_err(reading)?;
                file.take(left).read_to_end(&mut input).map_err(reading)?;
            }
            if input.len() as u64 > MAX_INPUT_BYTES {
                return Err(CliError::Usage(format!("the input is above {MAX_INPUT_BYTES} bytes; split it")));
            }
            input.push(b'\n');
        }
        Ok(input)
    }

    fn remark_on(&self, chosen: &Chosen<'_>) {
        if chosen.skipped > 0 && !self.quiet {
            print::say(&format!("{} lines skipped: they are pytest's summary, not tests", chosen.skipped));
        }
        if let Some(first) = chosen.collection_errors.first() {
            let count = chosen.collection_errors.len();
            print::say(&format!(
                "pytest could not collect everything ({count} errors): {}",
                print::visible(first)
            ));
        }
    }

    /// The tasks, each with its id.
    fn jobs(&self, run_id: &str, template: Option<&Template>, lines: &[&str]) -> Result<Vec<Job>, CliError> {
        let cwd = match &self.cwd {
            Some(cwd) => std::path::absolute(cwd),
            None => std::env::current_dir(),
        };
        let cwd =
            cwd.map_err(|source| CliError::Io { what: "finding the working directory".into(), source })?;
        let cwd = cwd.into_os_string().into_string();
        let cwd = cwd.map_err(|d| CliError::Usage(format!("the working directory {d:?} is not UTF-8")))?;
        let width = lines.len().to_string().len().max(5);
        let numbered = lines.iter().enumerate();
        numbered
            .map(|(number, line)| {
                let config = match self.kind.as_str() {
                    "command" => self.command(&cwd, template, line)?,
                    "noop" => RawValue::from_string("{}".into()).map_err(cannot_encode)?,
                    kind => serde_json::from_str(line).map_err(|e| {
                        CliError::Usage(format!(
                            "task {}: the config of a {kind} task is JSON: {e}",
                            number + 1
                        ))
                    })?,
                };
                let task_id = format!("{run_id}-{:0width$}", number + 1);
                let body = NewTask { task_id: Some(task_id.clone()), ..self.body(config) };
                Ok(Job { task_id, line: (*line).to_owned(), body })
            })
            .collect()
    }

    fn command(&self, cwd: &str, template: Option<&Template>, line: &str) -> Result<Box<RawValue>, CliError> {
        let command = template.map_or_else(|| line.to_owned(), |t| t.render(line));
        to_raw_value(&CommandConfig {
            command: CommandLine::Shell(command),
            cwd: Some(cwd.to_owned()),
            env: self.env.iter().cloned().collect(),
            output_limit_bytes: None,
        })
        .map_err(cannot_encode)
    }

    fn body(&self, config: Box<RawValue>) -> NewTask {
        let requirements = Requirements {
            labels: self.labels.iter().cloned().collect(),
            resources: self.resources.iter().cloned().collect(),
            any_of: self.any_labels.iter().map(|label| std::iter::once(label.clone()).collect()).collect(),
        };
        NewTask {
            task_id: None,
            kind: self.kind.clone(),
            priority: self.priority,
            config: Some(config),
            requirements: (!requirements.is_empty()).then_some(requirements),
            timeout_seconds: self.timeout_seconds,
            max_retries: Some(self.max_retries),
            retry_backoff_seconds: None,
        }
    }

    async fn submit(
        &self,
        client: &Client,
        run_id: &str,
        jobs: Vec<Job>,
        junit: Option<Junit>,
    ) -> Result<u8, CliError> {
        let give_up = Duration::from_secs(self.give_up_seconds);
        let remark = |text: &str| {
            if !self.quiet {
                print::say(text);
            }
        };
        let begun = Begun { run_id, at: jiff::Timestamp::now(), started: Instant::now() };
        let traced = in_callers_trace(client);
        let sent = tokio::select! {
            sent = send::send(&traced, &jobs, give_up, remark) => sent,
            _ = tokio::signal::ctrl_c() => {
                return Err(CliError::CouldNotTell(format!(
                    "interrupted; some tasks of {run_id} may be submitted. {}", how_to_go_on(run_id))));
            }
        };
        let sent = sent.map_err(|error| CliError::NotSubmitted {
            advice: how_to_go_on(run_id),
            run_id: run_id.to_owned(),
            source: error,
        })?;
        let before = match sent.known_before {
            0 => String::new(),
            n => format!(" ({n} were there before)"),
        };
        remark(&format!("{} tasks submitted as {run_id}{before}", sent.taken));
        if !self.wait {
            self.print_ids(run_id, &jobs);
            return Ok(0);
        }
        self.wait_for(client, &begun, &jobs, junit, give_up).await
    }

    fn print_ids(&self, run_id: &str, jobs: &[Job]) {
        let ids = jobs.iter().map(|job| job.task_id.as_str());
        if self.cluster.json {
            print::json(&json!({ "run_id": run_id, "task_ids": ids.collect::<Vec<_>>() }));
        } else {
            print::out(&ids.collect::<Vec<_>>().join("\n"));
        }
    }

    /// Waits for the end of every task and tells of it.
    async fn wait_for(
        &self,
        client: &Client,
        begun: &Begun<'_>,
        jobs: &[Job],
        junit: Option<Junit>,
        give_up: Duration,
    ) -> Result<u8, CliError> {
        let total = jobs.len() as u64;
        let mut tally = Tally {
            jobs,
            screen: Screen::new(total, self.quiet),
            quiet: self.quiet,
            counts: Counts { total, ..Counts::default() },
            junit,
            junit_error: None,
            failures: Vec::new(),
        };
        let mut watch = Watch::new(client, jobs.iter().map(|job| job.task_id.clone()));
        let stopped = tokio::select! {
            outcome = watch.follow(give_up, &mut tally) => outcome.err().map(|e| e.to_string()),
            _ = tokio::signal::ctrl_c() => Some("interrupted".into()),
        };
        if let Some(why) = &stopped {
            for number in watch.open() {
                tally.count(number, &Verdict::unknown(format!("not known to have ended: {why}")));
            }
        }
        tally.screen.end();
        self.conclude(begun, tally, stopped)
    }

    /// Writes the file, prints the end, and decides the exit code.
    fn conclude(&self, begun: &Begun<'_>, tally: Tally<'_>, stopped: Option<String>) -> Result<u8, CliError> {
        let Begun { run_id, at, started } = *begun;
        let took = started.elapsed();
        let counts = tally.counts;
        let mut code = match counts {
            Counts { unknown: 1.., .. } => EXIT_UNKNOWN,
            Counts { failed: 1.., .. } | Counts { cancelled: 1.., .. } => EXIT_NOT_SO,
            _ => 0,
        };
        if let (Some(junit), Some(path)) = (tally.junit, &self.junit) {
            let written = match tally.junit_error {
                Some(error) => Err(error),
                None => junit.write(&Run { run_id, started_at: at, took }),
            };
            if let Err(source) = written {
                print::say(&format!("coordinator: {}", writing(path, source)));
                code = EXIT_UNKNOWN;
            }
        }
        if let Some(why) = stopped {
            print::say(&format!("{why}; the tasks go on. {}", how_to_go_on(run_id)));
        }
        if self.cluster.json {
            print::json(&json!({
                "run_id": run_id,
                "total": counts.total,
                "completed": counts.passed,
                "failed": counts.failed,
                "cancelled": counts.cancelled,
                "unknown": counts.unknown,
                "seconds": took.as_secs_f64(),
                "failures": tally.failures.iter().take(LISTED_FAILURES).collect::<Vec<_>>(),
            }));
        } else {
            let of = counts.total;
            print::out(&format!(
                "{} of {of} tasks in {} ({run_id})",
                counts.describe(),
                print::duration(took)
            ));
        }
        Ok(code)
    }
}

/// The run and when it began.
struct Begun<'a> {
    run_id: &'a str,
    at: jiff::Timestamp,
    started: Instant,
}

/// Counts the ends, prints the failures, and fills the JUnit file.
struct Tally<'a> {
    jobs: &'a [Job],
    screen: Screen,
    quiet: bool,
    counts: Counts,
    junit: Option<Junit>,
    /// The first failure to write to the spool; the run is followed to its end all the same.
    junit_error: Option<std::io::Error>,
    failures: Vec<serde_json::Value>,
}

impl Tally<'_> {
    fn count(&mut self, number: usize, verdict: &Verdict) {
        let Some(job) = self.jobs.get(number) else { return };
        let counted = match verdict.kind {
            Kind::Passed => &mut self.counts.passed,
            Kind::Error("cancelled") => &mut self.counts.cancelled,
            Kind::Failed(_) | Kind::Error(_) => &mut self.counts.failed,
            Kind::Unknown => &mut self.counts.unknown,
        };
        *counted += 1;
        if let Some(junit) = &mut self.junit
            && self.junit_error.is_none()
        {
            self.junit_error = junit.add(number, &job.line, verdict).err();
        }
        if verdict.kind != Kind::Passed {
            self.tell(job, verdict);
        }
        self.screen.progress(&self.counts);
    }

    fn tell(&mut self, job: &Job, verdict: &Verdict) {
        // What is unknown is said once, for all, at the end.
        if !self.quiet && verdict.kind != Kind::Unknown {
            let text = verdict.describe(&job.line);
            if self.failures.len() < DETAILED_FAILURES {
                self.screen.say(&text);
            } else {
                self.screen.say(text.lines().next().unwrap_or_default());
            }
        }
        if self.failures.len() < LISTED_FAILURES {
            self.failures.push(json!({
                "task_id": job.task_id,
                "line": job.line,
                "error": verdict.message,
                "exit_code": verdict.output.exit_code,
                "signal": verdict.output.signal,
                "timed_out": verdict.output.timed_out,
            }));
        }
    }
}

impl Observer for Tally<'_> {
    fn ended(&mut self, number: usize, end: End) {
        let verdict = match end {
            End::Final(task) => Verdict::of(&task),
            End::NotThere => Verdict::unknown("the cluster does not know this task"),
        };
        self.count(number, &verdict);
    }

    fn remark(&mut self, text: &str) {
        self.screen.remark(text);
    }
}

fn how_to_go_on(run_id: &str) -> String {
    format!(
        "To go on, give the same command and input with --id-prefix {run_id}: what is there already is not \
         submitted again. Single tasks: coordinator tasks show {run_id}-00001"
    )
}

fn writing(path: &Path, source: std::io::Error) -> CliError {
    CliError::Io { what: format!("writing {}", path.display()), source }
}

fn cannot_encode(error: serde_json::Error) -> CliError {
    CliError::Usage(format!("the task can't be encoded: {error}"))
}
