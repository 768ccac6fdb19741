//! The HTTP client that follows the leader.
//!
//! It keeps the address that answered last, goes to the leader that an answer names, and tries
//! the other addresses when one is down. It repeats a request only where that is safe: when the
//! answer says that nothing was done (`retryable`), or when the caller declares the request
//! idempotent. Everything else comes back as [`ClientError::UnknownOutcome`].

use crate::error::{ErrorCode, Problem};
use crate::http::{Access, AccessError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

/// May the client send the request again when it does not know what became of it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// The request changes nothing, or changes the same thing the same way.
    Idempotent,
    /// A second one would do something else.
    Never,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The cluster answered with a problem.
    #[error("{0}")]
    Problem(Problem),
    /// No address answered before the deadline; nothing was done.
    #[error("no coordinator answered within {waited_ms} ms (tried {addresses}): {last}")]
    Unreachable {
        /// How long it tried.
        waited_ms: u128,
        /// The addresses.
        addresses: String,
        /// The last failure of each address that was tried.
        last: String,
    },
    /// The connection broke after the request was sent: it may have happened.
    #[error("{address}: the connection failed after the request was sent; it may have happened: {why}")]
    UnknownOutcome {
        /// Who was asked.
        address: String,
        /// What failed.
        why: String,
    },
    /// The answer is not what was expected.
    #[error("{address}: the answer can't be read: {why}")]
    Malformed {
        /// Who answered.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// No usable address was given.
    #[error("no coordinator address: give --coordinators host:port,… or set HOLDFAST_COORDINATORS")]
    NoAddress,
    /// The token or the certificates can't be used.
    #[error("{0}")]
    Access(#[from] AccessError),
}

impl ClientError {
    /// The problem's code, where the cluster answered with one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Problem(p) => Some(p.code),
            _ => None,
        }
    }

    /// True where what was asked may have been done, or not.
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(self, ClientError::UnknownOutcome { .. }) || self.code() == Some(ErrorCode::UnknownOutcome)
    }
}

/// A client of one cluster. Cheap to clone; clones share what they learn.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    access: Access,
    secure: bool,
    shared: Arc<Shared>,
    deadline: Duration,
    /// Goes with every request as the header `traceparent`.
    traceparent: Option<Arc<str>>,
}

#[derive(Debug)]
struct Shared {
    addresses: Vec<String>,
    next: AtomicUsize,
    leader: RwLock<Option<String>>,
}

