//! Every request has an id, so that what became of it can be followed.
//!
//! A client may give one in `x-request-id`; else the node makes one. It goes with the request to
//! the leader, comes back in the answer, and stands in the log lines of what the request did.

use super::fresh_id;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::response::Response;
use std::sync::Arc;
use std::time::Instant;

/// The header, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that a client may give.
const MAX_BYTES: usize = 64;

tokio::task_local! {
    static CURRENT: Arc<str>;
}

/// The id of the request that is being served, where one is.
pub fn current() -> Option<Arc<str>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// A request that carries an id while it is served.
pub struct Followed {
    id: Arc<str>,
    method: Method,
    uri: Uri,
    begun: Instant,
}

impl Followed {
    /// Begins with a request. Reads change nothing and get no id, unless they bring one.
    pub fn begin(request: &Request) -> Option<Followed> {
        let given =
            request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| fits(id));
        let id = match given {
            Some(id) => id.into(),
            None if request.method() == Method::GET => return None,
            None => fresh_id().into(),
        };
        let (method, uri) = (request.method().clone(), request.uri().clone());
        Some(Followed { id, method, uri, begun: Instant::now() })
    }

    /// The request's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Serves the request under its id.
    pub async fn serve(self, work: impl Future<Output = Response>) -> Response {
        let Followed { id, method, uri, begun } = self;
        let mut response = CURRENT.scope(id.clone(), work).await;
        let (status, took_ms) = (response.status().as_u16(), begun.elapsed().as_millis() as u64);
        if status >= 500 && status != 503 {
            tracing::warn!(request_id = %id, %method, path = uri.path(), status, took_ms, "request failed");
        } else {
            tracing::debug!(request_id = %id, %method, path = uri.path(), status, took_ms, "request answered");
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().entry(REQUEST_ID).or_insert(value);
        }
        response
    }
}

fn fits(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_BYTES
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_spoil_a_log_line_is_not_taken() {
        assert!(fits("ci-run.17:4_2"));
        for bad in ["", "a b", "a\"b", "a\nb", &"x".repeat(65)] {
            assert!(!fits(bad), "{bad:?}");
        }
    }
}
