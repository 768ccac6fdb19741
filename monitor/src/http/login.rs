//! The door: the login page, sessions, and the check before every other route.

use super::problem;
use crate::access::{guard, session_of};
use crate::pages;
use crate::service::Shared;
use api::{ErrorCode, Problem};
use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::sync::Arc;

/// The largest form, bytes.
const MAX_FORM_BYTES: usize = 16 * 1024;

/// The routes.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/login", get(show).post(log_in))
        .route("/logout", post(log_out))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
}

/// The login page, drawn.
fn page(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => problem(Problem::new(ErrorCode::Internal, format!("the page can't be drawn: {error}"))),
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Looks at every request before its route does.
pub(super) async fn check(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = text_of(headers, header::HOST).or_else(|| request.uri().authority().map(|a| a.as_str()));
    // An Origin that is no text is none of ours.
    let origin = headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or("unreadable"));
    // Programs don't tell their user's languages.
    let by_browser = headers.contains_key(header::ACCEPT_LANGUAGE) || headers.contains_key(header::COOKIE);
    let asked = guard::Asked { host, origin, by_browser };
    if let Some(why) = guard::refusal(asked, shared.gate.own_hosts()) {
        return problem(Problem::new(ErrorCode::ForbiddenOrigin, why));
    }
    let path = request.uri().path();
    if path == "/login" || path.starts_with("/static/") {
        return next.run(request).await;
    }
    let session = text_of(headers, header::COOKIE).and_then(session_of);
    let bearer = text_of(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    if shared.gate.admits(session, bearer) {
        return next.run(request).await;
    }
    let wants_page = request.method() == Method::GET
        && text_of(headers, header::ACCEPT).is_some_and(|accepted| accepted.contains("text/html"));
    if wants_page {
        let place = request.uri().path_and_query().map_or("/", |place| place.as_str());
        return Redirect::to(&format!("/login?next={}", pages::escape_path(place))).into_response();
    }
    let why = "log in at /login, or send `Authorization: Bearer` with the token of `access_token_file`";
    let mut refused = problem(Problem::new(ErrorCode::Unauthorized, why));
    let scheme = header::HeaderValue::from_static("Bearer");
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    refused
}

#[derive(Debug, Deserialize)]
struct Place {
    next: Option<String>,
}

async fn show(State(shared): State<Arc<Shared>>, Query(place): Query<Place>) -> Response {
    let next = guard::local_path(place.next.as_deref().unwrap_or("/"));
    if shared.gate.is_open() {
        return Redirect::to(next).into_response();
    }
    page(StatusCode::OK, &pages::login_page(shared.interval, next, None))
}

#[derive(Deserialize)]
struct LoginForm {
    username: String,
    password: String,
    #[serde(default)]
    next: String,
}

async fn log_in(State(shared): State<Arc<Shared>>, Form(form): Form<LoginForm>) -> Response {
    let next = guard::local_path(&form.next);
    match shared.gate.log_in(&form.username, form.password).await {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response(),
        Err(error) => {
            let why = error.to_string();
            tracing::warn!(username = crate::report::shorten(&form.username, 60), why, "a login failed");
            page(StatusCode::UNAUTHORIZED, &pages::login_page(shared.interval, next, Some(why)))
        }
    }
}

async fn log_out(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let cookie = shared.gate.log_out(text_of(&headers, header::COOKIE).and_then(session_of));
    ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}
