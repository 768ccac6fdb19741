//! How this node asks others: with its certificate, and with the proof that it is a peer.

use super::peers::{ANSWER_PROOF, CHALLENGE, PROOF, PeerSecret};
use super::tls::Tls;
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// Why a peer gave no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It can't be asked.
    #[error("{0}")]
    Unreachable(String),
    /// Its host is there and nothing listens on the port.
    #[error("{0}")]
    Refused(String),
    /// What it shows as its certificate is not trusted, or it wants another from us.
    #[error("{0}")]
    Untrusted(String),
    /// It did not prove that it knows the cluster secret.
    #[error("{address} did not prove that it knows the cluster secret: {why}")]
    Unproved {
        /// Who was asked.
        address: String,
        /// What was missing.
        why: &'static str,
    },
    /// This node could not prove anything.
    #[error("{0}")]
    Own(String),
}

impl From<reqwest::Error> for PeerError {
    fn from(error: reqwest::Error) -> Self {
        let why = api::client::error_chain(&error);
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                // rustls hands its verdict on within an error of the stream.
                let tls = io.get_ref().is_some_and(|source| source.is::<rustls::Error>());
                match io.kind() {
                    std::io::ErrorKind::ConnectionRefused => return PeerError::Refused(why),
                    _ if tls => return PeerError::Untrusted(why),
                    _ => {}
                }
            }
            cause = inner.source();
        }
        PeerError::Unreachable(why)
    }
}

/// An HTTP client to other nodes that takes up a renewed certificate by itself.
pub struct NodeClient {
    tls: Option<Arc<Tls>>,
    tune: fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    built: Mutex<(u64, reqwest::Client)>,
}

impl NodeClient {
    /// A client; `tune` sets its limits.
    pub fn new(
        tls: Option<Arc<Tls>>,
        tune: fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> reqwest::Result<NodeClient> {
        let generation = tls.as_ref().map_or(0, |tls| tls.generation());
        let first = build(tls.as_deref(), tune)?;
        Ok(NodeClient { tls, tune, built: Mutex::new((generation, first)) })
    }

    /// The client, built again if the certificate was renewed since.
    pub fn get(&self) -> reqwest::Client {
        let mut built = self.built.lock();
        if let Some(tls) = &self.tls
            && tls.generation() != built.0
        {
            let generation = tls.generation();
            match build(Some(tls), self.tune) {
                Ok(fresh) => *built = (generation, fresh),
                Err(error) => tracing::error!(%error, "going on with the certificate before"),
            }
        }
        built.1.clone()
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        api::http::scheme(self.tls.is_some())
    }
}

fn build(
    tls: Option<&Tls>,
    tune: fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Result<reqwest::Client> {
    let begun = tune(api::http::builder().no_proxy().redirect(reqwest::redirect::Policy::none()));
    match tls {
        Some(tls) => begun.tls_backend_preconfigured(tls.client().as_ref().clone()).build(),
        None => begun.build(),
    }
}

/// What one node needs to speak to another. Cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    client: Arc<NodeClient>,
    tls: Option<Arc<Tls>>,
    secret: Option<Arc<PeerSecret>>,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tls, secret) = (self.tls.is_some(), self.secret.is_some());
        f.debug_struct("Outbound").field("tls", &tls).field("secret", &secret).finish_non_exhaustive()
    }
}

impl Outbound {
    /// With this node's certificate and secret, where it has them.
    pub fn new(tls: Option<Arc<Tls>>, secret: Option<Arc<PeerSecret>>) -> reqwest::Result<Outbound> {
        let client = NodeClient::new(tls.clone(), |builder| {
            builder.connect_timeout(Duration::from_secs(2)).tcp_nodelay(true)
        })?;
        Ok(Outbound { client: Arc::new(client), tls, secret })
    }

    /// The certificate.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// The secret.
    pub fn secret(&self) -> Option<&Arc<PeerSecret>> {
        self.secret.as_ref()
    }

    /// GET of a peer's path.
    pub async fn get(
        &self,
        address: &str,
        path: &str,
        limit: Option<Duration>,
    ) -> Result<reqwest::Response, PeerError> {
        self.ask(Method::GET, address, path, None, limit).await
    }

    /// POST of JSON to a peer's path.
    pub async fn post(
        &self,
        address: &str,
        path: &str,
        body: &impl serde::Serialize,
        limit: Option<Duration>,
    ) -> Result<reqwest::Response, PeerError> {
        let body = serde_json::to_vec(body).map_err(|e| PeerError::Own(e.to_string()))?;
        self.ask(Method::POST, address, path, Some(body), limit).await
    }

    /// Asks; where the peer wants a proof, proves, and wants one from it. `limit` is for each of
    /// the two requests and counts to the end of the body; without one the caller watches.
    async fn ask(
        &self,
        method: Method,
        address: &str,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Option<Duration>,
    ) -> Result<reqwest::Response, PeerError> {
        let url = format!("{}://{address}{path}", self.client.scheme());
        let request = |body: Option<Vec<u8>>| {
            let mut request = self.client.get().request(method.clone(), &url);
            if let Some(limit) = limit {
                request = request.timeout(limit);
            }
            match body {
                Some(body) => request.header("content-type", "application/json").body(body),
                None => request,
            }
        };
        let of_peers = path.starts_with("/raft/");
        let Some(secret) = &self.secret else {
            // The certificate is the proof; the header says that it is meant as one.
            let by_certificate = !of_peers && self.tls.is_some();
            let request = request(body);
            let request = if by_certificate { request.header(PROOF, "certificate") } else { request };
            return Ok(request.send().await?);
        };
        // A peer's path serves nobody without a proof: the first request only fetches the challenge.
        let first = request(if of_peers { body.as_ref().map(|_| Vec::new()) } else { body.clone() });
        let first = first.send().await?;
        if !of_peers && first.status() != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        let challenge = first.headers().get(CHALLENGE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let unproved = |why| PeerError::Unproved { address: address.to_owned(), why };
        let Some(challenge) = challenge.filter(|_| first.status() == StatusCode::UNAUTHORIZED) else {
            return Err(unproved("it asks for no proof, so it has no cluster secret"));
        };
        let (proof, number) = secret
            .prove(&challenge, method.as_str(), path, &[body.as_deref().unwrap_or_default(), b""])
            .map_err(|e| PeerError::Own(e.to_string()))?;
        let answer = request(body).header(PROOF, proof).send().await?;
        let ours = answer.headers().get(ANSWER_PROOF).and_then(|v| v.to_str().ok());
        match ours {
            Some(proof) if secret.is_answer(&challenge, &number, proof) => Ok(answer),
            Some(_) => Err(unproved("its proof is wrong: the cluster secrets differ")),
            None if answer.status() == StatusCode::UNAUTHORIZED => {
                Err(unproved("it refuses our proof: the cluster secrets differ"))
            }
            None => Err(unproved("its answer has no proof")),
        }
    }
}
