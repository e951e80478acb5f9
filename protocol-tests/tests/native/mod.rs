//! Sources and sinks as the native API changes them: patches, pages, replays, a file that says what
//! there is.

mod definitions;
mod pages;
mod patches;
mod quarantine;
mod replays;
