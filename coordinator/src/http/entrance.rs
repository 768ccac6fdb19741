//! The one layer round every route: its clock, its id, its guard, the check of the caller, and the way to the leader.
//!
//! It is one layer and not four because of what a layer costs: for every request, axum copies the
//! whole stack of boxed services below it and boxes its future. What is done inside stands in a box
//! of its own: a future that is handed from one function to the next is copied whole each time, with
//! the room for everything it may ever have to wait for.

use super::{App, access, forward, guard, request_id::Followed, timing, traced};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Round what any node answers itself.
pub async fn of_this_node(State(app): State<App>, request: Request, next: Next) -> Response {
    // What a node answers itself is asked for all the time: it is traced where the caller asks.
    let passage = Passage::begin(&app, &request, false);
    passage.serve(&app, Box::pin(here(&app, request, next))).await
}

/// Round what only the leader answers.
pub async fn of_the_leader(State(app): State<App>, request: Request, next: Next) -> Response {
    let passage = Passage::begin(&app, &request, true);
    passage.serve(&app, Box::pin(there(&app, request, next))).await
}

async fn here(app: &App, request: Request, next: Next) -> Response {
    match guard::check(app, &request) {
        Ok(()) => access::then(&app.access, request, |request| next.run(request)).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn there(app: &App, request: Request, next: Next) -> Response {
    let lead = async |request| {
        forward::to_leader(app, request, next).await.unwrap_or_else(IntoResponse::into_response)
    };
    match guard::check(app, &request) {
        Ok(()) => access::then(&app.access, request, lead).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// What goes with a request from its beginning to its answer.
struct Passage {
    clock: timing::Clock,
    followed: Option<Followed>,
    span: Option<otlp::Span>,
}

impl Passage {
    /// `may_begin`: a trace may begin here.
    fn begin(app: &App, request: &Request, may_begin: bool) -> Passage {
        Passage {
            clock: timing::Clock::start(request),
            followed: Followed::begin(request),
            span: app.telemetry.traces().request(request, may_begin),
        }
    }

    async fn serve(self, app: &App, served: impl Future<Output = Response>) -> Response {
        let response = match (self.span, self.followed) {
            (None, Some(followed)) => followed.serve(served).await,
            (None, None) => served.await,
            (Some(span), followed) => Box::pin(traced::serve(span, followed, served)).await,
        };
        self.clock.stop(&app.telemetry, response.status());
        response
    }
}
