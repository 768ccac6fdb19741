//! Writes and worker calls on a node that does not lead: handed to the leader, one hop.
//!
//! A forwarded request carries [`api::FORWARDED_BY`]. A node that gets such a request without
//! leading answers 503 instead of passing it on, so that two nodes with different opinions of who
//! leads never play ball with it.
//!
//! Nothing that may have been done is sent twice. Where it is certain that nothing was done (no
//! leader is known, its port is closed, it says that it does not lead), the request waits a moment
//! for the next leader, so that a hand-over of leadership fails no write; then it is refused (503).
//! When the connection broke later, the leader may have done it (504). A leader whose process or
//! machine stands still breaks no connection: once another one leads and nothing was heard of it for
//! as long as lets others begin an election, nobody waits for its answer any more (504, too). One that
//! was taken out of the members meanwhile has as long to answer what it was sent.

use super::App;
use super::extract::read_whole;
use super::problem::{ApiError, ApiResult};
use api::cluster::{PeerStatus, Role};
use api::{ErrorCode, FORWARDED_BY, IDEMPOTENCY_REPLAYED, Problem, SERVED_BY};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::{Duration, Instant};

/// How long the leader may take, beyond what the longest lease call waits.
const ANSWER_LIMIT: Duration = Duration::from_millis(api::worker::MAX_LEASE_WAIT_MS + 15_000);

/// How long a request waits for a leader while there is none, or one hands over to the next.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Between two attempts to reach a leader that is not there yet; sooner where the view of who leads
/// changes.
const PATIENCE_STEP: Duration = Duration::from_millis(10);

/// An answer that takes longer is late: only then it is worth a look whether another one leads.
const LATE: Duration = Duration::from_millis(50);

/// How long connecting to the leader may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Headers of the request that the leader is to see.
static REQUEST_HEADERS: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::USER_AGENT,
    HeaderName::from_static("idempotency-key"),
];

/// Headers with a place in a trace.
const TRACE_HEADERS: [&str; 2] = [otlp::context::TRACEPARENT, otlp::context::TRACESTATE];

/// Headers of the leader's answer that the client is to see.
static ANSWER_HEADERS: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::RETRY_AFTER,
    HeaderName::from_static(SERVED_BY),
    HeaderName::from_static(IDEMPOTENCY_REPLAYED),
];

/// What is to be done with a request that only the leader can answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This node leads.
    Serve,
    /// Send it to the leader at this address.
    Forward(String),
    /// Neither works.
    Refuse(ApiError),
}

/// Who answers: `leader` is the leader's address where it is known.
pub fn decide(role: Role, role_detail: Option<&str>, leader: Option<String>, forwarded: bool) -> Verdict {
    let refuse = |code, detail: String| Verdict::Refuse(ApiError::new(code, detail));
    match (role, leader) {
        (Role::Leader, _) => Verdict::Serve,
        (_, Some(leader)) if forwarded => Verdict::Refuse(
            ApiError::new(
                ErrorCode::NoLeader,
                "the request was forwarded to this node, but it does not lead; nothing was done",
            )
            .with_leader(Some(leader)),
        ),
        (_, Some(leader)) => Verdict::Forward(leader),
        (Role::Follower | Role::Candidate | Role::Learner, None) => Verdict::Refuse(no_leader()),
        (role, None) => refuse(
            ErrorCode::Unavailable,
            format!("this node is {role}: {}; ask another node", role_detail.unwrap_or("it takes no part")),
        ),
    }
}

/// The limits of the one client that forwarding uses; connections are kept.
pub fn tune(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(256)
        .tcp_nodelay(true)
        .retry(reqwest::retry::never())
}