impl Client {
    /// A client of the coordinators at `addresses` (`host:port`, at least one) that shows no token.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Result<Self, ClientError> {
        Client::with_access(addresses, Access::default())
    }

    /// A client of the coordinators at `addresses` (`host:port` or `https://host:port`) that shows
    /// and trusts what `access` says.
    pub fn with_access(
        addresses: impl IntoIterator<Item = String>,
        access: Access,
    ) -> Result<Self, ClientError> {
        let (addresses, secure) = crate::http::addresses(addresses)?;
        if addresses.is_empty() {
            return Err(ClientError::NoAddress);
        }
        let http = access
            .builder(secure)?
            .connect_timeout(Duration::from_secs(1))
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            .build()
            .map_err(|e| AccessError::Client(error_chain(&e)))?;
        let shared = Shared { addresses, next: AtomicUsize::new(0), leader: RwLock::new(None) };
        let deadline = Duration::from_secs(10);
        Ok(Client { http, access, secure, shared: Arc::new(shared), deadline, traceparent: None })
    }

    /// The same client with another limit on one call, retries included (10 s by default).
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Client { deadline, ..self.clone() }
    }

    /// The same client for requests that belong to this place of a trace (W3C `traceparent`).
    pub fn with_traceparent(&self, place: &str) -> Self {
        Client { traceparent: Some(place.into()), ..self.clone() }
    }

    /// A client of that one node, `host:port`, with the same token and trust.
    pub fn at(&self, address: &str) -> Self {
        let bare = address.trim().trim_start_matches("https://").trim_start_matches("http://");
        let addresses = vec![bare.trim_end_matches('/').to_owned()];
        let shared = Shared { addresses, next: AtomicUsize::new(0), leader: RwLock::new(None) };
        Client { shared: Arc::new(shared), ..self.clone() }
    }

    /// The addresses it was given, `host:port`.
    pub fn addresses(&self) -> &[String] {
        &self.shared.addresses
    }

    /// GET `path` (with its query) and read the answer as `T`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(reqwest::Method::GET, path, None::<&()>, Repeat::Idempotent).await
    }

    /// POST `body` to `path` and read the answer as `T`.
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        repeat: Repeat,
    ) -> Result<T, ClientError> {
        self.call(reqwest::Method::POST, path, Some(body), repeat).await
    }

    /// POST `body` to `path` under an idempotency key: sent again until it is answered, done once.
    pub async fn post_keyed<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: &str,
    ) -> Result<T, ClientError> {
        self.try_on(reqwest::Method::POST, path, Some(body), Repeat::Idempotent, Some(key)).await
    }

    /// Any call.
    pub async fn call<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&B>,
        repeat: Repeat,
    ) -> Result<T, ClientError> {
        self.try_on(method, path, body, repeat, None).await
    }

    async fn try_on<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&B>,
        repeat: Repeat,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        let mut told = Told::default();
        let mut may_have_happened = None;
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|e| ClientError::Malformed { address: "request".into(), why: e.to_string() })?;
        loop {
            let address = self.target();
            let left = self.deadline.saturating_sub(started.elapsed());
            let attempt = self.once(&method, &address, path, body.as_deref(), key, left).await;
            let (last, retry) = match attempt {
                Ok(answer) => return Ok(answer),
                Err(Failed::Refused(why)) => {
                    self.forget(&address);
                    told.note(&address, &why, false);
                    (ClientError::Problem(Problem::new(ErrorCode::Unavailable, why)), true)
                }
                Err(Failed::Broken { why, out_of_time }) => {
                    self.forget(&address);
                    told.note(&address, &why, out_of_time);
                    (ClientError::UnknownOutcome { address, why }, repeat == Repeat::Idempotent)
                }
                Err(Failed::Problem(problem)) => {
                    told.note(&address, &problem.detail, false);
                    let again = match problem.code {
                        ErrorCode::NoLeader | ErrorCode::Unavailable | ErrorCode::Overloaded => true,
                        ErrorCode::UnknownOutcome => repeat == Repeat::Idempotent,
                        _ => false,
                    };
                    if again {
                        self.forget(&address);
                        if let Some(leader) = &problem.leader {
                            self.follow(leader);
                        }
                    }
                    (ClientError::Problem(problem), again)
                }
                Err(Failed::Malformed(why)) => (ClientError::Malformed { address, why }, false),
            };
            if !retry {
                return Err(last);
            }
            let over = started.elapsed() + pause >= self.deadline;
            // What only reads can't have happened.
            let reads = method == reqwest::Method::GET;
            if !reads && last.is_unknown_outcome() {
                may_have_happened = Some(last);
            } else if over {
                // That a later attempt did nothing says nothing of an earlier one.
                return Err(may_have_happened.unwrap_or_else(|| self.out_of_time(last, &told, started)));
            }
            if over && let Some(unknown) = may_have_happened {
                return Err(unknown);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    /// What a call failed with that ran out of time; nothing was done.
    fn out_of_time(&self, last: ClientError, told: &Told, started: Instant) -> ClientError {
        match last {
            ClientError::Problem(problem) if problem.code != ErrorCode::Unavailable => {
                ClientError::Problem(problem)
            }
            _ => ClientError::Unreachable {
                waited_ms: started.elapsed().as_millis(),
                addresses: self.shared.addresses.join(", "),
                last: told.to_string(),
            },
        }
    }

    /// GET `path` for a body that is read piece by piece: from the first address that gives it,
    /// each of which may be silent for `silence`.
    pub async fn download(&self, path: &str, silence: Duration) -> Result<reqwest::Response, ClientError> {
        let mut last = ClientError::NoAddress;
        for address in &self.shared.addresses {
            let url = format!("{}://{address}{path}", crate::http::scheme(self.secure));
            let sent = self.access.authorize(self.http.get(url)).send();
            last = match tokio::time::timeout(silence, sent).await {
                Ok(Ok(answer)) if answer.status().is_success() => return Ok(answer),
                Ok(Ok(answer)) => {
                    let status = answer.status();
                    let bytes = answer.bytes().await.unwrap_or_default();
                    match serde_json::from_slice::<Problem>(&bytes) {
                        Ok(problem) => ClientError::Problem(problem),
                        Err(_) => {
                            let why = format!("status {status}");
                            ClientError::Malformed { address: address.clone(), why }
                        }
                    }
                }
                Ok(Err(e)) => ClientError::Unreachable {
                    waited_ms: 0,
                    addresses: address.clone(),
                    last: error_chain(&e),
                },
                Err(_) => ClientError::Unreachable {
                    waited_ms: silence.as_millis(),
                    addresses: address.clone(),
                    last: "silent".into(),
                },
            };
        }
        Err(last)
    }

    /// One request to one address.
    async fn once<T: DeserializeOwned>(
        &self,
        method: &reqwest::Method,
        address: &str,
        path: &str,
        body: Option<&[u8]>,
        key: Option<&str>,
        limit: Duration,
    ) -> Result<T, Failed> {
        let scheme = crate::http::scheme(self.secure);
        let url = format!("{scheme}://{address}{path}");
        let mut request = self.access.authorize(self.http.request(method.clone(), url)).timeout(limit);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_vec());
        }
        if let Some(key) = key {
            request = request.header(crate::IDEMPOTENCY_KEY, key);
        }
        if let Some(place) = &self.traceparent {
            request = request.header("traceparent", place.as_ref());
        }
        let response = request.send().await.map_err(|e| {
            let (out_of_time, no_connection) = (e.is_timeout(), e.is_connect());
            // The address stands before it.
            let why = error_chain(&e.without_url());
            if no_connection { Failed::Refused(why) } else { Failed::Broken { why, out_of_time } }
        })?;
        let status = response.status();
        let served_by =
            response.headers().get(crate::SERVED_BY).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let bytes = response.bytes().await.map_err(|e| {
            let out_of_time = e.is_timeout();
            Failed::Broken { why: error_chain(&e), out_of_time }
        })?;
        if status.is_success() {
            if let Some(leader) = served_by {
                self.follow(&leader);
            }
            return serde_json::from_slice(&bytes).map_err(|e| Failed::Malformed(e.to_string()));
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(Failed::Problem(problem)),
            Err(_) => Err(Failed::Malformed(format!(
                "status {status}: {}",
                String::from_utf8_lossy(&bytes).chars().take(200).collect::<String>()
            ))),
        }
    }

    /// Where the next request goes: the leader if it is known, else the next address in turn.
    fn target(&self) -> String {
        if let Some(leader) = self.shared.leader.read().ok().and_then(|l| l.clone()) {
            return leader;
        }
        let all = &self.shared.addresses;
        let turn = self.shared.next.load(Ordering::Relaxed) % all.len();
        all[turn].clone()
    }

    fn follow(&self, leader: &str) {
        if let Ok(mut known) = self.shared.leader.write() {
            *known = Some(leader.to_owned());
        }
    }

    fn forget(&self, address: &str) {
        if let Ok(mut known) = self.shared.leader.write()
            && known.as_deref() == Some(address)
        {
            *known = None;
        }
        self.shared.next.fetch_add(1, Ordering::Relaxed);
    }
}

