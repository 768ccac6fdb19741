//! The last log lines, in memory, behind `GET /api/logs`.
//!
//! Bounded twice: [`MAX_LINES`] lines, each of them cut at [`MAX_TEXT_BYTES`]. What falls out is
//! still in the log file; a reader sees from a gap in `seq` that it came too late.

use super::rotate::LostLines;
use api::cluster::{LogLine, LogLines};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that are kept.
pub const MAX_LINES: usize = 2000;
/// Bytes of a message or a field that are kept.
pub const MAX_TEXT_BYTES: usize = 2048;
/// Fields of a line that are kept.
const MAX_FIELDS: usize = 32;

/// The last log lines. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogRing {
    shared: Arc<Mutex<Lines>>,
    lost: LostLines,
}

#[derive(Debug, Default)]
struct Lines {
    last_seq: u64,
    lines: VecDeque<LogLine>,
}

impl LogRing {
    /// A ring beside a file whose lost lines are counted in `lost`.
    pub fn with_lost(lost: LostLines) -> Self {
        LogRing { lost, ..LogRing::default() }
    }

    /// Lines that did not reach the log file since the process started.
    pub fn lost_lines(&self) -> u64 {
        self.lost.count()
    }

    /// Adds a line; the oldest leaves when there are too many.
    pub fn push(
        &self,
        at: Timestamp,
        level: &str,
        target: &str,
        message: String,
        fields: BTreeMap<String, String>,
    ) {
        let mut shared = self.shared.lock();
        shared.last_seq += 1;
        let line = LogLine {
            seq: shared.last_seq,
            at,
            level: level.to_owned(),
            target: target.to_owned(),
            message,
            fields,
        };
        if shared.lines.len() == MAX_LINES {
            shared.lines.pop_front();
        }
        shared.lines.push_back(line);
    }

    /// Lines after `since` (the oldest first ones), or without it the newest; at least of `level`.
    ///
    /// `next` is what follows may be asked with: no line is skipped, none comes twice.
    pub fn read(&self, since: Option<u64>, level: Level, limit: usize) -> LogLines {
        let shared = self.shared.lock();
        let fits = |line: &&LogLine| line.level.parse::<Level>().is_ok_and(|l| l <= level);
        match since {
            None => {
                let mut lines: Vec<LogLine> =
                    shared.lines.iter().rev().filter(fits).take(limit).cloned().collect();
                lines.reverse();
                LogLines { lines, next: shared.last_seq, lost_lines: self.lost_lines() }
            }
            Some(since) => {
                let lines: Vec<LogLine> = shared
                    .lines
                    .iter()
                    .skip_while(|line| line.seq <= since)
                    .filter(fits)
                    .take(limit)
                    .cloned()
                    .collect();
                let full = lines.len() == limit;
                let next = match lines.last() {
                    Some(last) if full => last.seq,
                    _ => shared.last_seq,
                };
                LogLines { lines, next, lost_lines: self.lost_lines() }
            }
        }
    }
}

/// Copies every event into a ring.
#[derive(Debug)]
pub struct RingLayer {
    ring: LogRing,
}

impl RingLayer {
    /// A layer that fills `ring`.
    pub fn new(ring: LogRing) -> Self {
        RingLayer { ring }
    }
}

impl<S: Subscriber> Layer<S> for RingLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(place) = otlp::context::current() {
            fields.rest.insert("trace_id".to_owned(), place.trace.to_string());
        }
        let metadata = event.metadata();
        self.ring.push(
            Timestamp::now(),
            metadata.level().as_str(),
            metadata.target(),
            fields.message,
            fields.rest,
        );
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: BTreeMap<String, String>,
}

impl Fields {
    fn put(&mut self, field: &Field, text: String) {
        let text = cut(text);
        match field.name() {
            "message" => self.message = text,
            name if self.rest.len() < MAX_FIELDS => {
                self.rest.insert(name.to_owned(), text);
            }
            _ => {}
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        // Writing into a string fails only when the value's own Debug does; then it stays short.
        let _ = write!(text, "{value:?}");
        self.put(field, text);
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let mut end = MAX_TEXT_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::prelude::*;

    fn ring_with(lines: u64) -> LogRing {
        let ring = LogRing::default();
        for i in 0..lines {
            let level = if i % 2 == 0 { "INFO" } else { "DEBUG" };
            ring.push(Timestamp::UNIX_EPOCH, level, "test", format!("line {i}"), BTreeMap::new());
        }
        ring
    }

    #[test]
    fn without_since_the_newest_come() {
        let read = ring_with(10).read(None, Level::TRACE, 3);
        let seqs: Vec<u64> = read.lines.iter().map(|l| l.seq).collect();
        assert_eq!((seqs, read.next), (vec![8, 9, 10], 10));
    }

    #[test]
    fn following_skips_nothing_and_repeats_nothing() {
        let ring = ring_with(10);
        let (mut since, mut seen) = (0, Vec::new());
        loop {
            let read = ring.read(Some(since), Level::INFO, 2);
            if read.lines.is_empty() {
                break;
            }
            seen.extend(read.lines.iter().map(|l| l.seq));
            since = read.next;
        }
        assert_eq!(seen, [1, 3, 5, 7, 9]);
        assert_eq!(since, 10);
    }

    #[test]
    fn the_oldest_lines_fall_out() {
        let read = ring_with(MAX_LINES as u64 + 5).read(Some(0), Level::TRACE, MAX_LINES * 2);
        assert_eq!((read.lines.len(), read.lines[0].seq), (MAX_LINES, 6));
    }

    #[test]
    fn an_event_becomes_a_line_with_its_fields() {
        let ring = LogRing::default();
        let subscriber = tracing_subscriber::registry().with(RingLayer::new(ring.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(term = 7, peer = "n2", "lost {}", "contact");
            tracing::info!("{}", "é".repeat(MAX_TEXT_BYTES));
        });
        let read = ring.read(None, Level::TRACE, 10);
        let line = &read.lines[0];
        assert_eq!((line.level.as_str(), line.message.as_str()), ("WARN", "lost contact"));
        assert_eq!(line.fields["term"], "7");
        assert_eq!(line.fields["peer"], "n2");
        assert!(read.lines[1].message.len() <= MAX_TEXT_BYTES + 4);
    }
}