/// Has the leader answer: this node where it leads, else the one that does.
///
/// What every write passes on the leader is kept small: the rest stands in a box of its own.
pub async fn to_leader(app: &App, mut request: Request, next: Next) -> ApiResult<Response> {
    let forwarded = request.headers().contains_key(FORWARDED_BY);
    let mut kept = Kept::of(&mut request).await?;
    if !app.node.leads() {
        kept.keep_trace(request.headers());
        return Box::pin(find_leader(app, Some((request, next)), kept, forwarded, None)).await;
    }
    let answer = serve_here(app, request, next).await;
    if forwarded || !wants_leader(&answer) {
        return Ok(answer);
    }
    Box::pin(find_leader(app, None, kept, forwarded, Some(answer))).await
}

async fn serve_here(app: &App, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(HeaderName::from_static(SERVED_BY), app.own_address.clone());
    response
}

/// Goes after the leader until one answers or patience ends. `here` is gone once this node has
/// served it; `last` is then its refusal.
async fn find_leader(
    app: &App,
    mut here: Option<(Request, Next)>,
    kept: Kept,
    forwarded: bool,
    mut last: Option<Response>,
) -> ApiResult<Response> {
    let deadline = Instant::now() + PATIENCE;
    let mut views = app.node.watch();
    loop {
        views.mark_unchanged();
        let view = app.node.view();
        let leader = app.leader_address_of(&view);
        let verdict = decide(view.role, view.role_detail.as_deref(), leader, forwarded);
        let answer = match (verdict, last.take()) {
            (Verdict::Serve, before) => match (here.take(), before) {
                (Some((request, next)), _) => serve_here(app, request, next).await,
                // It was refused here for want of leadership, and the view does not show that yet.
                (None, Some(before)) => before,
                (None, None) => return Err(no_leader()),
            },
            (Verdict::Forward(leader), _) => forward(app, &kept, &leader).await,
            (Verdict::Refuse(problem), _) => problem.into_response(),
        };
        // No leader was there to take it, so nothing was done: it waits until one is.
        if forwarded || !wants_leader(&answer) || Instant::now() >= deadline {
            return Ok(answer);
        }
        last = Some(answer);
        // Whoever leads next is known as soon as this node's view has it.
        let _ = tokio::time::timeout(PATIENCE_STEP, views.changed()).await;
    }
}

fn no_leader() -> ApiError {
    ApiError::new(ErrorCode::NoLeader, "no leader is known at the moment; nothing was done, send it again")
}

/// True for the answer that says: no leader, nothing was done.
fn wants_leader(answer: &Response) -> bool {
    answer.extensions().get::<ErrorCode>() == Some(&ErrorCode::NoLeader)
}

/// What is sent on of a request; kept until it is answered, as it may have to be sent to another.
///
/// Every write passes here, also on the leader: it holds references and copies no text.
struct Kept {
    method: Method,
    uri: Uri,
    headers: [Option<HeaderValue>; REQUEST_HEADERS.len()],
    /// Its place in a trace, as the client gave it.
    trace: [Option<HeaderValue>; TRACE_HEADERS.len()],
    body: Bytes,
}

impl Kept {
    /// Reads the body, which stays in the request too.
    async fn of(request: &mut Request) -> ApiResult<Kept> {
        let body = std::mem::take(request.body_mut());
        let body = read_whole(request.headers(), body).await?;
        *request.body_mut() = Body::from(body.clone());
        let headers = request.headers();
        Ok(Kept {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: REQUEST_HEADERS.each_ref().map(|name| headers.get(name).cloned()),
            trace: Default::default(),
            body,
        })
    }

    /// Only what is sent on needs it; the leader spares itself the look.
    fn keep_trace(&mut self, headers: &HeaderMap) {
        self.trace = TRACE_HEADERS.map(|name| headers.get(name).cloned());
    }

    fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }
}

/// Sends it to the leader, and gives the answer, or what the failure means.
async fn forward(app: &App, kept: &Kept, leader: &str) -> Response {
    tokio::select! {
        answer = send(app, kept, leader) => answer.unwrap_or_else(IntoResponse::into_response),
        next = superseded(app, leader) => of_silence(leader, &next).into_response(),
    }
}

