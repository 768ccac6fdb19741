//! Looking inside one node: its log entries, decoded, and its last log lines.

use super::App;
use super::extract::Params;
use super::problem::{ApiError, ApiResult};
use crate::command::Batch;
use api::ErrorCode;
use api::cluster::{LogEntry, LogLines, LogPage};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// Entries of one page when the request names no number, and at most.
const ENTRIES_DEFAULT: usize = 50;
const ENTRIES_MAX: usize = 1000;
/// Bytes of entries that one page decodes; a page ends early beyond it.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Log lines of one answer when the request names no number.
const LINES_DEFAULT: usize = 200;

/// The routes.
pub fn routes() -> Router<App> {
    Router::new().route("/api/debug/raft_log", get(raft_log)).route("/api/logs", get(logs))
}

/// Query of `raft_log`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    from: Option<u64>,
    limit: Option<usize>,
}

async fn raft_log(State(app): State<App>, Params(query): Params<LogQuery>) -> ApiResult<Json<LogPage>> {
    let limit = query.limit.unwrap_or(ENTRIES_DEFAULT);
    if !(1..=ENTRIES_MAX).contains(&limit) {
        let why = format!("`limit` is {limit}; must be 1 to {ENTRIES_MAX}");
        return Err(ApiError::new(ErrorCode::Validation, why));
    }
    let view = app.node.view();
    // Without `from`: the newest.
    let newest = (view.last_index + 1).saturating_sub(limit as u64);
    let from = query.from.unwrap_or(newest).max(view.first_index);
    // The log lies on disk.
    let node = app.node.clone();
    let read = tokio::task::spawn_blocking(move || node.log_entries(from, limit).map(decode_page));
    let entries = read
        .await
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("reading the log failed: {e}")))?
        .map_err(|why| ApiError::new(ErrorCode::Unavailable, format!("the log can't be read: {why}")))?;
    Ok(Json(LogPage { first_index: view.first_index, last_index: view.last_index, entries }))
}

fn decode_page(entries: Vec<(u64, u64, &'static str, Vec<u8>)>) -> Vec<LogEntry> {
    let mut bytes = 0;
    let mut page = Vec::with_capacity(entries.len());
    for (index, term, kind, data) in entries {
        bytes += data.len();
        if bytes > PAGE_BYTES && !page.is_empty() {
            break;
        }
        let commands = if kind == "normal" && !data.is_empty() { decode(&data) } else { Vec::new() };
        page.push(LogEntry { index, term, kind: kind.to_owned(), bytes: data.len(), commands });
    }
    page
}

/// The commands of an entry; what can't be decoded is shown as such, it must not hide the rest.
fn decode(data: &[u8]) -> Vec<Value> {
    match Batch::decode(data) {
        Ok(batch) => batch
            .commands
            .iter()
            .map(|command| {
                json!({
                    "command": command.name(),
                    "log_ms": batch.stamp.log_ms,
                    "wall_ms": batch.stamp.wall_ms,
                    "body": serde_json::to_value(command).unwrap_or(Value::Null),
                })
            })
            .collect(),
        Err(error) => vec![json!({"undecodable": error.to_string()})],
    }
}

/// Query of `logs`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LinesQuery {
    since: Option<u64>,
    level: Option<String>,
    limit: Option<usize>,
}

async fn logs(State(app): State<App>, Params(query): Params<LinesQuery>) -> ApiResult<Json<LogLines>> {
    let level = match query.level.as_deref() {
        None => tracing::Level::TRACE,
        Some(name) if name.eq_ignore_ascii_case("warning") => tracing::Level::WARN,
        Some(name) => name.parse().map_err(|_| {
            let why = format!("`level` is `{name}`; must be ERROR, WARN, INFO, DEBUG or TRACE");
            ApiError::new(ErrorCode::Validation, why)
        })?,
    };
    let limit = query.limit.unwrap_or(LINES_DEFAULT);
    let most = crate::telemetry::ring::MAX_LINES;
    if !(1..=most).contains(&limit) {
        return Err(ApiError::new(ErrorCode::Validation, format!("`limit` is {limit}; must be 1 to {most}")));
    }
    Ok(Json(app.logs.read(query.since, level, limit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Stamp};

    #[test]
    fn entries_are_decoded_and_damage_is_shown() {
        let stamp = Stamp { log_ms: 10, wall_ms: 20 };
        let good = Batch::pack(stamp, &[Command::Maintenance { enabled: true, by: None }.encode()]);
        let page = decode_page(vec![
            (5, 2, "normal", good),
            (6, 2, "empty", Vec::new()),
            (7, 2, "normal", vec![99, 1, 2]),
        ]);
        assert_eq!(page[0].commands[0]["command"], "maintenance");
        assert_eq!(page[0].commands[0]["body"]["Maintenance"]["enabled"], true);
        assert_eq!(page[0].commands[0]["log_ms"], 10);
        assert!(page[1].commands.is_empty());
        assert!(page[2].commands[0]["undecodable"].as_str().unwrap().contains("version 99"));
    }

    #[test]
    fn a_page_is_bounded_in_bytes() {
        let entry = |index| (index, 1, "conf_change", vec![0; PAGE_BYTES / 2 + 1]);
        assert_eq!(decode_page((1..5).map(entry).collect()).len(), 1);
    }
}
