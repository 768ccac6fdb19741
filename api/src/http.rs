//! How our programs speak HTTP to a coordinator: trust, tokens, and the one way to make a client.
//!
//! Every client of the workspace begins with [`builder`] or [`Access::builder`]. They see to it
//! that the one crypto provider of all programs is installed before TLS is set up, and that a
//! client of plain HTTP loads no certificates.
//!
//! An address is `host:port`, or `https://host:port` where the coordinators serve TLS. A cluster
//! serves one or the other on all its nodes, so the scheme of the given addresses holds for the
//! leader that an answer names, too.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The variable that holds a token.
pub const TOKEN_VARIABLE: &str = "HOLDFAST_TOKEN";
/// A token file is read again after so long, so that a renewed token needs no restart.
const TOKEN_REREAD: Duration = Duration::from_secs(5);
/// The largest token that is read from a file.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

/// Why there is no access.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file can't be read.
    #[error("{what} {path}: {source}; check that it exists and that this user may read it")]
    File {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{what} {path}: {why}")]
    Content {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The token in the environment can't be one.
    #[error("{TOKEN_VARIABLE} is no token: {0}")]
    Variable(String),
    /// Some addresses are https, some are not.
    #[error("{secure} is https and {plain} is not: a cluster serves one or the other on all its nodes")]
    Mixed {
        /// One of the one kind.
        secure: String,
        /// One of the other.
        plain: String,
    },
    /// The client can't be made.
    #[error("the HTTP client can't be made: {0}")]
    Client(String),
}

/// Installs the crypto provider of all programs; the second call does nothing.
pub fn install_crypto() {
    // It fails only where one is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Begins a client that trusts nobody's certificate: for plain HTTP.
#[allow(clippy::disallowed_methods)] // the one place that may
pub fn builder() -> reqwest::ClientBuilder {
    install_crypto();
    reqwest::Client::builder().tls_certs_only(Vec::new())
}

/// A token and where it comes from.
#[derive(Debug, Clone)]
enum Token {
    Fixed(String),
    File(Arc<TokenFile>),
}

struct TokenFile {
    path: PathBuf,
    read: Mutex<(Instant, String)>,
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TokenFile").field(&self.path).finish()
    }
}

/// What a program shows and trusts when it talks to a coordinator. Cheap to clone.
#[derive(Clone, Default)]
pub struct Access {
    token: Option<Token>,
    ca: Option<Arc<Vec<reqwest::Certificate>>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (token, ca) = (self.token.is_some(), self.ca.is_some());
        f.debug_struct("Access").field("token", &token).field("ca", &ca).finish()
    }
}

impl Access {
    /// Reads what was named: a token from a file (it wins) or as it is, and certificates (PEM) of
    /// the authorities to trust instead of the system's.
    pub fn load(
        token_file: Option<&Path>,
        token: Option<String>,
        ca: Option<&Path>,
    ) -> Result<Access, AccessError> {
        let token = match (token_file, token) {
            (Some(path), _) => {
                let text = read_token(path)?;
                let read = Mutex::new((Instant::now(), text));
                Some(Token::File(Arc::new(TokenFile { path: path.to_owned(), read })))
            }
            (None, Some(text)) if !text.trim().is_empty() => {
                let text = text.trim().to_owned();
                check_token(&text).map_err(AccessError::Variable)?;
                Some(Token::Fixed(text))
            }
            _ => None,
        };
        let ca = ca.map(read_ca).transpose()?.map(Arc::new);
        Ok(Access { token, ca })
    }

    /// What flags and the environment say: the flags' files, and [`TOKEN_VARIABLE`].
    pub fn from_flags(token_file: Option<&Path>, ca: Option<&Path>) -> Result<Access, AccessError> {
        Access::load(token_file, std::env::var(TOKEN_VARIABLE).ok(), ca)
    }

    /// Begins a client; `secure` where it will speak https.
    pub fn builder(&self, secure: bool) -> Result<reqwest::ClientBuilder, AccessError> {
        if !secure {
            return Ok(builder());
        }
        let trusted = match &self.ca {
            Some(ca) => ca.as_ref().clone(),
            None => system_roots()?,
        };
        Ok(builder().tls_certs_only(trusted))
    }

    /// The present token.
    pub fn token(&self) -> Option<String> {
        match self.token.as_ref()? {
            Token::Fixed(text) => Some(text.clone()),
            Token::File(file) => {
                let mut read = file.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if read.0.elapsed() >= TOKEN_REREAD {
                    read.0 = Instant::now();
                    match read_token(&file.path) {
                        Ok(text) => read.1 = text,
                        Err(error) => tracing::warn!(%error, "going on with the token that was read before"),
                    }
                }
                Some(read.1.clone())
            }
        }
    }

