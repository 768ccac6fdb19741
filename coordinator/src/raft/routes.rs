//! The paths peers use: who are you, accept this founding, upgrade to frames.

use crate::node::Node;
use crate::raft::founding::{FOUND_PATH, IDENTITY_PATH, IdentityCard};
use crate::raft::identity::Founding;
use crate::raft::transport::CONNECT_PATH;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::routing::{get, post};

/// The router of the peers' paths.
pub fn router(node: Node) -> axum::Router {
    axum::Router::new()
        .route(IDENTITY_PATH, get(identity))
        .route(FOUND_PATH, post(found))
        .route(CONNECT_PATH, get(connect))
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

async fn connect(State(node): State<Node>, request: Request) -> Response<Body> {
    match node.transport() {
        Some(transport) => transport.accept(request),
        None => problem(api::ErrorCode::Unavailable, "Raft does not run on this node yet".into()),
    }
}

fn problem(code: api::ErrorCode, why: String) -> Response<Body> {
    let problem = api::Problem::new(code, why);
    let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    response
}
