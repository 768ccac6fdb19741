//! Writes with an `Idempotency-Key`: sent twice, done once.
//!
//! The key is remembered in the replicated state with a hash of the request (its path and body as
//! sent) and what the request was answered, so it holds across a change of leader. Ids that are
//! made for tasks without one are made from a salt; a repetition is told the salt of the first, and
//! so answers with the first one's ids.

use super::extract::{parse_json, read_body};
use super::problem::{ApiError, ApiResult};
use super::{App, fresh_id};
use crate::command::{Command, KeyedWrite, Reply, RequestKey};
use crate::node::Applied;
use api::{ErrorCode, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// A JSON body, with the request's key where it has one.
pub struct Keyed<T> {
    /// The key.
    pub key: Option<RequestKey>,
    /// The body.
    pub body: T,
}

/// As [`Keyed`], but an empty body stands for the default.
pub struct KeyedOptional<T> {
    /// The key.
    pub key: Option<RequestKey>,
    /// The body.
    pub body: T,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Keyed<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (key, bytes) = read(request).await?;
        if bytes.is_empty() {
            return Err(ApiError::new(
                ErrorCode::MalformedJson,
                "the body is empty; a JSON object is expected (line 1, column 0)",
            ));
        }
        Ok(Keyed { key, body: parse_json(&bytes)? })
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for KeyedOptional<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (key, bytes) = read(request).await?;
        let body = if bytes.is_empty() { T::default() } else { parse_json(&bytes)? };
        Ok(KeyedOptional { key, body })
    }
}

async fn read(request: Request) -> ApiResult<(Option<RequestKey>, Bytes)> {
    let key = match request.headers().get(IDEMPOTENCY_KEY) {
        None => None,
        Some(value) => {
            let key = value.to_str().unwrap_or("").trim().to_owned();
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                let why = format!(
                    "the Idempotency-Key must have 1 to {MAX_KEY_BYTES} visible ASCII characters; a UUID will do"
                );
                return Err(ApiError::new(ErrorCode::Validation, why));
            }
            Some(key)
        }
    };
    let path = request.uri().path().to_owned();
    let bytes = read_body(request).await?;
    let key = key.map(|key| {
        let mut hasher = Xxh3::new();
        hasher.update(path.as_bytes());
        hasher.update(&[0]);
        hasher.update(&bytes);
        RequestKey { key, request_hash: hasher.digest128(), salt: xxh3_128(fresh_id().as_bytes()) }
    });
    Ok((key, bytes))
}

/// The ids for tasks that have none: any, or those of the salt.
pub fn ids(salt: Option<u128>) -> impl FnMut() -> String {
    let mut place: u32 = 0;
    move || {
        let Some(salt) = salt else { return fresh_id() };
        place += 1;
        let bytes = [&salt.to_le_bytes()[..], &place.to_le_bytes()].concat();
        format!("{:032x}", xxh3_128(&bytes))
    }
}

/// A write that was done, now or before.
pub struct Written {
    /// Index and reply, those of the first where it was done before.
    pub applied: Applied,
    /// The salt of the first, where it was done before.
    pub replayed: Option<u128>,
}

impl Written {
    /// The answer, marked where the request had been done before.
    pub fn mark(&self, mut response: Response) -> Response {
        if self.replayed.is_some() {
            let name = HeaderName::from_static(IDEMPOTENCY_REPLAYED);
            response.headers_mut().insert(name, HeaderValue::from_static("true"));
        }
        response
    }
}

impl App {
    /// Proposes a write, once for all who send it with this key.
    pub async fn write(&self, key: Option<RequestKey>, write: KeyedWrite) -> ApiResult<Written> {
        let command = match key {
            Some(key) => Command::Keyed { key, write },
            None => match write {
                KeyedWrite::Submit { tasks } => Command::Submit { tasks },
                KeyedWrite::Retry { task_id } => Command::Retry { task_id },
                KeyedWrite::RetryMany { filter } => Command::RetryMany { filter },
            },
        };
        let applied = self.propose(command).await?;
        Ok(match applied.reply {
            Reply::Repeated { salt, index, reply } => {
                Written { applied: Applied { index, reply: *reply }, replayed: Some(salt) }
            }
            reply => Written { applied: Applied { index: applied.index, reply }, replayed: None },
        })
    }
}
