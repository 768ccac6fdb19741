//! What goes in comes out: results, attempts, filters, pages, restarts.

use crate::history::{History, LIMIT, WALL_MS, mixed, open, options};
use api::task::TaskState;
use coordinator::command::Command;
use coordinator::store::{Rebuild, ResultFilter, Store, StoreError, StoreOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn ids(store: &Store, filter: &ResultFilter) -> Vec<String> {
    store.results(filter).unwrap().tasks.into_iter().map(|t| t.task_id).collect()
}

fn every() -> ResultFilter {
    ResultFilter { limit: 100, ..ResultFilter::default() }
}

#[test]
fn finished_tasks_are_told_as_the_machine_tells_them() {
    let folder = tempfile::tempdir().unwrap();
    let history = mixed();
    let (store, index) = open(&folder.path().join("db.duckdb"));
    assert_eq!(index, 0);
    history.feed(&store, 0);
    store.wait_for(history.index(), LIMIT).unwrap();
    for id in ["fails", "flaky", "again", "cancelled"] {
        let machine = serde_json::to_value(history.machine.task(id).unwrap()).unwrap();
        let stored = serde_json::to_value(store.task(id).unwrap().unwrap()).unwrap();
        assert_eq!(machine, stored, "{id}");
    }
    assert!(store.task("pending").unwrap().is_none(), "it has not ended: the machine's to tell");
    assert!(store.task("ghost").unwrap().is_none());
    let rows = store.health().rows;
    let expected =
        [("tasks", 5), ("attempts", 7), ("results", 5), ("reopened", 1), ("workers", 1), ("events", 2)];
    assert_eq!(rows, expected.map(|(t, n)| (t.to_owned(), n)).into());
    assert_eq!(store.verify().unwrap(), rows.values().sum::<u64>());
}

#[test]
fn results_are_filtered_and_paged() {
    let folder = tempfile::tempdir().unwrap();
    let history = mixed();
    let (store, _) = open(&folder.path().join("db.duckdb"));
    history.feed(&store, 0);
    store.wait_for(history.index(), LIMIT).unwrap();
    let all = ["fails", "flaky", "again", "cancelled"];
    assert_eq!(ids(&store, &every()), all, "in order of submission; a reopened end counts no more");
    assert_eq!(ids(&store, &ResultFilter { kind: Some("noop".into()), ..every() }), ["flaky"]);
    let status = |s| ResultFilter { status: Some(s), ..every() };
    assert_eq!(ids(&store, &status(TaskState::Completed)), ["flaky", "again"]);
    assert_eq!(ids(&store, &status(TaskState::Failed)), ["fails"]);
    assert_eq!(ids(&store, &status(TaskState::Cancelled)), ["cancelled"]);

    let ended = |id: &str| history.machine.task(id).unwrap().finished_at.unwrap();
    assert_eq!(ids(&store, &ResultFilter { from: Some(ended("again")), ..every() }), ["again", "cancelled"]);
    assert_eq!(ids(&store, &ResultFilter { to: Some(ended("again")), ..every() }), ["fails", "flaky"]);

    let mut filter = ResultFilter { limit: 2, ..ResultFilter::default() };
    let page = store.results(&filter).unwrap();
    assert_eq!(page.tasks.len(), 2);
    assert_eq!(page.tasks[1].result.as_ref().unwrap().get(), r#"{"exit_code":0}"#);
    filter.after = page.next.map(|next| next.parse().unwrap());
    let page = store.results(&filter).unwrap();
    assert_eq!(page.tasks.iter().map(|t| t.task_id.as_str()).collect::<Vec<_>>(), all[2..]);
    assert_eq!(page.next, None);
}

#[test]
fn a_page_is_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder.path().join("db.duckdb"));
    let mut history = History::default();
    history.register("w");
    let large = format!("\"{}\"", "x".repeat(3 << 20));
    for n in 0..5 {
        history.submit(&format!("t{n}"), "command");
        history.run(&format!("t{n}"), true, &large);
    }
    history.feed(&store, 0);
    store.wait_for(history.index(), LIMIT).unwrap();
    let page = store.results(&every()).unwrap();
    assert_eq!(page.tasks.len(), 2, "three would be above 8 MiB");
    let after = page.next.map(|next| next.parse().unwrap());
    assert_eq!(ids(&store, &ResultFilter { after, ..every() }), ["t2", "t3"]);
}

