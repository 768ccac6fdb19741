//! Errors as RFC 9457 problem documents.
//!
//! A client decides by `code` and `retryable`, a person reads `title` and `detail`. `retryable`
//! means: the request had no effect, and the same request may succeed later. An unknown outcome
//! is therefore *not* retryable in general; it is safe to repeat only with the same task id.

use serde::{Deserialize, Serialize};

/// Why a request was refused. The JSON form is snake_case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// A field has a wrong type or value. 422.
    Validation,
    /// The body is not JSON. 400.
    MalformedJson,
    /// A POST came without `content-type: application/json`. 415.
    UnsupportedMediaType,
    /// The body is above the limit. 413.
    BodyTooLarge,
    /// The path is none of ours. 404.
    UnknownEndpoint,
    /// The method does not fit the path. 405.
    MethodNotAllowed,
    /// No task has this id. 404.
    UnknownTask,
    /// No worker has this id; it has to register again. 404.
    UnknownWorker,
    /// No member has this node id. 404.
    UnknownMember,
    /// The task id is taken by a task with another body. 409.
    TaskIdTaken,
    /// The fencing token is not that of the task's present lease. 409.
    StaleToken,
    /// The state of the thing forbids the request. 409.
    InvalidState,
    /// The named lease is held by another. 409.
    LeaseHeld,
    /// The fencing epoch is older than one already seen. 409.
    StaleEpoch,
    /// The request comes from a page or a host name that is not ours. 403.
    ForbiddenOrigin,
    /// No new tasks are accepted: maintenance mode. 503.
    Maintenance,
    /// No leader is known; nothing was done. 503.
    NoLeader,
    /// A queue is full; nothing was done. 503.
    Overloaded,
    /// The node's role or state does not let it serve this; nothing was done. 503.
    Unavailable,
    /// The node's disk is at its floor; nothing was done. 503.
    DiskFull,
    /// Leadership or time ran out in flight: it may have happened or not. 504.
    UnknownOutcome,
    /// The body did not arrive in time. 408.
    RequestTimeout,
    /// This version does not have it. 501.
    NotImplemented,
    /// A fault of ours. 500.
    Internal,
    /// The credentials are missing or wrong. 401.
    Unauthorized,
    /// The caller's role does not allow this. 403.
    Forbidden,
    /// Too many failed logins; later again. 429.
    RateLimited,
    /// The Idempotency-Key was used for another request. 422.
    IdempotencyKeyReused,
    /// Another change of the membership is under way; nothing was done. 409.
    ChangePending,
    /// No open fault or audit record has this id. 404.
    UnknownFault,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        use ErrorCode::*;
        match self {
            MalformedJson => 400,
            Unauthorized => 401,
            ForbiddenOrigin | Forbidden => 403,
            UnknownEndpoint | UnknownTask | UnknownWorker | UnknownMember | UnknownFault => 404,
            MethodNotAllowed => 405,
            TaskIdTaken | StaleToken | InvalidState | LeaseHeld | StaleEpoch | ChangePending => 409,
            RequestTimeout => 408,
            BodyTooLarge => 413,
            UnsupportedMediaType => 415,
            Validation | IdempotencyKeyReused => 422,
            RateLimited => 429,
            Internal => 500,
            NotImplemented => 501,
            Maintenance | NoLeader | Overloaded | Unavailable | DiskFull => 503,
            UnknownOutcome => 504,
        }
    }

    /// True where the request had no effect and may succeed later as it stands.
    pub const fn retryable(self) -> bool {
        use ErrorCode::*;
        matches!(self, Maintenance | NoLeader | Overloaded | Unavailable | DiskFull | ChangePending)
    }

    /// A short title for people.
    pub const fn title(self) -> &'static str {
        use ErrorCode::*;
        match self {
            Validation => "A field is not valid",
            MalformedJson => "The body is not valid JSON",
            UnsupportedMediaType => "The content type must be application/json",
            BodyTooLarge => "The body is too large",
            UnknownEndpoint => "No such endpoint",
            MethodNotAllowed => "The endpoint does not take this method",
            UnknownTask => "No such task",
            UnknownWorker => "No such worker",
            UnknownMember => "No such member",
            TaskIdTaken => "The task id is taken by another task",
            StaleToken => "The fencing token is stale",
            InvalidState => "The present state forbids this",
            LeaseHeld => "The lease is held by another",
            StaleEpoch => "The fencing epoch is stale",
            ForbiddenOrigin => "The request's host or origin is not allowed",
            Forbidden => "The caller's role does not allow this",
            RateLimited => "Too many failed logins",
            Maintenance => "The cluster is in maintenance mode",
            NoLeader => "No leader is known",
            Overloaded => "A queue is full",
            Unavailable => "The node can't serve this now",
            DiskFull => "The disk is full",
            UnknownOutcome => "The outcome is unknown",
            RequestTimeout => "The request did not arrive in time",
            NotImplemented => "Not available in this version",
            Internal => "Internal error",
            Unauthorized => "The credentials are missing or wrong",
            IdempotencyKeyReused => "The Idempotency-Key belongs to another request",
            UnknownFault => "No such fault",
            ChangePending => "Another change of the membership is under way",
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The serde name is the public one; Debug is CamelCase.
        let name = serde_json::to_value(self).ok();
        f.write_str(name.as_ref().and_then(|v| v.as_str()).unwrap_or("internal"))
    }
}

/// An RFC 9457 problem document (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` is the machine-readable type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What went wrong, the same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time: which thing, which value, what to do.
    pub detail: String,
    /// The machine-readable reason.
    pub code: ErrorCode,
    /// True where the request had no effect and may be repeated as it stands.
    pub retryable: bool,
    /// Address (`host:port`) of the leader, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

impl Problem {
    /// A problem of `code` with its own detail.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Problem {
            kind: "about:blank".into(),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            code,
            retryable: code.retryable(),
            leader: None,
        }
    }

    /// The same problem, naming the leader's address.
    pub fn with_leader(mut self, leader: Option<String>) -> Self {
        self.leader = leader;
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.title, self.detail, self.code)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_wire() {
        let problem = Problem::new(ErrorCode::StaleToken, "task a: token 3, present lease has 4");
        let json = serde_json::to_string(&problem).unwrap();
        assert!(json.contains(r#""code":"stale_token""#), "{json}");
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem);
    }

    #[test]
    fn only_what_had_no_effect_is_retryable() {
        assert!(ErrorCode::NoLeader.retryable());
        assert!(!ErrorCode::UnknownOutcome.retryable());
        assert_eq!(ErrorCode::UnknownOutcome.to_string(), "unknown_outcome");
    }
}
