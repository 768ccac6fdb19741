//! Who may speak to this node: people and programs by tokens, peers by a proof or a certificate.
//!
//! - [`settings`]: what the config asks for, checked, with its secrets read.
//! - [`token`]: signed tokens that name a role, and perhaps the one worker they are for.
//! - [`login`]: passwords, bounded in what they may cost.
//! - [`tls`]: the certificate, read again when it changes.
//! - [`outbound`]: how this node asks others.
//! - [`peers`]: nodes prove to each other that they know the cluster secret.
//!
//! What each role may do stands in one place, [`crate::http::table`], and is enforced in one
//! place, [`crate::http::access`].
//!
//! Invariants:
//! - A secret never shows in a log line, an error or an answer.
//! - Being forwarded by another node grants nothing: the caller's own token travels along and is
//!   verified again by the leader.
//! - Where nothing is asked for, everything is allowed, and start-up says so.

pub mod login;
pub mod outbound;
pub mod peers;
pub mod settings;
pub mod tls;
pub mod token;

use crate::config::Config;
use api::access::Role;
use login::Logins;
use outbound::Outbound;
use peers::PeerSecret;
use std::sync::Arc;
use tls::Tls;
use token::Tokens;

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user, the token's subject, or the peer.
    pub subject: String,
    /// What it may do.
    pub role: Role,
    /// The one worker it may be; none where it may be any.
    pub worker_id: Option<String>,
}

impl Caller {
    /// Anybody, on a node that asks for no login.
    pub fn anybody() -> Caller {
        Caller { subject: "anybody".into(), role: Role::Admin, worker_id: None }
    }

    /// Another node.
    pub fn peer() -> Caller {
        Caller { subject: "a peer".into(), role: Role::Node, worker_id: None }
    }

    /// May it speak for that worker?
    pub fn may_be(&self, worker_id: &str) -> bool {
        self.worker_id.as_deref().is_none_or(|own| own == worker_id)
    }
}

/// Why access can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A secret can't be read.
    #[error("`{key}` {path}: {why}")]
    Secret {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The config asks for something that can't be.
    #[error("`{key}`: {why}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The client to other nodes can't be made.
    #[error("the client to other nodes can't be made: {0}")]
    Client(String),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

/// What a node asks of those who speak to it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Access {
    tokens: Option<Arc<Tokens>>,
    logins: Option<Arc<Logins>>,
    secret: Option<Arc<PeerSecret>>,
    tls: Option<Arc<Tls>>,
    certified_peers: bool,
}

impl Access {
    /// What the config asks for; reads its secret files.
    pub fn from_config(config: &Config) -> Result<Access, AccessError> {
        let settings = settings::Settings::read(config)?;
        let secret = settings.cluster_secret.as_deref().map(PeerSecret::new).transpose()?.map(Arc::new);
        let certified_peers = config.enable_tls && config.ca_path.is_some();
        let tls = Tls::from_config(config)?;
        let Some(jwt) = settings.jwt_secret else {
            return Ok(Access { secret, tls, certified_peers, ..Access::default() });
        };
        let tokens = Arc::new(Tokens::new(jwt.as_bytes()));
        let logins = Arc::new(Logins::new(settings.users));
        Ok(Access { tokens: Some(tokens), logins: Some(logins), secret, tls, certified_peers })
    }

    /// The tokens, where callers have to show one.
    pub fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_deref()
    }

    /// The users, where there is a login.
    pub fn logins(&self) -> Option<&Arc<Logins>> {
        self.logins.as_ref()
    }

    /// What peers prove that they know.
    pub fn secret(&self) -> Option<&Arc<PeerSecret>> {
        self.secret.as_ref()
    }

    /// The certificate, where TLS is served.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// How this node asks others.
    pub fn outbound(&self) -> Result<Outbound, AccessError> {
        Outbound::new(self.tls.clone(), self.secret.clone())
            .map_err(|e| AccessError::Client(api::client::error_chain(&e)))
    }

    /// True where a peer must show a certificate of the cluster's authority.
    pub fn wants_certificates(&self) -> bool {
        self.certified_peers
    }

    /// True where peers have nothing to prove.
    pub fn peers_are_open(&self) -> bool {
        self.secret.is_none() && !self.certified_peers
    }
}
