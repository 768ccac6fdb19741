//! Log lines: to standard error for people, or as JSON to a file that rotates by size; and in
//! either case to the ring behind `GET /api/logs`.

use super::ring::{LogRing, RingLayer};
use super::rotate::{self, RotatingFile, WriterGuard};
use crate::config::Config;
use std::io;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::prelude::*;

/// Keeps the log file's writer alive; drop it last, it writes what still waits.
#[derive(Debug)]
#[must_use = "log lines are written only while this lives"]
pub struct LogGuard {
    _writer: Option<WriterGuard>,
}

/// Why logging can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file can't be opened or its thread not started.
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

/// Sets up the process's logging as the config wants it.
pub fn init(config: &Config) -> Result<(LogRing, LogGuard), LogError> {
    let ring = LogRing::default();
    let base = tracing_subscriber::registry().with(filter(config)).with(RingLayer::new(ring.clone()));
    let Some(path) = &config.log_file else {
        let colour = io::IsTerminal::is_terminal(&io::stderr());
        let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour);
        base.with(layer).try_init().map_err(|_| LogError::Twice)?;
        return Ok((ring, LogGuard { _writer: None }));
    };
    let (queue, writer) = RotatingFile::open(path, config.log_max_size, config.log_backup_count)
        .and_then(rotate::spawn)
        .map_err(|source| LogError::File { path: path.display().to_string(), source })?;
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(queue);
    base.with(layer).try_init().map_err(|_| LogError::Twice)?;
    Ok((ring, LogGuard { _writer: Some(writer) }))
}

/// Our own modules at the configured level, libraries at WARN, Raft's events as configured.
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
        "{libraries},coordinator={level},api={level},coordinator::raft={raft},coordinator::replica={raft},raft={}",
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
            "warn,coordinator=info,api=info,coordinator::raft=info,coordinator::replica=info,raft=warn"
        );
        assert!(
            directives("WARNING", true)
                .ends_with("coordinator::raft=debug,coordinator::replica=debug,raft=debug")
        );
        for level in ["ERROR", "WARN", "WARNING", "INFO", "DEBUG", "TRACE"] {
            assert!(EnvFilter::try_new(directives(level, true)).is_ok(), "{level}");
        }
    }
}
