//! Members, leadership, and whether a node can be spared.

use super::App;
use super::extract::{Id, JsonBody, OptionalJson, Params};
use super::problem::{self, ApiError, ApiResult};
use super::read::Freshness;
use crate::access::outbound::PeerError;
use crate::members::checks;
use crate::members::join::{JoinRequest, Terms};
use crate::node::MembershipError;
use crate::raft::founding::{IDENTITY_PATH, IdentityCard};
use crate::raft::routes::of_membership;
use api::ErrorCode;
use api::cluster::{
    AddMember, CanLose, Leadership, Member, MemberChanged, Members, Rejoin, RejoinStarted, Transfer,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use std::time::Duration;

/// How long a node may take to say who it is.
const CARD_LIMIT: Duration = Duration::from_secs(3);

/// What only the leader answers: it alone knows how far the others are.
pub fn of_the_leader() -> Router<App> {
    Router::new()
        .route("/api/cluster/transfer", post(transfer))
        .route("/api/cluster/can_lose", get(can_lose))
        .route("/api/cluster/members", post(add))
        .route("/api/cluster/members/{node_id}", delete(remove))
}

/// What concerns the node asked.
pub fn of_this_node() -> Router<App> {
    Router::new()
        .route("/api/cluster/members", get(members))
        .route("/api/cluster/members/{node_id}", get(member))
        .route("/api/admin/rejoin", post(rejoin))
}

async fn members(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Json<Members>> {
    app.catch_up(query.consistency, query.min_index).await?;
    let joint = app.node.membership().joint();
    let machine_version = app.node.machine().version();
    Ok(Json(Members { members: all_members(&app), joint, machine_version }))
}

async fn member(
    State(app): State<App>,
    Id(node_id): Id,
    Params(query): Params<Freshness>,
) -> ApiResult<Json<Member>> {
    app.catch_up(query.consistency, query.min_index).await?;
    let found = all_members(&app).into_iter().find(|member| member.node_id == node_id);
    found.map(Json).ok_or_else(|| unknown_member(&node_id))
}

fn all_members(app: &App) -> Vec<Member> {
    let leader = app.node.view().leader;
    let standings = app.node.member_standings();
    let name_of = |id: u64| standings.iter().find(|m| m.raft_id == id).map(|m| m.node_id.clone());
    let mut members: Vec<Member> = standings
        .iter()
        .map(|m| Member {
            node_id: m.node_id.clone(),
            address: Some(m.address.clone()),
            voter: m.voter,
            leader: m.voter && leader.as_ref() == Some(&m.node_id),
            reachable: m.reachable,
            last_contact_ms: (m.silent_ms != u64::MAX).then_some(m.silent_ms),
            lag_entries: m.lag_entries,
            takes_place_of: m.replaces.filter(|_| !m.voter).and_then(name_of),
        })
        .collect();
    members.sort_by(|a, b| (!a.voter, &a.node_id).cmp(&(!b.voter, &b.node_id)));
    members
}

/// Takes a node in as a learner; it gets its vote by itself when it has caught up.
async fn add(
    State(app): State<App>,
    JsonBody(body): JsonBody<AddMember>,
) -> ApiResult<(StatusCode, Json<MemberChanged>)> {
    let unasked = |why: String| {
        let detail = format!(
            "the node at {} does not say who it is ({why}): start it with a config whose `peers` name members of this cluster, then ask again",
            body.address
        );
        ApiError::new(ErrorCode::InvalidState, detail)
    };
    let peers = app.node.outbound().map_err(|why| ApiError::new(ErrorCode::Internal, why))?;
    let card = async {
        let answer = peers.get(&body.address, IDENTITY_PATH, Some(CARD_LIMIT)).await?;
        Ok::<_, PeerError>(answer.error_for_status()?.json::<IdentityCard>().await?)
    };
    let card = card.await.map_err(|e| unasked(e.to_string()))?;
    let own_cluster = app.node.cluster_id();
    if let Some(founding) = &card.founding
        && Some(&founding.cluster_id) != own_cluster.as_ref()
    {
        let why = format!(
            "node {} at {} belongs to cluster {}: start it with an empty data directory to let it join this one",
            card.node_id, body.address, founding.cluster_id
        );
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    }
    let before = app.node.membership().changed_index;
    let terms = Terms { replaces: body.replaces, learner: body.learner };
    let taken = app.node.take_in(&JoinRequest::of(&card), &terms).await;
    taken.map_err(|e| of_change(&app, &e))?;
    let after = app.node.membership().changed_index;
    let index = (after != before).then_some(after);
    let status = if index.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(MemberChanged { node_id: card.node_id, index })))
}

