//! The spans of a write: from the request through the log to every node's machine and database,
//! and of a task: from its submission to its lease and its result.
//!
//! ```text
//! POST /api/tasks (follower) ─ forward ─ POST /api/tasks (leader) ─ raft.propose
//!   raft.propose ─┬─ raft.sync (leader)         ┬ raft.commit
//!                 ├─ raft.replicate (each peer) ─ raft.sync (that peer)
//!                 ├─ machine.apply (each node) ─ store.write (that node)
//!                 └─ task.queue, task.lease ─ task.run (worker) ─ task.result ─ raft.propose …
//! ```
//!
//! The place of a command in its trace is that of its `raft.propose`. It goes with the command to
//! the owner thread and with the entry ([`entry`]) to every node. A task's place is remembered
//! beside the machine ([`tasks`]), never in it.
//!
//! Invariants:
//! - Off, every question here is one branch. On, what is not sampled costs a look at an empty
//!   list.
//! - Nothing here changes what is applied, answered or hashed.

pub mod entry;
pub mod in_flight;
pub mod tasks;

use super::trail;
use crate::machine::Effect;
use crate::replica::LogWrite;
use api::worker::{FinishedAttempt, LeasedTask};
use axum::extract::{MatchedPath, Request};
use entry::{Places, replicate_id};
use otlp::{Context, Parent, Span, SpanKind, Tracer, context};
use parking_lot::Mutex;
use raft::eraftpb::{Entry, EntryType};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tasks::TaskPlaces;

/// Applied entries whose way into DuckDB is followed at once; more are not.
const MAX_UNWRITTEN: usize = 4_096;

/// Makes the node's spans, or nothing. Cheap to clone; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Live>>);

#[derive(Debug)]
struct Live {
    tracer: Tracer,
    /// This node's, 0 before Raft runs.
    raft_id: AtomicU64,
    tasks: Mutex<TaskPlaces>,
    unwritten: Mutex<VecDeque<Unwritten>>,
}

/// An applied entry that DuckDB does not hold yet.
#[derive(Debug)]
struct Unwritten {
    index: u64,
    since: Instant,
    places: Vec<Context>,
}

/// A traced command that was applied.
#[derive(Debug)]
struct Applied {
    span: Span,
    place: Context,
    effects: Range<usize>,
}

/// The traced commands of an entry that is being applied.
#[derive(Debug, Default)]
pub struct Applying {
    places: Places,
    applied: Vec<Applied>,
}

impl Traces {
    /// Spans for this tracer.
    pub fn new(tracer: &Tracer) -> Traces {
        let live = || Live {
            tracer: tracer.clone(),
            raft_id: AtomicU64::new(0),
            tasks: Mutex::default(),
            unwritten: Mutex::default(),
        };
        Traces(tracer.is_on().then(|| Arc::new(live())))
    }

    /// True where spans are taken.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Raft runs under this id.
    pub fn member(&self, raft_id: u64) {
        if let Some(live) = &self.0 {
            live.raft_id.store(raft_id, Ordering::Relaxed);
        }
    }

    /// A span at this place.
    pub fn span(&self, name: &'static str, kind: SpanKind, place: Context) -> Option<Span> {
        self.0.as_ref()?.tracer.span(name, kind, place.into())
    }

    /// The span of a request, where it is sampled. `may_begin`: it may be the first of its trace.
    #[inline]
    pub fn request(&self, request: &Request, may_begin: bool) -> Option<Span> {
        self.0.as_ref()?.request(request, may_begin)
    }

    /// The log writer made these durable, beginning at this moment.
    #[inline]
    pub fn synced(&self, writes: &[LogWrite], begun: Instant) {
        if let Some(live) = &self.0 {
            live.synced(writes, begun);
        }
    }

    /// An entry is about to be applied.
    #[inline]
    pub fn applying(&self, entry: &Entry) -> Applying {
        match &self.0 {
            Some(_) if !entry.context.is_empty() => {
                Applying { places: Places::decode(&entry.context), applied: Vec::new() }
            }
            _ => Applying::default(),
        }
    }

