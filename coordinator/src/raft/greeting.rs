//! Opening a connection to a peer, and the exchange of proofs before its answer is believed.

use crate::access::outbound::Outbound;
use crate::access::peers::{ANSWER_PROOF, CHALLENGE, PROOF};
use crate::raft::handshake::HANDSHAKE;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

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

/// What asks for an upgrade.
pub struct Greeting<'a> {
    /// The peer's address.
    pub address: &'a str,
    /// The path of the upgrade.
    pub path: &'a str,
    /// The protocol to change to.
    pub protocol: &'a str,
    /// This node's handshake.
    pub handshake: &'a str,
}

/// Sends the upgrade. Where there is a cluster secret, the peer's challenge is answered first, and
/// its answer, a refusal too, counts only with its own proof.
pub async fn send(outbound: &Outbound, greeting: &Greeting<'_>) -> std::io::Result<Response<Incoming>> {
    let stream = open(outbound, greeting.address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let first = ask(&mut sender, greeting, None).await?;
    let Some(secret) = outbound.secret() else { return Ok(first) };
    let Some(challenge) =
        text_of(first.headers(), CHALLENGE).filter(|_| first.status() == StatusCode::UNAUTHORIZED)
    else {
        return Err(denied("the peer asks for no proof, so it has no cluster secret"));
    };
    // Read to its end, so that the connection can be used again.
    let limited = http_body_util::Limited::new(first.into_body(), 64 * 1024);
    http_body_util::BodyExt::collect(limited).await.map_err(std::io::Error::other)?;
    let signed: [&[u8]; 2] = [b"", greeting.handshake.as_bytes()];
    let (proof, number) =
        secret.prove(&challenge, "GET", greeting.path, &signed).map_err(std::io::Error::other)?;
    let answer = ask(&mut sender, greeting, Some(proof)).await?;
    match text_of(answer.headers(), ANSWER_PROOF) {
        Some(proof) if secret.is_answer(&challenge, &number, &proof) => Ok(answer),
        _ if answer.status() == StatusCode::UNAUTHORIZED => {
            Err(denied("the peer refuses our proof: the cluster secrets differ"))
        }
        _ => Err(denied("the peer did not prove that it knows the cluster secret")),
    }
}

async fn ask(
    sender: &mut SendRequest<Body>,
    greeting: &Greeting<'_>,
    proof: Option<String>,
) -> std::io::Result<Response<Incoming>> {
    let mut request = Request::builder()
        .uri(greeting.path)
        .header(header::HOST, greeting.address)
        .header(HANDSHAKE, greeting.handshake)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, greeting.protocol);
    if let Some(proof) = proof {
        request = request.header(PROOF, proof);
    }
    let request = request.body(Body::empty()).map_err(std::io::Error::other)?;
    sender.ready().await.map_err(std::io::Error::other)?;
    sender.send_request(request).await.map_err(std::io::Error::other)
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

fn denied(why: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::PermissionDenied, why)
}
