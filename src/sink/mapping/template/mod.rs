//! Columns whose value a Jsonnet template makes.
//!
//! Owns: what a template may say and ask for. A template knows `Ip()`, `Now(format)`,
//! `Header(name, default)`, `HeaderStr()`, `Body(path, default)` and `BodyStr()`, all arguments
//! optional, and the standard library, but no imports. The interpreter is `rsjsonnet`; it is neither
//! interrupted nor shared, so it has threads of its own ([`runner`]). The common `Body("path")` does
//! without it ([`lower`]).

mod calls;
mod engine;
mod fault;
mod lower;
mod runner;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(super) use lower::lower;
pub(super) use runner::Runner;

/// Longest template, in bytes.
pub const TEMPLATE_LEN_MAX: usize = 4_096;
/// Longest result, in bytes.
pub const RESULT_LEN_MAX: usize = 64 << 10;

/// A template to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Its text.
    pub(super) content: Arc<str>,
    /// A result that is a string is written without quotes and escapes.
    pub(super) raw: bool,
}

/// A result, or why there is none.
pub(super) type Outcome = Result<String, NoResult>;

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoResult {
    /// The template has none for the event.
    Failed(String),
    /// It was not run, or not to its end: there was no thread or no time for it.
    NotRun(&'static str),
}

impl From<String> for NoResult {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}
