//! A request that is traced: its span goes round everything that is done for it.

use super::request_id::Followed;
use axum::response::Response;
use otlp::{Span, context};

/// Serves a request within its span.
pub async fn serve(
    mut span: Span,
    followed: Option<Followed>,
    served: impl Future<Output = Response>,
) -> Response {
    if let Some(followed) = &followed {
        span.put("holdfast.request_id", followed.id().to_owned());
    }
    let response = match followed {
        Some(followed) => context::within(&span, followed.serve(served)).await,
        None => context::within(&span, served).await,
    };
    let status = response.status();
    span.put("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.canonical_reason().unwrap_or("server error"));
    }
    response
}