#[test]
fn a_restart_skips_what_is_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let mut history = mixed();
    let (store, _) = open(&path);
    history.feed(&store, 0);
    store.flush(LIMIT).unwrap();
    let rows = store.health().rows;
    drop(store);

    let (store, index) = open(&path);
    assert_eq!(index, history.index());
    assert_eq!(store.health().rows, rows);
    history.submit("later", "command");
    history.run("later", true, "7");
    history.feed(&store, 0);
    store.wait_for(history.index(), LIMIT).unwrap();
    assert_eq!(store.health().rows["tasks"], 6);
    assert_eq!(store.health().rows["results"], 6);
    assert_eq!(ids(&store, &every()), ["fails", "flaky", "again", "cancelled", "later"]);
}

#[test]
fn entries_without_effects_move_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let (store, _) = open(&path);
    for index in 1..=1000 {
        store.append(index, Vec::new());
    }
    store.wait_for(1000, LIMIT).unwrap();
    store.flush(LIMIT).unwrap();
    assert_eq!(store.health().durable_index, 1000);
    store.append(1001, Vec::new());
    drop(store);
    assert_eq!(open(&path).1, 1001, "closing writes it down");
}

#[test]
fn many_effects_share_a_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let (batches, effects) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, summed) = (Arc::clone(&batches), Arc::clone(&effects));
    let on_batch = move |count: usize, _: Duration| {
        counted.fetch_add(1, Ordering::Relaxed);
        summed.fetch_add(count, Ordering::Relaxed);
    };
    let options =
        StoreOptions { linger: Duration::from_millis(200), on_batch: Some(Arc::new(on_batch)), ..options() };
    let (store, _) = Store::open(folder.path().join("db.duckdb"), options).unwrap();
    let mut history = History::default();
    for n in 0..2000 {
        history.submit(&format!("t{n}"), "command");
    }
    history.feed(&store, 0);
    store.wait_for(history.index(), LIMIT).unwrap();
    assert_eq!(effects.load(Ordering::Relaxed), 2000);
    assert!(batches.load(Ordering::Relaxed) < 20, "{batches:?} transactions");
}

#[test]
fn what_nobody_waits_for_is_written_behind_all_others_and_the_rest_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let on_batch = move |_: usize, _: Duration| {
        let nice = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        // Nobody listens any more when the last ones are written.
        let _ = tell.send((std::thread::current().name().map(str::to_owned), nice));
    };
    let own = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
    let with = |linger| StoreOptions { linger, on_batch: Some(Arc::new(on_batch.clone())), ..options() };
    let path = folder.path().join("db.duckdb");
    let mut history = History::default();

    let (store, _) = Store::open(&path, with(Duration::from_millis(1))).unwrap();
    history.submit("due", "command");
    history.feed(&store, 0);
    let (thread, nice) = told.recv_timeout(LIMIT).expect("the batch that is due is written");
    assert_eq!((thread.as_deref(), nice), (Some("store-calm"), (own + 5).min(19)));
    store.flush(LIMIT).unwrap();
    drop(store);

    let (store, before) = Store::open(&path, with(Duration::from_secs(3600))).unwrap();
    history.submit("asked for", "command");
    history.feed(&store, before);
    store.wait_for(history.index(), LIMIT).unwrap();
    let (thread, nice) = told.recv_timeout(LIMIT).expect("the batch that is waited for is written");
    assert_eq!((thread.as_deref(), nice), (Some("store"), own));
    history.submit("last", "command");
    history.feed(&store, before + 1);
    drop(store);
    let (thread, _) = told.recv_timeout(LIMIT).expect("what waits at the end is written");
    assert_eq!(thread.as_deref(), Some("store"));
    let (store, index) = open(&path);
    assert_eq!((index, store.health().rows["tasks"]), (history.index(), 3));
}

