//! Batches by partition value.
//!
//! Owns: the values of a bound partition spec per row and the split of a batch by them. Does not
//! own: the spec's text, files.

use std::collections::HashMap;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StructArray, UInt32Array};
use arrow_buffer::BooleanBuffer;
use iceberg::arrow::arrow_primitive_to_literal;
use iceberg::spec::{Literal, PartitionSpecRef, SchemaRef, Struct, Type};
use iceberg::transform::{BoxedTransformFunction, create_transform_function};

use crate::schema::Error;

/// Splits batches of one schema by one partition spec.
#[derive(Debug)]
pub struct Splitter {
    terms: Vec<Term>,
    values_max: usize,
}

#[derive(Debug)]
struct Term {
    /// Places from the top-level column down to the source column.
    path: Vec<usize>,
    function: BoxedTransformFunction,
    result: Type,
}

impl Splitter {
    /// Prepares the split; a batch may have up to `values_max` different values (inclusive).
    ///
    /// # Errors
    /// [`Error::Iceberg`] if the spec is not one of `schema`.
    pub fn new(
        schema: SchemaRef,
        spec: PartitionSpecRef,
        values_max: usize,
    ) -> Result<Self, Error> {
        let result = spec.partition_type(&schema)?;
        let mut terms = Vec::with_capacity(spec.fields().len());
        for (field, result) in spec.fields().iter().zip(result.fields()) {
            let mut path = Vec::new();
            if !find(schema.as_struct().fields(), field.source_id, &mut path) {
                let text = format!("partition source {} is not in the schema", field.source_id);
                return Err(iceberg::Error::new(iceberg::ErrorKind::DataInvalid, text).into());
            }
            let function = create_transform_function(&field.transform)?;
            terms.push(Term { path, function, result: (*result.field_type).clone() });
        }
        Ok(Self { terms, values_max })
    }

    /// The rows of each partition value, values in the order of their first row, rows in the
    /// order of the batch. `batch` has all columns of the schema. An unpartitioned spec gives
    /// the whole batch with the empty value; an empty batch gives nothing.
    ///
    /// # Errors
    /// [`Error::TooManyPartitions`] above the bound.
    pub fn split(&self, batch: &RecordBatch) -> Result<Vec<(Struct, RecordBatch)>, Error> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let mut columns = Vec::with_capacity(self.terms.len());
        for term in &self.terms {
            let source = source(batch, &term.path)?;
            let values = term.function.transform(source)?;
            columns.push(arrow_primitive_to_literal(&values, &term.result)?);
        }
        let mut places: HashMap<Vec<Option<&Literal>>, usize> = HashMap::new();
        let mut groups: Vec<(Struct, Vec<u32>)> = Vec::new();
        for row in 0..batch.num_rows() {
            let value: Vec<Option<&Literal>> =
                columns.iter().map(|column| column[row].as_ref()).collect();
            let place = match places.get(&value) {
                Some(place) => *place,
                None => {
                    let literals = value.iter().map(|literal| literal.cloned());
                    groups.push((Struct::from_iter(literals), Vec::new()));
                    places.insert(value, groups.len() - 1);
                    groups.len() - 1
                }
            };
            groups[place].1.push(row as u32);
        }
        if groups.len() > self.values_max {
            return Err(Error::TooManyPartitions { found: groups.len(), max: self.values_max });
        }
        if let [(value, _)] = groups.as_slice() {
            return Ok(vec![(value.clone(), batch.clone())]);
        }
        let take = |(value, rows): (Struct, Vec<u32>)| {
            let rows = UInt32Array::from(rows);
            Ok((value, arrow_select::take::take_record_batch(batch, &rows)?))
        };
        groups.into_iter().map(take).collect()
    }
}

/// Finds a field below structs only.
fn find(fields: &[iceberg::spec::NestedFieldRef], id: i32, path: &mut Vec<usize>) -> bool {
    for (place, field) in fields.iter().enumerate() {
        path.push(place);
        if field.id == id {
            return true;
        }
        if let Type::Struct(inner) = &*field.field_type
            && find(inner.fields(), id, path)
        {
            return true;
        }
        path.pop();
    }
    false
}

