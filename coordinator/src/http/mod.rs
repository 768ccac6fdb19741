//! The HTTP API: a router, one file per resource, and what stands before and behind the handlers.
//!
//! A request passes, in this order and in one layer ([`entrance`]): the clock of [`timing`], the
//! [`guard`] (origin, content type), the check of the caller ([`access`]), for writes and worker calls the [`forward`]ing to the leader,
//! then its handler. Whatever goes
//! wrong anywhere leaves as a [`problem`] document.
//!
//! Invariant: status, health, report, logs and metrics are answered from what this node knows, and
//! never wait for consensus. They have to answer when it is stuck.

pub mod access;
pub mod admin;
pub mod auth;
pub mod backup;
pub mod cluster;
pub mod config;
pub mod connections;
mod drained;
pub mod entrance;
pub mod events;
pub mod extract;
pub mod fence;
pub mod forward;
pub mod guard;
pub mod keyed;
pub mod leases;
pub mod maintenance;
pub mod node_health;
pub mod observe;
pub mod openapi;
pub mod problem;
pub mod read;
pub mod request_id;
pub mod results;
pub mod settings;
pub mod stored;
pub mod table;
pub mod tasks;
pub mod timing;
pub mod traced;
pub mod validate;
pub mod workers;

use crate::access::Access;
use crate::access::outbound::NodeClient;
use crate::command::{Command, Reply};
use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::health::Sampler;
use crate::integrity::Integrity;
use crate::live::Live;
use crate::mend::Mender;
use crate::node::{Applied, Node, RaftView};
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::telemetry::ring::LogRing;
use crate::telemetry::trail;
use api::ErrorCode;
use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::HeaderValue;
use axum::middleware;
use fence::Fence;
use problem::{ApiError, ApiResult};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// What every handler works with. A clone is one reference: each layer of each request makes one.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What an [`App`] is made of.
pub struct Parts {
    /// The node.
    pub node: Node,
    /// DuckDB behind the applier.
    pub store: Arc<Store>,
    /// The leader's side of the worker protocol.
    pub dispatch: Dispatch,
    /// The figures.
    pub telemetry: Telemetry,
    /// The last log lines.
    pub logs: LogRing,
    /// What the process uses.
    pub sampler: Sampler,
    /// Checks of log, machine and database.
    pub integrity: Integrity,
    /// What the node repairs of itself.
    pub mender: Mender,
    /// The highest epoch of a repair that was seen.
    pub fence: Arc<Fence>,
    /// The config that the node was started with.
    pub config: Arc<Config>,
    /// The config as it counts now, and what became of reloads.
    pub live: Live,
    /// When the process started.
    pub started_at: Instant,
    /// The client that forwards to the leader.
    pub(crate) forwarding: Arc<NodeClient>,
    /// Who may do what.
    pub access: Access,
    /// The connections to this node.
    pub connections: Arc<connections::Limit>,
    /// Where this node is reached, as a header says it.
    pub(crate) own_address: HeaderValue,
    /// Names under which a browser may reach this node.
    pub(crate) own_hosts: Arc<BTreeSet<String>>,
    /// Questions to the database that may wait or run at once.
    pub(crate) store_queries: Arc<Semaphore>,
}

/// The way from a metric's callback to the node, which lives on in nobody's callback.
#[derive(Clone)]
pub(crate) struct WeakApp(std::sync::Weak<Parts>);

impl WeakApp {
    /// The node, while it is there.
    pub(crate) fn get(&self) -> Option<App> {
        self.0.upgrade().map(App)
    }
}

impl App {
    pub(crate) fn downgrade(&self) -> WeakApp {
        WeakApp(Arc::downgrade(&self.0))
    }

