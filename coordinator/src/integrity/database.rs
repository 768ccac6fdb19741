//! The database: the file opened anew and read to its last row, then compared with memory.
//!
//! The file is closed and opened first, since DuckDB checks a block when it reads it from the
//! disk, and what it has in memory would hide the damage.

use super::{Outcome, Pace};
use crate::machine::Effect;
use crate::node::Node;
use crate::store::{Print, Store, StoreError, prints_of};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const CURE: &str = "rebuild it (POST /api/admin/rebuild_db); the node serves meanwhile";
/// Rows read at once.
const ROWS: u64 = 20_000;
/// Tasks compared at once.
const TASKS: usize = 256;
/// How long the writer may take for a chore, and to catch up.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn check(
    node: &Node,
    store: &Store,
    retention_days: u64,
    pace: Pace,
    stop: &CancellationToken,
) -> Outcome {
    let health = store.health();
    if !health.healthy {
        return Outcome::Damaged(0, format!("{}; {CURE}", health.detail));
    }
    let mut checked = 0;
    let read = store.reopen(LIMIT).and_then(|rows| {
        checked = rows;
        for table in Store::tables().0 {
            let mut from = 0;
            loop {
                let began = Instant::now();
                let more = store.read_rows(table, from, ROWS)?;
                from += ROWS;
                if !pace.pause(began.elapsed(), stop) {
                    return Ok(false);
                }
                if !more {
                    break;
                }
            }
        }
        Ok(true)
    });
    match read {
        Ok(true) => {}
        Ok(false) => return Outcome::Stopped,
        Err(error) => return Outcome::Damaged(checked, format!("{error}; {CURE}")),
    }
    compare(node, store, retention_days, pace, stop, checked)
}

fn compare(
    node: &Node,
    store: &Store,
    retention_days: u64,
    pace: Pace,
    stop: &CancellationToken,
    checked: u64,
) -> Outcome {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    // A day's grace: what is about to be let go may be gone already.
    let kept_ms = i64::try_from(retention_days.saturating_sub(1)).unwrap_or(0).saturating_mul(86_400_000);
    let keep_from_ms = now_ms.saturating_sub(kept_ms);
    let mut after = 0;
    loop {
        let began = Instant::now();
        let Some((last, index, own)) = piece(node, after, keep_from_ms) else { break };
        match store.wait_for(index, LIMIT).and_then(|()| store.prints(after + 1, last)) {
            Ok(theirs) => {
                for (seq, _) in differing(&own, &theirs) {
                    if let Some(why) = look_again(node, store, seq, keep_from_ms) {
                        return Outcome::Damaged(checked, format!("{why}; {CURE}"));
                    }
                }
            }
            Err(StoreError::Behind { .. }) => {
                return Outcome::Sound(
                    checked,
                    "the comparison with memory was left out: the database is behind".into(),
                );
            }
            Err(error) => return Outcome::Damaged(checked, format!("{error}; {CURE}")),
        }
        after = last;
        if !pace.pause(began.elapsed(), stop) {
            return Outcome::Stopped;
        }
    }
    Outcome::Sound(checked, String::new())
}

/// The next tasks in memory: the last one's number, the index at which they were so, and what the
/// database has to hold of them.
fn piece(node: &Node, after: u64, keep_from_ms: i64) -> Option<(u64, u64, BTreeMap<u64, Print>)> {
    let (last, index, mut effects) = {
        let machine = node.machine();
        let (tasks, last) = machine.tasks_after(after, TASKS);
        let mut effects = Vec::new();
        tasks.effects(&mut effects);
        (last?, machine.applied_index(), effects)
    };
    let old = |effect: &Effect| match effect {
        Effect::TaskFinished { spec, finished_wall_ms, .. } if *finished_wall_ms < keep_from_ms => {
            Some(spec.seq)
        }
        _ => None,
    };
    let leaving: Vec<u64> = effects.iter().filter_map(old).collect();
    effects.retain(|effect| match effect {
        Effect::TaskSubmitted { spec } | Effect::TaskFinished { spec, .. } => !leaving.contains(&spec.seq),
        _ => true,
    });
    Some((last, index, prints_of(&effects)))
}

/// PURE. The tasks of ours that the others do not hold like that.
fn differing<'a>(
    own: &'a BTreeMap<u64, Print>,
    theirs: &'a BTreeMap<u64, Print>,
) -> impl Iterator<Item = (u64, Option<&'a Print>)> {
    own.iter().filter_map(|(seq, print)| {
        let there = theirs.get(seq);
        // What ended since is ahead of us, and no fault.
        let same = there.is_some_and(|there| {
            there.spec == print.spec && (print.result.is_none() || there.result == print.result)
        });
        (!same).then_some((*seq, there))
    })
}

/// Looks at one task again, both sides at one index: it may have changed while it was compared.
fn look_again(node: &Node, store: &Store, seq: u64, keep_from_ms: i64) -> Option<String> {
    for _ in 0..3 {
        let (last, index, own) = piece(node, seq - 1, keep_from_ms)?;
        let own = own.get(&seq).filter(|_| last >= seq)?;
        store.wait_for(index, LIMIT).ok()?;
        let theirs = store.prints(seq, seq).ok()?;
        let (_, _, again) = piece(node, seq - 1, keep_from_ms)?;
        if again.get(&seq) != Some(own) {
            continue;
        }
        let own = BTreeMap::from([(seq, *own)]);
        return differing(&own, &theirs).next().map(|(seq, there)| match there {
            None => format!("task number {seq} is in memory and not in the database"),
            Some(there) if there.spec != own[&seq].spec => {
                format!("task number {seq} was submitted otherwise than the database says")
            }
            Some(_) => format!("task number {seq} ended otherwise than the database says"),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_since_is_no_difference() {
        let print = |spec, result| Print { spec, result };
        let own = BTreeMap::from([
            (1, print(1, None)),
            (2, print(2, Some(5))),
            (3, print(3, Some(5))),
            (4, print(4, None)),
            (5, print(5, None)),
        ]);
        let theirs = BTreeMap::from([
            (1, print(1, Some(9))),
            (2, print(2, Some(5))),
            (3, print(3, Some(6))),
            (4, print(0, None)),
        ]);
        let found: Vec<u64> = differing(&own, &theirs).map(|(seq, _)| seq).collect();
        assert_eq!(found, [3, 4, 5]);
    }
}