/// Takes a member out. A leader that is to go moves its office away first.
async fn remove(State(app): State<App>, Id(node_id): Id) -> ApiResult<Json<MemberChanged>> {
    let index = app.node.take_out(&node_id).await.map_err(|e| of_change(&app, &e))?;
    Ok(Json(MemberChanged { node_id, index: Some(index) }))
}

fn of_change(app: &App, error: &MembershipError) -> ApiError {
    of_membership(error, app.leader_address()).into()
}

/// Lets a failed or removed node begin anew as a new member; about the node asked. It goes on behind
/// the answer.
async fn rejoin(
    State(app): State<App>,
    JsonBody(body): JsonBody<Rejoin>,
) -> ApiResult<(StatusCode, Json<RejoinStarted>)> {
    if body.node_id != app.node.node_id() {
        let why = format!("this is node {}, not {}; nothing was done", app.node.node_id(), body.node_id);
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    }
    let begun = app.node.rejoin("a person let the node join anew");
    let operation = begun.map_err(|e| of_change(&app, &e))?;
    Ok((StatusCode::ACCEPTED, Json(RejoinStarted { node_id: body.node_id, operation })))
}

async fn transfer(
    State(app): State<App>,
    OptionalJson(body): OptionalJson<Transfer>,
) -> ApiResult<Json<Leadership>> {
    if let Some(to) = &body.to {
        let (voters, _) = app.node.members();
        if !voters.contains(to) {
            let why = format!("`{to}` is no voter of this cluster; it has {}", voters.join(", "));
            return Err(ApiError::new(ErrorCode::UnknownMember, why));
        }
    }
    give_up(&app, body.to.as_deref()).await
}

/// Leadership goes to `to`, or to whom the leader finds fittest.
pub(super) async fn give_up(app: &App, to: Option<&str>) -> ApiResult<Json<Leadership>> {
    let (voters, _) = app.node.members();
    if to != Some(app.node.node_id()) {
        if voters.len() < 2 {
            let why = "this cluster has one voter, and nobody else can lead it";
            return Err(ApiError::new(ErrorCode::InvalidState, why));
        }
        app.node.transfer(to).await.map_err(|e| problem::of_proposal(&e, app.leader_address()))?;
    }
    let view = app.node.view();
    Ok(Json(Leadership { leader: view.leader, term: view.term }))
}

/// Query of `can_lose`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct WithoutNode {
    node: String,
}

async fn can_lose(State(app): State<App>, Params(query): Params<WithoutNode>) -> ApiResult<Json<CanLose>> {
    // Whoever believes to lead without leading must not say who can be spared.
    app.catch_up(super::read::Consistency::Linearizable, None).await?;
    let mut verdict = checks::can_lose(&app.node.member_standings(), &query.node)
        .ok_or_else(|| unknown_member(&query.node))?;
    if verdict.can_lose && app.node.membership().joint() {
        verdict.can_lose = false;
        verdict.why = format!("a change of the members is half-way through; {}", verdict.why);
    }
    Ok(Json(verdict))
}

fn unknown_member(node_id: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownMember, format!("`{node_id}` is no member of this cluster"))
}
