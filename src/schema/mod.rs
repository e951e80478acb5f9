//! THE SHAPES: what a record's value looks like as columns. Always ends in an Iceberg schema.
//!
//! Owns: the plan from an Iceberg schema to cells ([`columns`]), the JSON decoder and its type
//! inference ([`json`]), new columns and how they enter a schema ([`evolve`]), the raw mode
//! ([`raw`]), the partition spec as text ([`partition_spec`]) and the split of batches by it
//! ([`split`]). Does not own: the system column, files, commits. Knows neither log nor table.

pub mod columns;
pub mod evolve;
pub mod json;
pub mod partition_spec;
pub mod raw;
pub mod split;

/// Why a schema or a batch could not be made; bad records are not errors but outcomes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The `iceberg` crate refused it.
    #[error("iceberg schema: {0}")]
    Iceberg(#[from] iceberg::Error),
    /// Arrow refused it.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// A new column does not go into the schema; reload it and decode again.
    #[error("column {name:?} cannot be added: {reason}")]
    NewColumn {
        /// Name of the column.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A batch has more partition values than one commit may open.
    #[error("{found} partition values in one batch, {max} are allowed")]
    TooManyPartitions {
        /// How many the batch has.
        found: usize,
        /// The bound.
        max: usize,
    },
}
