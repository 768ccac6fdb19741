//! What is sampled, and the spans of it.
//!
//! Sampling follows the parent: what a caller records is recorded here, what a caller says is not
//! sampled is not, and of requests that come without a trace a share begins one.

use crate::bounded::SpanQueue;
use crate::context::{Context, Traceparent};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Makes spans, or nothing. Cheap to clone; off it is one branch.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Live>>);

#[derive(Debug)]
struct Live {
    queue: SpanQueue,
    /// A random number below this begins a trace.
    begins_below: u64,
    begins_always: bool,
    scope: InstrumentationScope,
}

/// What a span hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    trace: TraceId,
    /// Invalid for the first span of a trace.
    span: SpanId,
    remote: bool,
}

impl From<Context> for Parent {
    fn from(context: Context) -> Parent {
        Parent { trace: context.trace, span: context.span, remote: false }
    }
}

impl Parent {
    /// A span of another process.
    pub fn remote(context: Context) -> Parent {
        Parent { remote: true, ..context.into() }
    }
}

impl Tracer {
    /// A tracer that gives its spans to `queue` and begins a trace for this share of requests.
    pub(crate) fn new(queue: SpanQueue, ratio: f64) -> Tracer {
        let scope = InstrumentationScope::builder("holdfast").with_version(api::VERSION).build();
        let begins_below = (ratio.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        Tracer(Some(Arc::new(Live { queue, begins_below, begins_always: ratio >= 1.0, scope })))
    }

    /// True where spans are taken.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What the span of a request hangs on that came with this `traceparent`; none where it is
    /// not sampled. Where it came without one, a share of those with `may_begin` begins a trace.
    #[inline]
    pub fn accept(&self, traceparent: Option<&str>, may_begin: bool) -> Option<Parent> {
        self.0.as_ref()?.accept(traceparent, may_begin)
    }

    /// Begins a span below what is being done now, or one that begins a trace, where this is sampled.
    pub fn begin(&self, name: &'static str, kind: SpanKind) -> Option<Span> {
        crate::context::child(name, kind.clone()).or_else(|| self.span(name, kind, self.accept(None, true)?))
    }

    /// Begins a span, now.
    pub fn span(
        &self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        kind: SpanKind,
        parent: Parent,
    ) -> Option<Span> {
        let live = self.0.as_ref()?;
        let context = Context { trace: parent.trace, span: SpanId::from(random()) };
        let now = SystemTime::now();
        let data = SpanData {
            span_context: span_context(context),
            parent_span_id: parent.span,
            parent_span_is_remote: parent.remote,
            span_kind: kind,
            name: name.into(),
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: live.scope.clone(),
        };
        let begun = Instant::now();
        Some(Span(Box::new(Open { live: Arc::clone(live), data: Some(data), begun, ended: false })))
    }
}

impl Live {
    fn accept(&self, traceparent: Option<&str>, may_begin: bool) -> Option<Parent> {
        match traceparent.and_then(Traceparent::parse) {
            Some(read) => read.sampled.then(|| Parent::remote(read.context)),
            None if may_begin && self.begins() => {
                let trace = u128::from(random()) << 64 | u128::from(random());
                Some(Parent { trace: TraceId::from(trace), span: SpanId::INVALID, remote: false })
            }
            None => None,
        }
    }

