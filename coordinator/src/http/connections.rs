//! Every connection from its first byte: how many there may be, TLS, and how long a client may
//! take to say what it wants.
//!
//! - Up to `max_concurrent_connections` are served. Beyond that, [`RESERVE`] more are taken on
//!   which only peers are served and everybody else is told to come again (503), so that a crowd
//!   of clients can't keep nodes from one another. Beyond that, connections are closed unread.
//! - The TLS handshake and the head of a request each have [`HEAD_LIMIT`]; an idle connection is
//!   kept for [`IDLE_LIMIT`], longer than our clients keep theirs. Who began a head is told (408).
//! - A client that takes nothing of its answer for [`WRITE_LIMIT`] is cut off, with TLS as without: its
//!   place is another's.
//! - A head has at most [`MAX_HEADERS`] fields and [`MAX_HEAD_BYTES`].

use super::access::CertifiedPeer;
use super::drained::Drained;
use super::problem::ApiError;
use crate::access::tls::Tls;
use api::ErrorCode;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections beyond the limit on which peers are still served.
pub const RESERVE: usize = 64;
/// How long a handshake or the head of a request may take.
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests.
pub const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// How long a client may read nothing while its answer waits.
pub const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// The most fields of a head.
pub const MAX_HEADERS: usize = 100;
/// The largest head.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// After an error of accepting (no file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections there may be, and are.
#[derive(Debug)]
pub struct Limit {
    most: AtomicUsize,
    open: AtomicUsize,
    refused: AtomicU64,
}

