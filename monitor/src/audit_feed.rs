//! IO: asks the recovery daemon what it did last, what it would do, and how it stands. It may be
//! absent, and then that is said.

pub use crate::pages::daemon::AuditFeed;
use crate::pages::daemon::{AuditRecord, Daemon, Plan, Standing};
use crate::report::shorten;
use jiff::Timestamp;
use serde_json::Value;
use std::time::Duration;

/// The largest answer that is read.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// How many records are asked for.
const ASKED_RECORDS: usize = 200;
/// How many plans are shown.
const MAX_PLANS: usize = 64;
/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the daemon at `url` (`http://host:port`).
pub async fn ask(http: &reqwest::Client, url: &str) -> AuditFeed {
    let outcome = tokio::time::timeout(TIMEOUT, fetch(http, url))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
    AuditFeed { url: url.to_owned(), outcome }
}

async fn fetch(http: &reqwest::Client, url: &str) -> Result<Daemon, String> {
    let audit = format!("{url}/api/audit?limit={ASKED_RECORDS}");
    let (plans, health) = (format!("{url}/api/plans"), format!("{url}/api/health"));
    let (audit, plans, health) =
        tokio::join!(answer(http, &audit, false), answer(http, &plans, false), answer(http, &health, true));
    let audit = audit.map_err(|why| format!("its audit: {why}"))?;
    Ok(Daemon {
        records: records(&audit),
        plans: plans.map(|value| list(&value, "plans").take(MAX_PLANS).map(Plan::read).collect()),
        standing: health.map(|value| Standing::read(&value)),
    })
}

/// One answer; a failing daemon says why in a 503, which is an answer, too.
async fn answer(http: &reqwest::Client, url: &str, may_fail: bool) -> Result<Value, String> {
    let mut response = http.get(url).send().await.map_err(describe)?;
    let status = response.status();
    let is_answer = status.is_success() || may_fail && status.as_u16() == 503;
    if !is_answer {
        return Err(format!("answered with status {}", status.as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(describe)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(format!("its answer is longer than {} MiB", MAX_BODY_BYTES >> 20));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|e| format!("its answer can't be read: {e}"))
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn records(answer: &Value) -> Vec<AuditRecord> {
    let mut records: Vec<AuditRecord> = list(answer, "records").map(AuditRecord::read).collect();
    // Oldest first, as written; those of one moment stay in the order in which they were written.
    records.reverse();
    records.sort_by_key(|record| std::cmp::Reverse(record.at.parse::<Timestamp>().ok()));
    records.truncate(ASKED_RECORDS);
    records
}

/// The last cause says what happened; those before it only where in the client.
fn describe(error: reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    shorten(&cause.to_string(), 160)
}
