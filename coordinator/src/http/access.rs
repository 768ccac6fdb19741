//! The check before every handler: who calls, and does the [table](super::table) allow it.
//!
//! It stands round the whole router, before forwarding: a follower refuses what the leader would
//! refuse. The leader checks again, since nobody's word is taken for the caller's.

use super::problem::ApiError;
use super::table::{Allowed, Found, VIEW, table};
use crate::access::peers::{ANSWER_PROOF, CHALLENGE, PROOF};
use crate::access::{Access, Caller};
use crate::raft::handshake::HANDSHAKE;
use api::ErrorCode;
use api::access::Role;
use axum::RequestExt;
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::future::Future;

/// Marks a connection whose other end showed a certificate of the cluster's authority.
#[derive(Debug, Clone, Copy)]
pub struct CertifiedPeer;

/// The middleware.
pub async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    then(&access, request, |request| next.run(request)).await
}

/// Serves the request if its caller may have it; otherwise says why not.
pub async fn then<F>(access: &Access, mut request: Request, serve: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    match admit(access, &mut request).await {
        Ok(answer_proof) => {
            let mut response = serve(request).await;
            if let Some(value) = answer_proof.and_then(|proof| HeaderValue::from_str(&proof).ok()) {
                response.headers_mut().insert(ANSWER_PROOF, value);
            }
            response
        }
        Err(refusal) => *refusal,
    }
}

/// The check before the Prometheus endpoint: a token of one that may look, where tokens are asked for.
pub async fn check_scrape(State(access): State<Access>, request: Request, next: Next) -> Response {
    match by_token(&access, request.headers()) {
        Ok(caller) if VIEW.allows(caller.role) => next.run(request).await,
        Ok(caller) => {
            let why = format!("{} is {} and may not read the metrics", caller.subject, caller.role);
            *refuse(ErrorCode::Forbidden, why)
        }
        Err(refusal) => *refusal,
    }
}

/// Puts its caller into the request. Gives what the answer has to prove; or the refusal.
async fn admit(access: &Access, request: &mut Request) -> Result<Option<String>, Box<Response>> {
    let Some(path) = request.extensions().get::<MatchedPath>() else {
        return Ok(None); // no route: the router says so
    };
    let row = match table().find(request.method().as_str(), path.as_str()) {
        Found::Row(row) => row,
        Found::NoSuchMethod(methods) => return Err(Box::new(no_such_method(request, &methods))),
        Found::NoSuchPath => {
            tracing::error!(
                path = path.as_str(),
                "a route has no row in the table of access and is not served"
            );
            let why = format!("{} has no row in the table of access, a fault of this version", path.as_str());
            return Err(refuse(ErrorCode::Internal, why));
        }
    };
    let mut answer_proof = None;
    let caller = match row.allowed {
        Allowed::Anybody => Caller::anybody(),
        // Boxed: every request carries the room for what it may have to wait for.
        Allowed::Peers => Box::pin(peer(access, request, &mut answer_proof)).await?,
        Allowed::Roles(_) if request.headers().contains_key(PROOF) && !access.peers_are_open() => {
            Box::pin(peer(access, request, &mut answer_proof)).await?
        }
        Allowed::Roles(_) => by_token(access, request.headers())?,
    };
    if !row.allowed.allows(caller.role) {
        let why = format!("{} is {} and may not {} {}", caller.subject, caller.role, row.method, row.path);
        return Err(refuse(ErrorCode::Forbidden, why));
    }
    if row.path.starts_with("/api/workers/{id}") {
        Box::pin(is_own_worker(request, &caller)).await?;
    }
    request.extensions_mut().insert(caller);
    Ok(answer_proof)
}

