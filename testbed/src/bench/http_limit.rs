//! The bare HTTP handlers that the bench compares with: they read the same JSON body into the same
//! type and answer in the same form, and do nothing between. No coordinator on this machine can be
//! faster than that.

use crate::Error;
use crate::process::{Lifetime, Started, last_lines};
use crate::wait;
use api::task::{NewTask, Submitted};
use axum::body::Bytes;
use axum::extract::Path as InPath;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What its first line of output begins with; the address follows.
const ANNOUNCEMENT: &str = "listening on ";
/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

static INDEX: AtomicU64 = AtomicU64::new(0);

/// Serves until the process is ended.
pub async fn serve() -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(Error::io("bind a port"))?;
    let address = listener.local_addr().map_err(Error::io("read the bound address"))?;
    println!("{ANNOUNCEMENT}{address}");
    let router = Router::new().route("/api/tasks", post(submit)).route("/api/tasks/{id}", get(show));
    axum::serve(listener, router).await.map_err(Error::io("serve"))
}

async fn submit(body: Bytes) -> Response {
    let task: NewTask = match serde_json::from_slice(&body) {
        Ok(task) => task,
        Err(e) => return (StatusCode::BAD_REQUEST, e.to_string()).into_response(),
    };
    let index = INDEX.fetch_add(1, Ordering::Relaxed);
    let answer = Submitted { task_id: task.task_id.unwrap_or_else(|| format!("{index:026}")), index };
    match serde_json::to_vec(&answer) {
        Ok(bytes) => {
            (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// About as much JSON as a task's record has.
async fn show(InPath(task_id): InPath<String>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "task_id": task_id, "type": "noop", "priority": 5, "state": "pending",
        "config": {"pad": "x".repeat(220)}, "timeout_seconds": 300.0, "max_retries": 0,
        "retry_backoff_seconds": 1.0, "created_at": "2026-01-01T00:00:00Z", "attempt": 0,
    }))
}

/// The handlers in a process of their own.
pub struct HttpLimit {
    /// Where it listens.
    pub address: String,
    process: Started,
}

impl HttpLimit {
    /// Starts it; its output goes to a file in `folder`.
    pub async fn start(folder: &Path) -> Result<HttpLimit, Error> {
        let own = std::env::current_exe().map_err(Error::io("find the running program"))?;
        let log = folder.join("http-limit.log");
        let process =
            Started::spawn("http-limit", &own, &["http-limit".to_owned()], &log, Lifetime::WithParent)?;
        let address = wait::until("the HTTP limit to listen", START_LIMIT, || async {
            let lines = last_lines(&log, 1);
            let address = lines.first().and_then(|line| line.strip_prefix(ANNOUNCEMENT));
            address.map(str::to_owned).ok_or_else(|| "no line of output".to_owned())
        })
        .await?;
        Ok(HttpLimit { address, process })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.process.pid
    }
}

impl Drop for HttpLimit {
    fn drop(&mut self) {
        self.process.kill9();
    }
}
