//! The daemon from outside: its decisions as tables, its hands on real processes, its API.

mod api_calls;
mod decisions;
mod fake;
mod gates;
mod process;
mod program;
mod sample;
