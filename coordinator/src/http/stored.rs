//! Asking DuckDB without holding up anybody who does not ask it.
//!
//! Queries block, so they run on threads of their own, and only so many at once: when the database
//! is slow, the next question is refused instead of filling those threads.

use super::App;
use super::problem::{ApiError, ApiResult};
use super::read::INDEX_LIMIT;
use crate::store::{Store, StoreError};
use api::ErrorCode;
use std::sync::Arc;
use std::time::Duration;

/// Questions that may run at once, or wait for each other inside the store.
pub const MAX_QUERIES: usize = 16;
/// How long a question waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(5);

impl App {
    /// Asks the store on a thread of its own.
    pub async fn ask_store<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> ApiResult<T> {
        let turn = tokio::time::timeout(TURN_LIMIT, Arc::clone(&self.store_queries).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let why = format!("{MAX_QUERIES} questions to the database are waiting already; ask again later");
            return Err(ApiError::new(ErrorCode::Overloaded, why));
        };
        let store = Arc::clone(&self.store);
        let answer = tokio::task::spawn_blocking(move || {
            let answer = ask(&store);
            drop(turn);
            answer
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                Err(ApiError::new(ErrorCode::Unavailable, format!("the database can't answer: {error}")))
            }
            Err(error) => {
                Err(ApiError::new(ErrorCode::Internal, format!("asking the database failed: {error}")))
            }
        }
    }

    /// Waits until the store holds the effects of `index`.
    pub async fn store_caught_up(&self, index: u64) -> ApiResult<()> {
        if self.store.applied_index() >= index {
            return Ok(());
        }
        self.ask_store(move |store| store.wait_for(index, INDEX_LIMIT)).await
    }
}
