//! Column metrics of a finished file, for its entry in a manifest.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field};
use iceberg::spec::{Datum, PrimitiveType};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use super::bounds::Bounds;

/// Per field id, as in Iceberg's `data_file` struct.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) column_sizes: HashMap<i32, u64>,
    pub(super) value_counts: HashMap<i32, u64>,
    pub(super) null_value_counts: HashMap<i32, u64>,
    pub(super) lower_bounds: HashMap<i32, Datum>,
    pub(super) upper_bounds: HashMap<i32, Datum>,
    pub(super) split_offsets: Vec<i64>,
}

/// Reads the metrics of the columns in `measured` off the footer.
pub(super) fn of_file(footer: &ParquetMetaData, measured: &HashMap<i32, PrimitiveType>) -> Metrics {
    let mut metrics = Metrics::default();
    let mut bounds: HashMap<i32, Bounds> = HashMap::new();
    let mut nulls_unknown = Vec::new();
    for row_group in footer.row_groups() {
        if let Some(first) = row_group.columns().first() {
            let start = first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset());
            metrics.split_offsets.push(start);
        }
        for chunk in row_group.columns() {
            let Some(id) = field_id(chunk) else { continue };
            let Some(ty) = measured.get(&id) else {
                continue;
            };
            let values = u64::try_from(chunk.num_values()).unwrap_or(0);
            let size = u64::try_from(chunk.compressed_size()).unwrap_or(0);
            *metrics.column_sizes.entry(id).or_default() += size;
            *metrics.value_counts.entry(id).or_default() += values;
            match chunk.statistics().and_then(|statistics| statistics.null_count_opt()) {
                Some(nulls) => *metrics.null_value_counts.entry(id).or_default() += nulls,
                None => nulls_unknown.push(id),
            }
            bounds.entry(id).or_default().add(ty, chunk.statistics(), values);
        }
    }
    for id in nulls_unknown {
        metrics.null_value_counts.remove(&id);
    }
    for (id, bounds) in bounds {
        let Some(ty) = measured.get(&id) else {
            continue;
        };
        let (lower, upper) = bounds.finish(ty);
        metrics.lower_bounds.extend(lower.map(|bound| (id, bound)));
        metrics.upper_bounds.extend(upper.map(|bound| (id, bound)));
    }
    metrics
}

fn field_id(chunk: &ColumnChunkMetaData) -> Option<i32> {
    let column = chunk.column_descr();
    // Inside a list or map the leaf's own counts are not those of rows.
    if column.max_rep_level() > 0 {
        return None;
    }
    let info = column.self_type();
    info.get_basic_info().has_id().then(|| info.get_basic_info().id())
}

/// Adds the NaN values of `batch` to `counts`. Columns without any get an entry of 0: it tells
/// readers that there are none.
pub(super) fn count_nans(
    batch: &RecordBatch,
    measured: &HashMap<i32, PrimitiveType>,
    counts: &mut HashMap<i32, u64>,
) {
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        count_nans_in(field, column, None, measured, counts);
    }
}

fn count_nans_in(
    field: &Field,
    column: &ArrayRef,
    parent_nulls: Option<&NullBuffer>,
    measured: &HashMap<i32, PrimitiveType>,
    counts: &mut HashMap<i32, u64>,
) {
    // What a null struct holds in its children is not a value.
    let nulls = NullBuffer::union(parent_nulls, column.logical_nulls().as_ref());
    let valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    let nans = match column.data_type() {
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            values.iter().enumerate().filter(|(row, v)| v.is_nan() && valid(*row)).count()
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            values.iter().enumerate().filter(|(row, v)| v.is_nan() && valid(*row)).count()
        }
        DataType::Struct(fields) => {
            for (field, column) in fields.iter().zip(column.as_struct().columns()) {
                count_nans_in(field, column, nulls.as_ref(), measured, counts);
            }
            return;
        }
        _ => return,
    };
    let id = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok());
    if let Some(id) = id.filter(|id| measured.contains_key(id)) {
        *counts.entry(id).or_default() += nans as u64;
    }
}
