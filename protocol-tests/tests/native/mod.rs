//! Sources and sinks as the native API changes them: patches, pages, replays, a file that says what
//! there is; and what whoever runs a server has.

mod definitions;
mod operations;
mod pages;
mod patches;
mod quarantine;
mod replays;
