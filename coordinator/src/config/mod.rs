//! A node's config: the guide's keys with the guide's names and defaults.
//!
//! `keys` declares them; every one may also come from the environment in upper case. [`check`]
//! judges the values and reports every fault at once, [`reload`] what a changed file changes in a
//! node that runs, [`effective`] shows the whole with its secrets removed.

pub mod check;
mod declare;
pub mod effective;
mod keys;
mod peer;
pub mod reload;

pub use declare::{Key, Reload};
pub use keys::{Config, KEYS};
pub use peer::{AuthUser, Peer, join_host_port};

use api::config::{ConfigError, nearest, overlay_env, read_object};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much a remark matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// It can cost availability or safety.
    Warning,
    /// It is only unusual.
    Note,
}

/// Something the config's reader should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// How much it matters.
    pub grade: Grade,
    /// The key it is about.
    pub key: &'static str,
    /// What it says, to be read after the key's name.
    pub text: String,
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let grade = match self.grade {
            Grade::Warning => "warning",
            Grade::Note => "note",
        };
        write!(f, "{grade}: `{}` {}", self.key, self.text)
    }
}

/// What came of reading a config.
#[derive(Debug)]
pub struct Reading {
    /// The config, where every key could be read; it may still have faults.
    pub config: Option<Config>,
    /// What keeps a node from starting with it.
    pub faults: Vec<ConfigError>,
    /// What its reader should know.
    pub remarks: Vec<Remark>,
}

impl Config {
    /// Reads the file, lays the environment over it and checks the whole; everything that is
    /// found at once.
    pub fn read(path: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Reading {
        let object = match path.map(read_object).transpose() {
            Ok(object) => object.unwrap_or_default(),
            Err(fault) => return Reading { config: None, faults: vec![fault], remarks: Vec::new() },
        };
        read_over(object, env)
    }

    /// As [`Config::read`]; faults are an error.
    pub fn load(
        path: Option<&Path>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<(Config, Vec<Remark>), ConfigError> {
        match Config::read(path, env) {
            Reading { config: Some(config), faults, remarks } if faults.is_empty() => Ok((config, remarks)),
            Reading { mut faults, .. } if faults.len() == 1 => Err(faults.remove(0)),
            Reading { faults, .. } => Err(ConfigError::Many(faults)),
        }
    }

    /// Where the DuckDB file lies.
    pub fn db_path(&self) -> PathBuf {
        self.db_path.clone().unwrap_or_else(|| self.data_dir.join("coordinator.duckdb"))
    }

    /// What is exported by OTLP; none where nothing is.
    pub fn export(&self) -> Result<Option<otlp::Settings>, otlp::SettingsError> {
        let Some(endpoint) = self.otlp_endpoint.clone() else { return Ok(None) };
        let headers = self.otlp_headers_file.as_deref().map(otlp::settings::read_headers).transpose()?;
        Ok(Some(otlp::Settings {
            endpoint,
            headers: headers.unwrap_or_default(),
            ca: self.otlp_ca_path.clone(),
            signals: otlp::Signals::parse(&self.otlp_signals)?,
            metrics_interval: Duration::from_secs(self.otlp_metrics_interval_seconds),
            ratio: self.trace_sample_ratio,
        }))
    }

    /// The host to bind.
    pub fn bind_host(&self) -> &str {
        self.listen.as_deref().unwrap_or(&self.host)
    }

    /// What peers and clients are told: `host:port`.
    ///
    /// In a StatefulSet a pod is told its short name alone, which is its node id and which nobody
    /// else resolves; the list of peers then has its whole name.
    pub fn address(&self) -> String {
        let mut whole = self.peers.iter().filter(|peer| self.is_whole_name(peer));
        match (whole.next(), whole.next()) {
            (Some(peer), None) => peer.address(),
            _ => join_host_port(&self.host, self.port),
        }
    }

    fn is_whole_name(&self, peer: &Peer) -> bool {
        let beyond = peer.host.strip_prefix(self.host.as_str());
        self.host == self.node_id
            && !self.host.contains('.')
            && peer.port == self.port
            && peer.id.as_ref().is_none_or(|id| *id == self.node_id)
            && beyond.is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
    }
}

impl TryFrom<Map<String, Value>> for Config {
    type Error = ConfigError;

    /// The keys' types are checked, their values are not.
    fn try_from(mut object: Map<String, Value>) -> Result<Config, ConfigError> {
        let mut faults = Vec::new();
        let config = Config::take_from(&mut object, &mut faults);
        faults.extend(unknown(&object));
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(ConfigError::Many(faults)),
        }
    }
}

/// A fault for every key that is left, with the known one that is most like it.
fn unknown(left: &Map<String, Value>) -> Vec<ConfigError> {
    let known: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    let fault = |key: &String| ConfigError::UnknownKey { key: key.clone(), nearest: nearest(key, &known) };
    left.keys().map(fault).collect()
}

fn read_over(mut object: Map<String, Value>, env: impl Fn(&str) -> Option<String>) -> Reading {
    let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    let texts: Vec<&str> = KEYS.iter().filter(|key| key.text).map(|key| key.name).collect();
    overlay_env(&mut object, &names, &texts, &env);
    let mut faults = Vec::new();
    peer::expand(&mut object, &mut faults);
    let mut config = Config::take_from(&mut object, &mut faults);
    if let Some(config) = &mut config {
        let standard = || env(otlp::settings::ENDPOINT_VARIABLE).filter(|text| !text.trim().is_empty());
        config.otlp_endpoint = config.otlp_endpoint.take().or_else(standard);
    }
    faults.extend(unknown(&object));
    let mut remarks = Vec::new();
    if let Some(config) = &config {
        let found = check::check(config);
        faults.extend(found.faults);
        remarks = found.remarks;
    }
    for fault in &mut faults {
        name_the_source(fault, &env);
    }
    Reading { config, faults, remarks }
}

/// A value of the environment is not in the file, where one would look for it first.
fn name_the_source(fault: &mut ConfigError, env: &impl Fn(&str) -> Option<String>) {
    let ConfigError::Invalid { key, message } = fault else { return };
    let name = key.split(['.', '[']).next().unwrap_or_default().to_uppercase();
    if env(&name).is_some() {
        message.push_str(&format!(" ({name} in the environment sets it)"));
    }
}

#[cfg(test)]
mod tests;
