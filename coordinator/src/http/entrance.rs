//! The one layer round every route: its clock, its id, its guard, the check of the caller, and the way to the leader.
//!
//! It is one layer and not four because of what a layer costs: for every request, axum copies the
//! whole stack of boxed services below it and boxes its future.

use super::{App, access, forward, guard, request_id::Followed, timing, traced};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Round what any node answers itself.
pub async fn of_this_node(State(app): State<App>, request: Request, next: Next) -> Response {
    let work = |app: App, request| async move {
        match guard::check(&app, &request) {
            Ok(()) => access::then(&app.access, request, |request| next.run(request)).await,
            Err(refusal) => refusal.into_response(),
        }
    };
    // What a node answers itself is asked for all the time: it is traced where the caller asks.
    serve(app, request, false, work).await
}

/// Round what only the leader answers.
pub async fn of_the_leader(State(app): State<App>, request: Request, next: Next) -> Response {
    let work = |app: App, request| async move {
        let lead = async |request| {
            forward::to_leader(&app, request, next).await.unwrap_or_else(IntoResponse::into_response)
        };
        match guard::check(&app, &request) {
            Ok(()) => access::then(&app.access, request, lead).await,
            Err(refusal) => refusal.into_response(),
        }
    };
    serve(app, request, true, work).await
}

async fn serve<F>(
    app: App,
    request: Request,
    may_begin: bool,
    work: impl FnOnce(App, Request) -> F,
) -> Response
where
    F: Future<Output = Response>,
{
    let clock = timing::Clock::start(&request);
    let followed = Followed::begin(&request);
    let span = app.telemetry.traces().request(&request, may_begin);
    let served = work(app.clone(), request);
    let response = match (span, followed) {
        (None, Some(followed)) => followed.serve(served).await,
        (None, None) => served.await,
        (Some(span), followed) => Box::pin(traced::serve(span, followed, served)).await,
    };
    clock.stop(&app.telemetry, response.status());
    response
}