enum Failed {
    Refused(String),
    Broken { why: String, out_of_time: bool },
    Problem(Problem),
    Malformed(String),
}

/// What each address answered last, or why it did not.
///
/// The last attempt of a call often ends because the call's time does. That says nothing of the
/// address, and does not cover what was learnt before.
#[derive(Debug, Default)]
struct Told(Vec<(String, String)>);

impl Told {
    fn note(&mut self, address: &str, why: &str, out_of_time: bool) {
        match self.0.iter_mut().find(|(known, _)| known == address) {
            Some(_) if out_of_time => {}
            Some((_, before)) => *before = why.to_owned(),
            None => self.0.push((address.to_owned(), why.to_owned())),
        }
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, (address, why)) in self.0.iter().enumerate() {
            let between = if position == 0 { "" } else { "; " };
            write!(f, "{between}{address}: {why}")?;
        }
        Ok(())
    }
}

/// An error with its causes on one line: reqwest's own text leaves them out.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    let hint = if text.ends_with("UnknownIssuer") {
        " (its certificate is signed by an authority that is not trusted here: --ca FILE or HOLDFAST_CA names one, `ca_path` on a node)"
    } else if text.ends_with("invalid HTTP version parsed") {
        " (it does not speak plain HTTP; where it serves TLS, give https://host:port)"
    } else if text.ends_with("InvalidContentType") {
        " (it does not speak TLS; where it serves plain HTTP, give host:port without https://)"
    } else {
        ""
    };
    text + hint
}

