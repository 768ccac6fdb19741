//! `GET /api/events`: what happens in the cluster, as it happens.
//!
//! Every node tells what it sees itself; nothing is forwarded and nothing waits for consensus. The
//! stream begins with what is kept, or after the event that `since` or `Last-Event-ID` names. Who
//! asks for `application/json` and not for a stream gets one document.
//!
//! A stream ends after an hour, so that a token that is no longer good does not listen for
//! ever, and when the node stops. A browser's `EventSource` and any careful client then come back
//! with the last id they have.

use super::App;
use super::extract::Params;
use super::problem::{ApiError, ApiResult};
use crate::events::{Events, MAX_LISTENERS, Place, Read, Since};
use api::ErrorCode;
use api::event::{ClusterEvent, EventList};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::Stream;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The longest stream.
const STREAM_LIMIT: Duration = Duration::from_secs(3600);
/// Between two signs of life of a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After how long a client whose stream ended should come again.
const RETRY: Duration = Duration::from_secs(2);
/// Events that a stream takes out of the ring at once.
const BATCH_EVENTS: usize = 64;
/// Events of one document when the request names no number, and at most.
const LIMIT_DEFAULT: usize = 200;
const LIMIT_MAX: usize = crate::events::MAX_EVENTS;
/// What a stream's client says it has.
const LAST_EVENT_ID: &str = "last-event-id";

/// The routes.
pub fn routes() -> Router<App> {
    Router::new().route("/api/events", get(events))
}

/// Query of `events`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// The id of the last event that is known, or `now`; without it, everything that is kept.
    since: Option<String>,
    /// The most events of one document; a stream has no such bound.
    #[param(minimum = 1, maximum = 1024)]
    limit: Option<usize>,
}

async fn events(
    State(app): State<App>,
    Params(query): Params<EventsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let events = app.node.events();
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let why = format!("`limit` is {limit}; must be 1 to {LIMIT_MAX}");
        return Err(ApiError::new(ErrorCode::Validation, why));
    }
    let since = position(events, query.since.as_deref(), headers.get(LAST_EVENT_ID))?;
    if wants_document(&headers) {
        return Ok(Json(document(events, since, limit)).into_response());
    }
    let Some(place) = events.enter() else {
        let why = format!("{MAX_LISTENERS} streams of events are open, as many as may be; come again later");
        return Err(ApiError::new(ErrorCode::Overloaded, why));
    };
    let sse =
        Sse::new(stream(events.clone(), since, place)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = sse.into_response();
    // A proxy that gathers the stream up would hold the events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Where the reader stands. A `Last-Event-ID` comes first: a client that was cut off repeats its
/// first request, and says by this header how far it came.
fn position(events: &Events, since: Option<&str>, last: Option<&HeaderValue>) -> ApiResult<Since> {
    if let Some(last) = last.filter(|value| !value.is_empty()) {
        // Whatever it is, it is none of ours: the reader is told of the gap and gets what is kept.
        return Ok(last.to_str().ok().and_then(|id| events.since(id)).unwrap_or(Since::OtherRun));
    }
    match since {
        None => Ok(Since::Kept),
        Some("now") => Ok(Since::Now),
        Some(id) => events.since(id).ok_or_else(|| {
            let why = format!("`since` is `{id}`; must be the id of an event, or `now`");
            ApiError::new(ErrorCode::Validation, why)
        }),
    }
}

/// True where JSON is accepted and a stream is not named.
fn wants_document(headers: &HeaderMap) -> bool {
    let accepted = |kind: &str| {
        headers.get_all(header::ACCEPT).iter().any(|value| {
            let listed = value.to_str().unwrap_or("").split(',');
            listed
                .filter_map(|part| part.split(';').next())
                .any(|name| name.trim().eq_ignore_ascii_case(kind))
        })
    };
    accepted("application/json") && !accepted("text/event-stream")
}

fn document(events: &Events, since: Since, limit: usize) -> EventList {
    let read = events.read(since, limit);
    EventList {
        events: read.events.iter().map(|event| ClusterEvent::clone(event)).collect(),
        next: events.id(read.next),
        gap: read.gap,
    }
}

/// How far one stream is.
struct Listener {
    events: Events,
    since: Since,
    wake: watch::Receiver<u64>,
    waiting: VecDeque<Event>,
    ends_at: Instant,
    _place: Place,
}

fn stream(events: Events, since: Since, place: Place) -> impl Stream<Item = Result<Event, Infallible>> {
    let wake = events.subscribe();
    // Its first bytes tell the client that it is connected, and when to come again.
    let waiting = VecDeque::from([Event::default().retry(RETRY)]);
    let ends_at = Instant::now() + STREAM_LIMIT;
    let listener = Listener { events, since, wake, waiting, ends_at, _place: place };
    futures_util::stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    })
}

impl Listener {
    /// The next event; none where the stream ends.
    async fn next(&mut self) -> Option<Event> {
        let closed = self.events.closed().clone();
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            self.wake.mark_unchanged();
            let read = self.events.read(self.since, BATCH_EVENTS);
            self.take(&read);
            if !self.waiting.is_empty() {
                continue;
            }
            tokio::select! {
                () = closed.cancelled() => return None,
                () = tokio::time::sleep_until(self.ends_at) => return None,
                changed = self.wake.changed() => changed.ok()?,
            }
        }
    }

    fn take(&mut self, read: &Read) {
        if read.gap {
            let why = r#"{"detail":"events in between are not kept any more, or the node was started anew; what follows is everything it has"}"#;
            self.waiting.push_back(Event::default().event("gap").data(why));
        }
        self.waiting.extend(read.events.iter().map(of_event));
        self.since = Since::After(read.next);
    }
}

fn of_event(event: &Arc<ClusterEvent>) -> Event {
    let named = Event::default().event(&event.kind).id(&event.id);
    // A struct of strings and numbers has no failure to serialise.
    named.data(serde_json::to_string(event.as_ref()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        wants_document(&headers)
    }

    #[test]
    fn a_document_goes_only_to_who_asks_for_one() {
        assert!(accepts("application/json"));
        assert!(accepts("text/html, Application/JSON;q=0.9"));
        assert!(!accepts("*/*"));
        assert!(!accepts("text/event-stream"));
        assert!(!accepts("text/event-stream, application/json"));
        assert!(!wants_document(&HeaderMap::new()));
    }

    #[test]
    fn where_a_reader_stands() {
        let events = Events::new("n1", "ab");
        let header = HeaderValue::from_static;
        let at = |since: Option<&str>, last: Option<HeaderValue>| position(&events, since, last.as_ref());
        assert_eq!(at(None, None).unwrap(), Since::Kept);
        assert_eq!(at(Some("now"), None).unwrap(), Since::Now);
        assert_eq!(at(Some("ab-0"), None).unwrap(), Since::After(0));
        assert_eq!(at(Some("now"), Some(header("ab-0"))).unwrap(), Since::After(0), "it was cut off");
        assert_eq!(at(None, Some(header("what?"))).unwrap(), Since::OtherRun);
        assert_eq!(at(None, Some(header(""))).unwrap(), Since::Kept);
        assert_eq!(at(Some("what?"), None).unwrap_err().0.code, ErrorCode::Validation);
    }
}
