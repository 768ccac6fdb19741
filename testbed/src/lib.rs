//! One machine plays the cluster.
//!
//! Everything here works on real processes: the programs as they are built, real sockets, real
//! kills. Three users share it: `testbed up` (a cluster to look at and play with), `testbed bench`
//! (figures), and the tests that shoot at processes ([`Cluster`], [`load`]).
//!
//! Invariant: whatever the testbed starts, it ends; also when it fails half-way, also what the
//! recovery daemon started in its place, and never a process that merely got an old pid.
//!
//! It needs Linux: processes are told apart by their start times in `/proc`.

pub mod bench;
pub mod binaries;
pub mod chaos;
pub mod cluster;
pub mod dashboards;
pub mod down;
pub mod error;
pub mod forge;
pub mod judge;
pub mod layout;
pub mod links;
pub mod load;
pub mod observability;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod record;
pub mod scrape;
pub mod suite;
pub mod up;
pub mod wait;
pub mod whole;

pub use cluster::Cluster;
pub use error::Error;
