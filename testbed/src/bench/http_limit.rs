//! The bare HTTP handler that the bench compares with: it reads the same JSON body into the same
//! type and answers in the same form, and does nothing between. No coordinator on this machine can
//! be faster than that.

use crate::Error;
use api::task::{NewTask, Submitted};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, body::Bytes, routing::post};
use std::sync::atomic::{AtomicU64, Ordering};

/// What its first line of output begins with; the address follows.
pub const ANNOUNCEMENT: &str = "listening on ";

static INDEX: AtomicU64 = AtomicU64::new(0);

/// Serves until the process is ended.
pub async fn serve() -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(Error::io("bind a port"))?;
    let address = listener.local_addr().map_err(Error::io("read the bound address"))?;
    println!("{ANNOUNCEMENT}{address}");
    let router = Router::new().route("/api/tasks", post(submit));
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
