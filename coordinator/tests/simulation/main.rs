//! A seeded, single-threaded world that runs the very replica and machine the node runs.
//!
//! N nodes on a simulated network and simulated disks, with clients, workers and everything that
//! goes wrong; [`checks`] says what must hold. `HOLDFAST_SEED=n` replays one seed and tells what
//! happens in it, `HOLDFAST_SEEDS=n` runs that many (`./dev chaos simulate --seeds n`), from
//! `HOLDFAST_FROM_SEED=n` on.

mod checks;
mod clients;
mod disk;
mod faults;
mod members;
mod mutations;
mod network;
mod node;
mod random;
mod runs;
mod world;

use mutations::Mutation;
use runs::{Failure, caught_by, kinds, run_seed, run_seeds, setting, table};

/// Seeds of a plain test run.
const SEEDS: u64 = 500;
/// Seeds within which every mutation must be noticed.
const MUTATION_SEEDS: u64 = 500;

#[test]
fn safety_and_progress_hold_in_every_seed() {
    let replayed = setting("HOLDFAST_SEED");
    let seeds = match replayed {
        Some(seed) => seed..seed + 1,
        None => {
            let first = setting("HOLDFAST_FROM_SEED").unwrap_or(1);
            first..first + setting("HOLDFAST_SEEDS").unwrap_or(SEEDS)
        }
    };
    let (total, green, failures) = run_seeds(seeds, replayed.is_some());
    let mutations: Vec<_> = match setting("HOLDFAST_MUTATIONS") {
        Some(_) => Mutation::ALL.into_iter().map(|m| (m, caught_by(MUTATION_SEEDS, m))).collect(),
        None => Vec::new(),
    };
    println!("{}", table((&total, green, &failures), &mutations));
    assert!(failures.is_empty(), "\n{}", failures.iter().map(Failure::to_string).collect::<String>());
    assert!(mutations.iter().all(|(_, caught)| caught.is_some()), "a mutation was not noticed");
    if replayed.is_none() {
        assert!(total.acknowledged > 0 && total.reads > 0);
        let missing: Vec<_> = kinds().into_iter().filter(|kind| !total.faults.0.contains_key(kind)).collect();
        assert!(missing.is_empty(), "these faults never happened: {missing:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [7, 9] {
        assert_eq!(run_seed(seed, Mutation::None, false), run_seed(seed, Mutation::None, false));
    }
}

/// The checks are worth something only if they notice what they are there for.
macro_rules! mutation_is_caught {
    ($($test:ident: $mutation:ident,)*) => {$(
        #[test]
        fn $test() {
            let caught = caught_by(MUTATION_SEEDS, Mutation::$mutation);
            println!("{}: caught by seed {caught:?}", Mutation::$mutation.what());
            assert!(caught.is_some(), "{} was not noticed in {MUTATION_SEEDS} seeds", Mutation::$mutation.what());
        }
    )*};
}

mutation_is_caught! {
    a_skipped_sync_is_caught: SkippedSync,
    a_vote_not_persisted_is_caught: VoteNotPersisted,
    an_unsafe_read_is_caught: UnsafeRead,
    a_forgotten_truncation_is_caught: ForgottenTruncation,
    an_amnesiac_voter_is_caught: AmnesiacVoter,
    a_trusted_torn_log_is_caught: TrustedTornLog,
}
