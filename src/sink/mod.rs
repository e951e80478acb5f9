//! THE SINKS: tables of a topic with a mapping of their own.
//!
//! Owns: how an event becomes a row ([`mapping`]). Does not own: when rows are committed, or where.

pub mod mapping;