    fn begins(&self) -> bool {
        self.begins_always || (self.begins_below > 0 && rand::random::<u64>() < self.begins_below)
    }
}

/// Ids are never zero.
fn random() -> u64 {
    rand::random::<u64>().max(1)
}

fn span_context(context: Context) -> SpanContext {
    SpanContext::new(context.trace, context.span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

/// A span that has begun. It is handed over when it is dropped, and has ended then at the latest.
#[must_use = "a span ends when it is dropped"]
#[derive(Debug)]
pub struct Span(Box<Open>);

#[derive(Debug)]
struct Open {
    live: Arc<Live>,
    data: Option<SpanData>,
    begun: Instant,
    ended: bool,
}

impl Span {
    /// Its place, for what comes of it.
    pub fn context(&self) -> Context {
        let context = self.0.data.as_ref().map(|data| &data.span_context);
        context.map_or(Context { trace: TraceId::INVALID, span: SpanId::INVALID }, |context| Context {
            trace: context.trace_id(),
            span: context.span_id(),
        })
    }

    pub(crate) fn tracer(&self) -> Tracer {
        Tracer(Some(Arc::clone(&self.0.live)))
    }

    fn change(mut self, change: impl FnOnce(&mut SpanData)) -> Span {
        if let Some(data) = &mut self.0.data {
            change(data);
        }
        self
    }

    /// The same span under an id that another process can tell without being told.
    pub fn with_id(self, id: SpanId) -> Span {
        self.change(|data| {
            let trace = data.span_context.trace_id();
            data.span_context = span_context(Context { trace, span: id });
        })
    }

    /// The same span, which began so long ago.
    pub fn began_ago(mut self, ago: Duration) -> Span {
        self.0.begun = self.0.begun.checked_sub(ago).unwrap_or(self.0.begun);
        self.change(|data| data.start_time -= ago)
    }

    /// The same span, which began at this moment.
    pub fn began_at(self, moment: Instant) -> Span {
        let ago = self.0.begun.saturating_duration_since(moment);
        self.began_ago(ago)
    }

    /// The same span with an attribute.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Span {
        self.put(name, value);
        self
    }

    /// The same span with a reference to another one that has to do with it.
    pub fn linked(self, to: Option<Context>) -> Span {
        match to {
            None => self,
            Some(to) => self.change(|data| {
                data.links.links.push(opentelemetry::trace::Link::with_context(span_context(to)));
            }),
        }
    }

    /// Adds an attribute.
    pub fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.0.data {
            data.attributes.push(KeyValue::new(name, value));
        }
    }

    /// Says that it failed.
    pub fn fail(&mut self, why: impl Into<std::borrow::Cow<'static, str>>) {
        if let Some(data) = &mut self.0.data {
            data.status = Status::error(why);
        }
    }

    /// Drops it without handing it over.
    pub fn forget(mut self) {
        self.0.data = None;
    }

    /// It ends now; it may be dropped later, where there is time for it.
    pub fn end(&mut self) {
        let took = self.0.begun.elapsed();
        self.0.ended = true;
        if let Some(data) = &mut self.0.data {
            data.end_time = data.start_time + took;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.0.ended {
            self.end();
        }
        if let Some(data) = self.0.data.take() {
            self.0.live.queue.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounded::SpanQueue;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn tracer(ratio: f64) -> (Tracer, std::sync::mpsc::Receiver<SpanData>) {
        let (queue, spans) = SpanQueue::for_test();
        (Tracer::new(queue, ratio), spans)
    }

    #[test]
    fn sampling_follows_the_parent_and_a_share_of_the_others_begins_a_trace() {
        let (never, _spans) = tracer(0.0);
        assert_eq!(never.accept(None, true), None);
        assert_eq!(never.accept(Some("nonsense"), true), None);
        assert_eq!(never.accept(Some(UNSAMPLED), true), None);
        assert!(never.accept(Some(SAMPLED), false).unwrap().remote);

        let (always, _spans) = tracer(1.0);
        assert_eq!(always.accept(Some(UNSAMPLED), true), None, "the caller does not record it");
        assert_eq!(always.accept(None, false), None);
        let first = always.accept(None, true).unwrap();
        assert_eq!(first.span, SpanId::INVALID);
        assert_ne!(first.trace, always.accept(None, true).unwrap().trace);

        let (some, _spans) = tracer(0.25);
        let begun = (0..4_000).filter(|_| some.accept(None, true).is_some()).count();
        assert!((700..1_300).contains(&begun), "{begun} of 4000");
    }

    #[test]
    fn a_span_names_its_parent_and_is_handed_over_once() {
        let (tracer, spans) = tracer(0.0);
        let parent = tracer.accept(Some(SAMPLED), false).unwrap();
        let outer = tracer.span("outer", SpanKind::Server, parent).unwrap();
        let mut inner = tracer.span("inner", SpanKind::Internal, outer.context().into()).unwrap();
        inner.put("index", 7);
        inner.end();
        let (outer_id, inner_id) = (outer.context().span, inner.context().span);
        drop(inner);
        drop(outer);
        let told: Vec<SpanData> = spans.try_iter().collect();
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].span_context.span_id(), told[0].parent_span_id), (inner_id, outer_id));
        assert!(!told[0].parent_span_is_remote && told[1].parent_span_is_remote);
        assert_eq!(told[1].parent_span_id.to_string(), "00f067aa0ba902b7");
        assert!(told.iter().all(|span| span.span_context.trace_id() == parent.trace));
        assert!(told.iter().all(|span| span.end_time >= span.start_time));
    }

    #[test]
    fn off_there_is_nothing() {
        let off = Tracer::default();
        assert!(!off.is_on());
        assert_eq!(off.accept(Some(SAMPLED), true), None);
        let context = Context::sampled(SAMPLED).unwrap();
        assert!(off.span("x", SpanKind::Internal, context.into()).is_none());
        assert_eq!(crate::context::current(), None);
        assert!(crate::context::child("x", SpanKind::Internal).is_none());
    }

    #[test]
    fn what_is_done_within_a_span_is_below_it() {
        let (tracer, spans) = tracer(0.0);
        let context = Context::sampled(SAMPLED).unwrap();
        crate::context::call_within(&tracer, context, || {
            assert_eq!(crate::context::current(), Some(context));
            drop(crate::context::child("below", SpanKind::Internal));
        });
        assert_eq!(crate::context::current(), None);
        assert_eq!(spans.recv().unwrap().parent_span_id, context.span);
    }
}
