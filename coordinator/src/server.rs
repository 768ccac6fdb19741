//! One node, from its config to its end: files, store, Raft, sockets, and a clean stop.

use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::health::Sampler;
use crate::http::{App, connections};
use crate::live::Live;
use crate::node::Node;
use crate::raft::identity::Identity;
use crate::raft::{force_sync, lost_state};
use crate::store::{OnWritten, Store, StoreOptions};
use crate::telemetry::logs::LogGuard;
use crate::telemetry::ring::LogRing;
use crate::telemetry::{Telemetry, metrics_router};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long the store may take to close.
const CLOSE: Duration = Duration::from_secs(10);
/// How long a leader that handed over goes on taking connections: the others forward to it until they
/// have heard of the next one, and a connection closed under a request leaves its outcome unknown.
const LINGER: Duration = Duration::from_millis(500);
/// How long the last figures, lines and spans may take to their collector.
pub const FLUSH: Duration = Duration::from_secs(3);
/// How long requests in flight may take to end after the node was told to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Connections to the Prometheus endpoint at once.
const SCRAPE_CONNECTIONS: usize = 64;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its files can't be used.
    #[error(transparent)]
    Files(#[from] crate::raft::DataError),
    /// A port can't be bound.
    #[error(
        "can't listen on {address} (`{key}`): {source}; is another process using the port? `ss -ltnp` tells which"
    )]
    Bind {
        /// Host and port.
        address: String,
        /// The key of the config that names the port.
        key: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A part can't be set up.
    #[error("{what}: {why}")]
    Part {
        /// The part.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
}

fn part(what: &'static str) -> impl FnOnce(String) -> ServeError {
    move |why| ServeError::Part { what, why }
}

/// What the command line asks of a node beside its config.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServeOptions {
    /// Replace the state by that of the majority, once.
    pub force_sync: bool,
}

/// Why a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The process has to begin anew, with what lies prepared on the disk.
    Restart,
}

