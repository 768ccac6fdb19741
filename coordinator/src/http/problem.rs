//! Every error answer: one type, one place where failures become problem documents.
//!
//! Handlers return [`ApiResult`]; whatever fails ends as RFC 9457 `application/problem+json`.
//! What the node says of a proposal or a read is translated by [`of_proposal`] and [`of_read`]:
//! they differ in one point. A write whose outcome is unknown says so (504); a read has no
//! effect, so the same failure is a plain, retryable 503.

use crate::node::NodeError;
use api::{ErrorCode, Problem};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Seconds after which a refused client may come again.
pub const RETRY_AFTER_SECONDS: u64 = 1;

/// Content type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem on its way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ApiError(pub Problem);

/// What handlers return.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A problem of `code`.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        ApiError(Problem::new(code, detail))
    }

    /// The same problem, naming the leader.
    pub fn with_leader(self, leader: Option<String>) -> Self {
        ApiError(self.0.with_leader(leader))
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        ApiError(problem)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A struct of strings and numbers has no failure to serialise.
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        // Tells the layer round the handlers that nothing was done and another node may do it.
        response.extensions_mut().insert(self.0.code);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// What a failed proposal means to the client; `leader` is the leader's address.
pub fn of_proposal(error: &NodeError, leader: Option<String>) -> ApiError {
    let (code, detail) = match error {
        NodeError::NotLeader => (
            ErrorCode::NoLeader,
            "this node stopped leading before it took the request; nothing was done, send it again".to_owned(),
        ),
        NodeError::NoLeader => (
            ErrorCode::NoLeader,
            "no leader is known at the moment; nothing was done, send it again".to_owned(),
        ),
        NodeError::Overloaded => (
            ErrorCode::Overloaded,
            "the leader's queue of proposals is full; nothing was done, send it again later".to_owned(),
        ),
        NodeError::Unavailable { role, why } => {
            (ErrorCode::Unavailable, format!("this node is {role}: {why}; ask another node"))
        }
        NodeError::DiskFull { why } => (
            ErrorCode::DiskFull,
            format!("the disk is at its floor: {why}; nothing was done. Make room, or ask the operator to"),
        ),
        NodeError::OutOfMemory { used_mb, limit_mb } => (
            ErrorCode::Overloaded,
            format!(
                "the leader uses {used_mb} MiB of memory, more than `max_memory_mb` ({limit_mb}); nothing was done, send it again when tasks have ended"
            ),
        ),
        NodeError::ChangePending => (
            ErrorCode::ChangePending,
            "another change of the membership is under way, and only one is taken at a time; nothing was done, send it again when that one is through (GET /api/cluster/members)".to_owned(),
        ),
        NodeError::Impossible(why) => (
            ErrorCode::InvalidState,
            format!("the members as they are don't allow it: {why}; nothing was done"),
        ),
        NodeError::NoSuccessor(why) => (
            ErrorCode::Unavailable,
            format!("nobody is ready to take leadership over: {why}; this node leads on, send it again"),
        ),
        NodeError::UnknownOutcome => (
            ErrorCode::UnknownOutcome,
            "leadership or time ran out in flight: the request may have happened or not; look before you repeat it (with the same task id a submission may be repeated)".to_owned(),
        ),
    };
    ApiError::new(code, detail).with_leader(leader)
}

/// What a failed read means to the client: nothing happened, whatever went wrong.
pub fn of_read(error: &NodeError, leader: Option<String>) -> ApiError {
    match error {
        NodeError::UnknownOutcome | NodeError::NotLeader => ApiError::new(
            ErrorCode::NoLeader,
            "no leader confirmed in time that this read is current; send it again, or ask with ?consistency=local",
        )
        .with_leader(leader),
        other => of_proposal(other, leader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::cluster::Role;

    fn all() -> Vec<NodeError> {
        vec![
            NodeError::NotLeader,
            NodeError::NoLeader,
            NodeError::Overloaded,
            NodeError::Unavailable { role: Role::Failed, why: "its log is damaged".into() },
            NodeError::DiskFull { why: "1 MiB is free".into() },
            NodeError::OutOfMemory { used_mb: 70, limit_mb: 64 },
            NodeError::NoSuccessor("it is 5000 entries behind".into()),
            NodeError::UnknownOutcome,
        ]
    }

    #[test]
    fn only_an_unknown_outcome_is_not_retryable() {
        for error in all() {
            let problem = of_proposal(&error, Some("n2:8080".into())).0;
            assert_eq!(problem.retryable, error != NodeError::UnknownOutcome, "{error:?}");
            assert_eq!(problem.leader.as_deref(), Some("n2:8080"));
        }
    }

    #[test]
    fn a_read_never_has_an_unknown_outcome() {
        for error in all() {
            let problem = of_read(&error, None).0;
            assert_eq!(problem.status, 503, "{error:?}");
            assert!(problem.retryable, "{error:?}");
        }
    }

    #[test]
    fn the_role_and_its_reason_are_named() {
        let problem = of_proposal(&all()[3], None).0;
        assert_eq!(problem.code, ErrorCode::Unavailable);
        assert!(problem.detail.contains("failed: its log is damaged"), "{}", problem.detail);
    }

    #[test]
    fn a_503_says_when_to_come_again() {
        let response = of_proposal(&NodeError::NoLeader, None).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let response = of_proposal(&NodeError::UnknownOutcome, None).into_response();
        assert_eq!(response.status(), 504);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}