    /// Puts the parts together. `sampler` must be running for resources to be true.
    pub fn new(
        node: Node,
        store: Arc<Store>,
        dispatch: Dispatch,
        telemetry: Telemetry,
        logs: LogRing,
        sampler: Sampler,
        live: Live,
    ) -> Result<App, String> {
        let config = live.config();
        let access = Access::from_config(&config).map_err(|e| e.to_string())?;
        let forwarding = NodeClient::new(access.tls().cloned(), forward::tune)
            .map_err(|e| format!("the forwarding client can't be made: {e}"))?;
        let forwarding = Arc::new(forwarding);
        let connections = connections::Limit::new(config.max_concurrent_connections);
        let own_hosts = Arc::new(guard::own_hosts(&config));
        let started_at = Instant::now();
        let store_queries = Arc::new(Semaphore::new(stored::MAX_QUERIES));
        let integrity = Integrity::new(
            node.clone(),
            Arc::clone(&store),
            telemetry.clone(),
            config.data_dir.join("raft"),
            config.db_retention_days,
        );
        let mender = Mender::new(
            node.clone(),
            Arc::clone(&store),
            integrity.clone(),
            telemetry.clone(),
            config.data_dir.clone(),
        );
        let fence = Arc::new(Fence::open(&config.data_dir));
        let own_address = HeaderValue::from_str(&config.address())
            .map_err(|e| format!("the node's address can't stand in a header: {e}"))?;
        let app = App(Arc::new(Parts {
            integrity,
            mender,
            fence,
            node,
            store,
            dispatch,
            telemetry,
            logs,
            sampler,
            config,
            live,
            started_at,
            forwarding,
            access,
            connections,
            own_address,
            own_hosts,
            store_queries,
        }));
        crate::telemetry::observe::register(&app);
        Ok(app)
    }

    /// Address of the leader of this view.
    pub fn leader_address_of(&self, view: &RaftView) -> Option<String> {
        let leader = view.leader.as_deref()?;
        if leader == self.node.node_id() {
            return Some(self.config.address());
        }
        self.node.address_of(leader)
    }

    /// Address of the leader, as this node knows it.
    pub fn leader_address(&self) -> Option<String> {
        self.leader_address_of(&self.node.view())
    }

    /// Proposes a command; a failure or a refusal is a problem.
    pub async fn propose(&self, command: Command) -> ApiResult<Applied> {
        let ids = trail::Ids::of(&command);
        let applied = self
            .node
            .propose(command)
            .await
            .map_err(|error| problem::of_proposal(&error, self.leader_address()))?;
        trail::proposed(request_id::current().as_deref(), &ids, applied.index);
        match applied.reply {
            Reply::Refused { code, detail } => Err(ApiError::new(code, detail).with_leader(
                matches!(code, ErrorCode::Overloaded | ErrorCode::Maintenance).then(|| self.config.address()),
            )),
            _ => Ok(applied),
        }
    }
}

/// The whole API.
pub fn router(app: App) -> Router {
    let led = Router::new()
        .merge(tasks::writes())
        .merge(workers::calls())
        .merge(maintenance::writes())
        .merge(settings::writes())
        .merge(leases::writes())
        .merge(cluster::of_the_leader())
        .layer(middleware::from_fn_with_state(app.clone(), entrance::of_the_leader));
    let own = Router::new()
        .merge(tasks::reads())
        .merge(results::reads())
        .merge(workers::reads())
        .merge(maintenance::reads())
        .merge(settings::reads())
        .merge(cluster::of_this_node())
        .merge(node_health::routes())
        .merge(observe::routes())
        .merge(events::routes())
        .merge(auth::routes())
        .merge(openapi::routes())
        .merge(config::routes())
        .merge(admin::routes())
        .merge(backup::reads())
        .layer(middleware::from_fn_with_state(app.clone(), entrance::of_this_node));
    let entrance = middleware::from_fn_with_state(app.clone(), entrance::of_this_node);
    led.merge(own)
        .fallback(unknown_endpoint.layer(entrance.clone()))
        .method_not_allowed_fallback(method_not_allowed.layer(entrance))
        .with_state(app)
}

/// The API and the peers' paths, as one port serves them.
pub fn served(app: App) -> Router {
    let checked = middleware::from_fn_with_state(app.access.clone(), access::check);
    let folder = app.config.data_dir.join("tmp");
    let history = crate::raft::history::router(Arc::clone(&app.store), folder);
    crate::raft::routes::router(app.node.clone()).merge(history).layer(checked).merge(router(app))
}

async fn unknown_endpoint(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(ErrorCode::UnknownEndpoint, format!("there is no {method} {path}"))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{path} does not take {method}"))
}

/// A fresh id for a task, a lease or an operation: sorted by time, unique across nodes.
pub(crate) fn fresh_id() -> String {
    ulid::Ulid::generate().to_string()
}

#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod tests;
