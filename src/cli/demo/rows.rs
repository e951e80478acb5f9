//! Reads a table back from its files and makes text of it.

use std::sync::Arc;

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableIdent};

use crate::table::catalog::Catalog;

/// The rows of a table, the first ones as text.
pub(super) struct Rows {
    pub(super) columns: Vec<String>,
    pub(super) cells: Vec<Vec<String>>,
    pub(super) count: usize,
}

/// How many rows are made text.
const CELLS_MAX: usize = 100;
/// Longest text of a cell.
const CELL_CHARS_MAX: usize = 48;

pub(super) async fn read(
    catalog: &Arc<dyn Catalog>,
    namespace: &str,
    name: &str,
) -> Result<Rows, String> {
    let ident = TableIdent::new(NamespaceIdent::new(namespace.to_owned()), name.to_owned());
    let loaded = catalog.load(&ident).await.map_err(|error| error.to_string())?;
    let table = Table::builder()
        .identifier(ident)
        .file_io(catalog.file_io().clone())
        .metadata(loaded.metadata)
        .metadata_location(loaded.metadata_location)
        .runtime(iceberg::Runtime::current())
        .build()
        .map_err(|error| error.to_string())?;
    let scan = table.scan().build().map_err(|error| error.to_string())?;
    let mut batches = scan.to_arrow().await.map_err(|error| error.to_string())?;
    let mut rows = Rows { columns: Vec::new(), cells: Vec::new(), count: 0 };
    while let Some(batch) = batches.try_next().await.map_err(|error| error.to_string())? {
        let schema = batch.schema();
        rows.columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        rows.count += batch.num_rows();
        let options = FormatOptions::default().with_null("-");
        let formatters: Result<Vec<_>, _> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect();
        let formatters = formatters.map_err(|error| error.to_string())?;
        for row in 0..batch.num_rows().min(CELLS_MAX.saturating_sub(rows.cells.len())) {
            let cells = formatters.iter().map(|formatter| cut(&formatter.value(row).to_string()));
            rows.cells.push(cells.collect());
        }
    }
    Ok(rows)
}

fn cut(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(CELL_CHARS_MAX - 3).collect();
    short.push_str("...");
    short
}
