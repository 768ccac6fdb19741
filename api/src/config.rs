//! Config files: JSON, overlaid by the environment, with errors that name the key.
//!
//! An unknown key is an error: a misspelt limit that silently keeps its default is found at
//! three in the morning. The error names the nearest known key.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What is wrong with a config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("config {path}: can't read it: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON.
    #[error("config {path}: not valid JSON at line {line}, column {column}: {message}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// The file is JSON, but no object.
    #[error("config {path}: must be a JSON object")]
    NotAnObject {
        /// The file.
        path: PathBuf,
    },
    /// A key is unknown.
    #[error("config: unknown key `{key}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key, with its path.
        key: String,
        /// The nearest known one.
        nearest: Option<String>,
    },
    /// A required key is missing.
    #[error("config: `{key}` is required; set it in the file or as {} in the environment", key.to_uppercase())]
    Missing {
        /// The key.
        key: String,
    },
    /// A value has the wrong type or range.
    #[error("config: `{key}`: {message}")]
    Invalid {
        /// The key, with its path.
        key: String,
        /// What is wrong and what is expected.
        message: String,
    },
    /// Several faults, each on its own line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Many(Vec<ConfigError>),
}

impl ConfigError {
    /// A fault of one key's value.
    pub fn invalid(key: impl Into<String>, message: impl Into<String>) -> Self {
        ConfigError::Invalid { key: key.into(), message: message.into() }
    }
}

/// Reads the JSON object in `path`.
pub fn read_object(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    let value: Value = serde_json::from_str(&text).map_err(|e| ConfigError::Json {
        path: path.into(),
        line: e.line(),
        column: e.column(),
        message: e.to_string().split(" at line").next().unwrap_or_default().to_owned(),
    })?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(ConfigError::NotAnObject { path: path.into() }),
    }
}

/// Lays environment variables over `object`: each of `keys` in upper case.
///
/// A value that reads as a JSON number, boolean, list or object is taken as that, anything else
/// as a string. Keys in `strings` are always strings (a node id of `7` stays text).
pub fn overlay_env(
    object: &mut Map<String, Value>,
    keys: &[&str],
    strings: &[&str],
    env: impl Fn(&str) -> Option<String>,
) {
    for key in keys {
        let Some(text) = env(&key.to_uppercase()) else { continue };
        let parsed = match serde_json::from_str::<Value>(&text) {
            Ok(value) if !strings.contains(key) && !value.is_string() && !value.is_null() => value,
            _ => Value::String(text),
        };
        object.insert((*key).to_owned(), parsed);
    }
}

/// Turns an object into `T`, with the path of the key in every error.
///
/// `T` must carry `#[serde(deny_unknown_fields)]`.
pub fn from_object<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|e| {
        let path = e.path().to_string();
        let message = e.inner().to_string();
        explain(&path, &message)
    })
}

/// Reads the value of one key, with its path in every error.
pub fn from_value<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let inner = e.path().to_string();
        let path = match inner.as_str() {
            "." => key.to_owned(),
            inner if inner.starts_with('[') => format!("{key}{inner}"),
            inner => format!("{key}.{inner}"),
        };
        explain(&path, &e.inner().to_string())
    })
}

/// Turns serde's message into an error of ours. Serde gives unknown and missing fields only as text.
fn explain(path: &str, message: &str) -> ConfigError {
    let quoted = |text: &str| -> Vec<String> {
        text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let join = |key: &str| match path.rsplit_once(key) {
        Some((_, "")) => path.to_owned(),
        _ if path == "." => key.to_owned(),
        _ => format!("{path}.{key}"),
    };
    let names = quoted(message);
    if message.starts_with("unknown field") {
        let key = names.first().cloned().unwrap_or_default();
        let nearest = nearest(&key, names.get(1..).unwrap_or_default());
        return ConfigError::UnknownKey { key: join(&key), nearest };
    }
    if message.starts_with("missing field") {
        return ConfigError::Missing { key: join(names.first().map(String::as_str).unwrap_or_default()) };
    }
    ConfigError::invalid(path, message)
}

/// The known name most like `key`, if any is like it at all.
pub fn nearest(key: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        node_id: String,
        #[serde(default)]
        heartbeat_interval: u64,
        #[serde(default)]
        peers: Vec<Peer>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Peer {
        #[allow(dead_code)]
        id: String,
    }

    fn parse(json: &str) -> Result<Sample, String> {
        let Value::Object(map) = serde_json::from_str(json).unwrap() else { panic!() };
        from_object(map).map_err(|e| e.to_string())
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = parse(r#"{"node_id": "a", "heartbeat_intervall": 5}"#).unwrap_err();
        assert_eq!(error, "config: unknown key `heartbeat_intervall`; did you mean `heartbeat_interval`?");
        let error = parse(r#"{"node_id": "a", "peers": [{"id": "b", "hots": "x"}]}"#).unwrap_err();
        assert!(error.contains("peers[0].hots"), "{error}");
    }

    #[test]
    fn a_missing_key_says_where_it_can_be_set() {
        let error = parse("{}").unwrap_err();
        assert_eq!(
            error,
            "config: `node_id` is required; set it in the file or as NODE_ID in the environment"
        );
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let error = parse(r#"{"node_id": "a", "heartbeat_interval": "soon"}"#).unwrap_err();
        assert!(error.starts_with("config: `heartbeat_interval`: invalid type"), "{error}");
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let mut map = Map::new();
        map.insert("heartbeat_interval".into(), 50.into());
        let env = |name: &str| match name {
            "HEARTBEAT_INTERVAL" => Some("75".to_owned()),
            "NODE_ID" => Some("7".to_owned()),
            _ => None,
        };
        overlay_env(&mut map, &["node_id", "heartbeat_interval"], &["node_id"], env);
        let sample: Sample = from_object(map).unwrap();
        assert_eq!((sample.node_id.as_str(), sample.heartbeat_interval), ("7", 75));
        assert!(sample.peers.is_empty());
    }

    #[test]
    fn broken_json_names_line_and_column() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\n  \"a\": }").unwrap();
        let error = read_object(file.path()).unwrap_err().to_string();
        assert!(error.contains("line 2, column 8"), "{error}");
    }
}
