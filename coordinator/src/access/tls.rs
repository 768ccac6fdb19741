//! TLS: one certificate for clients and peers, read again when its files change.
//!
//! `cert_path` and `key_path` are what this node shows, as a server and to other nodes as a
//! client. `ca_path` holds the authority of the nodes: with it, a peer must show a certificate
//! that it has signed, and whoever shows one *is* a peer. It must therefore sign nodes'
//! certificates and nothing else. Without it the system's authorities are trusted, and peers are
//! known by the cluster secret alone.
//!
//! Invariant: files that can't be used change nothing; what was in force stays in force. New
//! connections get the new certificate, those that exist go on.

use super::AccessError;
use crate::config::Config;
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A certificate that ends sooner is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The files' names.
#[derive(Debug, Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: Option<PathBuf>,
}

/// What is in force.
struct Material {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    not_after_s: i64,
}

/// The node's TLS. New connections take what is in force.
pub struct Tls {
    files: Files,
    material: RwLock<Arc<Material>>,
    generation: AtomicU64,
    seen: RwLock<Vec<Option<(SystemTime, u64)>>>,
}

impl Tls {
    /// What the config asks for; none where it asks for none.
    pub fn from_config(config: &Config) -> Result<Option<Arc<Tls>>, AccessError> {
        if !config.enable_tls {
            return Ok(None);
        }
        let need = |key, path: &Option<PathBuf>| {
            path.clone().ok_or(AccessError::Setting { key, why: "is required with `enable_tls`".into() })
        };
        let files = Files {
            cert: need("cert_path", &config.cert_path)?,
            key: need("key_path", &config.key_path)?,
            ca: config.ca_path.clone(),
        };
        let seen = files.stamps();
        let material = Arc::new(files.load()?);
        tell_of_the_end(&material);
        Ok(Some(Arc::new(Tls {
            files,
            material: RwLock::new(material),
            generation: AtomicU64::new(0),
            seen: RwLock::new(seen),
        })))
    }

    /// For the next connection that comes in.
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(self.material.read().server.clone())
    }

    /// For the next connection that goes out.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.material.read().client.clone()
    }

    /// Grows with every reload.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// When the node's certificate ends, as Unix time in seconds.
    pub fn not_after_s(&self) -> i64 {
        self.material.read().not_after_s
    }

    /// Reads the files again and takes them in.
    pub fn reload(&self) -> Result<(), AccessError> {
        let stamps = self.files.stamps();
        let loaded = self.files.load();
        *self.seen.write() = stamps;
        let material = Arc::new(loaded?);
        tell_of_the_end(&material);
        *self.material.write() = material;
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Looks at the files again and again and takes in what has changed, until it is aborted.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                let changed = tls.files.stamps() != *tls.seen.read();
                changed.then(|| tls.reload())
            });
            match looked.await {
                Ok(Some(Ok(()))) => tracing::info!("the certificate was read again; new connections get it"),
                Ok(Some(Err(error))) => {
                    tracing::error!(%error, "the changed certificate can't be used; the one before stays in force");
                }
                _ => {}
            }
        }
    }
}

fn tell_of_the_end(material: &Material) {
    let left_s = material.not_after_s - jiff::Timestamp::now().as_second();
    if left_s <= 0 {
        tracing::error!("the certificate has expired: clients and peers will refuse it");
    } else if left_s < SOON.as_secs().cast_signed() {
        tracing::warn!(left_days = left_s / 86_400, "the certificate ends soon");
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &Path> {
        [Some(self.cert.as_path()), Some(self.key.as_path()), self.ca.as_deref()].into_iter().flatten()
    }

    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &Path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        self.all().map(stamp).collect()
    }

    fn load(&self) -> Result<Material, AccessError> {
        let chain = certificates("cert_path", &self.cert)?;
        let key = private_key("key_path", &self.key)?;
        let fault = |key, path: &Path, why: String| AccessError::Secret { key, path: path.to_owned(), why };
        let of_pair = |e: rustls::Error| {
            fault("cert_path", &self.cert, format!("can't be used with the key {}: {e}", self.key.display()))
        };
        let not_after_s = end_of(&chain[0]).map_err(|why| fault("cert_path", &self.cert, why))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (roots, verifier) = match &self.ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for ca in certificates("ca_path", path)? {
                    roots.add(ca).map_err(|e| fault("ca_path", path, e.to_string()))?;
                }
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| fault("ca_path", path, e.to_string()))?;
                (roots, Some(verifier))
            }
            None => (Arc::new(system_roots()), None),
        };
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(of_pair)?;
        let server = match verifier {
            Some(verifier) => server.with_client_cert_verifier(verifier),
            None => server.with_no_client_auth(),
        };
        let mut server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(of_pair)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(of_pair)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(of_pair)?;
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Material { server: Arc::new(server), client: Arc::new(client), not_after_s })
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    use std::io::Read;
    let failed = |why: String| AccessError::Secret { key, path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    Ok(bytes)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let failed = |why: String| AccessError::Secret { key, path: path.to_owned(), why };
    let pem = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(failed("holds no certificate in PEM form".into())),
        Err(e) => Err(failed(format!("can't be read as PEM: {e}"))),
    }
}

fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, AccessError> {
    let failed = |why: String| AccessError::Secret { key, path: path.to_owned(), why };
    PrivateKeyDer::from_pem_slice(&read(key, path)?)
        .map_err(|e| failed(format!("holds no private key in PEM form: {e}")))
}

fn end_of(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("the first certificate can't be read: {e}"))?;
    Ok(parsed.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A key and a certificate of its own, as PEM.
    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn tls(folder: &Path, ca: bool) -> Result<Option<Arc<Tls>>, AccessError> {
        let mut config = json!({
            "node_id": "n1", "host": "h", "data_dir": folder, "enable_tls": true,
            "cert_path": folder.join("cert.pem"), "key_path": folder.join("key.pem"),
        });
        if ca {
            config["ca_path"] = json!(folder.join("cert.pem"));
        }
        let Value::Object(config) = config else { panic!() };
        Tls::from_config(&Config::try_from(config).unwrap())
    }

    fn write(folder: &Path, pair: &(String, String)) {
        std::fs::write(folder.join("cert.pem"), &pair.0).unwrap();
        std::fs::write(folder.join("key.pem"), &pair.1).unwrap();
    }

    #[test]
    fn a_reload_takes_a_new_pair_and_refuses_a_bad_one() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &pair("one"));
        let tls = tls(folder.path(), true).unwrap().unwrap();
        assert!(tls.not_after_s() > jiff::Timestamp::now().as_second());
        let first = tls.client();
        std::fs::write(folder.path().join("key.pem"), pair("other").1).unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("can't be used with the key"), "{error}");
        assert!(Arc::ptr_eq(&first, &tls.client()) && tls.generation() == 0, "the old one stays");
        write(folder.path(), &pair("two"));
        tls.reload().unwrap();
        assert!(!Arc::ptr_eq(&first, &tls.client()) && tls.generation() == 1);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |ca| tls(folder.path(), ca).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error(false).contains("cert_path") && error(false).contains("cert.pem"), "{}", error(false));
        write(folder.path(), &("no pem".into(), "no pem".into()));
        assert!(error(false).contains("holds no certificate"), "{}", error(false));
        write(folder.path(), &(pair("one").0, "no pem".into()));
        assert!(error(false).contains("holds no private key"), "{}", error(false));
    }
}
