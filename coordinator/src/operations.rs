//! What takes longer than a request: listed while it goes on, and ended on demand.
//!
//! Whoever begins something long enters it here and keeps the [`Operation`] for as long as it
//! lasts. What looks at its token now and then can be cancelled from outside, so that a repair
//! that hangs does not hold up the next one.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What goes on. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OperationBook {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    kind: &'static str,
    detail: String,
    began: Instant,
    cancel: Option<CancellationToken>,
}

/// An operation; it is over when this is dropped.
#[derive(Debug)]
pub struct Operation {
    shared: Arc<Shared>,
    number: u64,
    cancel: CancellationToken,
}

impl OperationBook {
    /// Enters an operation that can't be ended from outside.
    pub fn begin(&self, kind: &'static str, detail: impl Into<String>) -> Operation {
        self.enter(kind, detail.into(), false)
    }

    /// Enters an operation that looks at its token.
    pub fn begin_cancellable(&self, kind: &'static str, detail: impl Into<String>) -> Operation {
        self.enter(kind, detail.into(), true)
    }

    /// As [`OperationBook::begin`], unless one of this kind goes on: then its id.
    pub fn begin_alone(&self, kind: &'static str, detail: impl Into<String>) -> Result<Operation, String> {
        self.enter_alone(kind, detail.into(), false)
    }

    /// As [`OperationBook::begin_alone`], for one that looks at its token.
    pub fn begin_alone_cancellable(
        &self,
        kind: &'static str,
        detail: impl Into<String>,
    ) -> Result<Operation, String> {
        self.enter_alone(kind, detail.into(), true)
    }

    fn enter(&self, kind: &'static str, detail: String, cancellable: bool) -> Operation {
        self.insert(&mut self.shared.open.lock(), kind, detail, cancellable)
    }

    fn enter_alone(
        &self,
        kind: &'static str,
        detail: String,
        cancellable: bool,
    ) -> Result<Operation, String> {
        let mut open = self.shared.open.lock();
        match open.iter().find(|(_, entry)| entry.kind == kind) {
            Some((number, _)) => Err(id_of(kind, *number)),
            None => Ok(self.insert(&mut open, kind, detail, cancellable)),
        }
    }

    fn insert(
        &self,
        open: &mut BTreeMap<u64, Entry>,
        kind: &'static str,
        detail: String,
        cancellable: bool,
    ) -> Operation {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let cancel = CancellationToken::new();
        let entry =
            Entry { kind, detail, began: Instant::now(), cancel: cancellable.then(|| cancel.clone()) };
        open.insert(number, entry);
        Operation { shared: Arc::clone(&self.shared), number, cancel }
    }

    /// True while one of this kind goes on.
    pub fn goes_on(&self, kind: &str) -> bool {
        self.shared.open.lock().values().any(|entry| entry.kind == kind)
    }

    /// How many of this kind go on.
    pub fn count(&self, kind: &str) -> usize {
        self.shared.open.lock().values().filter(|entry| entry.kind == kind).count()
    }

    /// What goes on: id, kind, since when, detail.
    pub fn list(&self) -> Vec<(String, &'static str, Duration, String)> {
        let open = self.shared.open.lock();
        let row = |(number, entry): (&u64, &Entry)| {
            (id_of(entry.kind, *number), entry.kind, entry.began.elapsed(), entry.detail.clone())
        };
        open.iter().map(row).collect()
    }

    /// Tells the operation of this id, or all of them, to end. Gives the ids of those that were
    /// told and of those that can't be.
    pub fn cancel(&self, id: Option<&str>) -> (Vec<String>, Vec<String>) {
        let (mut told, mut left) = (Vec::new(), Vec::new());
        for (number, entry) in self.shared.open.lock().iter() {
            let own = id_of(entry.kind, *number);
            if id.is_some_and(|id| id != own) {
                continue;
            }
            match &entry.cancel {
                Some(cancel) => {
                    cancel.cancel();
                    told.push(own);
                }
                None => left.push(own),
            }
        }
        (told, left)
    }
}

fn id_of(kind: &str, number: u64) -> String {
    format!("{kind}-{number}")
}

impl Operation {
    /// Cancelled from outside.
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Its id.
    pub fn id(&self) -> String {
        let open = self.shared.open.lock();
        open.get(&self.number).map(|entry| id_of(entry.kind, self.number)).unwrap_or_default()
    }

    /// Says how far it is.
    pub fn says(&self, detail: impl Into<String>) {
        if let Some(entry) = self.shared.open.lock().get_mut(&self.number) {
            entry.detail = detail.into();
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.shared.open.lock().remove(&self.number);
    }
}

/// Lets every other thread of the machine come before the calling one.
pub fn yield_to_others() {
    come_behind(10);
}

/// Puts the calling thread so far behind where it was: by 0 not at all, by 19 as far as it goes.
pub fn come_behind(by: i32) {
    let own = Some(rustix::thread::gettid());
    // A thread's priority is its own on Linux. Without it the work is done all the same.
    if let Ok(nice) = rustix::process::getpriority_process(own) {
        let _ = rustix::process::setpriority_process(own, (nice + by).min(19));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_listed_and_ended() {
        let book = OperationBook::default();
        let verify = book.begin_cancellable("verify", "reading the log");
        let snapshot = book.begin("snapshot", "");
        assert!(book.goes_on("verify"));
        verify.says("reading the database");
        let kinds: Vec<_> = book.list().into_iter().map(|(id, kind, _, detail)| (id, kind, detail)).collect();
        assert_eq!(
            kinds,
            [
                ("verify-0".to_owned(), "verify", "reading the database".to_owned()),
                ("snapshot-1".to_owned(), "snapshot", String::new())
            ]
        );
        assert_eq!(book.cancel(Some("nothing")), (vec![], vec![]));
        assert_eq!(book.cancel(None), (vec![verify.id()], vec![snapshot.id()]));
        assert!(verify.token().is_cancelled() && !snapshot.token().is_cancelled());
        drop((verify, snapshot));
        assert!(book.list().is_empty());
    }

    #[test]
    fn of_two_that_ask_at_once_one_begins_and_the_other_is_told_which() {
        let book = OperationBook::default();
        let began = std::thread::scope(|scope| {
            let ask = || scope.spawn(|| book.begin_alone("rebuild_db", ""));
            let asked: Vec<_> = (0..8).map(|_| ask()).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let (began, told): (Vec<_>, Vec<_>) = began.into_iter().partition(Result::is_ok);
        assert_eq!((began.len(), told.len()), (1, 7));
        let id = began[0].as_ref().unwrap().id();
        assert!(told.iter().all(|other| other.as_ref().err() == Some(&id)));
        drop(began);
        assert!(book.begin_alone_cancellable("rebuild_db", "").is_ok());
    }
}
