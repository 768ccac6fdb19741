//! Checksums that can be compared between nodes and cost nothing to keep.
//!
//! The state's checksum is a multiset hash: the wrapping sum of one 128-bit hash a record. A
//! change subtracts the old hash of its record and adds the new one; order never matters. The log
//! chain hashes every applied entry over the chain before it.
//!
//! Invariant: what goes into a record's hash is written by [`Canon`] in a fixed order, every
//! part with its length, so that two different records never write the same bytes.
//! If a mutation forgets its record's new hash, the scrub and the property tests see it:
//! [`super::Machine::recompute_checksum`] starts from the records.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Checksum and chain, remembered at one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The index at which both were taken.
    pub index: u64,
    /// The state's checksum.
    pub checksum: u128,
    /// The hash chain over the applied log.
    pub log_chain: u128,
}

/// Writes a record's canonical bytes.
pub(crate) struct Canon(Vec<u8>);

impl Canon {
    /// Begins a record; `tag` keeps the kinds of records apart.
    pub(crate) fn new(tag: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(tag);
        Canon(bytes)
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.u64(value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    pub(crate) fn maybe_text(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(text) => self.u8(1).text(text),
        }
    }

    pub(crate) fn maybe_i64(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(number) => self.u8(1).i64(number),
        }
    }

    pub(crate) fn texts(&mut self, map: &BTreeMap<String, String>) -> &mut Self {
        self.u64(map.len() as u64);
        for (key, value) in map {
            self.text(key).text(value);
        }
        self
    }

    pub(crate) fn amounts(&mut self, map: &BTreeMap<String, u64>) -> &mut Self {
        self.u64(map.len() as u64);
        for (key, value) in map {
            self.text(key).u64(*value);
        }
        self
    }

    pub(crate) fn hash(&self) -> u128 {
        xxh3_128(&self.0)
    }
}

/// The chain after an entry.
pub(crate) fn chain(previous: u128, index: u64, term: u64, data: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&previous.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(&term.to_le_bytes());
    hasher.update(data);
    hasher.digest128()
}

/// 32 hex digits.
pub(crate) fn hex(value: u128) -> String {
    format!("{value:032x}")
}
