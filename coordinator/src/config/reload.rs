//! What a config read anew changes in a node that runs. PURE.

use super::{Config, KEYS, Reload};
use serde_json::Value;

/// Keys whose values differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that count at once.
    pub live: Vec<&'static str>,
    /// Those that wait for a restart.
    pub restart: Vec<&'static str>,
}

/// The config that counts from now on, and what is different.
///
/// What waits for a restart keeps its old value in it, so the next comparison names it again.
pub fn merge(running: &Config, fresh: &Config) -> (Config, Changes) {
    let mut changes = Changes::default();
    let (Ok(Value::Object(old)), Ok(Value::Object(mut merged))) =
        (serde_json::to_value(running), serde_json::to_value(fresh))
    else {
        return (running.clone(), changes);
    };
    for key in KEYS {
        if old.get(key.name) == merged.get(key.name) {
            continue;
        }
        match key.reload {
            Reload::Live => changes.live.push(key.name),
            Reload::Restart => {
                changes.restart.push(key.name);
                merged.insert(key.name.to_owned(), old.get(key.name).cloned().unwrap_or(Value::Null));
            }
        }
    }
    match Config::take_from(&mut merged, &mut Vec::new()) {
        Some(config) => (config, changes),
        None => (running.clone(), Changes::default()),
    }
}
