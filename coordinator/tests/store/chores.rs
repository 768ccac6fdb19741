//! What the writer does between batches: reopening, a peer's history, pruning, and holding still
//! for a rebuild.

use crate::history::{LIMIT, WALL_MS, mixed, open, options};
use coordinator::store::{Rebuild, ResultFilter, Retention, Store, prints_of};
use std::path::Path;

fn all() -> ResultFilter {
    ResultFilter { limit: 100, ..ResultFilter::default() }
}

fn ids(store: &Store) -> Vec<String> {
    store.results(&all()).unwrap().tasks.into_iter().map(|task| task.task_id).collect()
}

fn filled(folder: &Path) -> Store {
    let (store, _) = open(&folder.join("db.duckdb"));
    mixed().feed(&store, 0);
    store.flush(LIMIT).unwrap();
    store
}

/// What is done to a file's bytes.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_peers_history_is_taken_in_once() {
    let folder = tempfile::tempdir().unwrap();
    let giver = filled(&folder.path().join("a"));
    let (taker, _) = open(&folder.path().join("b").join("db.duckdb"));
    let file = folder.path().join("slice's.parquet");
    for round in 0..2 {
        let mut added = 0;
        for table in Store::tables().0 {
            let slice = giver.export_slice(table, 0, u64::MAX, &file).unwrap();
            assert!(!slice.more);
            added += taker.import(table, &file, LIMIT).unwrap();
        }
        assert_eq!(added > 0, round == 0, "round {round}: {added}");
    }
    assert_eq!(taker.health().rows, giver.health().rows);
    assert_eq!(ids(&taker), ids(&giver));
    assert_eq!(taker.prints(0, 100).unwrap(), giver.prints(0, 100).unwrap());
    assert!(
        giver.export_slice("cats", 0, u64::MAX, &file).unwrap_err().to_string().contains("no table `cats`")
    );
}

#[test]
fn a_rebuilt_file_and_a_peers_history_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let giver = filled(&folder.path().join("a"));
    let history = mixed();
    let (taker, _) = open(&folder.path().join("b").join("db.duckdb"));
    taker.rebuild(history.index(), history.machine.effects_for_rebuild(), Rebuild::Merge);
    taker.wait_for(history.index(), LIMIT).unwrap();
    assert!(taker.history_wanted());
    let file = folder.path().join("slice.parquet");
    for table in Store::tables().0 {
        giver.export_slice(table, 0, u64::MAX, &file).unwrap();
        taker.import(table, &file, LIMIT).unwrap();
    }
    taker.history_complete().unwrap();
    assert!(!taker.history_wanted());
    assert_eq!(ids(&taker), ids(&giver));
    assert_eq!(taker.prints(0, 100).unwrap(), giver.prints(0, 100).unwrap());
    for id in ids(&giver) {
        let task = |store: &Store| serde_json::to_value(store.task(&id).unwrap().unwrap()).unwrap();
        assert_eq!(task(&taker), task(&giver), "{id}");
    }
}

#[test]
fn what_memory_holds_is_what_the_file_holds() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let own = prints_of(&mixed().machine.effects_for_rebuild());
    let theirs = store.prints(0, 100).unwrap();
    assert!(own.len() > 3);
    for (seq, print) in own {
        assert_eq!(theirs.get(&seq), Some(&print), "task number {seq}");
    }
}

#[test]
fn old_history_goes_by_age_and_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let before = ids(&store);
    let keep = |before_wall_ms, keep_tasks| Retention { before_wall_ms, keep_tasks };
    assert_eq!(store.prune(keep(WALL_MS, 1000), LIMIT).unwrap(), 0);
    assert_eq!(ids(&store), before);
    assert!(store.prune(keep(WALL_MS, 2), LIMIT).unwrap() > 0);
    assert_eq!(ids(&store).len(), 2);
    assert_eq!(store.prune(keep(WALL_MS, 2), LIMIT).unwrap(), 0);
    assert!(store.prune(keep(WALL_MS + 86_400_000, 2), LIMIT).unwrap() > 0);
    assert!(ids(&store).is_empty());
    let rows = store.health().rows;
    assert_eq!((rows["results"], rows["events"]), (0, 0), "{rows:?}");
}

#[test]
fn results_leave_as_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let file = folder.path().join("results.parquet");
    let count = store.export_results(&all(), &file).unwrap();
    assert_eq!(count as usize, ids(&store).len());
    let connection = duckdb::Connection::open_in_memory().unwrap();
    let sql = format!(
        "SELECT count(*), count(DISTINCT task_id), min(finished_at) IS NOT NULL FROM '{}'",
        file.display()
    );
    let row =
        connection.query_row(&sql, [], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?, row.get(2)?)));
    assert_eq!(row.unwrap(), (count, count, true));
    let none = ResultFilter { kind: Some("nothing".into()), ..all() };
    assert_eq!(store.export_results(&none, &file).unwrap(), 0);
}

#[test]
fn a_file_that_is_damaged_while_it_is_open_is_seen() {
    let flip = |bytes: &mut Vec<u8>| bytes[12_288 + 300..].iter_mut().step_by(97).for_each(|b| *b ^= 0x41);
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(8192);
    let damages: [(&str, Option<Damage>); 4] =
        [("none", Some(|_| ())), ("flipped", Some(flip)), ("cut", Some(cut)), ("deleted", None)];
    for (name, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path());
        let path = store.path().to_owned();
        store.reopen(LIMIT).unwrap();
        match damage {
            Some(change) => {
                let mut bytes = std::fs::read(&path).unwrap();
                change(&mut bytes);
                std::fs::write(&path, bytes).unwrap();
            }
            None => std::fs::remove_file(&path).unwrap(),
        }
        let sound = store.reopen(LIMIT).and_then(|_| {
            for table in Store::tables().0 {
                store.read_rows(table, 0, 1000)?;
            }
            store.prints(0, 100)
        });
        assert_eq!(sound.is_ok(), name == "none", "{name}: {sound:?}");
        // Either way it can be made anew from memory.
        let history = mixed();
        let hold = store.hold();
        store.rebuild(
            history.index(),
            history.machine.effects_for_rebuild(),
            Rebuild::Fresh { why: name.into() },
        );
        drop(hold);
        store.reopen(LIMIT).unwrap();
        assert!(store.health().healthy, "{name}: {:?}", store.health());
        assert_eq!(ids(&store).len(), 4, "{name}");
    }
}

#[test]
fn what_comes_while_it_holds_still_is_written_behind_the_rebuild() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let (store, _) = coordinator::store::Store::open(&path, options()).unwrap();
    let mut history = mixed();
    history.feed(&store, 0);
    store.flush(LIMIT).unwrap();
    let hold = store.hold();
    let (index, effects) = (history.index(), history.machine.effects_for_rebuild());
    history.submit("later", "noop");
    history.feed(&store, index);
    store.rebuild(index, effects, Rebuild::Fresh { why: "a test".into() });
    drop(hold);
    store.wait_for(history.index(), LIMIT).unwrap();
    let prints = store.prints(0, 1000).unwrap();
    assert_eq!(prints.len(), prints_of(&history.machine.effects_for_rebuild()).len());
    // A hold that comes to nothing leaves everything as it was.
    drop(store.hold());
    history.submit("last", "noop");
    let index = history.index() - 1;
    history.feed(&store, index);
    store.flush(LIMIT).unwrap();
    assert!(store.health().healthy);
}
