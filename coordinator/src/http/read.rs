//! How current a read has to be.
//!
//! By default a read is linearizable: it sees every write that was answered before it began,
//! whichever node is asked. `?consistency=local` answers from this node's machine as it is.
//! `?min_index=N` waits until entry N is applied here; together with `consistency=local` it is the
//! cheap way to read one's own write on any node.

use super::App;
use super::problem::{self, ApiError, ApiResult};
use api::ErrorCode;
use serde::Deserialize;
use std::time::Duration;

/// How long a read waits for an index.
pub const INDEX_LIMIT: Duration = Duration::from_secs(5);

/// `?consistency=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every write that was answered before.
    #[default]
    Linearizable,
    /// What this node has.
    Local,
}

/// A request with nothing but `consistency` and `min_index`.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// How current.
    #[serde(default)]
    pub consistency: Consistency,
    /// Not before this entry is applied here.
    #[serde(default)]
    pub min_index: Option<u64>,
}

impl App {
    /// Waits until this node's machine may answer. Gives an index that it has applied.
    pub async fn catch_up(&self, consistency: Consistency, min_index: Option<u64>) -> ApiResult<u64> {
        if let Some(index) = min_index.filter(|index| *index > self.node.applied_index()) {
            self.node.wait_applied(index, INDEX_LIMIT).await.map_err(|_| {
                let applied = self.node.applied_index();
                ApiError::new(
                    ErrorCode::Unavailable,
                    format!(
                        "min_index {index} was not applied here within {} s; this node has applied {applied}",
                        INDEX_LIMIT.as_secs()
                    ),
                )
                .with_leader(self.leader_address())
            })?;
        }
        match consistency {
            Consistency::Local => Ok(self.node.applied_index()),
            Consistency::Linearizable => {
                self.node.read_barrier().await.map_err(|e| problem::of_read(&e, self.leader_address()))
            }
        }
    }
}
