//! Log lines: to standard error for people, or as JSON to a file that rotates by size; and in
//! either case to the ring behind `GET /api/logs`.

use super::ring::{LogRing, RingLayer};
use super::rotate::{self, FileLimits, LostLines, RotatingFile, WriterGuard};
use crate::config::Config;
use otlp::Export;
use std::io;
use std::sync::Arc;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

/// Keeps the log file's writer alive; drop it last, it writes what still waits.
#[derive(Debug)]
#[must_use = "log lines are written only while this lives"]
pub struct LogGuard {
    _writer: Option<WriterGuard>,
}

/// Why logging can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The thread of the log file can't be started.
    #[error("log_file {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another subscriber is there.
    #[error("logging is set up already")]
    Twice,
}

/// Changes what is logged while the process runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    file: Arc<FileLimits>,
}

impl LogControl {
    /// Takes level, Raft events and the file's limits as this config wants them.
    pub fn take_config(&self, config: &Config) {
        self.file.take_config(config);
        if let Err(error) = self.filter.reload(filter(config)) {
            tracing::error!(%error, "the log level could not be changed");
        }
    }
}

/// Sets up the process's logging as the config wants it; lines go to `export` as well, if it takes them.
pub fn init(config: &Config, export: &Export) -> Result<(LogRing, LogGuard, LogControl), LogError> {
    let lost = LostLines::default();
    let ring = LogRing::with_lost(lost.clone());
    let (filter, handle) = reload::Layer::new(filter(config));
    let file = FileLimits::new(config.log_max_size, config.log_backup_count);
    let control = LogControl { filter: handle, file: file.clone() };
    let base = tracing_subscriber::registry()
        .with(filter)
        .with(RingLayer::new(ring.clone()))
        .with(export.log_layer());
    let Some(path) = &config.log_file else {
        let colour = io::IsTerminal::is_terminal(&io::stderr());
        let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour);
        base.with(layer).try_init().map_err(|_| LogError::Twice)?;
        return Ok((ring, LogGuard { _writer: None }, control));
    };
    let (queue, writer) = rotate::spawn(RotatingFile::new(path, file), lost)
        .map_err(|source| LogError::File { path: path.display().to_string(), source })?;
    base.with(json_layer(&config.node_id).with_writer(queue)).try_init().map_err(|_| LogError::Twice)?;
    Ok((ring, LogGuard { _writer: Some(writer) }, control))
}

type JsonLayer<S> = tracing_subscriber::fmt::Layer<S, JsonFields, NamedNode>;

/// One JSON object a line, each with the node's name: lines of several nodes are read together.
fn json_layer<S>(node_id: &str) -> JsonLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let name = serde_json::Value::from(node_id).to_string();
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .map_event_format(|inner| NamedNode { inner, opening: format!("{{\"node\":{name},") })
}

/// The JSON format with the node's name before everything else.
struct NamedNode {
    inner: Format<Json>,
    opening: String,
}

impl<S> FormatEvent<S, JsonFields> for NamedNode
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut line = String::with_capacity(256);
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').unwrap_or(&line);
        writer.write_str(&self.opening)?;
        if let Some(place) = otlp::context::current() {
            write!(writer, "\"trace_id\":\"{}\",\"span_id\":\"{}\",", place.trace, place.span)?;
        }
        writer.write_str(rest)
    }
}

/// Our own modules at the configured level, libraries at WARN, Raft's events as configured. The
/// exporter is silent: each failed message would be a line, and `otlp` says when it begins and ends.
fn filter(config: &Config) -> EnvFilter {
    EnvFilter::new(directives(&config.log_level, config.log_raft_events))
}

fn directives(log_level: &str, log_raft_events: bool) -> String {
    let level = match log_level.to_ascii_lowercase().as_str() {
        "warning" => "warn".to_owned(),
        other => other.to_owned(),
    };
    let libraries = if level == "error" { "error" } else { "warn" };
    let raft = if log_raft_events { "debug" } else { level.as_str() };
    format!(
        "{libraries},opentelemetry-otlp=off,coordinator={level},api={level},otlp={level},coordinator::raft={raft},coordinator::replica={raft},raft={}",
        if log_raft_events { "debug" } else { libraries }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_and_raft_events_can_be_had() {
        assert_eq!(
            directives("INFO", false),
            "warn,opentelemetry-otlp=off,coordinator=info,api=info,otlp=info,coordinator::raft=info,coordinator::replica=info,raft=warn"
        );
        assert!(
            directives("WARNING", true)
                .ends_with("coordinator::raft=debug,coordinator::replica=debug,raft=debug")
        );
        for level in ["ERROR", "WARN", "WARNING", "INFO", "DEBUG", "TRACE"] {
            assert!(EnvFilter::try_new(directives(level, true)).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_line_is_one_json_object_that_names_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.log");
        let file = RotatingFile::new(&path, FileLimits::new(1 << 20, 1));
        let (queue, guard) = rotate::spawn(file, LostLines::default()).unwrap();
        let subscriber = tracing_subscriber::registry().with(json_layer("node \"1\"").with_writer(queue));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(term = 7, leader = "n2", "lost contact")
        });
        drop(guard);
        let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(line["node"], "node \"1\"");
        assert_eq!((&line["term"], &line["leader"]), (&7.into(), &"n2".into()));
        assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"lost contact".into()));
    }
}
