//! Asking a peer over HTTP: JSON, and chunks with their hash.
//!
//! Everything asked for here is bounded in time and bytes; bytes that have to be right come with
//! their hash in a header.

use crate::access::outbound::{Outbound, PeerError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

/// The header with the hash (xxh3-128, hex) of an answer's body.
pub const HASH_HEADER: &str = "holdfast-xxh3";
/// How long a peer may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest answer in JSON.
const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;

/// A client of peers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PeerHttp {
    outbound: Outbound,
}

impl PeerHttp {
    /// With this node's certificate and proof, where peers ask for them.
    pub fn new(outbound: Outbound) -> PeerHttp {
        PeerHttp { outbound }
    }

    /// `GET`, as JSON.
    pub async fn get<T: DeserializeOwned>(&self, address: &str, path: &str) -> Result<T, String> {
        self.json(self.outbound.get(address, path, None), address, SILENCE).await
    }

    /// `POST` of JSON, answered with JSON within `limit`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        body: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<T, String> {
        self.json(self.outbound.post(address, path, body, None), address, limit).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: impl Future<Output = Result<reqwest::Response, PeerError>>,
        address: &str,
        limit: Duration,
    ) -> Result<T, String> {
        let (_, bytes) = body(request, address, limit, MAX_JSON_BYTES).await?;
        serde_json::from_slice(&bytes).map_err(|e| format!("the answer of {address} can't be read: {e}"))
    }

    /// A body of at most `max_bytes`, whose hash is in its header.
    pub async fn chunk(&self, address: &str, path: &str, max_bytes: u64) -> Result<Vec<u8>, String> {
        self.hashed(address, path, max_bytes).await.map(|(_, bytes)| bytes)
    }

    /// As [`PeerHttp::chunk`], with the headers.
    pub async fn hashed(
        &self,
        address: &str,
        path: &str,
        max_bytes: u64,
    ) -> Result<(reqwest::header::HeaderMap, Vec<u8>), String> {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let (headers, bytes) =
            body(self.outbound.get(address, path, None), address, SILENCE, max_bytes).await?;
        let named = headers.get(HASH_HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if named != format!("{:032x}", xxh3_128(&bytes)) {
            return Err(format!("{} bytes of {address} are not what their hash says", bytes.len()));
        }
        Ok((headers, bytes))
    }
}

async fn body(
    request: impl Future<Output = Result<reqwest::Response, PeerError>>,
    address: &str,
    limit: Duration,
    max_bytes: usize,
) -> Result<(reqwest::header::HeaderMap, Vec<u8>), String> {
    let failed = |e: reqwest::Error| api::client::error_chain(&e);
    let silent = |_| format!("{address} was silent for {} s", limit.as_secs());
    let mut answer =
        tokio::time::timeout(limit, request).await.map_err(silent)?.map_err(|e| e.to_string())?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut bytes = Vec::new();
    while let Some(chunk) =
        tokio::time::timeout(limit, answer.chunk()).await.map_err(silent)?.map_err(failed)?
    {
        if bytes.len() + chunk.len() > max_bytes {
            return Err(format!("the answer of {address} is larger than {max_bytes} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    if !status.is_success() {
        let why =
            serde_json::from_slice::<api::Problem>(&bytes).map_or_else(|_| status.to_string(), |p| p.detail);
        return Err(format!("{address} refused: {why}"));
    }
    Ok((headers, bytes))
}
