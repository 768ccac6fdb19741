//! Maps from JSON in which a key may stand once.
//!
//! Of two equal keys, readers of JSON take the first, the last, or either: what was checked might
//! not be what counts. So a map that carries meaning is refused where a key stands twice.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A map whose keys differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys(PhantomData)).map(Unique)
    }
}

/// Reads a map; for `deserialize_with`.
pub fn map<'de, V, D>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Unique::deserialize(deserializer).map(|Unique(map)| map)
}

/// Reads a list of maps; for `deserialize_with`.
pub fn maps<'de, V, D>(deserializer: D) -> Result<Vec<BTreeMap<String, V>>, D::Error>
where
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let maps = Vec::<Unique<V>>::deserialize(deserializer)?;
    Ok(maps.into_iter().map(|Unique(map)| map).collect())
}

struct Keys<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = access.next_entry::<String, V>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key `{}`", key.escape_debug())));
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_stand_once() {
        let good: Unique<u64> = serde_json::from_str(r#"{"a": 1, "b": 2}"#).unwrap();
        assert_eq!(good.0.len(), 2);
        let error = serde_json::from_str::<Unique<u64>>(r#"{"a": 1, "\u0061": 2}"#).unwrap_err();
        assert!(error.to_string().contains("duplicate key `a`"), "{error}");
        assert!(
            serde_json::from_str::<Unique<u64>>("[]").unwrap_err().to_string().contains("expected a map")
        );
    }
}