    /// The command at this position is about to be applied; the span of it, where it is traced.
    #[inline]
    pub fn begin(&self, applying: &Applying, position: usize) -> Option<(Span, Context)> {
        if applying.places.is_empty() {
            return None;
        }
        let place = applying.places.at(position)?;
        Some((self.span("machine.apply", SpanKind::Internal, place)?, place))
    }

    /// Tells what an entry did, each line at its task's place in its trace. `own`: this node
    /// proposed the entry.
    #[inline]
    pub fn tell(&self, index: u64, term: u64, effects: &[Effect], applying: Applying, own: bool) {
        match &self.0 {
            Some(live) => live.tell(index, term, effects, applying, own),
            None => trail::applied(index, term, effects),
        }
    }

    /// An entry was applied again after a restart: only the places of its tasks are taken.
    #[inline]
    pub fn remember(&self, effects: &[Effect], applying: Applying) {
        if let Some(live) = &self.0 {
            let Applying { applied, .. } = applying;
            live.note_tasks(effects, &applied);
            // Their time has passed.
            applied.into_iter().for_each(|applied| applied.span.forget());
        }
    }

    /// DuckDB holds the effects up to this index.
    pub fn written(&self, index: u64) {
        if let Some(live) = &self.0 {
            live.written(index);
        }
    }

    /// These tasks are handed to a worker: each that is traced is told its place.
    #[inline]
    pub fn leased(&self, tasks: &mut [LeasedTask], worker_id: &str) {
        if let Some(live) = &self.0 {
            tasks.iter_mut().for_each(|task| live.leased(task, worker_id));
        }
    }

    /// The span of a result that came with others in one request.
    #[inline]
    pub fn result(&self, done: &FinishedAttempt) -> Option<Span> {
        let live = self.0.as_ref()?;
        let parent = live.tracer.accept(done.traceparent.as_deref(), false)?;
        let span = live.tracer.span("task.result", SpanKind::Server, parent)?;
        let span = span.linked(context::current());
        Some(
            span.with("holdfast.task.id", done.task_id.clone())
                .with("holdfast.task.token", done.token as i64),
        )
    }
}

impl Applying {
    /// A traced command was applied; it made these of the effects.
    pub fn applied(&mut self, (mut span, place): (Span, Context), effects: Range<usize>) {
        span.end();
        self.applied.push(Applied { span, place, effects });
    }
}

impl Live {
    fn request(&self, request: &Request, may_begin: bool) -> Option<Span> {
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        let forwarded_by = header(api::FORWARDED_BY);
        // The node that forwarded it has thrown the dice.
        let parent = self.tracer.accept(header(context::TRACEPARENT), may_begin && forwarded_by.is_none())?;
        let method = crate::http::timing::method_label(request.method());
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
        let span = self.tracer.span(format!("{method} {route}"), SpanKind::Server, parent)?;
        let span = span
            .with("http.request.method", method)
            .with("http.route", route.to_owned())
            .with("url.path", request.uri().path().to_owned());
        Some(match forwarded_by {
            Some(by) => span.with("holdfast.forwarded_by", by.to_owned()),
            None => span,
        })
    }

    fn synced(&self, writes: &[LogWrite], begun: Instant) {
        let own = self.raft_id.load(Ordering::Relaxed);
        let entries = writes.iter().flat_map(|write| &write.entries);
        for entry in entries.filter(|entry| is_traced(entry)) {
            let places = Places::decode(&entry.context);
            for place in places.iter() {
                let parent = match places.proposer == own {
                    true => Parent::from(place),
                    false => Parent::remote(Context { span: replicate_id(place.span, own), ..place }),
                };
                let span = self.tracer.span("raft.sync", SpanKind::Internal, parent);
                drop(span.map(|span| {
                    span.began_at(begun)
                        .with("holdfast.raft.index", entry.index as i64)
                        .with("holdfast.raft.term", entry.term as i64)
                }));
            }
        }
    }

