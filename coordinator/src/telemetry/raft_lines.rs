//! What the Raft library says, as lines of our log.
//!
//! The library writes through `slog`. Its lines name members by their Raft ids, which are long
//! numbers; here they get their node ids. They pass the filter only with `log_raft_events`.

use slog::{Drain, KV, Logger, OwnedKVList, Record, Serializer};
use std::fmt::Write as _;

/// A logger for the library on a node whose members are these (Raft id, node id).
pub fn logger(members: &[(u64, String)]) -> Logger {
    let names = members.iter().map(|(raft_id, node_id)| (raft_id.to_string(), node_id.clone())).collect();
    Logger::root(Lines { names }.fuse(), slog::o!())
}

struct Lines {
    names: Vec<(String, String)>,
}

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        if !tracing::enabled!(target: "raft", tracing::Level::DEBUG) && record.level() > slog::Level::Warning
        {
            return Ok(());
        }
        let mut pairs = Pairs { names: &self.names, term: None, rest: String::new() };
        // A value that can't be written is left out; the line is worth having without it.
        let _ = record.kv().serialize(record, &mut pairs);
        let _ = values.serialize(record, &mut pairs);
        let (message, term, detail) = (record.msg().to_string(), pairs.term.unwrap_or_default(), pairs.rest);
        match record.level() {
            slog::Level::Critical | slog::Level::Error => {
                tracing::error!(target: "raft", term, detail, "{message}");
            }
            slog::Level::Warning => tracing::warn!(target: "raft", term, detail, "{message}"),
            slog::Level::Info => tracing::info!(target: "raft", term, detail, "{message}"),
            slog::Level::Debug | slog::Level::Trace => {
                tracing::debug!(target: "raft", term, detail, "{message}");
            }
        }
        Ok(())
    }
}

struct Pairs<'a> {
    names: &'a [(String, String)],
    term: Option<String>,
    rest: String,
}

impl Serializer for Pairs<'_> {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        let text = value.to_string();
        if key == "term" {
            self.term = Some(text);
            return Ok(());
        }
        let named = self.names.iter().find(|(raft_id, _)| *raft_id == text);
        let shown = named.map_or(text.as_str(), |(_, node_id)| node_id);
        let space = if self.rest.is_empty() { "" } else { " " };
        write!(self.rest, "{space}{key}={shown}").map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ring::{LogRing, RingLayer};
    use tracing_subscriber::prelude::*;

    #[test]
    fn members_are_named_and_the_term_stands_by_itself() {
        let ring = LogRing::default();
        let subscriber = tracing_subscriber::registry().with(RingLayer::new(ring.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let logger = logger(&[(77, "node-2".into())]);
            slog::info!(logger, "cast vote"; "from" => 77u64, "term" => 4u64, "log" => 9u64);
        });
        let line = ring.read(None, tracing::Level::TRACE, 1).lines.remove(0);
        assert_eq!((line.message.as_str(), line.fields["term"].as_str()), ("cast vote", "4"));
        assert!(line.fields["detail"].contains("from=node-2"), "{line:?}");
        assert!(line.fields["detail"].contains("log=9"), "{line:?}");
    }
}
