//! The Grafana dashboards, written as JSON from short descriptions.
//!
//! What all of them have alike (variables, links, annotations, the look of a panel) stands once in
//! `model`; a dashboard is a list of rows of panels (`boards`). `dashboards/*.json` is what comes
//! out, and a test that they are current keeps both together:
//! `UPDATE=1 cargo test -p testbed --test dashboards`.
//!
//! In a query `$m` stands for the matchers of cluster, job and instance, which every selector has.

mod boards;
mod model;
mod more_boards;

pub use model::{Alarm, Board, Look, Panel, Query, Row, annotation_queries, full};

/// Every dashboard.
pub const ALL: [Board; 6] = [
    boards::OVERVIEW,
    boards::RAFT,
    more_boards::STORAGE,
    more_boards::TASKS,
    more_boards::RECOVERY,
    more_boards::NODE,
];
