//! Many seeds on all cores, and what came of them as a table.

use crate::faults::{Boundary, Faults};
use crate::mutations::Mutation;
use crate::world::World;
use comfy_table::{Table, presets};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What many seeds together must have injected, beside a crash at every boundary.
const KINDS: [&str; 32] = [
    "crash: anywhere",
    "power loss everywhere",
    "unsynced record lost",
    "unsynced record torn",
    "acknowledged record damaged",
    "partition: one cut off",
    "partition: one not heard",
    "partition: one does not hear",
    "partition: a bridge between two sides",
    "partition: links at random",
    "message cut off",
    "message lost",
    "message doubled",
    "message delayed",
    "message overtaken",
    "links slowed",
    "process paused",
    "disk stalled",
    "disk full",
    "write refused by a full disk",
    "clock rate changed",
    "clock stepped by an hour",
    "leadership handed over",
    "member added as a learner",
    "learner given a vote",
    "member removed",
    "voter replaced in one step",
    "disk lost for good",
    "log compacted",
    "log compacted again",
    "snapshot installed",
    "snapshot could not be fetched",
];

/// Every kind of fault there is.
pub fn kinds() -> Vec<&'static str> {
    Boundary::ALL.iter().map(|b| b.kind()).chain(KINDS).collect()
}

/// What came of a seed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub trace: u64,
    pub messages: u64,
    pub acknowledged: u64,
    pub reads: u64,
    pub steps: u64,
    pub faults: Faults,
}

/// A seed in which something did not hold.
pub struct Failure {
    seed: u64,
    why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {}\n  replay it with: ./dev chaos simulate --seed {}",
            self.seed, self.why, self.seed
        )
    }
}

pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

pub fn run_seed(seed: u64, mutation: Mutation, told: bool) -> Run {
    let mut world = World::new(seed, mutation, told);
    world.run();
    Run {
        trace: world.trace.hash,
        messages: world.network.sent(),
        acknowledged: world.truth.acknowledged.len() as u64,
        reads: world.clients.reads_answered,
        steps: world.now,
        faults: world.faults,
    }
}

fn try_seed(seed: u64, mutation: Mutation, told: bool) -> Result<Run, Failure> {
    catch_unwind(AssertUnwindSafe(|| run_seed(seed, mutation, told))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let why = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Failure { seed, why: why.unwrap_or_else(|| "ended without a word".into()) }
    })
}

/// Runs `work` for the next seed on every core until it says that it is enough. One seed alone tells
/// where it failed.
fn on_all_cores(seeds: Range<u64>, work: impl Fn(u64) -> bool + Sync) {
    if seeds.end - seeds.start == 1 {
        work(seeds.start);
        return;
    }
    let next = AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // A check that fails is reported with its seed; its panic needs no page of its own.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || work(seed) {
                        // The others end after the seed they are at.
                        next.fetch_max(seeds.end, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
    std::panic::set_hook(hook);
}

/// The sum of all seeds, and those that failed.
pub fn run_seeds(seeds: Range<u64>, told: bool) -> (Run, u64, Vec<Failure>) {
    let sum = Mutex::new((Run::default(), 0, Vec::new()));
    on_all_cores(seeds, |seed| {
        let run = try_seed(seed, Mutation::None, told);
        let mut sum = sum.lock().expect("nobody panics while adding up");
        match run {
            Ok(run) => {
                sum.1 += 1;
                sum.0.messages += run.messages;
                sum.0.acknowledged += run.acknowledged;
                sum.0.reads += run.reads;
                sum.0.steps += run.steps;
                sum.0.faults.add(&run.faults);
            }
            Err(failure) => sum.2.push(failure),
        }
        // The first few say enough.
        sum.2.len() >= 5
    });
    let (run, green, mut failures) = sum.into_inner().expect("all threads have ended");
    failures.sort_by_key(|f| f.seed);
    (run, green, failures)
}

/// The first seed in which the checks notice what is missing, and what they say.
pub fn caught_by(seeds: u64, mutation: Mutation) -> Option<(u64, String)> {
    let first = Mutex::new(None::<Failure>);
    on_all_cores(1..seeds + 1, |seed| {
        let Err(failure) = try_seed(seed, mutation, false) else { return false };
        let mut first = first.lock().expect("nobody panics while comparing");
        if first.as_ref().is_none_or(|known| known.seed > failure.seed) {
            *first = Some(failure);
        }
        true
    });
    let first = first.into_inner().expect("all threads have ended");
    first.map(|f| (f.seed, f.why))
}

/// One table of it all.
pub fn table(
    (total, green, failures): (&Run, u64, &[Failure]),
    mutations: &[(Mutation, Option<(u64, String)>)],
) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["what", "count"]);
    let mut row = |what: &str, count: String| {
        table.add_row([what.to_owned(), count]);
    };
    row("seeds run", (green + failures.len() as u64).to_string());
    row("seeds in which something did not hold", failures.len().to_string());
    row("steps of 10 ms", total.steps.to_string());
    row("messages", total.messages.to_string());
    row("tasks acknowledged", total.acknowledged.to_string());
    row("linearizable reads answered", total.reads.to_string());
    for kind in kinds() {
        row(kind, total.faults.0.get(kind).copied().unwrap_or_default().to_string());
    }
    for (mutation, caught) in mutations {
        let said = match caught {
            Some((seed, why)) => {
                let first: String = why.lines().next().unwrap_or_default().chars().take(70).collect();
                format!("seed {seed}: {first}")
            }
            None => "NOT caught".into(),
        };
        row(&format!("caught: {}", mutation.what()), said);
    }
    table.to_string()
}
