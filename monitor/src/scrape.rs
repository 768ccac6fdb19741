//! IO: asks every node for its report, all at once, at most [`MAX_IN_FLIGHT`] in flight.
//!
//! Each node has its own time-out and its own pooled connection, so that a slow or silent node
//! costs nobody else anything. The body is read up to a bound. Proxies of the environment are
//! not used and redirects are not followed: the address asked is the address that answers.

use crate::report;
pub use crate::report::{NodeReport, ScrapeFailure};
use api::cluster::Report;
use api::http::Access;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use otlp::SpanKind;
use std::time::{Duration, Instant};

/// The largest report that is read.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Questions in flight at once.
pub const MAX_IN_FLIGHT: usize = 256;
/// How much of an error's body is kept, characters.
const ERROR_TEXT_CHARS: usize = 200;
/// How much of an error's body is read for it.
const ERROR_BODY_BYTES: usize = 16 * 1024;

/// Why there is no scraper.
#[derive(Debug, thiserror::Error)]
pub enum ScraperError {
    /// The HTTP client can't be set up.
    #[error("the HTTP client can't be set up")]
    Client(#[from] reqwest::Error),
    /// The token or the certificates can't be used.
    #[error(transparent)]
    Access(#[from] api::http::AccessError),
}

/// Asks its nodes, round after round, over connections it keeps.
#[derive(Debug, Clone)]
pub struct Scraper {
    http: reqwest::Client,
    access: Access,
    secure: bool,
    nodes: Vec<String>,
    timeout: Duration,
}

impl Scraper {
    /// A scraper of `nodes` (`host:port`; a repeated address is asked once), each of which may take
    /// `timeout` to answer.
    pub fn new(nodes: Vec<String>, timeout: Duration) -> Result<Self, ScraperError> {
        Scraper::with_access(nodes, timeout, Access::default(), false)
    }

    /// The same, showing and trusting what `access` says; over https where `secure`.
    pub fn with_access(
        nodes: Vec<String>,
        timeout: Duration,
        access: Access,
        secure: bool,
    ) -> Result<Self, ScraperError> {
        let http = access
            .builder(secure)?
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Shorter than the whole, so that "no connection" and "no answer" can be told apart.
            .connect_timeout(timeout * 3 / 4)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_nodelay(true)
            .user_agent(concat!("holdfast-monitor/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let mut scraper = Scraper { http, access, secure, nodes: Vec::new(), timeout };
        scraper.watch(nodes);
        Ok(scraper)
    }

    /// Asks these nodes from the next round on; a repeated address is asked once.
    pub fn watch(&mut self, nodes: Vec<String>) {
        let mut known = std::collections::HashSet::new();
        self.nodes = nodes.into_iter().filter(|node| known.insert(node.clone())).collect();
    }

    /// The addresses it asks.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// One round: every node is asked at once; the answers come in the order of the addresses.
    pub async fn round(&self) -> Vec<NodeReport> {
        match otlp::Export::installed().tracer().begin("scrape.round", SpanKind::Internal) {
            None => self.ask_all().await,
            Some(span) => otlp::context::within(&span, self.ask_all()).await,
        }
    }

    async fn ask_all(&self) -> Vec<NodeReport> {
        let ask = |(place, address): (usize, String)| async move { (place, self.ask(&address).await) };
        let questions: Vec<(usize, String)> = self.nodes.iter().cloned().enumerate().collect();
        let mut answers: Vec<(usize, NodeReport)> =
            stream::iter(questions).map(ask).buffer_unordered(MAX_IN_FLIGHT).collect().await;
        answers.sort_unstable_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// One question to one node.
    async fn ask(&self, address: &str) -> NodeReport {
        let started = Instant::now();
        let waited_ms = self.timeout.as_millis() as u64;
        let mut span = otlp::context::child("scrape", SpanKind::Client);
        let place = span.as_ref().map(|span| span.context().traceparent());
        let outcome = match tokio::time::timeout(self.timeout, self.fetch(address, place)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ScrapeFailure::TimedOut { connected: true, waited_ms }),
        };
        if let Some(span) = &mut span {
            span.put("server.address", address.to_owned());
            if let Err(failure) = &outcome {
                span.fail(failure.to_string());
            }
        }
        let took_ms = started.elapsed().as_secs_f64() * 1_000.0;
        NodeReport { address: address.to_owned(), at: Timestamp::now(), took_ms, outcome }
    }

    async fn fetch(&self, address: &str, place: Option<String>) -> Result<Report, ScrapeFailure> {
        let url = format!("{}://{address}/api/report", api::http::scheme(self.secure));
        let mut request = self.access.authorize(self.http.get(url));
        if let Some(place) = place {
            request = request.header(otlp::context::TRACEPARENT, place);
        }
        let mut response = request.send().await.map_err(|error| self.classify(&error))?;
        let status = response.status();
        let limit = if status.is_success() { MAX_BODY_BYTES } else { ERROR_BODY_BYTES };
        let mut body: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.classify(&error))? {
            if body.len() + chunk.len() > limit {
                if !status.is_success() {
                    break;
                }
                return Err(ScrapeFailure::Malformed {
                    why: format!("larger than {} MiB", MAX_BODY_BYTES / 1024 / 1024),
                });
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let text = match serde_json::from_slice::<api::Problem>(&body) {
                Ok(problem) => problem.to_string(),
                Err(_) => String::from_utf8_lossy(&body).into_owned(),
            };
            let text = report::shorten(&text, ERROR_TEXT_CHARS);
            return Err(ScrapeFailure::HttpStatus { status: status.as_u16(), text });
        }
        report::parse(&body)
    }

    /// Which failure a client error is. The system's own error is at the end of its causes.
    fn classify(&self, error: &reqwest::Error) -> ScrapeFailure {
        let waited_ms = self.timeout.as_millis() as u64;
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                match io.kind() {
                    std::io::ErrorKind::ConnectionRefused => return ScrapeFailure::Refused,
                    std::io::ErrorKind::TimedOut => {
                        return ScrapeFailure::TimedOut { connected: !error.is_connect(), waited_ms };
                    }
                    _ => {}
                }
            }
            cause = inner.source();
        }
        if error.is_timeout() {
            return ScrapeFailure::TimedOut { connected: !error.is_connect(), waited_ms };
        }
        ScrapeFailure::Unreachable { why: report::shorten(&api::client::error_chain(error), 300) }
    }
}
