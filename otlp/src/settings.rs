//! What is exported, and where to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The standard variable that names the collector.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The standard variable with the share of requests that begin a trace.
pub const RATIO_VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";
/// The standard variable with the milliseconds between two exports of metrics.
pub const INTERVAL_VARIABLE: &str = "OTEL_METRIC_EXPORT_INTERVAL";
/// Seconds between two exports of metrics.
pub const METRICS_INTERVAL_SECONDS: u64 = 15;
/// Bytes of a file with headers.
const MAX_HEADERS_BYTES: u64 = 64 * 1024;

/// Which signals are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signals {
    /// Spans.
    pub traces: bool,
    /// Metrics.
    pub metrics: bool,
    /// Log lines.
    pub logs: bool,
}

impl Signals {
    /// All of them.
    pub const ALL: Signals = Signals { traces: true, metrics: true, logs: true };

    /// Reads `traces,metrics,logs`, or some of them.
    pub fn parse(text: &str) -> Result<Signals, SettingsError> {
        let mut signals = Signals { traces: false, metrics: false, logs: false };
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "traces" => signals.traces = true,
                "metrics" => signals.metrics = true,
                "logs" => signals.logs = true,
                other => return Err(SettingsError::Signal(other.to_owned())),
            }
        }
        Ok(signals)
    }
}

/// What is exported where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The collector's base address: `http://host:4318`.
    pub endpoint: String,
    /// Headers that go with everything.
    pub headers: HashMap<String, String>,
    /// Certificate authority of the collector, PEM; the system's where there is none.
    pub ca: Option<PathBuf>,
    /// What is exported.
    pub signals: Signals,
    /// Between two exports of metrics.
    pub metrics_interval: Duration,
    /// The share of requests without a trace that begin one, 0 to 1.
    pub ratio: f64,
}

/// Why something can't be exported as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The endpoint is no address.
    #[error(
        "{endpoint:?} is no address of a collector: must be http://host:port or https://host:port, without user, query or path of a signal"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// A name is no signal.
    #[error("{0:?} is no signal: must be some of traces, metrics, logs")]
    Signal(String),
    /// The share is none.
    #[error("{0:?} is no share: must be a number from 0 to 1")]
    Ratio(String),
    /// The interval is none.
    #[error("{0:?} is no interval: must be a number of milliseconds above 0")]
    Interval(String),
    /// The file with headers can't be read.
    #[error("headers {path}: {source}; check that it exists and that this user may read it")]
    HeadersFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file with headers holds something else.
    #[error("headers {path}, line {line}: must be `name: value`")]
    Headers {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

impl Settings {
    /// What the standard variables ask for; none where they name no endpoint.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, SettingsError> {
        let Some(endpoint) = env(ENDPOINT_VARIABLE).filter(|text| !text.trim().is_empty()) else {
            return Ok(None);
        };
        let ratio = match env(RATIO_VARIABLE) {
            None => 0.0,
            Some(text) => text.trim().parse().map_err(|_| SettingsError::Ratio(text))?,
        };
        let interval_ms = match env(INTERVAL_VARIABLE) {
            None => METRICS_INTERVAL_SECONDS * 1_000,
            Some(text) => match text.trim().parse() {
                Ok(ms @ 1..) => ms,
                _ => return Err(SettingsError::Interval(text)),
            },
        };
        let settings = Settings {
            endpoint,
            headers: HashMap::new(),
            ca: None,
            signals: Signals::ALL,
            metrics_interval: Duration::from_millis(interval_ms),
            ratio,
        };
        settings.check().map(|()| Some(settings))
    }

    /// True values only.
    pub fn check(&self) -> Result<(), SettingsError> {
        check_endpoint(&self.endpoint)?;
        match self.ratio {
            ratio if (0.0..=1.0).contains(&ratio) => Ok(()),
            other => Err(SettingsError::Ratio(other.to_string())),
        }
    }

    /// True where the collector is spoken to by TLS.
    pub(crate) fn secure(&self) -> bool {
        self.endpoint.trim().starts_with("https://")
    }

    /// Where this signal goes.
    pub(crate) fn url(&self, signal: &str) -> String {
        format!("{}/v1/{signal}", self.endpoint.trim().trim_end_matches('/'))
    }
}

/// Fails where this is no address of a collector.
pub fn check_endpoint(endpoint: &str) -> Result<(), SettingsError> {
    let wrong = || SettingsError::Endpoint { endpoint: endpoint.to_owned() };
    let url: http::Uri = endpoint.trim().parse().map_err(|_| wrong())?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    let host = url
        .authority()
        .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    let path = url.query().is_none() && !url.path().contains("/v1/");
    if known && host && path { Ok(()) } else { Err(wrong()) }
}

/// Reads headers, one `name: value` a line; empty lines and those with `#` in front say nothing.
pub fn read_headers(path: &Path) -> Result<HashMap<String, String>, SettingsError> {
    use std::io::Read;
    let failed = |source| SettingsError::HeadersFile { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_HEADERS_BYTES).read_to_string(&mut text).map_err(failed)?;
    let mut headers = HashMap::new();
    for (place, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || SettingsError::Headers { path: path.to_owned(), line: place + 1 };
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let (name, value) = (name.trim(), value.trim());
        let fits = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && http::HeaderValue::from_str(value).is_ok();
        if !fits {
            return Err(wrong());
        }
        headers.insert(name.to_owned(), value.to_owned());
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_address() {
        for good in
            ["http://localhost:4318", "https://otel.example:4318/", "http://[::1]:4318", "http://c/otlp"]
        {
            assert!(check_endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost:4318",
            "grpc://c:4317",
            "http://",
            "http://u:p@c:1",
            "http://c:1/v1/traces",
            "http://c?x=1",
        ] {
            assert!(check_endpoint(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_standard_variables_are_honoured() {
        assert!(Settings::from_env(|_| None).unwrap().is_none());
        let settings = Settings::from_env(|name| match name {
            ENDPOINT_VARIABLE => Some("http://c:4318/".into()),
            RATIO_VARIABLE => Some("0.5".into()),
            INTERVAL_VARIABLE => Some("2000".into()),
            _ => None,
        });
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.ratio, settings.metrics_interval), (0.5, Duration::from_secs(2)));
        assert_eq!(settings.url("traces"), "http://c:4318/v1/traces");
        let wrong = |name: &'static str, value: &'static str| {
            Settings::from_env(move |asked| match asked {
                asked if asked == name => Some(value.into()),
                ENDPOINT_VARIABLE => Some("http://c:4318".into()),
                _ => None,
            })
        };
        assert!(wrong(RATIO_VARIABLE, "2").is_err());
        assert!(wrong(INTERVAL_VARIABLE, "0").is_err());
    }

    #[test]
    fn headers_are_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# for the collector\nAuthorization: Bearer a:b\n\nx-tenant: t 1\n")
            .unwrap();
        let headers = read_headers(file.path()).unwrap();
        assert_eq!(headers["Authorization"], "Bearer a:b");
        assert_eq!((headers["x-tenant"].as_str(), headers.len()), ("t 1", 2));
        std::fs::write(file.path(), "a: b\nno header\n").unwrap();
        let error = read_headers(file.path()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn signals_are_named() {
        assert_eq!(Signals::parse("traces, metrics,logs").unwrap(), Signals::ALL);
        let logs = Signals { traces: false, metrics: false, logs: true };
        assert_eq!(Signals::parse("logs").unwrap(), logs);
        assert!(Signals::parse("trace").unwrap_err().to_string().contains("\"trace\""));
    }
}
