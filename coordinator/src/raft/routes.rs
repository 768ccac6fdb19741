//! The paths peers use: who are you, accept this founding, upgrade to frames.

use crate::http::extract::{Id, JsonBody, Params};
use crate::members::join::{JOIN_PATH, JoinRequest, Terms};
use crate::node::{MembershipError, Node, NodeError};
use crate::raft::force_sync::{SNAPSHOT_LIMIT, SNAPSHOT_NOW_PATH};
use crate::raft::founding::{FOUND_PATH, IDENTITY_PATH, IdentityCard};
use crate::raft::identity::Founding;
use crate::raft::peer_http::HASH_HEADER;
use crate::raft::snapshots::SNAPSHOT_PATH;
use crate::raft::transport::CONNECT_PATH;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;

/// The router of the peers' paths.
pub fn router(node: Node) -> axum::Router {
    axum::Router::new()
        .route(IDENTITY_PATH, get(identity))
        .route(FOUND_PATH, post(found))
        .route(CONNECT_PATH, get(connect))
        .route(JOIN_PATH, post(join))
        .route(SNAPSHOT_PATH, get(snapshot))
        .route(SNAPSHOT_NOW_PATH, post(snapshot_now))
        .with_state(node)
}

async fn identity(State(node): State<Node>) -> Json<IdentityCard> {
    Json(node.identity_card())
}

async fn found(State(node): State<Node>, JsonBody(founding): JsonBody<Founding>) -> Response<Body> {
    // Accepting syncs two files.
    let accepted = tokio::task::spawn_blocking(move || node.accept_founding(&founding)).await;
    match accepted {
        Ok(Ok(())) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(Err(why)) => problem(api::ErrorCode::InvalidState, why),
        Err(e) => problem(api::ErrorCode::Internal, e.to_string()),
    }
}

async fn join(State(node): State<Node>, JsonBody(request): JsonBody<JoinRequest>) -> Response<Body> {
    match node.take_in(&request, &Terms::default()).await {
        Ok(welcome) => Json(welcome).into_response(),
        Err(error) => {
            let leader = node.view().leader.and_then(|id| node.address_of(&id));
            answer(of_membership(&error, leader))
        }
    }
}

/// What a refused change of the members means to whoever asked.
pub fn of_membership(error: &MembershipError, leader: Option<String>) -> api::Problem {
    let (code, detail) = match error {
        MembershipError::Node(NodeError::NotLeader) => {
            (api::ErrorCode::NoLeader, "this node does not lead; nothing was done, ask the leader".to_owned())
        }
        MembershipError::Node(error) => return crate::http::problem::of_proposal(error, leader).0,
        MembershipError::Refused(why) => (api::ErrorCode::InvalidState, why.clone()),
        MembershipError::NotYet(why) => (api::ErrorCode::ChangePending, why.clone()),
        MembershipError::Unknown(_) => (api::ErrorCode::UnknownMember, error.to_string()),
    };
    api::Problem::new(code, detail).with_leader(leader)
}

async fn connect(State(node): State<Node>, request: Request) -> Response<Body> {
    match node.transport() {
        Some(transport) => transport.accept(request),
        None => problem(api::ErrorCode::Unavailable, "Raft does not run on this node yet".into()),
    }
}

/// A peer that has to replace its state asks for one of this moment.
async fn snapshot_now(State(node): State<Node>) -> Response<Body> {
    match node.snapshot_now(SNAPSHOT_LIMIT).await {
        Ok(name) => Json(name).into_response(),
        Err(why) => problem(api::ErrorCode::Unavailable, why),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunkQuery {
    #[serde(default)]
    from: u64,
}

async fn snapshot(
    State(node): State<Node>,
    Id(file): Id,
    Params(query): Params<ChunkQuery>,
) -> Response<Body> {
    let snapshots = node.snapshots().clone();
    let name = file.clone();
    let read = tokio::task::spawn_blocking(move || snapshots.chunk(&name, query.from)).await;
    match read {
        Ok(Ok((bytes, length))) if query.from < length => hashed(bytes),
        Ok(Ok((_, length))) => problem(
            api::ErrorCode::Validation,
            format!("`from` is {}; the snapshot `{file}` has {length} bytes", query.from),
        ),
        _ => problem(api::ErrorCode::UnknownEndpoint, format!("there is no snapshot `{file}` here")),
    }
}

/// Bytes with their hash beside them.
fn hashed(bytes: Vec<u8>) -> Response<Body> {
    let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes));
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    if let Ok(value) = header::HeaderValue::from_str(&hash) {
        headers.insert(HASH_HEADER, value);
    }
    response
}

fn problem(code: api::ErrorCode, why: String) -> Response<Body> {
    answer(api::Problem::new(code, why))
}

fn answer(problem: api::Problem) -> Response<Body> {
    let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    response
}
