//! Tests of the store, on real DuckDB files in temporary folders.

mod chores;
mod damage;
mod full_disk;
mod golden;
mod history;
mod kill;
mod record;
