//! IO: asks the recovery daemon what it did last. It may be absent, and then that is said.

pub use crate::pages::{AuditFeed, AuditRecord};
use crate::report::shorten;
use jiff::Timestamp;
use serde::Deserialize;
use std::time::Duration;

/// The largest answer that is read.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How many records are shown.
const SHOWN_RECORDS: usize = 5;
/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
struct Answer {
    records: Vec<serde_json::Value>,
}

/// Asks the daemon at `url` (`http://host:port`).
pub async fn ask(http: &reqwest::Client, url: &str) -> AuditFeed {
    let outcome = tokio::time::timeout(TIMEOUT, fetch(http, url))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
    AuditFeed { url: url.to_owned(), outcome }
}

async fn fetch(http: &reqwest::Client, url: &str) -> Result<Vec<AuditRecord>, String> {
    let mut response =
        http.get(format!("{url}/api/audit?limit={SHOWN_RECORDS}")).send().await.map_err(describe)?;
    if !response.status().is_success() {
        return Err(format!("answered with status {}", response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(describe)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err("its audit is too long to read".into());
        }
        body.extend_from_slice(&chunk);
    }
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|e| format!("its audit can't be read: {e}"))?;
    let mut records: Vec<AuditRecord> = answer.records.iter().map(record).collect();
    // Oldest first, as written; those of one moment stay in the order in which they were written.
    records.reverse();
    records.sort_by_key(|record| std::cmp::Reverse(record.at.parse::<Timestamp>().ok()));
    records.truncate(SHOWN_RECORDS);
    Ok(records)
}

/// The last cause says what happened; those before it only where in the client.
fn describe(error: reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    shorten(&cause.to_string(), 160)
}

fn record(value: &serde_json::Value) -> AuditRecord {
    let text = |key: &str, most: usize| match value.get(key) {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => shorten(text, most),
        Some(other) => shorten(&other.to_string(), most),
    };
    let nodes = value.get("nodes").and_then(serde_json::Value::as_array).into_iter().flatten();
    let nodes: Vec<&str> = nodes.filter_map(serde_json::Value::as_str).collect();
    AuditRecord {
        at: text("at", 40),
        kind: text("kind", 40),
        nodes: shorten(&nodes.join(", "), 80),
        phase: text("phase", 40),
        detail: text("detail", 240),
    }
}
