//! One case, and the text it is read from.

use crate::Error;
use api::task::{CommandConfig, CommandLine, NewTask, Requirements};
use serde_json::value::to_raw_value;
use std::collections::BTreeMap;
use std::path::Path;

/// Seconds one attempt may run where the case does not say.
const DEFAULT_TIMEOUT_SECONDS: f64 = 20.0;
/// Seconds before the first retry where the case does not say.
const DEFAULT_BACKOFF_SECONDS: f64 = 0.1;

/// How a case must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// An attempt succeeds.
    Completed,
    /// The last attempt fails.
    Failed,
    /// The last attempt runs into its time limit.
    TimedOut,
}

impl Expected {
    /// The word for it in the files and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Expected::Completed => "completed",
            Expected::Failed => "failed",
            Expected::TimedOut => "timeout",
        }
    }
}

/// A command with its expected outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name, unique in the suite.
    pub name: String,
    /// What is run; `{scratch}` stands for the run's scratch folder.
    pub command: CommandLine,
    /// How it must end.
    pub expected: Expected,
    /// The exit code it must have.
    pub exit: Option<i32>,
    /// Texts that standard output must contain.
    pub stdout: Vec<String>,
    /// Texts that standard error must contain.
    pub stderr: Vec<String>,
    /// Whether output must have been dropped.
    pub dropped: bool,
    /// How many attempts it must take.
    pub attempts: u32,
    /// Labels its worker must have.
    pub labels: BTreeMap<String, String>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// Seconds one attempt may run.
    pub timeout_seconds: f64,
    /// How many retries it has.
    pub retries: u32,
    /// Seconds before the first retry.
    pub backoff_seconds: f64,
    /// Bytes of output that are kept.
    pub output_limit_bytes: Option<usize>,
    /// Variables of its environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: Option<String>,
}

impl Case {
    fn new(name: &str) -> Case {
        Case {
            name: name.to_owned(),
            command: CommandLine::Shell(String::new()),
            expected: Expected::Completed,
            exit: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            dropped: false,
            attempts: 1,
            labels: BTreeMap::new(),
            priority: None,
            timeout_seconds: DEFAULT_TIMEOUT_SECONDS,
            retries: 0,
            backoff_seconds: DEFAULT_BACKOFF_SECONDS,
            output_limit_bytes: None,
            env: BTreeMap::new(),
            cwd: None,
        }
    }

    /// The case with `{scratch}` filled in.
    pub fn in_scratch(mut self, scratch: &Path) -> Case {
        let fill = |text: &mut String| *text = text.replace("{scratch}", &scratch.to_string_lossy());
        match &mut self.command {
            CommandLine::Shell(line) => fill(line),
            CommandLine::Argv(parts) => parts.iter_mut().for_each(fill),
        }
        self.stdout.iter_mut().for_each(fill);
        self.cwd.iter_mut().for_each(fill);
        self
    }

