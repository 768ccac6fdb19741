//! Replicated settings: what all nodes keep alike, read and changed.

use super::App;
use super::extract::{JsonBody, Params};
use super::problem::{ApiError, ApiResult};
use super::read::Freshness;
use crate::command::Command;
use crate::machine::{Limits, Machine, SETTINGS};
use api::ErrorCode;
use api::cluster::{SettingRecord, Settings};
use api::unique::Unique;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

/// What only the leader does.
pub fn writes() -> Router<App> {
    Router::new().route("/api/settings", post(change).put(change))
}

/// What every node answers.
pub fn reads() -> Router<App> {
    Router::new().route("/api/settings", get(show))
}

async fn change(
    State(app): State<App>,
    JsonBody(Unique(changes)): JsonBody<Unique<u64>>,
) -> ApiResult<Json<Settings>> {
    // Refused here, what is wrong leaves no trace in the log; the machine checks it again.
    app.node
        .machine()
        .limits()
        .with_changes(&changes)
        .map_err(|faults| ApiError::new(ErrorCode::Validation, faults.join("; ")))?;
    app.propose(Command::ChangeSettings { changes }).await?;
    Ok(Json(settings(&app.node.machine())))
}

async fn show(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Json<Settings>> {
    app.catch_up(query.consistency, query.min_index).await?;
    Ok(Json(settings(&app.node.machine())))
}

fn settings(machine: &Machine) -> Settings {
    let defaults = Limits::default();
    let record = |setting: &crate::machine::Setting| SettingRecord {
        name: setting.name.to_owned(),
        value: setting.value(machine.limits()),
        default: setting.value(&defaults),
        min: setting.min,
        max: setting.max,
        help: setting.help.to_owned(),
    };
    Settings { index: machine.applied_index(), settings: SETTINGS.iter().map(record).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `docs/settings.md` has to say.
    fn page() -> String {
        let mut page = String::from(
            "# Replicated settings\n\nThey stand in the log, are the same on every node and are changed while the cluster runs:\n`coordinator settings set lease_ttl_ms=20000`, or `POST /api/settings` with `{\"lease_ttl_ms\": 20000}`. A change\nis all or nothing, takes effect with its log entry, and is recorded as an event `setting_changed`. A task\nkeeps the defaults with which it was submitted.\n\n| setting | default | least | most | what it is |\n|---|---|---|---|---|\n",
        );
        let defaults = Limits::default();
        for setting in SETTINGS {
            let (name, help) = (setting.name, setting.help);
            page += &format!(
                "| `{name}` | {} | {} | {} | {help} |\n",
                setting.value(&defaults),
                setting.min,
                setting.max
            );
        }
        page
    }

    #[test]
    fn the_page_of_settings_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == page(), "docs/settings.md is not current: run this test with HOLDFAST_WRITE_DOCS=1");
    }
}