/// Who the token names; anybody where no token is asked for.
fn by_token(access: &Access, headers: &HeaderMap) -> Result<Caller, Box<Response>> {
    let Some(tokens) = access.tokens() else { return Ok(Caller::anybody()) };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let why = "this cluster asks for a token: send `Authorization: Bearer …` (POST /api/auth/login or `coordinator token` give one)";
        return Err(unauthorized(access, why.to_owned()));
    };
    let token = value.to_str().ok().and_then(|v| {
        let (scheme, token) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let Some(token) = token else {
        return Err(unauthorized(access, "the Authorization header is not `Bearer …`".to_owned()));
    };
    tokens.read(token).map_err(|e| unauthorized(access, e.to_string()))
}

/// A peer that has proved itself as this node asks for it.
async fn peer(
    access: &Access,
    request: &mut Request,
    answer_proof: &mut Option<String>,
) -> Result<Caller, Box<Response>> {
    if access.wants_certificates() && request.extensions().get::<CertifiedPeer>().is_none() {
        let why = "only nodes may call this: show a certificate that `ca_path` has signed";
        return Err(refuse(ErrorCode::Unauthorized, why.to_owned()));
    }
    let Some(secret) = access.secret() else { return Ok(Caller::peer()) };
    let Some(header) = request.headers().get(PROOF).and_then(|v| v.to_str().ok()) else {
        return Err(challenge(
            access,
            "only nodes may call this, and they prove that they know the cluster secret",
        ));
    };
    let header = header.to_owned();
    let body = std::mem::take(request.body_mut());
    let read = super::extract::read_whole(request.headers(), body).await;
    let bytes = read.map_err(|e| Box::new(e.into_response()))?;
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let hello = request.headers().get(HANDSHAKE).map_or(&b""[..], |v| v.as_bytes());
    match secret.verify(&header, request.method().as_str(), path, &[&bytes, hello]) {
        Ok(proof) => {
            *request.body_mut() = Body::from(bytes);
            *answer_proof = Some(proof);
            Ok(Caller::peer())
        }
        Err(why) => Err(challenge(access, why)),
    }
}

/// A worker's token is good for its own worker only.
async fn is_own_worker(request: &mut Request, caller: &Caller) -> Result<(), Box<Response>> {
    if caller.worker_id.is_none() {
        return Ok(());
    }
    let params = request.extract_parts::<RawPathParams>().await;
    let named = params.ok().and_then(|p| p.iter().find(|(key, _)| *key == "id").map(|(_, id)| id.to_owned()));
    match named {
        Some(id) if caller.may_be(&id) => Ok(()),
        _ => Err(Box::new(not_yours(caller).into_response())),
    }
}

/// The refusal of a worker that speaks for another.
pub fn not_yours(caller: &Caller) -> ApiError {
    let own = caller.worker_id.as_deref().unwrap_or("?");
    ApiError::new(ErrorCode::Forbidden, format!("this token is for the worker `{own}` only"))
}

fn no_such_method(request: &Request, methods: &[&'static str]) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let why = format!("{path} does not take {method}, only {}", methods.join(", "));
    let mut response = ApiError::new(ErrorCode::MethodNotAllowed, why).into_response();
    // Whoever may read may ask for the head alone.
    let head = methods.contains(&"GET").then_some("HEAD");
    let allow: Vec<&str> = methods.iter().copied().chain(head).collect();
    if let Ok(allow) = HeaderValue::from_str(&allow.join(",")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn refuse(code: ErrorCode, why: String) -> Box<Response> {
    Box::new(ApiError::new(code, why).into_response())
}

fn unauthorized(access: &Access, why: String) -> Box<Response> {
    let mut response = challenge(access, &why);
    let asks = HeaderValue::from_static("Bearer realm=\"holdfast\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, asks);
    response
}

fn challenge(access: &Access, why: &str) -> Box<Response> {
    let mut response = ApiError::new(ErrorCode::Unauthorized, why).into_response();
    let fresh = access.secret().and_then(|secret| secret.challenge().ok());
    if let Some(value) = fresh.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(CHALLENGE, value);
    }
    Box::new(response)
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(|| {
            ApiError::new(
                ErrorCode::Internal,
                "the request reached its handler without a check of its caller",
            )
        })
    }
}

impl Caller {
    /// Refuses one that speaks for another worker.
    pub fn speaks_for(&self, worker_id: &str) -> Result<(), ApiError> {
        if self.may_be(worker_id) { Ok(()) } else { Err(not_yours(self)) }
    }

    /// True for another node.
    pub fn is_node(&self) -> bool {
        self.role == Role::Node
    }
}
