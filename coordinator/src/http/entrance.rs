//! The one layer round every route: its clock, its guard, and the way to the leader.
//!
//! It is one layer and not three because of what a layer costs: for every request, axum copies the
//! whole stack of boxed services below it and boxes its future.

use super::problem::ApiResult;
use super::{App, forward, guard, timing};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Round what any node answers itself.
pub async fn of_this_node(State(app): State<App>, request: Request, next: Next) -> Response {
    let clock = timing::Clock::start(&request);
    let answer = match guard::check(&app, &request) {
        Ok(()) => Ok(next.run(request).await),
        Err(refusal) => Err(refusal),
    };
    finish(&app, &clock, answer)
}

/// Round what only the leader answers.
pub async fn of_the_leader(State(app): State<App>, request: Request, next: Next) -> Response {
    let clock = timing::Clock::start(&request);
    let answer = match guard::check(&app, &request) {
        Ok(()) => forward::to_leader(&app, request, next).await,
        Err(refusal) => Err(refusal),
    };
    finish(&app, &clock, answer)
}

fn finish(app: &App, clock: &timing::Clock, answer: ApiResult<Response>) -> Response {
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    clock.stop(&app.telemetry, response.status());
    response
}