/// The column at a path; null wherever a struct on the way is null.
fn source(batch: &RecordBatch, path: &[usize]) -> Result<ArrayRef, Error> {
    let missing = || {
        let text = "the batch does not have the columns of the schema";
        iceberg::Error::new(iceberg::ErrorKind::DataInvalid, text)
    };
    let (first, inner) = path.split_first().ok_or_else(missing)?;
    let mut column = batch.columns().get(*first).ok_or_else(missing)?.clone();
    for place in inner {
        let parent = column.as_any().downcast_ref::<StructArray>().ok_or_else(missing)?;
        let child = parent.columns().get(*place).ok_or_else(missing)?.clone();
        column = match parent.nulls() {
            None => child,
            Some(nulls) => {
                let null: BooleanBuffer = !nulls.inner();
                arrow_select::nullif::nullif(&child, &BooleanArray::new(null, None))?
            }
        };
    }
    Ok(column)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow_buffer::NullBuffer;
    use iceberg::spec::{NestedField, PrimitiveType, Schema, StructType};

    use super::*;
    use crate::schema::partition_spec::SpecText;

    fn batch() -> (SchemaRef, RecordBatch) {
        let system = StructType::new(vec![
            NestedField::optional(2, "ts", Type::Primitive(PrimitiveType::Timestamptz)).into(),
        ]);
        let schema = Schema::builder()
            .with_fields(vec![
                NestedField::optional(1, "floe", Type::Struct(system)).into(),
                NestedField::optional(3, "region", Type::Primitive(PrimitiveType::String)).into(),
                NestedField::optional(4, "n", Type::Primitive(PrimitiveType::Long)).into(),
            ])
            .build()
            .unwrap();
        let arrow = Arc::new(iceberg::arrow::schema_to_arrow_schema(&schema).unwrap());
        let hour = 3_600_000_000;
        let times = TimestampMicrosecondArray::from(vec![0, hour, 1, hour + 5, 2, 0])
            .with_timezone("+00:00");
        let arrow_schema::DataType::Struct(inner) = arrow.field(0).data_type() else { panic!() };
        // The last row's time is masked by its struct.
        let nulls = NullBuffer::from(vec![true, true, true, true, true, false]);
        let system = StructArray::new(inner.clone(), vec![Arc::new(times)], Some(nulls));
        let regions =
            StringArray::from(vec![Some("b"), Some("a"), Some("b"), Some("a"), None, Some("b")]);
        let numbers = Int64Array::from_iter_values(0..6);
        let columns: Vec<ArrayRef> = vec![Arc::new(system), Arc::new(regions), Arc::new(numbers)];
        (Arc::new(schema), RecordBatch::try_new(arrow, columns).unwrap())
    }

    fn split(spec: &str, max: usize) -> Result<Vec<(Struct, Vec<i64>)>, Error> {
        let (schema, batch) = batch();
        let spec = SpecText::parse(spec).unwrap().bind(&schema).unwrap();
        let spec = Arc::new(spec.bind(schema.clone()).unwrap());
        let parts = Splitter::new(schema, spec, max)?.split(&batch)?;
        let rows =
            |batch: &RecordBatch| batch.column(2).as_primitive::<Int64Type>().values().to_vec();
        Ok(parts.iter().map(|(value, part)| (value.clone(), rows(part))).collect())
    }

    #[test]
    fn rows_keep_their_order_within_a_value() {
        let parts = split("region, hour(floe.ts)", 4).unwrap();
        let value = |region: Option<&str>, hour: Option<i32>| {
            Struct::from_iter([region.map(Literal::string), hour.map(Literal::int)])
        };
        assert_eq!(
            parts,
            [
                (value(Some("b"), Some(0)), vec![0, 2]),
                (value(Some("a"), Some(1)), vec![1, 3]),
                (value(None, Some(0)), vec![4]),
                (value(Some("b"), None), vec![5]),
            ]
        );
        assert!(matches!(
            split("region, hour(floe.ts)", 3),
            Err(Error::TooManyPartitions { found: 4, max: 3 })
        ));
    }

    #[test]
    fn hours_of_times_before_1970_round_down() {
        let function = create_transform_function(&iceberg::spec::Transform::Hour).unwrap();
        let hour = 3_600_000_000_i64;
        let times = [-1, -hour, -hour - 1, hour - 1];
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00");
        let hours = function.transform(Arc::new(times)).unwrap();
        let hours = hours.as_primitive::<arrow_array::types::Int32Type>().values().to_vec();
        assert_eq!(hours, [-1, -1, -2, 0]);
    }

    #[test]
    fn one_value_keeps_the_batch_whole() {
        assert_eq!(split("", 1).unwrap(), [(Struct::empty(), vec![0, 1, 2, 3, 4, 5])]);
        assert_eq!(split("void(region)", 1).unwrap().len(), 1);
        assert_eq!(split("bucket(n, 1), truncate(region, 8)", 9).unwrap().len(), 3);
    }
}