/// Ends once the leader at this address is silent and another one leads; gives that one's.
async fn superseded(app: &App, leader: &str) -> String {
    tokio::time::sleep(LATE).await;
    let limit = Duration::from_millis(app.config.election_timeout_min);
    let mut views = app.node.watch();
    let mut since = None;
    loop {
        let view = views.borrow_and_update().clone();
        if let Some(next) = app.leader_address_of(&view).filter(|now| now != leader) {
            let since: &Instant = since.get_or_insert_with(Instant::now);
            if is_silent(leader, &app.node.peers(), since.elapsed(), limit) {
                return next;
            }
            tokio::time::sleep(PATIENCE_STEP).await;
        } else if views.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// True where nothing was heard of the one at this address for as long as `limit`.
///
/// One that was taken out of the members is not listened to any more; it may be at work on what it was
/// sent all the same, and has as long from when another one was seen to lead.
fn is_silent(address: &str, peers: &[PeerStatus], superseded_for: Duration, limit: Duration) -> bool {
    let heard = |peer: &PeerStatus| peer.last_contact_ms.map(Duration::from_millis);
    let mut there = peers.iter().filter(|peer| peer.address == address).peekable();
    match there.peek() {
        Some(_) => there.all(|peer| heard(peer).is_none_or(|ago| ago >= limit)),
        None => superseded_for >= limit,
    }
}

async fn send(app: &App, kept: &Kept, leader: &str) -> ApiResult<Response> {
    let url = format!("{}://{leader}{}", app.forwarding.scheme(), kept.path());
    let mut onward = app.forwarding.get().request(kept.method.clone(), url).timeout(ANSWER_LIMIT);
    for (name, value) in REQUEST_HEADERS.iter().zip(&kept.headers) {
        if let Some(value) = value {
            onward = onward.header(name, value);
        }
    }
    // Traced here, the leader's span hangs on the one of this hop; else on what the client said.
    let span = otlp::context::child("forward", otlp::SpanKind::Client);
    let mut trace = kept.trace.clone();
    if let Some(span) = &span {
        trace[0] = HeaderValue::from_str(&span.context().traceparent()).ok();
    }
    for (name, value) in TRACE_HEADERS.into_iter().zip(trace) {
        if let Some(value) = value {
            onward = onward.header(name, value);
        }
    }
    let own_name = HeaderValue::from_str(app.node.node_id()).unwrap_or(HeaderValue::from_static("?"));
    if let Some(id) = super::request_id::current() {
        onward = onward.header(super::request_id::REQUEST_ID, id.as_ref());
    }
    let answer = onward
        .header(FORWARDED_BY, own_name.clone())
        .body(kept.body.clone())
        .send()
        .await
        .map_err(|e| of_failure(&e, leader))?;
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        return Ok(refusal(answer, leader).await);
    }
    let answer = axum::http::Response::from(answer);
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    for name in &ANSWER_HEADERS {
        if let Some(value) = parts.headers.get(name) {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
    response.headers_mut().insert(HeaderName::from_static(FORWARDED_BY), own_name);
    Ok(response)
}

/// The leader's refusal, read: whether to wait for another depends on its code.
async fn refusal(answer: reqwest::Response, leader: &str) -> Response {
    match answer.json::<Problem>().await {
        Ok(problem) => ApiError(problem).into_response(),
        Err(error) => of_failure(&error, leader).into_response(),
    }
}

/// What a failure on the way to the leader means.
fn of_failure(error: &reqwest::Error, leader: &str) -> ApiError {
    let why = api::client::error_chain(error);
    let problem = if error.is_connect() || error.is_builder() {
        ApiError::new(
            ErrorCode::NoLeader,
            format!("the leader at {leader} can't be reached ({why}); nothing was done, send it again"),
        )
    } else {
        ApiError::new(
            ErrorCode::UnknownOutcome,
            format!(
                "the connection to the leader at {leader} failed after the request was sent ({why}): it may have happened or not"
            ),
        )
    };
    problem.with_leader(Some(leader.to_owned()))
}

fn of_silence(leader: &str, next: &str) -> ApiError {
    ApiError::new(
        ErrorCode::UnknownOutcome,
        format!("the leader at {leader} is silent since the request was sent, and the one at {next} leads now: it may have happened or not"),
    )
    .with_leader(Some(next.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::post;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    fn client() -> reqwest::Result<reqwest::Client> {
        crate::access::outbound::NodeClient::new(None, tune).map(|client| client.get())
    }

    fn code(verdict: Verdict) -> ErrorCode {
        match verdict {
            Verdict::Refuse(problem) => problem.0.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn only_the_leader_serves() {
        let leader = || Some("n1:8080".to_owned());
        assert_eq!(decide(Role::Leader, None, leader(), false), Verdict::Serve);
        assert_eq!(decide(Role::Leader, None, None, true), Verdict::Serve);
        assert_eq!(decide(Role::Follower, None, leader(), false), Verdict::Forward("n1:8080".into()));
        assert_eq!(decide(Role::Learner, None, leader(), false), Verdict::Forward("n1:8080".into()));
        assert_eq!(
            decide(Role::Suspect, Some("log cut"), leader(), false),
            Verdict::Forward("n1:8080".into())
        );
    }

    #[test]
    fn a_request_goes_one_hop() {
        assert_eq!(code(decide(Role::Follower, None, Some("n1:8080".into()), true)), ErrorCode::NoLeader);
    }

    #[test]
    fn without_a_leader_it_says_so() {
        assert_eq!(code(decide(Role::Candidate, None, None, false)), ErrorCode::NoLeader);
        let Verdict::Refuse(problem) = decide(Role::Failed, Some("log damaged"), None, false) else {
            panic!()
        };
        assert_eq!(problem.0.code, ErrorCode::Unavailable);
        assert!(problem.0.detail.contains("log damaged"));
    }

    #[test]
    fn a_leader_is_silent_by_what_was_heard_and_one_that_was_taken_out_has_its_time() {
        let peer = |address: &str, last_contact_ms| PeerStatus {
            node_id: address.into(),
            address: address.into(),
            reachable: true,
            last_contact_ms,
            rtt_ms: None,
            match_index: None,
            clock_offset_ms: None,
            error: None,
            goodbye: None,
        };
        let (limit, none, long) = (Duration::from_millis(150), Duration::ZERO, Duration::from_secs(9));
        let silent =
            |peers: &[PeerStatus], superseded_for| is_silent("n1:8080", peers, superseded_for, limit);
        let other = peer("n2:8080", Some(9_000));
        assert!(!silent(&[peer("n1:8080", Some(149)), other.clone()], long), "it is heard");
        assert!(silent(&[peer("n1:8080", Some(150)), other.clone()], none));
        assert!(silent(&[peer("n1:8080", None)], none), "it was never heard");
        assert!(!silent(std::slice::from_ref(&other), none), "it is no member any more, and may answer");
        assert!(silent(&[other], limit));
    }

    #[tokio::test]
    async fn a_refused_connection_did_nothing() {
        // Bound and dropped: nobody listens there.
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let error = client().unwrap().post(format!("http://{address}/")).send().await.unwrap_err();
        let problem = of_failure(&error, &address).0;
        assert_eq!((problem.code, problem.retryable), (ErrorCode::NoLeader, true), "{}", problem.detail);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_later_leaves_the_outcome_unknown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0u8; 1024];
            assert!(socket.read(&mut buffer).await.unwrap() > 0);
        });
        let error = client().unwrap().post(format!("http://{address}/")).body("{}").send().await.unwrap_err();
        server.await.unwrap();
        let problem = of_failure(&error, &address).0;
        assert_eq!(
            (problem.code, problem.retryable),
            (ErrorCode::UnknownOutcome, false),
            "{}",
            problem.detail
        );
    }

    #[tokio::test]
    async fn the_client_never_follows_a_redirect() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let moved = || async { (axum::http::StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]) };
        let router = axum::Router::new().route("/", post(moved));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let answer = client().unwrap().post(format!("http://{address}/")).send().await.unwrap();
        assert_eq!(answer.status(), 307);
        server.abort();
    }
}
