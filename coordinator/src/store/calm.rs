//! The thread that comes last: it writes what nobody waits for.
//!
//! A batch is a burst of work, on every node at nearly the same time. Where the cores are busy, each of
//! the threads that a request passes through would wait for one burst or another. So the writer has a
//! batch that is merely due written here, behind all others, and goes on when it is done. It is a
//! thread of its own because a thread may give up its place and not take it back.
//!
//! Invariant: what comes last is never left behind. The writer itself writes where somebody waits, and where a
//! whole batch has gathered: on a machine that is always busy the backlog would else grow until effects
//! are dropped.

use super::writer::Writer;
use crate::machine::Effect;
use crossbeam_channel::{Receiver, Sender};

/// How far behind the others: about a third of a usual thread's share where both want the same core.
const BEHIND: i32 = 5;

/// Entries to write, and who writes them.
type Batch = (Writer, Vec<(u64, Vec<Effect>)>);

/// The thread. It ends when this is dropped.
pub(super) struct Calm {
    batches: Sender<Batch>,
    done: Receiver<Writer>,
}

impl Calm {
    /// Starts it; without it the writer does everything itself.
    pub(super) fn start() -> Option<Calm> {
        let (batches, queue) = crossbeam_channel::bounded::<Batch>(1);
        let (give_back, done) = crossbeam_channel::bounded(1);
        let work = move || {
            crate::operations::come_behind(BEHIND);
            for (mut writer, entries) in queue {
                writer.write(entries, false);
                if give_back.send(writer).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-calm".into()).spawn(work);
        thread.ok().map(|_| Calm { batches, done })
    }

    /// Writes the entries behind all others. None where the thread has died, and the writer with it.
    pub(super) fn write(&self, writer: Writer, entries: Vec<(u64, Vec<Effect>)>) -> Option<Writer> {
        self.batches.send((writer, entries)).ok()?;
        self.done.recv().ok()
    }
}
