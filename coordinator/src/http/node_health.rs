//! Status, health and report: what this node knows, without asking anybody.

use super::App;
use super::extract::Params;
use super::problem::{ApiError, ApiResult};
use crate::health::{self, Vitals};
use crate::integrity::Part;
use crate::members::steward::{forgotten, forgotten_text};
use api::ErrorCode;
use api::admin::IntegrityCheck;
use api::cluster::{Health, HealthStatus, Operations, PartHealth, Report, Resources, StateChecksum, Status};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/status", get(show_status))
        .route("/api/report", get(show_report))
        .route("/api/health", get(overall))
        .route("/api/health/live", get(live))
        .route("/api/health/ready", get(ready))
        .route("/api/health/db", get(db))
        .route("/api/health/log", get(log))
        .route("/api/health/state_checksum", get(state_checksum))
        .route("/api/health/resources", get(resources))
        .route("/api/health/operations", get(operations))
}

async fn show_status(State(app): State<App>) -> Json<Status> {
    Json(status(&app))
}

async fn show_report(State(app): State<App>) -> Json<Report> {
    Json(report(&app))
}

async fn overall(State(app): State<App>) -> Response {
    verdict(health::overall(&vitals(&app)))
}

async fn live(State(app): State<App>) -> Response {
    verdict(health::live(&vitals(&app)))
}

async fn ready(State(app): State<App>) -> Response {
    verdict(health::ready(&vitals(&app)))
}

fn verdict(health: Health) -> Response {
    let failing = health.status == HealthStatus::Failing;
    let status = if failing { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut response = (status, Json(health)).into_response();
    if failing {
        let seconds = super::problem::RETRY_AFTER_SECONDS.into();
        response.headers_mut().insert(axum::http::header::RETRY_AFTER, seconds);
    }
    response
}

async fn db(State(app): State<App>) -> Json<PartHealth> {
    Json(db_part(&app))
}

async fn log(State(app): State<App>) -> Json<PartHealth> {
    Json(log_part(&app, &vitals(&app)))
}

/// Query of `state_checksum`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ChecksumQuery {
    index: Option<u64>,
}

async fn state_checksum(
    State(app): State<App>,
    Params(query): Params<ChecksumQuery>,
) -> ApiResult<Json<StateChecksum>> {
    let mut present = checksums(&app);
    let Some(index) = query.index.filter(|index| *index != present.applied_index) else {
        return Ok(Json(present));
    };
    let Some(then) = present.checkpoints.iter().find(|c| c.index == index).cloned() else {
        let known: Vec<String> = present.checkpoints.iter().map(|c| c.index.to_string()).collect();
        let why = format!(
            "no checksum is known for index {index}; this node has {} and the checkpoints {}",
            present.applied_index,
            known.join(", ")
        );
        return Err(ApiError::new(ErrorCode::Validation, why));
    };
    present.applied_index = then.index;
    present.checksum = then.checksum;
    present.log_chain = then.log_chain;
    Ok(Json(present))
}

async fn resources(State(app): State<App>) -> Json<Resources> {
    Json(app.sampler.resources())
}

async fn operations(State(app): State<App>) -> Json<Operations> {
    Json(Operations { operations: app.node.operations() })
}

/// `GET /api/status`.
pub fn status(app: &App) -> Status {
    let view = app.node.view();
    let (voters, learners) = app.node.members();
    let (tasks, workers, maintenance, applied_index) = {
        let machine = app.node.machine();
        (machine.task_counts(), machine.worker_counts(), machine.maintenance(), machine.applied_index())
    };
    Status {
        node_id: app.node.node_id().to_owned(),
        cluster_id: app.node.cluster_id(),
        role: view.role,
        role_detail: view.role_detail.clone(),
        leader_address: app.leader_address_of(&view),
        current_leader: view.leader,
        term: view.term,
        commit_index: view.commit_index,
        applied_index,
        first_log_index: view.first_index,
        last_log_index: view.last_index,
        snapshot_index: view.snapshot_index,
        voters,
        learners,
        peers: app.node.peers(),
        tasks,
        workers,
        maintenance,
        uptime_seconds: app.started_at.elapsed().as_secs_f64(),
        version: api::VERSION.to_owned(),
        pid: std::process::id(),
        boot_nonce: app.node.boot_nonce().to_owned(),
        leader_changes: view.leader_changes,
        elections: Some(app.telemetry.elections()),
        forced_handovers: app.telemetry.forced_handovers(),
        warnings: forgotten(&app.live.config(), &app.node.member_standings())
            .iter()
            .map(|m| forgotten_text(m))
            .collect(),
    }
}

/// `GET /api/report`.
pub fn report(app: &App) -> Report {
    let vitals = vitals(app);
    Report {
        now: Timestamp::now(),
        status: status(app),
        health: health::overall(&vitals),
        db: vitals.db.clone(),
        log: log_part(app, &vitals),
        state_checksum: checksums(app),
        resources: app.sampler.resources(),
        operations: Operations { operations: app.node.operations() },
        progress: vitals.progress,
        totals: app.telemetry.totals(),
        performance: app.telemetry.performance(),
        config: app.live.standing(),
        config_differs: config_differs(app),
    }
}