impl Limit {
    /// At most so many.
    pub fn new(most: usize) -> Arc<Limit> {
        Arc::new(Limit {
            most: AtomicUsize::new(most),
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Another bound from now on; connections that are open stay.
    pub fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were closed or told to come again since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let most = self.most.load(Ordering::Relaxed);
        let place = Place { limit: Arc::clone(self), peers_only: before >= most };
        if before >= most {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        (before < most.saturating_add(RESERVE)).then_some(place)
    }
}

/// A connection's place; it is free again when this is dropped.
struct Place {
    limit: Arc<Limit>,
    peers_only: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves until `stop`, then lets the requests in flight end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limit: Arc<Limit>,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = limit.enter() else { continue };
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "a connection broke while it was accepted");
            continue;
        }
        tasks.spawn(connection(tcp, place, router.clone(), tls.clone(), LIMITS, stop.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn connection<S>(
    stream: S,
    place: Place,
    router: Router,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Drained::new(stream, limits.write);
    let Some(tls) = tls else {
        return speak(stream, place, router, limits.head, false, stop).await;
    };
    match tokio::time::timeout(limits.head, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => {
            // The verifier took it, so it is signed by `ca_path`.
            let certified = stream.get_ref().1.peer_certificates().is_some();
            speak(stream, place, router, limits.head, certified, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// How long a client may take.
#[derive(Clone, Copy)]
struct Limits {
    head: Duration,
    write: Duration,
}

const LIMITS: Limits = Limits { head: HEAD_LIMIT, write: WRITE_LIMIT };

async fn speak<S>(
    stream: S,
    place: Place,
    router: Router,
    head_limit: Duration,
    certified: bool,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = Arc::new(AtomicU8::new(WAITING));
    let paced = Paced {
        stream,
        phase: Arc::clone(&phase),
        head_limit,
        deadline: Some(Box::pin(tokio::time::sleep(head_limit))),
        begun: false,
    };
    // The upgraded connection outlives this task: the place goes with it.
    let place = Arc::new(place);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        phase.store(SERVING, Ordering::Release);
        let (router, phase, place) = (router.clone(), Arc::clone(&phase), Arc::clone(&place));
        async move {
            let mut request = request.map(Body::new);
            if certified {
                request.extensions_mut().insert(CertifiedPeer);
            }
            request.extensions_mut().insert(Held(Arc::clone(&place)));
            let response = if place.peers_only && !request.uri().path().starts_with("/raft/") {
                crowded()
            } else {
                router.oneshot(request).await.unwrap_or_else(|never| match never {})
            };
            let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            phase.store(if upgraded { UPGRADED } else { WAITING }, Ordering::Release);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(paced), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %api::client::error_chain(&error), "a connection ended");
    }
}

/// Keeps a connection's place: an upgrade takes it along.
#[derive(Clone)]
pub struct Held(#[allow(dead_code)] Arc<Place>);

fn crowded() -> Response {
    let why = "this node has as many connections as `max_concurrent_connections` allows; nothing was done";
    let mut response = ApiError::new(ErrorCode::Overloaded, why).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

const WAITING: u8 = 0;
const SERVING: u8 = 1;
const UPGRADED: u8 = 2;

/// What a client is told whose head came too slowly, as it goes over the wire.
fn too_slow(limit: Duration) -> Vec<u8> {
    let why = format!("the head of the request was not complete after {} s", limit.as_secs_f64());
    let problem = api::Problem::new(ErrorCode::RequestTimeout, why);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let head = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type";
    let kind = super::problem::PROBLEM_JSON;
    format!("{head}: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A stream that gives a client `head_limit` for each head, from its first byte (the first head:
/// from the beginning of the connection).
struct Paced<S> {
    stream: S,
    phase: Arc<AtomicU8>,
    head_limit: Duration,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Something of the head has come.
    begun: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.phase.load(Ordering::Acquire) != WAITING {
            (self.deadline, self.begun) = (None, false);
            return read;
        }
        if read.is_ready() && buffer.filled().len() > filled {
            self.begun = true;
            let limit = self.head_limit;
            self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        }
        let over = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        if over && read.is_pending() {
            if self.begun {
                // It fits into what the system buffers; a client that has not read before is not waited for.
                let answer = too_slow(self.head_limit);
                let _ = Pin::new(&mut self.stream).poll_write(context, &answer);
                let _ = Pin::new(&mut self.stream).poll_flush(context);
            }
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the head came too slowly");
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    struct Serving {
        address: std::net::SocketAddr,
        limit: Arc<Limit>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Serving {
        async fn start(most: usize) -> Serving {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (limit, stop) = (Limit::new(most), CancellationToken::new());
            let router = Router::new()
                .route("/", get(|| async { "served" }))
                .route("/raft/x", get(|| async { "served a peer" }));
            let task = tokio::spawn(serve(listener, router, limit.clone(), None, stop.clone()));
            Serving { address, limit, stop, task }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        async fn end(self) {
            self.stop.cancel();
            self.task.await.unwrap();
        }
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    #[tokio::test]
    async fn beyond_the_limit_only_peers_are_served_and_the_others_are_told() {
        let serving = Serving::start(2).await;
        let (mut one, mut two) = (serving.connect().await, serving.connect().await);
        assert!(ask(&mut one, "/").await.ends_with("served"));
        assert!(ask(&mut two, "/").await.ends_with("served"));
        let mut three = serving.connect().await;
        let refused = ask(&mut three, "/").await.to_lowercase();
        assert!(refused.starts_with("http/1.1 503"), "{refused}");
        assert!(refused.contains("retry-after: ") && refused.contains("connection: close"), "{refused}");
        assert!(
            refused.contains("overloaded") && refused.contains("max_concurrent_connections"),
            "{refused}"
        );
        let mut peer = serving.connect().await;
        assert!(ask(&mut peer, "/raft/x").await.ends_with("served a peer"));
        drop((one, two, three, peer));
        let begun = std::time::Instant::now();
        while serving.limit.open() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "places are not given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(ask(&mut serving.connect().await, "/").await.ends_with("served"), "there is room again");
        assert_eq!(serving.limit.refused(), 2);
        serving.end().await;
    }

    #[tokio::test]
    async fn beyond_the_reserve_connections_are_closed() {
        let serving = Serving::start(1).await;
        let mut held = Vec::new();
        for _ in 0..=RESERVE {
            let mut stream = serving.connect().await;
            assert!(!ask(&mut stream, "/raft/x").await.is_empty());
            held.push(stream);
        }
        let mut stream = serving.connect().await;
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)), "it is closed unread");
        serving.end().await;
    }

    #[tokio::test]
    async fn oversized_heads_are_refused() {
        let serving = Serving::start(8).await;
        for (head, status) in [
            (format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(2 * MAX_HEAD_BYTES)), "431"),
            (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(2 * MAX_HEADERS)), "431"),
            ("\u{0}\u{1}garbage\r\n\r\n".to_owned(), "400"),
        ] {
            let mut stream = serving.connect().await;
            let _ = stream.write_all(head.as_bytes()).await;
            let mut bytes = vec![0; 1024];
            let read = stream.read(&mut bytes).await.unwrap_or(0);
            let answer = String::from_utf8_lossy(&bytes[..read]).into_owned();
            assert!(read == 0 || answer.contains(status), "{answer}");
        }
        assert!(
            ask(&mut serving.connect().await, "/").await.ends_with("served"),
            "and nothing else happened"
        );
        serving.end().await;
    }

    #[tokio::test]
    async fn a_slow_head_is_cut_off_and_an_idle_connection_is_not() {
        let head_limit = Duration::from_millis(200);
        let limits = Limits { head: head_limit, ..LIMITS };
        let (mut client, server) = tokio::io::duplex(1024);
        let limit = Limit::new(1);
        let router = Router::new().route("/", get(|| async { "served" }));
        let stop = CancellationToken::new();
        let place = limit.enter().unwrap();
        let task = tokio::spawn(connection(server, place, router, None, limits, stop));
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut bytes = vec![0; 1024];
        assert!(client.read(&mut bytes).await.unwrap() > 0);
        // Idle for longer than a head may take: still served.
        tokio::time::sleep(3 * head_limit).await;
        client.write_all(request).await.unwrap();
        assert!(client.read(&mut bytes).await.unwrap() > 0);
        // A head that never ends, byte by byte: cut off.
        client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        let begun = std::time::Instant::now();
        while client.write_all(b"x").await.is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(20), "a head that never ends is read for ever");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        task.await.unwrap();
        assert_eq!(limit.open(), 0);
        let mut told = Vec::new();
        let _ = client.read_to_end(&mut told).await;
        let told = String::from_utf8_lossy(&told).to_lowercase();
        assert!(told.starts_with("http/1.1 408") && told.contains("request_timeout"), "{told}");
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const TAKES_SLOWLY: Duration = Duration::from_millis(50);

    /// A connection that answers with so many bytes, through a pipe of `pipe_bytes`.
    fn answering(
        bytes: usize,
        pipe_bytes: usize,
        tls: Option<Arc<Tls>>,
    ) -> (tokio::io::DuplexStream, Arc<Limit>, tokio::task::JoinHandle<()>) {
        let limits = Limits { write: Duration::from_millis(200), ..LIMITS };
        let (client, server) = tokio::io::duplex(pipe_bytes);
        let limit = Limit::new(1);
        let router = Router::new().route("/", get(move || async move { "s".repeat(bytes) }));
        let place = limit.enter().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(connection(server, place, router, tls, limits, stop));
        (client, limit, task)
    }

    /// Takes slowly, for longer than the limit in all: that is no reason. Then it takes nothing any more.
    async fn is_cut_off_once_it_takes_nothing(
        mut client: tokio::io::DuplexStream,
        limit: &Limit,
        task: tokio::task::JoinHandle<()>,
    ) {
        let mut bytes = vec![0; 1024];
        for _ in 0..8 {
            assert!(client.read(&mut bytes).await.unwrap() > 0);
            tokio::time::sleep(TAKES_SLOWLY).await;
        }
        assert_eq!(limit.open(), 1);
        tokio::time::timeout(Duration::from_secs(20), task).await.expect("it is cut off").unwrap();
        assert_eq!(limit.open(), 0);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_gives_its_place_back() {
        let (mut client, limit, task) = answering(600_000, 1024, None);
        client.write_all(REQUEST).await.unwrap();
        is_cut_off_once_it_takes_nothing(client, &limit, task).await;
    }

    /// TLS for a server, and a client that trusts it.
    fn tls() -> (Arc<Tls>, tokio_rustls::TlsConnector) {
        let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let config = serde_json::json!({"node_id": "n1", "host": "h", "data_dir": folder.path(),
            "enable_tls": true, "cert_path": cert, "key_path": key, "ca_path": cert});
        let tls = Tls::from_config(&serde_json::from_value(config).unwrap()).unwrap().unwrap();
        let connector = tokio_rustls::TlsConnector::from(tls.client());
        (tls, connector)
    }

    /// The whole answer lies in TLS' own buffer: it waits in a flush, and no write is under way.
    #[tokio::test]
    async fn a_client_that_does_not_read_what_tls_has_buffered_gives_its_place_back() {
        let (tls, connector) = tls();
        let (client, limit, task) = answering(40_000, 1024, Some(tls));
        let mut client = connector.connect("node".try_into().unwrap(), client).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        client.flush().await.unwrap();
        is_cut_off_once_it_takes_nothing(client.into_inner().0, &limit, task).await;
    }

    /// All was taken; the farewell of TLS was not.
    #[tokio::test]
    async fn a_client_that_does_not_take_the_close_gives_its_place_back() {
        let (tls, connector) = tls();
        let (client, limit, task) = answering(100, 16, Some(tls));
        let client = connector.connect("node".try_into().unwrap(), client).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(client);
        let ask = async {
            writer.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            writer.flush().await.unwrap();
        };
        let hear = async {
            let mut answer = Vec::new();
            while !answer.ends_with(b"ss") {
                answer.push(reader.read_u8().await.unwrap());
            }
        };
        tokio::join!(ask, hear);
        tokio::time::timeout(Duration::from_secs(20), task).await.expect("it is cut off").unwrap();
        assert_eq!(limit.open(), 0);
        drop((reader, writer));
    }
}
