//! Extractors whose refusals are problem documents that name the field.
//!
//! - [`JsonBody`]: broken JSON is 400 with line and column, a wrong type is 422 with the path of
//!   the field, a body above [`MAX_BODY_BYTES`] is 413.
//! - [`OptionalJson`]: the same, but an empty body stands for the default.
//! - [`Params`]: the query; an unknown or ill-typed parameter is 422.
//! - [`Id`]: the one parameter of a path, which must be a [`crate::name`].
//!
//! The content type is checked before, by [`super::guard`], also for requests that are forwarded.

use super::problem::ApiError;
use crate::name;
use api::ErrorCode;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use std::task::Poll;
use std::time::Duration;

/// The largest body a request may have.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// How long a client may take to send its body.
pub const BODY_LIMIT: Duration = Duration::from_secs(30);

/// The longest id in a path.
pub const MAX_ID_BYTES: usize = 256;

/// A JSON body.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

/// A JSON body that may be left out.
#[derive(Debug)]
pub struct OptionalJson<T>(pub T);

/// The query.
#[derive(Debug)]
pub struct Params<T>(pub T);

/// The path's one parameter, decoded.
#[derive(Debug)]
pub struct Id(pub String);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let bytes = read_body(request).await?;
        if bytes.is_empty() {
            return Err(ApiError::new(
                ErrorCode::MalformedJson,
                "the body is empty; a JSON object is expected (line 1, column 0)",
            ));
        }
        parse_json(&bytes).map(JsonBody)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let bytes = read_body(request).await?;
        if bytes.is_empty() { Ok(OptionalJson(T::default())) } else { parse_json(&bytes).map(OptionalJson) }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(value)| Params(value)).map_err(|e| {
            let text = api::client::error_chain(&e);
            let why = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            ApiError::new(ErrorCode::Validation, format!("query: {why}"))
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|e| {
            ApiError::new(ErrorCode::Validation, format!("the id in the path: {}", e.body_text()))
        })?;
        match name::fault(&id, MAX_ID_BYTES) {
            None => Ok(Id(id)),
            Some(why) => Err(ApiError::new(ErrorCode::Validation, format!("the id in the path {why}"))),
        }
    }
}

/// Reads the whole body, within its limits of size and time.
pub async fn read_body(request: Request<Body>) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    read_whole(&parts.headers, body).await
}

/// The same, where the request was taken apart before.
pub async fn read_whole(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    read_within(headers, body, BODY_LIMIT).await
}

async fn read_within(headers: &HeaderMap, body: Body, limit: Duration) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            ErrorCode::BodyTooLarge,
            format!("the body is larger than {MAX_BODY_BYTES} bytes; send fewer or smaller tasks at once"),
        )
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let mut collect = std::pin::pin!(Limited::new(body, MAX_BODY_BYTES).collect());
    // Most bodies came with their head; only one that did not needs a timer.
    let collected = match futures_util::poll!(collect.as_mut()) {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => Box::pin(tokio::time::timeout(limit, collect)).await,
    };
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.downcast_ref::<http_body_util::LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(e)) => {
            Err(ApiError::new(ErrorCode::MalformedJson, format!("the body broke off while it was read: {e}")))
        }
        Err(_) => Err(ApiError::new(
            ErrorCode::RequestTimeout,
            format!("the body was not complete after {} s", limit.as_secs_f64()),
        )),
    }
}

/// Reads JSON; an error names line and column, or the field.
///
/// The first pass is serde_json alone. Only a document of the wrong shape is read a second time
/// with the tracker that knows the path, since tracking costs time on large batches.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let error = match serde_json::from_slice::<T>(bytes) {
        // serde takes a list of a struct's fields for the struct; nobody should send one.
        Ok(_) if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') => {
            let why = "the body: invalid type: sequence, expected a JSON object";
            return Err(ApiError::new(ErrorCode::Validation, why));
        }
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if !error.is_data() {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let what = bare(&text);
        return Err(ApiError::new(ErrorCode::MalformedJson, format!("line {line}, column {column}: {what}")));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let (path, what) = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => (".".to_owned(), error.to_string()),
        Err(e) => (e.path().to_string(), e.inner().to_string()),
    };
    let what = bare(&what);
    let detail = if path == "." { format!("the body: {what}") } else { format!("`{path}`: {what}") };
    Err(ApiError::new(ErrorCode::Validation, detail))
}

/// serde_json's message without its own position.
fn bare(message: &str) -> &str {
    message.rfind(" at line ").map_or(message, |end| &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::task::NewBatch;

    fn fault(text: &str) -> (ErrorCode, String) {
        let problem = parse_json::<NewBatch>(text.as_bytes()).unwrap_err().0;
        (problem.code, problem.detail)
    }

    #[test]
    fn broken_json_names_line_and_column() {
        let (code, detail) = fault("{\n \"tasks\": [}");
        assert_eq!(code, ErrorCode::MalformedJson);
        assert!(detail.starts_with("line 2, column 12: expected value"), "{detail}");
        let (code, detail) = fault("{\"tasks\": []} trailing");
        assert_eq!(code, ErrorCode::MalformedJson);
        assert!(detail.contains("trailing characters"), "{detail}");
    }

    #[test]
    fn a_wrong_type_names_the_field() {
        let (code, detail) = fault(r#"{"tasks":[{"type":"noop","config":{}},{"type":7,"config":{}}]}"#);
        assert_eq!(code, ErrorCode::Validation);
        assert_eq!(detail, "`tasks[1].type`: invalid type: integer `7`, expected a string");
        let (_, detail) = fault(r#"{"tasks":[{"type":"noop","config":{},"prioritty":1}]}"#);
        assert!(detail.contains("unknown field `prioritty`"), "{detail}");
        for list in ["[]", r#" [[{"type":"noop"}]]"#] {
            let (code, detail) = fault(list);
            assert_eq!(code, ErrorCode::Validation);
            assert!(detail.contains("invalid"), "{detail}");
        }
    }

    #[tokio::test]
    async fn a_body_is_not_waited_for_for_ever_and_a_broken_one_is_named() {
        // A byte now and then is not enough to be waited for.
        let slow = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        let limit = Duration::from_millis(50);
        let refused = read_within(&HeaderMap::new(), Body::from_stream(slow), limit).await.unwrap_err();
        assert_eq!(refused.0.code, ErrorCode::RequestTimeout, "{refused}");
        let broken = futures_util::stream::iter([
            Ok(Bytes::from_static(b"{\"ty")),
            Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
        ]);
        let refused = read_whole(&HeaderMap::new(), Body::from_stream(broken)).await.unwrap_err();
        assert_eq!(refused.0.code, ErrorCode::MalformedJson, "{refused}");
    }
}
