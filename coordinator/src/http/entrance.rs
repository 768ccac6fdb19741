//! The one layer round every route: its clock, its id, its guard, and the way to the leader.
//!
//! It is one layer and not four because of what a layer costs: for every request, axum copies the
//! whole stack of boxed services below it and boxes its future.

use super::{App, forward, guard, request_id, timing};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Round what any node answers itself.
pub async fn of_this_node(State(app): State<App>, request: Request, next: Next) -> Response {
    let clock = timing::Clock::start(&request);
    let response = request_id::identify(request, async |request| match guard::check(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    });
    clock.stop(&app.telemetry, response.await)
}

/// Round what only the leader answers.
pub async fn of_the_leader(State(app): State<App>, request: Request, next: Next) -> Response {
    let clock = timing::Clock::start(&request);
    let response = request_id::identify(request, async |request| match guard::check(&app, &request) {
        Ok(()) => forward::to_leader(&app, request, next).await.unwrap_or_else(IntoResponse::into_response),
        Err(refusal) => refusal.into_response(),
    });
    clock.stop(&app.telemetry, response.await)
}