/// The last link of an [`error_chain`]. A colon between brackets or backticks separates no links.
pub fn last_link(chain: &str) -> &str {
    let (mut depth, mut quoted, mut from) = (0_usize, false, 0);
    for (at, letter) in chain.char_indices() {
        match letter {
            '`' => quoted = !quoted,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && !quoted && chain[at + 1..].starts_with(' ') => from = at + 2,
            _ => {}
        }
    }
    &chain[from..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn the_last_link_of_a_chain_keeps_its_hint() {
        for (chain, link) in [
            ("no route", "no route"),
            (
                "127.0.0.1:1: sending (https://a: b): Connection refused (os error 111)",
                "Connection refused (os error 111)",
            ),
            (
                "TLS: UnknownIssuer (not trusted here: --ca FILE names one)",
                "UnknownIssuer (not trusted here: --ca FILE names one)",
            ),
            ("refused: send `Authorization: Bearer …` (POST)", "send `Authorization: Bearer …` (POST)"),
            ("an end: ", ""),
        ] {
            assert_eq!(last_link(chain), link);
        }
    }

    #[tokio::test]
    async fn the_wrong_one_of_http_and_https_is_named() {
        for (scheme, answer, hint) in [
            ("http", &b"\x15\x03\x03\x00\x02\x02\x46"[..], "give https://host:port"),
            ("https", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "without https://"),
        ] {
            let (listener, address) = listener().await;
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut buffer = [0; 1024];
                    let _ = stream.read(&mut buffer).await;
                    let _ = stream.write_all(answer).await;
                    let _ = stream.shutdown().await;
                }
            });
            let client = Client::new([format!("{scheme}://{address}")]).unwrap();
            let client = client.with_deadline(Duration::from_secs(5));
            let error = client.get::<serde_json::Value>("/api/status").await.unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
            server.abort();
        }
    }

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    fn client(addresses: [&String; 2], deadline_ms: u64) -> Client {
        let addresses = addresses.map(String::clone);
        Client::new(addresses).unwrap().with_deadline(Duration::from_millis(deadline_ms))
    }

    #[test]
    fn an_attempt_that_the_end_of_the_call_cut_off_does_not_cover_what_was_learnt() {
        let mut told = Told::default();
        told.note("a:1", "Connection refused", false);
        told.note("a:1", "operation timed out", true);
        told.note("b:1", "operation timed out", true);
        assert_eq!(told.to_string(), "a:1: Connection refused; b:1: operation timed out");
        told.note("b:1", "Connection refused", false);
        assert_eq!(told.to_string(), "a:1: Connection refused; b:1: Connection refused");
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_told_with_the_cause_of_each_address() {
        // One port is closed; the other takes connections and says nothing.
        let (_, closed) = listener().await;
        let (silent, open) = listener().await;
        let error = client([&closed, &open], 500).get::<serde_json::Value>("/api/status").await.unwrap_err();
        let ClientError::Unreachable { last, .. } = &error else { panic!("{error}") };
        let (first, second) = last.split_once("; ").expect(last);
        assert!(first.starts_with(&closed) && first.contains("onnection refused"), "{last}");
        assert!(second.starts_with(&open) && second.contains("timed out"), "{last}");
        drop(silent);
    }

    #[tokio::test]
    async fn a_write_that_may_have_happened_is_not_told_as_nothing_done_when_nobody_answers_later() {
        let (_, closed) = listener().await;
        let unknown =
            serde_json::to_vec(&Problem::new(ErrorCode::UnknownOutcome, "it is not known")).unwrap();
        for answer in [Vec::new(), unknown] {
            let (once, open) = listener().await;
            let server = tokio::spawn(async move {
                let (mut socket, _) = once.accept().await.unwrap();
                let mut buffer = [0; 4096];
                assert!(socket.read(&mut buffer).await.unwrap() > 0);
                if !answer.is_empty() {
                    let head = format!("HTTP/1.1 504 x\r\ncontent-length: {}\r\n\r\n", answer.len());
                    socket.write_all(&[head.as_bytes(), &answer].concat()).await.unwrap();
                }
            });
            let client = client([&open, &closed], 600);
            let error =
                client.post::<_, serde_json::Value>("/api/tasks", &(), Repeat::Idempotent).await.unwrap_err();
            assert!(error.is_unknown_outcome(), "{error}");
            server.await.unwrap();
        }
    }
}