#[test]
fn a_full_backlog_makes_it_stale_and_a_rebuild_heals_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let options = StoreOptions { backlog_bound: 10, linger: Duration::from_secs(3600), ..options() };
    let (store, _) = Store::open(&path, options).unwrap();
    let mut history = mixed();
    history.feed(&store, 0);
    let health = store.health();
    assert!(!health.healthy && health.needs_rebuild, "{health:?}");
    assert!(health.detail.contains("rebuild_db"), "{}", health.detail);
    assert!(health.backlog_effects <= 10, "{health:?}");
    let error = store.wait_for(history.index(), LIMIT).unwrap_err();
    assert!(matches!(error, StoreError::Absent { .. }), "{error}");

    store.rebuild(history.index(), history.machine.effects_for_rebuild(), Rebuild::Merge);
    store.wait_for(history.index(), LIMIT).unwrap();
    let health = store.health();
    assert!(health.healthy && !health.needs_rebuild, "{health:?}");
    assert_eq!(ids(&store, &every()), ["fails", "flaky", "again", "cancelled"]);
    let rebuilt = history.index();
    history.submit("later", "command");
    history.feed(&store, rebuilt);
    store.wait_for(history.index(), LIMIT).unwrap();
    assert_eq!(store.health().rows["tasks"], 6);
}

/// The gap holds a retry by hand, a new end, and tasks that have left memory since.
#[test]
fn a_merge_adds_what_is_missing_and_keeps_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let (store, _) = open(&path);
    let mut history = mixed();
    history.submit("old", "command");
    history.run("old", true, "0");
    history.feed(&store, 0);
    store.flush(LIMIT).unwrap();

    history.apply(&Command::Retry { task_id: "fails".into() });
    history.apply(&Command::Retry { task_id: "cancelled".into() });
    history.run("cancelled", true, "8");
    history.submit("new", "command");
    history.run("new", true, "9");
    let snapshot = history.machine.effects_for_rebuild();
    for _ in 0..2 {
        store.rebuild(history.index(), snapshot.clone(), Rebuild::Merge);
        store.wait_for(history.index(), LIMIT).unwrap();
        store.flush(LIMIT).unwrap();
        // `fails` waits again, `cancelled` has completed.
        assert_eq!(ids(&store, &every()), ["flaky", "again", "cancelled", "old", "new"]);
        for id in ["flaky", "cancelled", "old", "new"] {
            let machine = serde_json::to_value(history.machine.task(id).unwrap()).unwrap();
            let stored = serde_json::to_value(store.task(id).unwrap().unwrap()).unwrap();
            assert_eq!(machine, stored, "{id}");
        }
        assert!(store.task("fails").unwrap().is_none());
        let rows = store.health().rows;
        assert_eq!((rows["tasks"], rows["results"]), (7, 8), "{rows:?}");
    }
    // Merged into an empty file, the machine alone gives the same view.
    let (fresh, _) = open(&folder.path().join("fresh.duckdb"));
    fresh.rebuild(history.index(), snapshot, Rebuild::Merge);
    fresh.wait_for(history.index(), LIMIT).unwrap();
    assert_eq!(ids(&fresh, &every()), ids(&store, &every()));
}

#[test]
fn times_beyond_the_calendar_are_drawn_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder.path().join("db.duckdb"));
    let mut history = History::default();
    history.register("w");
    history.submit("t", "command");
    history.apply(&Command::Assign { pairs: vec![("t".into(), "w".into())] });
    history.apply(&Command::Complete {
        task_id: "t".into(),
        worker_id: "w".into(),
        token: 1,
        success: true,
        result: None,
        error: None,
        started_ms: i64::MIN,
        finished_ms: i64::MAX,
        resources: Default::default(),
    });
    history.feed(&store, 0);
    store.wait_for(history.index(), LIMIT).unwrap();
    let task = store.task("t").unwrap().unwrap();
    assert_eq!(task.attempts[0].started_at.unwrap().as_millisecond(), jiff::Timestamp::MIN.as_millisecond());
    assert_eq!(task.attempts[0].finished_at.unwrap().as_millisecond(), jiff::Timestamp::MAX.as_millisecond());
    assert_eq!(task.created_at.as_millisecond(), WALL_MS + 20);
}

#[test]
fn a_closed_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder.path().join("db.duckdb"));
    store.close();
    assert!(!store.health().healthy);
    assert!(matches!(store.results(&every()), Err(StoreError::Absent { .. })));
    store.append(1, Vec::new());
    assert!(store.wait_for(1, Duration::from_millis(50)).is_err());
}
