//! IO: the running monitor. Rounds at an interval, a web server beside them, and an end that
//! leaves nothing open.

use crate::access::tls::{Tls, TlsListener};
use crate::access::{Gate, GateError};
use crate::audit_feed::{self, AuditFeed};
use crate::config::MonitorConfig;
use crate::history::prometheus::Server;
use crate::history::{History, HistoryError};
use crate::http;
use crate::journal::{Journal, JournalError};
use crate::metrics::{MetricsError, MonitorMetrics};
use crate::pages::{self, Seen};
use crate::rounds;
use crate::scrape::{Scraper, ScraperError};
use crate::stream::Hub;
use crate::view::Asker;
use jiff::Timestamp;
use parking_lot::RwLock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The file of history in the output directory.
const HISTORY_FILE: &str = "history.duckdb";
/// How long open connections may take to end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);
/// The least time between two questions to the recovery daemon.
const AUDIT_INTERVAL: Duration = Duration::from_secs(2);

/// Why the monitor does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {why}{}", hint(.why))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said; in the text, so no source beside it.
        why: std::io::Error,
    },
    /// The web server failed.
    #[error("the web server failed")]
    Serve(#[source] std::io::Error),
    /// The output directory can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Access can't be set up.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// History can't be kept.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The HTTP client can't be set up.
    #[error(transparent)]
    Scraper(#[from] ScraperError),
    /// The metrics can't be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process has the port: stop it, or give another --listen",
        std::io::ErrorKind::PermissionDenied => "; take a port above 1023, or give the right to bind it",
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// What rounds leave for requests.
#[derive(Debug)]
pub struct Shared {
    /// Between two rounds.
    pub interval: Duration,
    /// Who watches.
    pub hub: Arc<Hub>,
    /// What was seen before.
    pub history: History,
    /// Who may look.
    pub gate: Gate,
    /// The monitor's own metrics.
    pub metrics: MonitorMetrics,
    /// Cancelled when everything is to end.
    pub end: CancellationToken,
    /// Asks the coordinators what a page wants to know.
    pub asker: Asker,
    seen: RwLock<Option<Arc<Seen>>>,
    audit: RwLock<Option<AuditFeed>>,
}

impl Shared {
    /// Nothing seen yet.
    pub fn new(
        interval: Duration,
        history: History,
        gate: Gate,
        asker: Asker,
        end: CancellationToken,
    ) -> Result<Arc<Self>, MetricsError> {
        let boot = format!("{:x}", Timestamp::now().as_nanosecond());
        Ok(Arc::new(Shared {
            interval,
            hub: Hub::new(boot),
            history,
            gate,
            metrics: MonitorMetrics::new()?,
            end,
            asker,
            seen: RwLock::default(),
            audit: RwLock::default(),
        }))
    }

    /// The last round.
    pub fn seen(&self) -> Option<Arc<Seen>> {
        self.seen.read().clone()
    }

    /// What the recovery daemon said last.
    pub fn audit(&self) -> Option<AuditFeed> {
        self.audit.read().clone()
    }

    /// Takes in a round: for requests, and for who watches.
    pub fn show(&self, seen: Seen) {
        self.hub.publish(pages::draw(&seen, &self.hub.watched_nodes()));
        *self.seen.write() = Some(Arc::new(seen));
    }
}

/// A monitor that is bound to its port and has not begun.
#[derive(Debug)]
pub struct Service {
    config: MonitorConfig,
    listener: TcpListener,
    scraper: Scraper,
    asker: Asker,
    journal: Option<Journal>,
    history: History,
    gate: Gate,
    tls: Option<Arc<Tls>>,
}

impl Service {
    /// Binds the port and opens the output directory, so that what can't work fails here.
    pub async fn bind(config: MonitorConfig) -> Result<Self, ServiceError> {
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|why| ServiceError::Listen { address, why })?;
        let access = api::http::Access::from_flags(config.token_file.as_deref(), config.ca.as_deref())
            .map_err(ScraperError::from)?;
        let asker = Asker::new(access.clone(), config.secure)?;
        let scraper = Scraper::with_access(config.nodes.clone(), config.timeout, access, config.secure)?;
        let journal = config.output_dir.as_deref().map(Journal::open).transpose()?;
        let file = config.output_dir.as_deref().map(|folder| folder.join(HISTORY_FILE));
        let mut history = History::open(file.as_deref(), &config.history)?;
        if let Some(server) = &config.prometheus {
            let access = api::http::Access::load(server.token_file.as_deref(), None, config.ca.as_deref())
                .map_err(ScraperError::from)?;
            history = history.with_server(Server::new(&server.url, &server.selector, access)?);
        }
        let gate = Gate::new(&config.access)?;
        let tls = match (&config.access.cert_path, &config.access.key_path) {
            (Some(cert), Some(key)) if config.access.enable_tls => {
                Some(Tls::load(cert.clone(), key.clone())?)
            }
            _ => None,
        };
        if !address.ip().is_loopback() && gate.is_open() {
            tracing::warn!(%address, "whoever reaches this port may look: set `enable_auth`, or listen on 127.0.0.1");
        }
        Ok(Service { config, listener, scraper, asker, journal, history, gate, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, ServiceError> {
        self.listener.local_addr().map_err(ServiceError::Serve)
    }

    /// Watches and serves until `end` is cancelled.
    pub async fn run(self, end: CancellationToken) -> Result<(), ServiceError> {
        let Service { config, listener, scraper, asker, journal, history, gate, tls } = self;
        let shared = Shared::new(config.interval, history.clone(), gate, asker, end.clone())?;
        if let Some(tls) = &tls {
            shared.metrics.show_certificate(tls.clone());
        }
        // However this function is left, nothing it started goes on.
        let _guard = end.clone().drop_guard();
        let app = http::router(shared.clone());
        let stop = end.clone();
        let mut server = tokio::spawn(async move {
            let ended = stop.clone().cancelled_owned();
            match tls {
                None => axum::serve(listener, app).with_graceful_shutdown(ended).await,
                Some(tls) => {
                    tokio::spawn(tls.clone().watch(stop.clone()));
                    let listener = TlsListener::new(listener, tls, stop);
                    axum::serve(listener, app).with_graceful_shutdown(ended).await
                }
            }
        });
        if let Some(url) = config.recovery.clone() {
            tokio::spawn(follow_audit(shared.clone(), url));
        }
        let rounds = rounds::run(&shared, &config, scraper, journal);
        let mut failed = None;
        let journal = tokio::select! {
            journal = rounds => journal,
            served = &mut server => {
                failed = Some(served.unwrap_or_else(|e| Err(std::io::Error::other(e))));
                None
            }
        };
        if let Some(outcome) = failed {
            return outcome.map_err(ServiceError::Serve);
        }
        if tokio::time::timeout(SHUTDOWN_LIMIT, &mut server).await.is_err() {
            tracing::warn!("connections are still open; they are cut");
            server.abort();
        }
        tokio::task::spawn_blocking(move || history.close())
            .await
            .map_err(|e| ServiceError::Serve(std::io::Error::other(e)))?;
        if let Some(journal) = journal {
            let html = shared.seen().and_then(|seen| {
                pages::report(&seen)
                    .map_err(|error| tracing::error!(%error, "the report can't be drawn"))
                    .ok()
            });
            tokio::task::spawn_blocking(move || journal.close(html.as_deref()))
                .await
                .map_err(|e| ServiceError::Serve(std::io::Error::other(e)))??;
        }
        Ok(())
    }
}

/// Asks the recovery daemon, again and again.
async fn follow_audit(shared: Arc<Shared>, url: String) {
    let client = api::http::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
    let Ok(client) = client else {
        tracing::error!("the client for the recovery daemon can't be set up");
        return;
    };
    let mut ticks = tokio::time::interval(shared.interval.max(AUDIT_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.end.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let feed = audit_feed::ask(&client, &url).await;
        *shared.audit.write() = Some(feed);
    }
}
