//! `POST /api/auth/login`: a token for a name and its password.

use super::extract::JsonBody;
use super::problem::{ApiError, ApiResult};
use super::{App, fresh_id};
use crate::access::login::LoginError;
use crate::access::token;
use api::ErrorCode;
use api::access::{LoggedIn, Login};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};

/// The routes.
pub fn routes() -> Router<App> {
    Router::new().route("/api/auth/login", post(login))
}

async fn login(State(app): State<App>, JsonBody(body): JsonBody<Login>) -> ApiResult<Response> {
    let (Some(tokens), Some(logins)) = (app.access.tokens(), app.access.logins()) else {
        let why = "this node asks nobody to log in: `enable_auth` is not set";
        return Err(ApiError::new(ErrorCode::InvalidState, why));
    };
    let caller = match logins.login(&body.username, body.password).await {
        Ok(caller) => caller,
        Err(error) => {
            tracing::warn!(username = %printable(&body.username), %error, "a login was refused");
            return Ok(refused(&error));
        }
    };
    let (token, until_s) = tokens
        .issue(&caller, token::LOGIN_LIFE, token::now_s(), fresh_id())
        .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    tracing::info!(username = %caller.subject, role = %caller.role, "logged in");
    let expires_at = jiff::Timestamp::from_second(until_s.cast_signed())
        .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    Ok(Json(LoggedIn { token, role: caller.role, expires_at }).into_response())
}

fn refused(error: &LoginError) -> Response {
    let code = match error {
        LoginError::Wrong => ErrorCode::Unauthorized,
        LoginError::Paused { .. } => ErrorCode::RateLimited,
        LoginError::Busy => ErrorCode::Overloaded,
    };
    let mut response = ApiError::new(code, error.to_string()).into_response();
    if let LoginError::Paused { wait, .. } = error {
        let seconds = wait.as_secs().max(1);
        response.headers_mut().insert(axum::http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A name as a log line may have it.
fn printable(name: &str) -> String {
    name.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}
