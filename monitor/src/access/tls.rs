//! IO: TLS, with a certificate that is read again when its files change.
//!
//! Invariant: files that can't be used change nothing; what was in force stays in force. New
//! connections get the new certificate. A handshake has its own time and task, so that a client
//! that says nothing keeps nobody else out.

use super::GateError;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at once; further connections wait in the system's queue.
const MAX_HANDSHAKES: usize = 128;
/// A pause after a connection could not be accepted: too many open files, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The certificate in force.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    material: RwLock<Material>,
}

/// What is in force.
#[derive(Debug, Clone)]
struct Material {
    config: Arc<ServerConfig>,
    /// When the certificate ends, as Unix time.
    not_after_s: i64,
}

impl Tls {
    /// Reads certificate and key.
    pub fn load(cert: PathBuf, key: PathBuf) -> Result<Arc<Tls>, GateError> {
        let material = RwLock::new(read(&cert, &key)?);
        Ok(Arc::new(Tls { cert, key, material }))
    }

    /// When the certificate in force ends, as Unix time in seconds.
    pub fn not_after_s(&self) -> i64 {
        self.material.read().not_after_s
    }

    /// Reads the files again whenever they changed, until `end`.
    pub async fn watch(self: Arc<Self>, end: CancellationToken) {
        let mut seen = self.stamps();
        while tokio::time::timeout(LOOK_EVERY, end.cancelled()).await.is_err() {
            let now = self.stamps();
            if now == seen {
                continue;
            }
            seen = now;
            match read(&self.cert, &self.key) {
                Ok(material) => {
                    *self.material.write() = material;
                    tracing::info!("the certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the certificate before stays in force"),
            }
        }
    }

    fn stamps(&self) -> [Option<(SystemTime, u64)>; 2] {
        [&self.cert, &self.key].map(|path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len()))
        })
    }
}

fn read(cert: &Path, key: &Path) -> Result<Material, GateError> {
    api::http::install_crypto();
    let wrong =
        |key: &'static str, path: &Path, why: String| GateError::File { key, path: path.to_owned(), why };
    let of_cert = |why: String| wrong("cert_path", cert, why);
    let of_key = |why: String| wrong("key_path", key, why);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .map_err(|e| of_cert(e.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|e| of_cert(e.to_string()))?;
    let Some(first) = chain.first() else {
        return Err(of_cert("holds no certificate in PEM form".into()));
    };
    let (_, own) = x509_parser::parse_x509_certificate(first)
        .map_err(|e| of_cert(format!("its first certificate can't be read: {e}")))?;
    let not_after_s = own.validity().not_after.timestamp();
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| of_key(e.to_string()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|e| of_key(format!("does not go with the certificate: {e}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Material { config: Arc::new(config), not_after_s })
}

/// Connections whose handshake is done.
#[derive(Debug)]
pub struct TlsListener {
    local: std::io::Result<SocketAddr>,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Takes connections from `tcp` until `end`.
    pub fn new(tcp: TcpListener, tls: Arc<Tls>, end: CancellationToken) -> TlsListener {
        let (sender, ready) = mpsc::channel(MAX_HANDSHAKES);
        let local = tcp.local_addr();
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = take_connections(&tcp, &tls, &sender) => {}
            }
        });
        TlsListener { local, ready }
    }
}

async fn take_connections(
    tcp: &TcpListener,
    tls: &Arc<Tls>,
    sender: &mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, from) = match tcp.accept().await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.material.read().config.clone());
        let sender = sender.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                let _ = sender.send((stream, from)).await;
            }
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The end: the server is being told at the same time.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        match &self.local {
            Ok(address) => Ok(*address),
            Err(error) => Err(std::io::Error::new(error.kind(), error.to_string())),
        }
    }
}
