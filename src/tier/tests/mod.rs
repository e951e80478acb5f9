//! Tiering over the real log, store and embedded catalog in a folder: records in, rows out.

mod columns;
mod contract;
mod harness;
mod keys;
mod once;
mod roads;
mod sinks;
mod stops;