/// Runs a node until `stop` is cancelled; logging is set up already.
pub async fn serve(
    live: Live,
    logs: LogRing,
    _guard: LogGuard,
    export: otlp::Export,
    stop: CancellationToken,
    options: ServeOptions,
) -> Result<Ended, ServeError> {
    let config = live.config();
    // Ports first: a node that can't be reached must not touch its files.
    let api = bind(config.bind_host(), config.port, "port").await?;
    let metrics = match config.enable_prometheus {
        true => Some(bind(config.bind_host(), config.prometheus_port, "prometheus_port").await?),
        false => None,
    };
    let mut identity = Identity::open(&config.data_dir, &config.node_id)?;
    if let Err(why) = force_sync::finish(&config, &mut identity, options.force_sync) {
        force_sync::give_up(&config.data_dir, &why);
    }
    let asked = force_sync::asked_by_flag(&config.data_dir, options.force_sync).unwrap_or_else(|why| {
        tracing::error!(why, "whether --force-sync was done already can't be read; it is not done");
        false
    });
    let synchronise = asked && identity.founded();
    let telemetry =
        Telemetry::exporting(&config.node_id, export, config.enable_prometheus).map_err(part("metrics"))?;
    if let Some(founding) = identity.founding() {
        telemetry.cluster_is(&founding.cluster_id);
    }
    let store = Arc::new(open_store(&config, &telemetry));
    let node = Node::new(identity, &config);
    let sampler = Sampler::start(node.clone(), config.data_dir.clone())
        .map_err(|e| ServeError::Part { what: "resource sampling", why: e.to_string() })?;
    let dispatch = Dispatch::new(node.clone(), config.election_timeout_max);
    let dispatching = dispatch.spawn();
    let stewarding = crate::members::steward::spawn(node.clone(), live.clone());
    let app =
        App::new(node.clone(), Arc::clone(&store), dispatch, telemetry.clone(), logs, sampler, live.clone())
            .map_err(part("HTTP"))?;

    let ending = CancellationToken::new();
    let interval = Duration::from_secs(config.scrub_interval_seconds);
    let share = config.scrub_cpu_percent as f64 / 100.0;
    app.integrity.spawn_scrub(interval, share, config.db_retention_rows, ending.clone());
    let mending = tokio::spawn(app.mender.clone().run(ending.clone()));
    crate::events::watch::spawn(app.clone(), ending.clone());
    let importing = tokio::spawn(crate::raft::history::import_when_wanted(
        node.clone(),
        Arc::clone(&store),
        config.data_dir.join("tmp"),
        app.integrity.clone(),
    ));
    let drained = CancellationToken::new();
    let limit = Arc::clone(&app.connections);
    live.follow({
        let (node, limit) = (node.clone(), Arc::clone(&limit));
        move |config| {
            node.take_config(config);
            limit.set(config.max_concurrent_connections);
        }
    });
    let access = app.access.clone();
    node.speaks_with(access.outbound().map_err(|e| part("access")(e.to_string()))?);
    let watching = access.tls().map(|tls| tokio::spawn(Arc::clone(tls).watch()));
    let router = crate::http::served(app);
    let tls = access.tls().cloned();
    let serving = tokio::spawn(connections::serve(api, router, limit, tls.clone(), drained.clone()));
    let exposing = metrics.map(|listener| {
        let checked = axum::middleware::from_fn_with_state(access.clone(), crate::http::access::check_scrape);
        let router = metrics_router(telemetry.clone()).layer(checked);
        let limit = connections::Limit::new(SCRAPE_CONNECTIONS);
        tokio::spawn(connections::serve(listener, router, limit, tls, drained.clone()))
    });
    tracing::info!(node_id = %config.node_id, address = %config.address(), "listening");

    let starting = tokio::spawn({
        let (node, config, store) = (node.clone(), Arc::clone(&config), Arc::clone(&store));
        async move {
            if synchronise {
                let operation = node.operation_book().begin_cancellable("force_sync", "beginning");
                let why = "--force-sync on the command line".to_owned();
                let request = force_sync::Request { why, keep_database: false };
                // A failure was told, and the node goes on with what it has.
                let _ = force_sync::sync_state(&node, &config, &request, operation).await;
                if node.restart().is_cancelled() {
                    return;
                }
            }
            loop {
                if let Err(why) = node.start(&config, Arc::clone(&store), telemetry.clone()).await {
                    tracing::error!(why, "the node takes no part; it stays up to be seen and cured");
                }
                tokio::select! {
                    () = node.wait_to_start_again() => {}
                    () = lost_state::bring_back(&node, &config) => node.wait_to_start_again().await,
                }
            }
        }
    });

    let restart = node.restart().clone();
    tokio::select! { () = stop.cancelled() => {}, () = restart.cancelled() => {} }
    let ended = if stop.is_cancelled() { Ended::Stopped } else { Ended::Restart };
    tracing::info!(?ended, "stopping");
    starting.abort();
    if let Some(watching) = watching {
        watching.abort();
    }
    importing.abort();
    mending.abort();
    ending.cancel();
    // First another leads, then no new connection is taken; what is being answered here still can be.
    if node.hand_over().await {
        tokio::time::sleep(LINGER).await;
    }
    node.events().close();
    // While it still answers, so that nobody sees it gone before he can know why.
    node.say_goodbye().await;
    drained.cancel();
    let all_served = async {
        let _ = serving.await;
        if let Some(exposing) = exposing {
            let _ = exposing.await;
        }
    };
    if tokio::time::timeout(DRAIN, all_served).await.is_err() {
        tracing::warn!("requests in flight did not end in time and were cut off");
    }
    node.stop().await;
    dispatching.abort();
    stewarding.abort();
    let closed = tokio::task::spawn_blocking(move || store.close());
    if !matches!(tokio::time::timeout(CLOSE, closed).await, Ok(Ok(()))) {
        tracing::warn!("the store did not close cleanly; it catches up at the next start");
    }
    tracing::info!("stopped");
    Ok(ended)
}

async fn bind(host: &str, port: u16, key: &'static str) -> Result<TcpListener, ServeError> {
    let address = crate::config::join_host_port(host, port);
    TcpListener::bind(&address).await.map_err(|source| ServeError::Bind { address, key, source })
}

/// Opens DuckDB. A node whose database can't be opened serves all the same: it says so in its
/// health, and what it would have recorded is in its log.
fn open_store(config: &Config, telemetry: &Telemetry) -> Store {
    let settings: BTreeMap<String, serde_json::Value> = config
        .db_pragma
        .iter()
        .filter(|(key, _)| !["journal_mode", "synchronous", "cache_size"].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let options = || StoreOptions {
        memory_limit_mb: config.db_memory_limit,
        settings: settings.clone(),
        quarantine: Some(config.data_dir.join("quarantine")),
        on_batch: Some(Arc::new({
            let telemetry = telemetry.clone();
            move |effects: usize, took: Duration| telemetry.store_write(took, effects as u64)
        })),
        on_written: telemetry.traces().is_on().then(|| {
            let traces = telemetry.traces().clone();
            Arc::new(move |index| traces.written(index)) as OnWritten
        }),
        ..StoreOptions::default()
    };
    match Store::open(config.db_path(), options()) {
        Ok((store, index)) => {
            tracing::info!(index, "the database holds effects up to this index");
            store
        }
        Err(error) => {
            tracing::error!(%error, "the database can't be opened; the node serves without its history");
            Store::broken(config.db_path(), options(), &error)
        }
    }
}
