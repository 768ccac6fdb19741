//! Tests of the store, on real DuckDB files in temporary folders.

mod damage;
mod history;
mod kill;
mod record;
