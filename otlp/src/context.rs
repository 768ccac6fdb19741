//! A place in a trace, and the place of what is being done now.
//!
//! A place is written as the W3C's header `traceparent` has it. The present place is kept by task
//! (or, on a thread of its own, by call), so that a log line written anywhere below knows it.

use crate::tracer::{Span, Tracer};
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use std::fmt;

/// The header that carries a place to the next process.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what tracing systems add to it; it is passed on as it is.
pub const TRACESTATE: &str = "tracestate";
/// The variable that carries a place to a child process.
pub const TRACEPARENT_VARIABLE: &str = "TRACEPARENT";

/// A span of a sampled trace: what comes of it may name it as its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The caller's span.
    pub context: Context,
    /// True where the caller records its trace.
    pub sampled: bool,
}

impl Traceparent {
    /// Reads a header's value; none where it is not one. Versions to come are read as far as this
    /// one goes, as the recommendation has it.
    pub fn parse(text: &str) -> Option<Traceparent> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = lower_hex(version, 2)?;
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let trace = TraceId::from(lower_hex(trace, 32)?);
        let span = SpanId::from(lower_hex(span, 16)? as u64);
        let sampled = lower_hex(flags, 2)? & 1 == 1;
        let valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        valid.then_some(Traceparent { context: Context { trace, span }, sampled })
    }
}

fn lower_hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| u128::from_str_radix(text, 16).ok())?
}

impl Context {
    /// The header's value for whoever goes on from here: version 0, sampled.
    pub fn traceparent(&self) -> String {
        self.to_string()
    }

    /// Reads a header's value; none where it is not one, or what it names is not sampled.
    pub fn sampled(text: &str) -> Option<Context> {
        Traceparent::parse(text).filter(|read| read.sampled).map(|read| read.context)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-01", self.trace, self.span)
    }
}

/// Where something is being done, and who takes its spans.
#[derive(Debug, Clone)]
struct Present {
    tracer: Tracer,
    context: Context,
}

tokio::task_local! {
    static PRESENT: Present;
}

/// The place of what is being done now, where it is sampled.
pub fn current() -> Option<Context> {
    PRESENT.try_with(|present| present.context).ok()
}

/// A span below what is being done now; none where that is not sampled.
pub fn child(name: &'static str, kind: SpanKind) -> Option<Span> {
    PRESENT.try_with(|present| present.tracer.span(name, kind, present.context.into())).ok().flatten()
}

/// Does `work` in this span: lines written and spans begun by it belong to it.
pub async fn within<T>(span: &Span, work: impl Future<Output = T>) -> T {
    PRESENT.scope(Present { tracer: span.tracer(), context: span.context() }, work).await
}

/// As [`within`], for work of one thread.
pub fn call_within<T>(tracer: &Tracer, context: Context, work: impl FnOnce() -> T) -> T {
    PRESENT.sync_scope(Present { tracer: tracer.clone(), context }, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_and_written() {
        let read = Traceparent::parse(HEADER).unwrap();
        assert!(read.sampled);
        assert_eq!(read.context.traceparent(), HEADER);
        assert_eq!(Context::sampled(HEADER), Some(read.context));
        let unsampled = HEADER.replace("-01", "-00");
        assert!(!Traceparent::parse(&unsampled).unwrap().sampled);
        assert_eq!(Context::sampled(&unsampled), None);
        assert!(Traceparent::parse(&HEADER.replace("-01", "-ff")).unwrap().sampled);
        // A later version may say more.
        assert_eq!(Traceparent::parse(&format!("{}-more", HEADER.replacen("00", "cc", 1))), Some(read));
    }

    #[test]
    fn what_is_no_header_is_not_taken() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_span = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
        for text in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            &zero_trace,
            &zero_span,
        ] {
            assert_eq!(Traceparent::parse(text), None, "{text:?}");
        }
    }
}
