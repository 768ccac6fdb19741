//! The way out: traces, metrics and log lines to an OpenTelemetry collector, by OTLP over HTTP.
//!
//! All programs share it. Without an endpoint there is nothing: [`Export::off`] starts no thread,
//! opens no connection, and a [`Tracer`] that is off is one branch wherever it is asked.
//!
//! - [`context`]: a place in a trace, as the W3C header `traceparent` says it, and the place of
//!   what is being done now.
//! - [`tracer`]: decides what is sampled, and makes spans.
//! - [`settings`]: what is exported where.
//! - `collector`: the HTTP client; `bounded`: what limits, counts and reports; [`export`] puts
//!   them together.
//!
//! Spans are made by hand where something happens, with the times at hand, and not by
//! `tracing` spans: a write passes through threads that work on many requests at once, and what is
//! not sampled must cost nothing.
//!
//! Invariants:
//! - Nothing here waits for the collector but threads of its own. What does not fit the bounded
//!   queues is dropped and counted.
//! - Only what is sampled has a [`Context`]: where there is one, there are spans.

mod bounded;
mod collector;
pub mod context;
pub mod export;
pub mod settings;
pub mod tracer;

pub use bounded::{Counts, OUTCOMES, SIGNALS};
pub use context::Context;
pub use export::{Export, ExportError, Origin};
pub use settings::{Settings, SettingsError, Signals};
pub use tracer::{Parent, Span, Tracer};

pub use opentelemetry::trace::{SpanId, SpanKind, TraceId};
