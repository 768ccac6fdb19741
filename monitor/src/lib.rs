//! The monitor: one request a node a round, joined into one picture of the cluster.
//!
//! Data flows one way. [`scrape`] asks every node for its report, [`snapshot`] joins the answers
//! into a [`ClusterSnapshot`], [`detectors`] name what is wrong in it, `pages` and `http` show
//! it. Only `scrape`, `http`, `service`, `journal` and
//! `history` touch the world; the rest are
//! functions of their arguments, so that the recovery daemon can use the same eyes on its own
//! observations.
//!
//! Invariant: what was not observed is said to be unknown. The monitor never turns its own
//! blindness into a statement about a node, and it never adds up what replicas each hold whole.

pub mod access;
pub mod audit_feed;
pub mod chronicle;
pub mod config;
pub mod detectors;
pub mod discovery;
pub mod events;
pub mod history;
pub mod http;
pub mod journal;
pub mod metrics;
pub mod observer;
pub mod own;
pub mod pages;
pub mod report;
pub mod rounds;
pub mod scrape;
pub mod service;
pub mod snapshot;
pub mod stream;
mod view;

pub use config::MonitorConfig;
pub use observer::Observer;
pub use report::{NodeReport, ScrapeFailure};
pub use scrape::Scraper;
pub use service::{Service, ServiceError};
pub use snapshot::{ClusterSnapshot, Memory, NodeState, NodeView, Severity};
