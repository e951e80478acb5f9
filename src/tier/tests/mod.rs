//! Tiering over the real log, store and embedded catalog in a folder: records in, rows out.

mod columns;
mod harness;
mod once;
mod roads;
mod stops;
