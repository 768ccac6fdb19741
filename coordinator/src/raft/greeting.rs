//! The proofs round the upgrade between peers: before it, in its answer, and in the first frame.
//!
//! The side that connects sends its handshake with a number of its own. The answer carries the
//! other handshake and a proof over both. The side that connected verifies it and sends its own
//! proof as the first thing on the connection; nothing else is read before.
//!
//! Without a cluster secret there are no proofs, and none is waited for.

use crate::access::outbound::Outbound;
use crate::access::peers::{PeerSecret, Side, hex};
use axum::http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Header with the proof of the side that was connected to.
pub const PROOF: &str = "x-holdfast-connection-proof";
/// How long the first frame may take.
const PROOF_LIMIT: Duration = Duration::from_secs(5);
/// A proof as text.
const PROOF_BYTES: usize = 64;

/// A stream of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection to a peer, through TLS where the cluster has it.
pub async fn open(outbound: &Outbound, address: &str) -> std::io::Result<Box<dyn Stream>> {
    let tcp = tokio::net::TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = outbound.tls() else { return Ok(Box::new(tcp)) };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = rustls::pki_types::ServerName::try_from(host).map_err(std::io::Error::other)?;
    let stream = tokio_rustls::TlsConnector::from(tls.client()).connect(name, tcp).await?;
    Ok(Box::new(stream))
}

/// The header of the answer to an upgrade.
pub fn of_accepting(secret: Option<&Arc<PeerSecret>>, connecting: &str, accepting: &str) -> Option<String> {
    secret.map(|secret| hex(&secret.over_connection(Side::Accepts, connecting, accepting)))
}

/// Checks that answer, then proves this side.
pub async fn prove<S: AsyncWrite + Unpin>(
    secret: Option<&Arc<PeerSecret>>,
    answer: &HeaderMap,
    connecting: &str,
    accepting: &str,
    stream: &mut S,
) -> std::io::Result<()> {
    let Some(secret) = secret else { return Ok(()) };
    let proof = answer.get(PROOF).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !secret.is_connection(Side::Accepts, connecting, accepting, proof) {
        return Err(denied("the peer did not prove that it knows the cluster secret"));
    }
    let ours = hex(&secret.over_connection(Side::Connects, connecting, accepting));
    stream.write_all(ours.as_bytes()).await
}

/// Reads and checks the first thing that the side that connected sends.
pub async fn check<S: AsyncRead + Unpin>(
    secret: Option<&Arc<PeerSecret>>,
    connecting: &str,
    accepting: &str,
    stream: &mut S,
) -> std::io::Result<()> {
    let Some(secret) = secret else { return Ok(()) };
    let mut proof = [0; PROOF_BYTES];
    tokio::time::timeout(PROOF_LIMIT, stream.read_exact(&mut proof))
        .await
        .map_err(|_| denied("the peer gave no proof that it knows the cluster secret"))??;
    let proof = std::str::from_utf8(&proof).unwrap_or_default();
    match secret.is_connection(Side::Connects, connecting, accepting, proof) {
        true => Ok(()),
        false => Err(denied("the peer did not prove that it knows the cluster secret")),
    }
}

fn denied(why: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<Arc<PeerSecret>> {
        Some(Arc::new(PeerSecret::new(text).unwrap()))
    }

    async fn greet(connects: Option<Arc<PeerSecret>>, accepts: Option<Arc<PeerSecret>>) -> (bool, bool) {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let mut answer = HeaderMap::new();
        if let Some(proof) = of_accepting(accepts.as_ref(), "c", "a") {
            answer.insert(PROOF, proof.parse().unwrap());
        }
        let proved = prove(connects.as_ref(), &answer, "c", "a", &mut near).await.is_ok();
        drop(near);
        (proved, check(accepts.as_ref(), "c", "a", &mut far).await.is_ok())
    }

    #[tokio::test]
    async fn both_sides_must_know_the_secret() {
        assert_eq!(greet(secret("one secret of them"), secret("one secret of them")).await, (true, true));
        assert_eq!(greet(secret("one secret of them"), secret("another secret of")).await, (false, false));
        assert_eq!(
            greet(None, secret("one secret of them")).await,
            (true, false),
            "a stranger is not let in"
        );
        assert_eq!(greet(secret("one secret of them"), None).await.0, false, "nor is one spoken to");
        assert_eq!(greet(None, None).await, (true, true));
    }

    #[tokio::test]
    async fn garbage_and_silence_are_refused() {
        let accepts = secret("one secret of them");
        for bytes in [vec![0xff; 64], b"GET / HTTP/1.1".to_vec(), Vec::new()] {
            assert!(check(accepts.as_ref(), "c", "a", &mut &bytes[..]).await.is_err());
        }
    }
}
