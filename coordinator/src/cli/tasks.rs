//! `coordinator tasks`: list, show, cancel, retry.

use super::{CliError, ClusterArgs, EXIT_UNKNOWN, print};
use crate::worker::path_segment;
use api::Client;
use api::client::Repeat;
use api::task::{
    CommandOutput, PAGE_DEFAULT, PAGE_MAX, RETRY_MAX, Retried, RetryMany, TaskPage, TaskRecord, TaskStanding,
    TaskState,
};
use serde_json::json;

/// List, show, cancel and retry tasks.
#[derive(Debug, clap::Subcommand)]
pub enum TasksCommand {
    /// List tasks in order of submission.
    List(ListCommand),
    /// Show a task with its attempts and its result.
    Show {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The task's id.
        task_id: String,
    },
    /// Cancel tasks: what runs is ended.
    Cancel(ManyCommand),
    /// Run failed or cancelled tasks again: those named, or with --failed all that failed.
    Retry(RetryCommand),
}

/// Which tasks run again.
#[derive(Debug, clap::Args)]
pub struct RetryCommand {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Every failed task.
    #[arg(long, conflicts_with_all = ["task_ids", "cancelled"])]
    pub failed: bool,
    /// Every cancelled task.
    #[arg(long, conflicts_with = "task_ids")]
    pub cancelled: bool,
    /// With --failed or --cancelled: only tasks of this type.
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "task_ids")]
    pub kind: Option<String>,
    /// With --failed or --cancelled: only tasks that this worker had last.
    #[arg(long, conflicts_with = "task_ids")]
    pub worker: Option<String>,
    /// The tasks' ids.
    #[arg(required_unless_present_any = ["failed", "cancelled"])]
    pub task_ids: Vec<String>,
}

/// List tasks in order of submission.
#[derive(Debug, clap::Args)]
pub struct ListCommand {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Only tasks in this state.
    #[arg(long, value_parser = |s: &str| TaskState::parse(s).ok_or("one of pending, assigned, running, completed, failed, cancelled"))]
    pub status: Option<TaskState>,
    /// Only tasks of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Only tasks that this worker has or had last.
    #[arg(long)]
    pub worker: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = PAGE_DEFAULT, value_name = "N")]
    pub limit: usize,
    /// Only tasks behind this point of the list, as a former answer named it.
    #[arg(long)]
    pub after: Option<String>,
}

/// Ids of tasks.
#[derive(Debug, clap::Args)]
pub struct ManyCommand {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The tasks' ids.
    #[arg(required = true)]
    pub task_ids: Vec<String>,
}

impl TasksCommand {
    pub async fn run(self) -> Result<u8, CliError> {
        match self {
            TasksCommand::List(command) => command.run().await,
            TasksCommand::Show { cluster, task_id } => {
                let path = format!("/api/tasks/{}", path_segment(&task_id));
                let task: TaskRecord = cluster.client()?.get(&path).await?;
                if cluster.json {
                    print::json(&task)
                } else {
                    show(&task)
                }
                Ok(0)
            }
            TasksCommand::Cancel(command) => command.run("cancel", Repeat::Idempotent).await,
            TasksCommand::Retry(command) => command.run().await,
        }
    }
}