    /// The task that it becomes.
    pub fn to_task(&self, task_id: String) -> Result<NewTask, Error> {
        let config = CommandConfig {
            command: self.command.clone(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            output_limit_bytes: self.output_limit_bytes,
        };
        let config = to_raw_value(&config).map_err(|e| Error::Setting(format!("case {}: {e}", self.name)))?;
        Ok(NewTask {
            task_id: Some(task_id),
            kind: "command".into(),
            priority: self.priority,
            config: Some(config),
            requirements: Some(Requirements { labels: self.labels.clone(), ..Requirements::default() }),
            timeout_seconds: Some(self.timeout_seconds),
            max_retries: Some(self.retries),
            retry_backoff_seconds: Some(self.backoff_seconds),
        })
    }

    /// Takes one `key: value` line.
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = |what: &str| format!("`{key}` wants {what}, not `{value}`");
        let unescaped = || value.replace("\\n", "\n");
        match key {
            "run" => self.command = CommandLine::Shell(value.to_owned()),
            "argv" => {
                let parts = serde_json::from_str(value).map_err(|e| format!("`argv`: {e}"))?;
                self.command = CommandLine::Argv(parts);
            }
            "expect" => {
                self.expected = [Expected::Completed, Expected::Failed, Expected::TimedOut]
                    .into_iter()
                    .find(|e| e.as_str() == value)
                    .ok_or_else(|| number("completed, failed or timeout"))?;
            }
            "exit" => self.exit = Some(value.parse().map_err(|_| number("an exit code"))?),
            "stdout" => self.stdout.push(unescaped()),
            "stderr" => self.stderr.push(unescaped()),
            "dropped" => self.dropped = value == "yes",
            "attempts" => self.attempts = value.parse().map_err(|_| number("a count"))?,
            "priority" => self.priority = Some(value.parse().map_err(|_| number("0 to 9"))?),
            "timeout" => self.timeout_seconds = value.parse().map_err(|_| number("seconds"))?,
            "retries" => self.retries = value.parse().map_err(|_| number("a count"))?,
            "backoff" => self.backoff_seconds = value.parse().map_err(|_| number("seconds"))?,
            "output_limit" => self.output_limit_bytes = Some(value.parse().map_err(|_| number("bytes"))?),
            "cwd" => self.cwd = Some(value.to_owned()),
            "needs" | "env" => {
                let (name, text) = value.split_once('=').ok_or_else(|| number("name=value"))?;
                let map = if key == "env" { &mut self.env } else { &mut self.labels };
                map.insert(name.to_owned(), text.to_owned());
            }
            _ => return Err(format!("unknown key `{key}`")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let empty = match &self.command {
            CommandLine::Shell(line) => line.is_empty(),
            CommandLine::Argv(parts) => parts.is_empty(),
        };
        if empty {
            return Err(format!("case {} has neither `run` nor `argv`", self.name));
        }
        if self.attempts > self.retries + 1 {
            return Err(format!("case {} can't take {} attempts", self.name, self.attempts));
        }
        Ok(())
    }
}

/// Reads the cases of one file.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, Error> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let fault = |why: String| Error::SuiteFile { file: file.to_owned(), line: index + 1, why };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if let Some(done) = cases.last() {
                done.check().map_err(fault)?;
            }
            cases.push(Case::new(name));
            continue;
        }
        let (key, value) = line.split_once(": ").ok_or_else(|| fault(format!("no `key: value`: {line}")))?;
        let case = cases.last_mut().ok_or_else(|| fault("a key before the first [case]".into()))?;
        case.set(key, value.trim()).map_err(fault)?;
    }
    if let Some(done) = cases.last() {
        let why = |why| Error::SuiteFile { file: file.to_owned(), line: text.lines().count(), why };
        done.check().map_err(why)?;
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_whole() {
        let text = "# why\n\n[one]\nrun: cat {scratch}/a: b\nexpect: failed\nexit: 2\nstdout: a\\nb\nneeds: zone=b\nenv: A=b=c\nretries: 1\nattempts: 2\n";
        let case = parse("t", text).unwrap().remove(0).in_scratch(Path::new("/s"));
        assert_eq!(case.command, CommandLine::Shell("cat /s/a: b".into()));
        assert_eq!((case.expected, case.exit, case.attempts), (Expected::Failed, Some(2), 2));
        assert_eq!(case.stdout, ["a\nb"]);
        assert_eq!((case.labels["zone"].as_str(), case.env["A"].as_str()), ("b", "b=c"));
        let task = case.to_task("id".into()).unwrap();
        assert_eq!(task.max_retries, Some(1));
    }

    #[test]
    fn a_fault_names_file_and_line() {
        for (text, expected) in [
            ("[a]\nrun: x\ncolour: red\n", "suite/t, line 3: unknown key `colour`"),
            ("run: x\n", "suite/t, line 1: a key before the first [case]"),
            ("[a]\nexit: 1\n\n[b]\nrun: x\n", "suite/t, line 4: case a has neither `run` nor `argv`"),
            ("[a]\nrun: x\nattempts: 2\n", "suite/t, line 3: case a can't take 2 attempts"),
            (
                "[a]\nrun: x\nexpect: maybe\n",
                "suite/t, line 3: `expect` wants completed, failed or timeout, not `maybe`",
            ),
        ] {
            assert_eq!(parse("t", text).unwrap_err().to_string(), expected);
        }
    }
}