fn checksums(app: &App) -> StateChecksum {
    let present = app.node.machine().state_checksum();
    StateChecksum { integrity: app.integrity.last(Part::Machine), ..present }
}

fn db_part(app: &App) -> PartHealth {
    let mut part = with_integrity(health::db_part(&app.store.health()), app.integrity.last(Part::Db));
    part.details.insert("history_wanted".to_owned(), app.store.history_wanted().into());
    part.details.insert("mending_given_up".to_owned(), app.mender.db_attempts().given_up().into());
    part
}

fn log_part(app: &App, vitals: &Vitals) -> PartHealth {
    with_integrity(health::log(vitals), app.integrity.last(Part::Log))
}

/// A part is healthy where it works and its last check found nothing.
fn with_integrity(mut part: PartHealth, check: Option<IntegrityCheck>) -> PartHealth {
    part.healthy &= check.as_ref().is_none_or(|check| check.sound);
    part.details.insert("integrity".to_owned(), serde_json::to_value(check).unwrap_or_default());
    part
}

fn findings(app: &App) -> Vec<String> {
    let damaged = |part: Part| app.integrity.last(part).filter(|check| !check.sound);
    let found = Part::ALL.into_iter().filter_map(damaged);
    found.map(|check| format!("{}: {}", check.part, check.detail)).collect()
}

pub(crate) fn vitals(app: &App) -> Vitals {
    Vitals {
        view: app.node.view(),
        applied_index: app.node.applied_index(),
        progress: app.node.progress(),
        raft_still_ms: app.sampler.raft_still_ms(),
        db: db_part(app),
        findings: findings(app),
        resources: app.sampler.resources(),
        max_memory_bytes: app.live.config().max_memory_mb * 1024 * 1024,
        disk_level: app.node.room().disk(),
        clock_offsets_ms: app
            .node
            .peers()
            .into_iter()
            .filter_map(|peer| Some((peer.node_id, peer.clock_offset_ms?)))
            .collect(),
    }
}

fn config_differs(app: &App) -> Vec<String> {
    if app.node.cluster_id().is_none() || !app.config.enable_redundancy {
        return Vec::new();
    }
    let (voters, learners) = app.node.members();
    let members: BTreeMap<String, Option<String>> = voters
        .into_iter()
        .chain(learners)
        .filter(|id| id != app.node.node_id())
        .map(|id| (id.clone(), app.node.address_of(&id)))
        .collect();
    let config = app.live.config();
    let configured: Vec<(Option<&str>, String)> =
        config.peers.iter().map(|peer| (peer.id.as_deref(), peer.address())).collect();
    differences(app.node.node_id(), &config.address(), &configured, &members)
}

/// PURE. Peers of the config that are no members, and members that the config does not name.
///
/// A peer that is configured without an id is known by its address.
fn differences(
    own_id: &str,
    own_address: &str,
    configured: &[(Option<&str>, String)],
    members: &BTreeMap<String, Option<String>>,
) -> Vec<String> {
    let is = |(id, address): &(Option<&str>, String), member: &str, at: &Option<String>| match id {
        Some(id) => *id == member,
        None => Some(address) == at.as_ref(),
    };
    let mut found = Vec::new();
    for peer in configured {
        let own = peer.0.map_or(peer.1 == own_address, |id| id == own_id);
        if !own && !members.iter().any(|(member, at)| is(peer, member, at)) {
            found.push(format!("{} is configured but no member", peer.0.unwrap_or(&peer.1)));
        }
    }
    for (member, at) in members {
        if !configured.iter().any(|peer| is(peer, member, at)) {
            found.push(format!("{member} is a member but not configured"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(configured: &[(Option<&str>, &str)], members: &[(&str, &str)]) -> Vec<String> {
        let configured: Vec<_> = configured.iter().map(|(id, at)| (*id, (*at).to_owned())).collect();
        let members = members.iter().map(|(id, at)| ((*id).to_owned(), Some((*at).to_owned()))).collect();
        differences("n1", "h1:8080", &configured, &members)
    }

    #[test]
    fn a_config_that_fits_differs_in_nothing() {
        let members = [("n2", "h2:8080"), ("n3", "h3:8080")];
        assert!(found(&[(Some("n2"), "h2:8080"), (None, "h3:8080")], &members).is_empty());
        // The list may name the node itself.
        assert!(found(&[(None, "h1:8080"), (Some("n2"), "x:1"), (None, "h3:8080")], &members).is_empty());
    }

    #[test]
    fn differences_are_named_both_ways() {
        let found = found(
            &[(Some("n2"), "h2:8080"), (Some("n4"), "h4:8080")],
            &[("n2", "h2:8080"), ("n3", "h3:8080")],
        );
        assert_eq!(found, ["n4 is configured but no member", "n3 is a member but not configured"]);
    }
}
