//! The config as it counts, for people: with its defaults, without its secrets, and as a page of
//! documentation.

use super::{Config, KEYS, Reload};
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// What stands in place of a secret.
pub const REMOVED: &str = "(removed)";

/// Keys whose values are secrets, at any depth.
const SECRETS: &[&str] = &["jwt_secret", "password_hash", "password", "secret", "authorization"];

/// Every key with its value, secrets removed.
pub fn effective(config: &Config) -> Map<String, Value> {
    let Ok(Value::Object(mut map)) = serde_json::to_value(config) else { return Map::new() };
    map.insert("db_path".into(), Value::from(config.db_path().display().to_string()));
    map.iter_mut().for_each(|(key, value)| remove_secrets(key, value));
    map
}

/// Removes the secrets in a document.
pub fn remove_secrets(key: &str, value: &mut Value) {
    match value {
        Value::Null => {}
        _ if SECRETS.contains(&key) => *value = Value::from(REMOVED),
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| remove_secrets(key, value)),
        Value::Array(list) => list.iter_mut().for_each(|value| remove_secrets(key, value)),
        _ => {}
    }
}

/// `docs/configuration.md`, written from the declarations.
pub fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    let defaults = defaults();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            let _ = write!(
                page,
                "\n## {section}\n\n| key, in the environment | type | default | recommended | reload | meaning |\n|---|---|---|---|---|---|\n"
            );
        }
        let default = match defaults.get(key.name) {
            None => "required".to_owned(),
            Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(value) => format!("`{value}`"),
        };
        let reload = if key.reload == Reload::Live { "yes" } else { "no" };
        let recommended = if key.recommended.is_empty() { "-" } else { key.recommended };
        let (name, env, kind) = (key.name, key.env(), key.kind);
        let meaning = key.meaning.trim().replace('|', "\\|");
        let _ = writeln!(
            page,
            "| `{name}`<br>`{env}` | {kind} | {default} | {recommended} | {reload} | {meaning} |"
        );
    }
    page
}

/// The value of every key that has a default.
fn defaults() -> Map<String, Value> {
    let required = [("node_id", "n"), ("host", "h"), ("data_dir", "d")];
    let mut object = required.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
    let config = Config::take_from(&mut object, &mut Vec::new());
    let Some(Ok(Value::Object(mut map))) = config.map(serde_json::to_value) else { return Map::new() };
    required.iter().for_each(|(key, _)| drop(map.remove(*key)));
    map
}

const INTRODUCTION: &str = "# Configuration of a coordinator

This page is written from the declarations in `coordinator/src/config/keys.rs`; a test fails where it is not
current (`UPDATE=1 cargo test -p coordinator --lib the_page_is_current` writes it).

A node reads one JSON object from the file that `--config` names. Every key may also come from the
environment, in upper case, which has precedence; with `NODE_ID`, `HOST` and `DATA_DIR` there, no file is
needed. A key that is not known is an error that names the nearest known one.

`coordinator --config FILE --check-config` prints the config as it counts, secrets removed, with every warning
and every fault at once, and ends: exit code 0 where a node would start with it, 1 where it would not.

On SIGHUP a node reads file and environment again. Where the new config has a fault, nothing changes. Else the
keys with reload \"yes\" count at once, and for the others it says that they wait for a restart. What came of it
is in the log and in `config` of `GET /api/report`.

`peers` can be reloaded as far as addresses go: it says where a member is reached. It neither adds nor removes
members.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == page(),
            "docs/configuration.md is not current: UPDATE=1 cargo test -p coordinator --lib the_page_is_current"
        );
    }

    #[test]
    fn secrets_are_removed_at_any_depth() {
        let mut value = serde_json::json!({"jwt_secret": "a", "x": {"password_hash": "b"}, "users": [{"password": "c", "name": "d"}], "secret": null});
        remove_secrets("", &mut value);
        let text = value.to_string();
        assert_eq!(text.matches(REMOVED).count(), 3, "{text}");
        assert!(text.contains("\"d\"") && text.contains("null"), "{text}");
    }
}
