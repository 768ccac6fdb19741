//! Peers and users as the config names them.

use api::config::ConfigError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A peer as the config names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its node id; PEERS in the environment may leave it out, then the peer is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its host.
    pub host: String,
    /// Its API port.
    #[serde(default = "default_port")]
    pub port: u16,
}

const fn default_port() -> u16 {
    8080
}

impl Peer {
    /// `host:port`.
    pub fn address(&self) -> String {
        join_host_port(&self.host, self.port)
    }

    /// Reads `host:port` or `id=host:port`.
    fn parse(text: &str) -> Result<Peer, String> {
        let (id, address) = match text.split_once('=') {
            Some((id, address)) => (Some(id.trim().to_owned()), address),
            None => (None, text),
        };
        let (host, port) = address
            .trim()
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` is not host:port or id=host:port"))?;
        let port = port.parse().map_err(|_| format!("`{text}`: `{port}` is not a port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || id.as_deref() == Some("") {
            return Err(format!("`{text}` is not host:port or id=host:port"));
        }
        Ok(Peer { id, host, port })
    }
}

/// `host:port`, with brackets round an IPv6 address.
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A user of the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthUser {
    /// The login name.
    pub username: String,
    /// Its argon2id hash.
    pub password_hash: String,
    /// What it may do; without it, the role it is called after, else `viewer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<api::AccessRole>,
}

/// `PEERS=host:port,id=host:port` becomes the list the file would have; all faults at once.
pub(super) fn expand(object: &mut Map<String, Value>, faults: &mut Vec<ConfigError>) {
    let Some(Value::String(text)) = object.get("peers") else { return };
    let mut peers = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        match Peer::parse(part) {
            Ok(Peer { id, host, port }) => {
                peers.push(serde_json::json!({"host": host, "port": port, "id": id}))
            }
            Err(why) => faults.push(ConfigError::invalid("peers", why)),
        }
    }
    object.insert("peers".into(), Value::Array(peers));
}