    fn tell(&self, index: u64, term: u64, effects: &[Effect], applying: Applying, own: bool) {
        if applying.applied.is_empty() && self.tasks.lock().is_empty() {
            return trail::applied(index, term, effects);
        }
        let applied = applying.applied;
        for (at, effect) in effects.iter().enumerate() {
            let cause = applied.iter().find(|applied| applied.effects.contains(&at)).map(|a| a.place);
            let place = cause.or_else(|| self.tasks.lock().get(task_of(effect)?));
            let tell = || trail::applied(index, term, std::slice::from_ref(effect));
            match place {
                Some(place) => {
                    if own {
                        self.queued(effect, place, index);
                    }
                    context::call_within(&self.tracer, place, tell);
                }
                None => tell(),
            }
        }
        self.note_tasks(effects, &applied);
        let recorded = |applied: &&Applied| !applied.effects.is_empty();
        let places: Vec<Context> = applied.iter().filter(recorded).map(|a| a.span.context()).collect();
        if !places.is_empty() {
            let mut unwritten = self.unwritten.lock();
            if unwritten.len() < MAX_UNWRITTEN {
                unwritten.push_back(Unwritten { index, since: Instant::now(), places });
            }
        }
        for Applied { span, .. } in applied {
            drop(span.with("holdfast.raft.index", index as i64).with("holdfast.raft.term", term as i64));
        }
    }

    /// The time that a task waited for its worker.
    fn queued(&self, effect: &Effect, place: Context, index: u64) {
        let Effect::Assigned { spec, worker_id, token, waited_ms } = effect else { return };
        let span = self.tracer.span("task.queue", SpanKind::Internal, place.into());
        drop(span.map(|span| {
            span.began_ago(std::time::Duration::from_millis(*waited_ms))
                .with("holdfast.task.id", spec.id.to_string())
                .with("holdfast.task.token", *token as i64)
                .with("holdfast.worker.id", worker_id.to_string())
                .with("holdfast.raft.index", index as i64)
        }));
    }

    fn note_tasks(&self, effects: &[Effect], applied: &[Applied]) {
        let mut tasks = self.tasks.lock();
        for Applied { place, effects: range, .. } in applied {
            for effect in effects.get(range.clone()).unwrap_or_default() {
                if let Effect::TaskSubmitted { spec } | Effect::TaskReopened { spec, .. } = effect {
                    tasks.put(&spec.id, *place);
                }
            }
        }
        if tasks.is_empty() {
            return;
        }
        for effect in effects {
            if let Effect::TaskFinished { spec, .. } = effect {
                tasks.remove(&spec.id);
            }
        }
    }

    fn written(&self, index: u64) {
        let mut unwritten = self.unwritten.lock();
        while let Some(done) = unwritten.pop_front_if(|waiting| waiting.index <= index) {
            for place in done.places {
                let span = self.tracer.span("store.write", SpanKind::Internal, place.into());
                drop(
                    span.map(|span| span.began_at(done.since).with("holdfast.raft.index", done.index as i64)),
                );
            }
        }
    }

    fn leased(&self, task: &mut LeasedTask, worker_id: &str) {
        let Some(place) = self.tasks.lock().get(&task.task_id) else { return };
        let Some(span) = self.tracer.span("task.lease", SpanKind::Producer, place.into()) else { return };
        let span = span
            .linked(context::current())
            .with("holdfast.task.id", task.task_id.clone())
            .with("holdfast.task.token", task.token as i64)
            .with("holdfast.task.attempt", i64::from(task.attempt))
            .with("holdfast.worker.id", worker_id.to_owned());
        task.traceparent = Some(span.context().traceparent());
    }
}

fn is_traced(entry: &Entry) -> bool {
    !entry.context.is_empty() && entry.get_entry_type() == EntryType::EntryNormal
}

/// The task that an effect is about.
fn task_of(effect: &Effect) -> Option<&str> {
    match effect {
        Effect::TaskSubmitted { spec }
        | Effect::Assigned { spec, .. }
        | Effect::AttemptEnded { spec, .. }
        | Effect::TaskFinished { spec, .. }
        | Effect::TaskReopened { spec, .. } => Some(&spec.id),
        Effect::WorkerChanged { .. } | Effect::Event { .. } => None,
    }
}