impl ListCommand {
    async fn run(self) -> Result<u8, CliError> {
        let client = self.cluster.client()?;
        let mut tasks: Vec<TaskRecord> = Vec::new();
        let mut next = self.after.clone();
        while tasks.len() < self.limit {
            let page = self.page(&client, self.limit - tasks.len(), next.as_deref()).await?;
            tasks.extend(page.tasks);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        if self.cluster.json {
            print::json(&TaskPage { tasks, next });
            return Ok(0);
        }
        let rows = tasks.iter().map(|task| {
            [
                task.task_id.clone(),
                task.kind.clone(),
                task.state.to_string(),
                task.priority.to_string(),
                task.attempt.to_string(),
                print::or_dash(task.worker_id.as_ref()),
                task.created_at.to_string(),
                first_line(task.error.as_deref().unwrap_or("")),
            ]
        });
        print::table(["TASK", "TYPE", "STATE", "PRIO", "TRY", "WORKER", "CREATED", "ERROR"], rows);
        if let Some(next) = next {
            print::say(&format!("there are more: --after {next}"));
        }
        Ok(0)
    }

    async fn page(&self, client: &Client, limit: usize, after: Option<&str>) -> Result<TaskPage, CliError> {
        let mut path = format!("/api/tasks?limit={}", limit.clamp(1, PAGE_MAX));
        let filters = [
            ("status", self.status.map(TaskState::as_str)),
            ("type", self.kind.as_deref()),
            ("worker", self.worker.as_deref()),
            ("after", after),
        ];
        for (name, value) in filters {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", path_segment(value)));
            }
        }
        Ok(client.get(&path).await?)
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").chars().take(80).collect()
}

fn show(task: &TaskRecord) {
    let rows = [
        ("task", task.task_id.clone()),
        ("type", task.kind.clone()),
        ("state", task.state.to_string()),
        ("priority", task.priority.to_string()),
        ("config", task.config.get().to_owned()),
        ("labels", list(task.requirements.labels.iter().map(|(k, v)| format!("{k}={v}")))),
        (
            "one of",
            list(
                task.requirements.any_of.iter().map(|set| list(set.iter().map(|(k, v)| format!("{k}={v}")))),
            ),
        ),
        ("resources", list(task.requirements.resources.iter().map(|(k, n)| format!("{k}={n}")))),
        ("limits", format!("{} s, {} retries", task.timeout_seconds, task.max_retries)),
        ("created", task.created_at.to_string()),
        ("finished", print::or_dash(task.finished_at)),
        ("worker", print::or_dash(task.worker_id.as_ref())),
        ("error", print::or_dash(task.error.as_ref())),
    ];
    for (name, value) in rows {
        print::out(&format!("{name:<10} {}", print::visible(&value)));
    }
    if !task.attempts.is_empty() {
        print::out("");
        let rows = task.attempts.iter().map(|attempt| {
            [
                attempt.attempt.to_string(),
                attempt.worker_id.clone(),
                attempt.token.to_string(),
                attempt.assigned_at.to_string(),
                print::or_dash(attempt.started_at),
                print::or_dash(attempt.finished_at),
                print::or_dash(attempt.outcome.map(|o| o.as_str())),
                first_line(attempt.error.as_deref().unwrap_or("")),
            ]
        });
        print::table(["TRY", "WORKER", "TOKEN", "ASSIGNED", "STARTED", "FINISHED", "OUTCOME", "ERROR"], rows);
    }
    let Some(result) = &task.result else { return };
    match serde_json::from_str::<CommandOutput>(result.get()) {
        Ok(output) => {
            for (name, text) in [("standard output", output.stdout), ("standard error", output.stderr)] {
                if !text.is_empty() {
                    print::out(&format!("\n{name}:\n{}", print::visible(text.trim_end())));
                }
            }
        }
        Err(_) => print::out(&format!("\nresult: {}", print::visible(result.get()))),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

impl RetryCommand {
    async fn run(self) -> Result<u8, CliError> {
        if !self.failed && !self.cancelled {
            let many = ManyCommand { cluster: self.cluster, task_ids: self.task_ids };
            return many.run("retry", Repeat::Never).await;
        }
        let client = self.cluster.client()?;
        let status = if self.failed { TaskState::Failed } else { TaskState::Cancelled };
        let filter = RetryMany {
            status,
            kind: self.kind.clone(),
            worker: self.worker.clone(),
            limit: Some(RETRY_MAX),
        };
        let mut retried = 0;
        loop {
            // One key a call: an answer that got lost is asked for again, and nothing is done twice.
            let key = ulid::Ulid::generate().to_string();
            let answer: Retried = client.post_keyed("/api/tasks/retry", &filter, &key).await?;
            retried += answer.retried;
            if !answer.more || answer.retried == 0 {
                break;
            }
        }
        if self.cluster.json {
            print::json(&json!({ "retried": retried }));
        } else {
            print::out(&format!("{retried} {status} tasks wait again"));
        }
        Ok(0)
    }
}

impl ManyCommand {
    /// Asks for each task; one that is refused does not keep the others from it.
    async fn run(self, verb: &str, repeat: Repeat) -> Result<u8, CliError> {
        let client = self.cluster.client()?;
        let mut answers = Vec::new();
        let mut code = 0;
        for task_id in &self.task_ids {
            let path = format!("/api/tasks/{}/{verb}", path_segment(task_id));
            match client.post::<_, TaskStanding>(&path, &json!({}), repeat).await {
                Ok(standing) => answers.push(json!(standing)),
                Err(error) => {
                    let error = CliError::from(error);
                    code = code.max(error.exit_code());
                    answers.push(json!({ "task_id": task_id, "error": error.to_string() }));
                    if !self.cluster.json {
                        print::say(&format!("{task_id}: {error}"));
                    }
                    if error.exit_code() == EXIT_UNKNOWN {
                        break;
                    }
                    continue;
                }
            }
            if !self.cluster.json
                && let Some(standing) = answers.last()
            {
                print::out(&format!("{task_id}: {}", standing["state"].as_str().unwrap_or("?")));
            }
        }
        if self.cluster.json {
            print::json(&json!({ "tasks": answers }));
        }
        Ok(code)
    }
}