    /// The same request, showing the token where there is one.
    pub fn authorize(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.token() {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// `host:port` of every address, and whether they are https.
pub fn addresses(given: impl IntoIterator<Item = String>) -> Result<(Vec<String>, bool), AccessError> {
    let (mut plain, mut secure) = (Vec::new(), Vec::new());
    let mut all = Vec::new();
    for address in given {
        let address = address.trim().trim_end_matches('/');
        if address.is_empty() {
            continue;
        }
        let host = match address.strip_prefix("https://") {
            Some(host) => {
                secure.push(host.to_owned());
                host
            }
            None => {
                let host = address.strip_prefix("http://").unwrap_or(address);
                plain.push(host.to_owned());
                host
            }
        };
        all.push(host.to_owned());
    }
    match (plain.first(), secure.first()) {
        (Some(plain), Some(secure)) => {
            Err(AccessError::Mixed { secure: secure.clone(), plain: plain.clone() })
        }
        (_, secure) => Ok((all, secure.is_some())),
    }
}

/// `http` or `https`.
pub const fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

fn read_token(path: &Path) -> Result<String, AccessError> {
    use std::io::Read;
    const WHAT: &str = "token file";
    let failed = |source| AccessError::File { what: WHAT, path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim().to_owned();
    match check_token(&token) {
        Ok(()) => Ok(token),
        Err(why) => Err(AccessError::Content { what: WHAT, path: path.to_owned(), why }),
    }
}

fn check_token(token: &str) -> Result<(), String> {
    if token.is_empty() {
        return Err("it is empty".into());
    }
    if token.len() as u64 > MAX_TOKEN_BYTES {
        return Err(format!("it is longer than {MAX_TOKEN_BYTES} bytes"));
    }
    match token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err("it holds spaces or characters that no token has".into()),
    }
}

fn read_ca(path: &Path) -> Result<Vec<reqwest::Certificate>, AccessError> {
    const WHAT: &str = "certificate authority";
    let failed = |source| AccessError::File { what: WHAT, path: path.to_owned(), source };
    let content = |why: String| AccessError::Content { what: WHAT, path: path.to_owned(), why };
    let pem = std::fs::read(path).map_err(failed)?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| content(e.to_string()))?;
    if found.is_empty() {
        return Err(content("holds no certificate in PEM form".into()));
    }
    Ok(found)
}

fn system_roots() -> Result<Vec<reqwest::Certificate>, AccessError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(AccessError::Client(
            "this system has no certificate authorities to trust; name one with --ca".into(),
        ));
    }
    let read = |der: &rustls::pki_types::CertificateDer<'_>| {
        reqwest::Certificate::from_der(der).map_err(|e| AccessError::Client(e.to_string()))
    };
    found.certs.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[&str]) -> Result<(Vec<String>, bool), AccessError> {
        addresses(list.iter().map(|a| (*a).to_owned()))
    }

    #[test]
    fn the_scheme_holds_for_the_whole_cluster() {
        assert_eq!(of(&["a:1", " http://b:2/", ""]).unwrap(), (vec!["a:1".into(), "b:2".into()], false));
        assert_eq!(of(&["https://a:1", "https://b:2"]).unwrap(), (vec!["a:1".into(), "b:2".into()], true));
        let error = of(&["https://a:1", "b:2"]).unwrap_err().to_string();
        assert!(error.contains("a:1 is https and b:2 is not"), "{error}");
    }

    #[test]
    fn a_token_comes_from_a_file_or_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "aaa.bbb.ccc\n").unwrap();
        let access = Access::load(Some(file.path()), Some("other".into()), None).unwrap();
        assert_eq!(access.token().as_deref(), Some("aaa.bbb.ccc"));
        assert!(!format!("{access:?}").contains("aaa"), "a token must not show");
        let access = Access::load(None, Some(" x.y.z ".into()), None).unwrap();
        assert_eq!(access.token().as_deref(), Some("x.y.z"));
        assert_eq!(Access::load(None, Some(" ".into()), None).unwrap().token(), None);
    }

    #[test]
    fn what_is_no_token_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "two words", "ünicode"] {
            std::fs::write(file.path(), text).unwrap();
            assert!(Access::load(Some(file.path()), None, None).is_err(), "{text:?}");
        }
        std::fs::write(file.path(), "x".repeat(20_000)).unwrap();
        assert!(Access::load(Some(file.path()), None, None).is_err());
        let missing = Access::load(Some(Path::new("/nowhere/token")), None, None).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/token"), "{missing}");
        std::fs::write(file.path(), "no pem").unwrap();
        let error = Access::load(None, None, Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    }
}
