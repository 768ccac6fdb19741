//! PURE. The workers.

use super::Seen;
use super::asked::Asked;
use super::format::{grouped, moment, percent_of, query};
use crate::report::{Span, shorten};
use api::worker::{WorkerList, WorkerRecord, WorkerState};
use web::fragments::{Mark, Tone};
use web::listings::{Choice, WorkerRow, Workers};
use web::pages::{Here, WorkersPage};

/// Workers that a page shows.
const SHOWN_WORKERS: usize = 500;
/// Labels of one worker.
const SHOWN_LABELS: usize = 24;

fn href(state: Option<WorkerState>) -> String {
    format!("/workers{}", query(&[("state", state.map_or("", WorkerState::as_str))]))
}

fn mark(state: WorkerState) -> Mark {
    let tone = match state {
        WorkerState::Active | WorkerState::Busy => Tone::Good,
        WorkerState::Draining => Tone::Warn,
        WorkerState::Lost => Tone::Bad,
    };
    Mark::new(tone, state.as_str())
}

/// The workers, all or those in one state.
pub fn workers_page(seen: &Seen, state: Option<WorkerState>, asked: &Asked<WorkerList>) -> WorkersPage {
    let all: &[WorkerRecord] = asked.value().map_or(&[], |list| &list.workers);
    let fitting: Vec<&WorkerRecord> = all.iter().filter(|w| state.is_none_or(|s| w.state == s)).collect();
    let choice = |wanted: Option<WorkerState>| Choice {
        name: wanted.map_or("all", WorkerState::as_str).to_owned(),
        count: match asked.value() {
            Some(_) => grouped(all.iter().filter(|w| wanted.is_none_or(|s| w.state == s)).count() as u64),
            None => String::new(),
        },
        href: href(wanted),
        chosen: wanted == state,
    };
    let empty = match (asked.value(), all.len(), state) {
        (None, ..) => "There is no list: no coordinator gave one. The reasons stand above.".to_owned(),
        (_, 0, _) => "No worker has registered. Start one: coordinator worker --coordinators …".to_owned(),
        (_, n, Some(state)) => format!("None of {n} workers is {state}.", state = state.as_str()),
        (_, _, None) => String::new(),
    };
    let workers = Workers {
        states: std::iter::once(None).chain(WorkerState::ALL.map(Some)).map(choice).collect(),
        source: asked.source(seen),
        rows: fitting.iter().take(SHOWN_WORKERS).map(|worker| row(seen, worker)).collect(),
        empty,
        more: fitting.len().saturating_sub(SHOWN_WORKERS),
    };
    WorkersPage { frame: super::polled(seen, "Workers", Here::Workers), workers }
}

fn row(seen: &Seen, worker: &WorkerRecord) -> WorkerRow {
    let labels = worker.labels.iter().take(SHOWN_LABELS).map(|(k, v)| shorten(&format!("{k}={v}"), 80));
    let resources: Vec<String> =
        worker.resources.iter().take(SHOWN_LABELS).map(|(k, n)| format!("{} {k}", grouped(*n))).collect();
    WorkerRow {
        id: shorten(&worker.worker_id, 120),
        href: format!("/tasks{}", query(&[("worker", &worker.worker_id)])),
        state: mark(worker.state),
        slots: format!("{} of {}", worker.running, worker.slots),
        percent: percent_of(u64::from(worker.running), u64::from(worker.slots)),
        types: shorten(&worker.types.join(", "), 160),
        labels: labels.collect(),
        resources: if resources.is_empty() { "–".into() } else { shorten(&resources.join(", "), 160) },
        host: shorten(worker.host.as_deref().unwrap_or_default(), 80),
        registered: moment(worker.registered_at, seen.snapshot.at),
        seen: match worker.last_seen_ms {
            Some(ms) => format!("{} ago", Span(ms as f64 / 1_000.0)),
            None => "the leader knows".into(),
        },
    }
}
