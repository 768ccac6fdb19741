//! How a key is declared: once, and everything else follows.
//!
//! [`config_keys!`] takes the keys with their types, defaults and meanings, and makes of them the
//! struct, the reading of a JSON object into it (every fault at once), and the table from which
//! `docs/configuration.md` is written and a reload is judged.

use super::peer::{AuthUser, Peer};
use api::config::{ConfigError, from_value};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// When a changed value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// At once, on SIGHUP.
    Live,
    /// At the next start.
    Restart,
}

/// One key of the config.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the file; the environment has it in upper case.
    pub name: &'static str,
    /// The concern it belongs to.
    pub section: &'static str,
    /// What its value is.
    pub kind: &'static str,
    /// True where the environment's text is the value, even if it looks like a number.
    pub text: bool,
    /// When a changed value counts.
    pub reload: Reload,
    /// The recommended values; empty where there is nothing to recommend.
    pub recommended: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Key {
    /// The name in the environment.
    pub fn env(&self) -> String {
        self.name.to_uppercase()
    }
}

/// A type that a key may have.
pub(super) trait KeyType: DeserializeOwned {
    const KIND: &'static str;
    const TEXT: bool = false;
}

macro_rules! key_types {
    ($($kind:ty: $name:literal $(, $text:literal)?;)+) => {
        $(impl KeyType for $kind {
            const KIND: &'static str = $name;
            $(const TEXT: bool = $text;)?
        })+
    };
}

key_types! {
    String: "text", true;
    Option<String>: "text", true;
    PathBuf: "path", true;
    Option<PathBuf>: "path", true;
    bool: "true or false";
    u16: "number";
    u32: "number";
    u64: "number";
    usize: "number";
    f64: "number";
    Vec<Peer>: "list of {id, host, port}";
    Vec<AuthUser>: "list of {username, password_hash, role}";
    BTreeMap<String, Value>: "object";
}

/// The default of a key that has one.
pub(super) fn or<T>(value: T) -> Option<T> {
    Some(value)
}

/// For a key that has none.
pub(super) fn required<T>() -> Option<T> {
    None
}

/// Takes a key out of the object; none, and a fault, where it is missing or wrong.
pub(super) fn take<T: KeyType>(
    object: &mut Map<String, Value>,
    key: &str,
    default: Option<T>,
    faults: &mut Vec<ConfigError>,
) -> Option<T> {
    let outcome = match (object.remove(key), default) {
        (Some(value), _) => from_value(key, value),
        (None, Some(default)) => Ok(default),
        (None, None) => Err(ConfigError::Missing { key: key.to_owned() }),
    };
    outcome.map_err(|fault| faults.push(fault)).ok()
}

/// Declares the keys: `section { /// meaning  name: type = default, when[, recommended "…"]; }`.
macro_rules! config_keys {
    ($($section:literal { $($(#[doc = $meaning:literal])+ $name:ident: $kind:ty = $default:expr, $reload:ident $(, recommended $recommended:literal)?;)+ })+) => {
        /// A node's config: the keys of its file, each of which may come from the environment.
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "serde_json::Map<String, serde_json::Value>")]
        pub struct Config {
            $($($(#[doc = $meaning])+ pub $name: $kind,)+)+
        }

        /// Every key, in the order of the documentation.
        pub const KEYS: &[Key] = &[$($(Key {
            name: stringify!($name),
            section: $section,
            kind: <$kind as KeyType>::KIND,
            text: <$kind as KeyType>::TEXT,
            reload: Reload::$reload,
            recommended: concat!($($recommended)?),
            meaning: concat!($($meaning),+),
        },)+)+];

        impl Config {
            /// Reads every key; what is left in `object` is unknown. None where one is wrong.
            pub(super) fn take_from(
                object: &mut serde_json::Map<String, serde_json::Value>,
                faults: &mut Vec<api::config::ConfigError>,
            ) -> Option<Config> {
                $($(let $name: Option<$kind> = take(object, stringify!($name), $default, faults);)+)+
                Some(Config { $($($name: $name?,)+)+ })
            }
        }
    };
}
pub(super) use config_keys;
