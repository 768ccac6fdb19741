//! The paths peers use: who are you, accept this founding, upgrade to frames.

use crate::members::join::{JOIN_PATH, JoinRequest, Terms};
use crate::node::{MembershipError, Node, NodeError};
use crate::raft::founding::{FOUND_PATH, IDENTITY_PATH, IdentityCard};
use crate::raft::identity::Founding;
use crate::raft::snapshots::SNAPSHOT_PATH;
use crate::raft::transport::CONNECT_PATH;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{Response, StatusCode, header};
use axum::routing::{get, post};

/// The router of the peers' paths.
pub fn router(node: Node) -> axum::Router {
    axum::Router::new()
        .route(IDENTITY_PATH, get(identity))
        .route(FOUND_PATH, post(found))
        .route(CONNECT_PATH, get(connect))
        .route(JOIN_PATH, post(join))
        .route(SNAPSHOT_PATH, get(snapshot))
        .with_state(node)
}

async fn identity(State(node): State<Node>) -> Json<IdentityCard> {
    Json(node.identity_card())
}

async fn found(State(node): State<Node>, Json(founding): Json<Founding>) -> Response<Body> {
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

async fn join(State(node): State<Node>, Json(request): Json<JoinRequest>) -> Response<Body> {
    match node.take_in(&request, &Terms::default()).await {
        Ok(welcome) => Response::new(Body::from(serde_json::to_vec(&welcome).unwrap_or_default())),
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

async fn snapshot(State(node): State<Node>, Path(file): Path<String>) -> Response<Body> {
    let missing = || problem(api::ErrorCode::UnknownEndpoint, format!("there is no snapshot `{file}` here"));
    let Some(path) = node.snapshots().path(&file) else { return missing() };
    match tokio::fs::File::open(&path).await {
        Ok(opened) => {
            Response::new(Body::from_stream(tokio_util::io::ReaderStream::with_capacity(opened, 1024 * 1024)))
        }
        Err(_) => missing(),
    }
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
