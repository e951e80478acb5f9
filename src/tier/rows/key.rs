//! The primary key of a sink's table: which columns it has, the keys of rows as bytes, and which of
//! several rows of one key stays.
//!
//! Owns: when two rows have one key. Does not own: which columns a user marks (`sink`), the file
//! that deletes older rows (`files`).

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::ArrayRef;
use arrow_array::ArrowPrimitiveType;
use arrow_array::BooleanArray;
use arrow_array::FixedSizeBinaryArray;
use arrow_array::LargeBinaryArray;
use arrow_array::RecordBatch;
use arrow_array::StringArray;
use arrow_array::cast::AsArray;
use arrow_array::types::Date32Type;
use arrow_array::types::Decimal128Type;
use arrow_array::types::Int32Type;
use arrow_array::types::Int64Type;
use arrow_array::types::Time64MicrosecondType;
use arrow_array::types::TimestampMicrosecondType;
use arrow_schema::DataType;
use arrow_select::filter::filter_record_batch;
use iceberg::spec::FormatVersion;
use iceberg::spec::Schema;
use iceberg::spec::SchemaRef;
use iceberg::spec::TableMetadata;

use crate::tier::rows::RowsError;

/// The primary key of one table, by its schema.
#[derive(Debug)]
pub struct Key {
    /// Places of its columns among the columns of the table, in the table's order.
    places: Vec<usize>,
    ids: Vec<i32>,
    schema: SchemaRef,
    spec_id: i32,
}

/// Why a table cannot have the primary key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Its user took a column away, or gave it another name.
    #[error(
        "column {0:?} of the primary key is not in the table (any more): give it its name back, or \
         make another sink"
    )]
    Missing(String),
    /// Older versions have no delete files.
    #[error("a table with a primary key needs format version 2, it has {0}")]
    Format(FormatVersion),
    /// Delete files that count in all partitions belong to a spec without partitions.
    #[error(
        "the table has no unpartitioned spec any more, and without one rows of a primary key cannot \
         be deleted in all partitions"
    )]
    Spec,
    /// A defect.
    #[error("the schema of the primary key: {0}")]
    Schema(String),
}

impl Key {
    /// The key of the columns `names` of a table; none without columns.
    ///
    /// # Errors
    /// [`KeyError`]: the table is not as it was made.
    pub fn new<'n>(
        names: impl Iterator<Item = &'n str>,
        metadata: &TableMetadata,
    ) -> Result<Option<Self>, KeyError> {
        let fields = metadata.current_schema().as_struct().fields();
        let mut places = Vec::new();
        for name in names {
            let place = fields.iter().position(|field| field.name == name);
            places.push(place.ok_or_else(|| KeyError::Missing(name.to_owned()))?);
        }
        if places.is_empty() {
            return Ok(None);
        }
        if metadata.format_version() == FormatVersion::V1 {
            return Err(KeyError::Format(FormatVersion::V1));
        }
        places.sort_unstable();
        let columns: Vec<_> = places.iter().map(|place| Arc::clone(&fields[*place])).collect();
        let ids = columns.iter().map(|field| field.id).collect();
        let schema = Schema::builder().with_fields(columns).build();
        let schema = schema.map_err(|error| KeyError::Schema(error.to_string()))?;
        let mut specs = metadata.partition_specs_iter();
        let spec = specs.find(|spec| spec.fields().is_empty()).ok_or(KeyError::Spec)?;
        Ok(Some(Self { places, ids, schema: Arc::new(schema), spec_id: spec.spec_id() }))
    }

    /// Field ids of its columns.
    pub fn ids(&self) -> &[i32] {
        &self.ids
    }

    /// The schema of its columns alone.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A partition spec without partitions: files of deletes that belong to it count for all rows of
    /// the table (Iceberg's spec, "Scan Planning").
    pub fn spec_id(&self) -> i32 {
        self.spec_id
    }

    /// Its columns of `batch`, whose columns are those of the table.
    ///
    /// # Errors
    /// [`RowsError::Arrow`], by a defect.
    pub fn columns(&self, batch: &RecordBatch) -> Result<RecordBatch, RowsError> {
        Ok(batch.project(&self.places)?)
    }

    /// The key of each row.
    ///
    /// # Errors
    /// [`RowsError::Type`] for a type that no key has.
    pub fn of(&self, batch: &RecordBatch) -> Result<Keys, RowsError> {
        let cells: Result<Vec<Cells<'_>>, RowsError> = self
            .places
            .iter()
            .map(|place| Cells::of(batch.schema_ref().field(*place).name(), batch.column(*place)))
            .collect();
        let cells = cells?;
        let mut keys = Keys { bytes: Vec::new(), ends: Vec::with_capacity(batch.num_rows()) };
        for row in 0..batch.num_rows() {
            cells.iter().for_each(|cells| cells.push(row, &mut keys.bytes));
            keys.ends.push(keys.bytes.len());
        }
        Ok(keys)
    }

    /// Of each key the last row of `batches`, which come in the order of their records; and how many
    /// rows were left out.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn newest(&self, batches: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, u64), RowsError> {
        let keys: Result<Vec<Keys>, RowsError> = batches.iter().map(|one| self.of(one)).collect();
        let keys = keys?;
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let mut seen = HashSet::with_capacity(rows);
        let mut kept = Vec::with_capacity(batches.len());
        let mut left_out = 0;
        for (batch, keys) in batches.into_iter().zip(&keys).rev() {
            let mut keep = vec![false; batch.num_rows()];
            for (row, keep) in keep.iter_mut().enumerate().rev() {
                *keep = seen.insert(keys.get(row));
            }
            left_out += keep.iter().filter(|keep| !**keep).count() as u64;
            kept.extend(some_rows(batch, keep)?);
        }
        kept.reverse();
        Ok((kept, left_out))
    }
}

/// The rows to `keep`; none if that is no row.
///
/// # Errors
/// [`RowsError::Arrow`], by a defect.
pub fn some_rows(batch: RecordBatch, keep: Vec<bool>) -> Result<Option<RecordBatch>, RowsError> {
    if !keep.contains(&false) {
        return Ok(Some(batch).filter(|batch| batch.num_rows() > 0));
    }
    if !keep.contains(&true) {
        return Ok(None);
    }
    Ok(Some(filter_record_batch(&batch, &BooleanArray::from(keep))?))
}

/// Keys of rows, as bytes that are the same for the same key and for no other.
#[derive(Debug)]
pub struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    /// The key of a row.
    pub fn get(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[row]]
    }
}

/// One column of a key. Widths are fixed or written in front, so that two columns cannot be taken
/// for others of the same bytes.
enum Cells<'a> {
    /// Values of so many bytes each.
    Fixed(&'a [u8], usize),
    Boolean(&'a BooleanArray),
    Uuid(&'a FixedSizeBinaryArray),
    Text(&'a StringArray),
    Binary(&'a LargeBinaryArray),
}

impl<'a> Cells<'a> {
    fn of(name: &str, array: &'a ArrayRef) -> Result<Self, RowsError> {
        Ok(match array.data_type() {
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Int32 => Self::fixed::<Int32Type>(array),
            DataType::Int64 => Self::fixed::<Int64Type>(array),
            DataType::Date32 => Self::fixed::<Date32Type>(array),
            DataType::Time64(_) => Self::fixed::<Time64MicrosecondType>(array),
            DataType::Timestamp(..) => Self::fixed::<TimestampMicrosecondType>(array),
            DataType::Decimal128(..) => Self::fixed::<Decimal128Type>(array),
            DataType::FixedSizeBinary(_) => Self::Uuid(array.as_fixed_size_binary()),
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::LargeBinary => Self::Binary(array.as_binary()),
            other => {
                return Err(RowsError::Type {
                    column: name.to_owned(),
                    found: other.to_string(),
                    ours: "a primary key".to_owned(),
                });
            }
        })
    }

    fn fixed<T: ArrowPrimitiveType>(array: &'a ArrayRef) -> Self {
        let values = array.as_primitive::<T>().values().inner();
        Self::Fixed(values.as_slice(), size_of::<T::Native>())
    }

    fn push(&self, row: usize, to: &mut Vec<u8>) {
        let mut sized = |value: &[u8]| {
            to.extend_from_slice(&(value.len() as u64).to_le_bytes());
            to.extend_from_slice(value);
        };
        match self {
            Self::Text(array) => sized(array.value(row).as_bytes()),
            Self::Binary(array) => sized(array.value(row)),
            Self::Boolean(array) => to.push(u8::from(array.value(row))),
            Self::Uuid(array) => to.extend_from_slice(array.value(row)),
            Self::Fixed(values, width) => {
                to.extend_from_slice(&values[row * width..(row + 1) * width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow_array::Decimal128Array;
    use arrow_array::Int32Array;
    use arrow_array::Int64Array;
    use arrow_array::TimestampMicrosecondArray;
    use arrow_schema::Field;
    use arrow_schema::Schema as ArrowSchema;
    use iceberg::spec::SortOrder;
    use iceberg::spec::TableMetadataBuilder;
    use iceberg::spec::UnboundPartitionSpec;
    use proptest::prelude::*;
    use serde_json::json;

    use crate::schema::partition_spec::SpecText;
    use crate::sink::Mapping;
    use crate::tier::rows::mapped;

    use super::*;

    fn mapping(columns: &[(&str, &str, bool)]) -> Mapping {
        let column = |(name, kind, key): &(&str, &str, bool)| json!({"type": "path", "name": name, "path": name, "dataType": kind, "primaryKey": key});
        let columns: Vec<_> = columns.iter().map(column).collect();
        Mapping::parse(&json!({ "columns": columns })).unwrap()
    }

    fn table(mapping: &Mapping, spec: &str, version: FormatVersion) -> TableMetadata {
        let schema = mapped::schema(mapping).unwrap();
        let spec = match spec {
            "" => UnboundPartitionSpec::default(),
            spec => SpecText::parse(spec).unwrap().bind(&schema).unwrap(),
        };
        let order = SortOrder::unsorted_order();
        let location = "memory://t".to_owned();
        let built =
            TableMetadataBuilder::new(schema, spec, order, location, version, HashMap::new());
        built.unwrap().build().unwrap().metadata
    }

    fn key(mapping: &Mapping, metadata: &TableMetadata) -> Result<Option<Key>, KeyError> {
        Key::new(mapping.primary_key().map(|column| column.name.as_str()), metadata)
    }

    #[test]
    fn a_key_is_that_of_the_tables_own_columns() {
        let two = mapping(&[("b", "string", true), ("n", "long", false), ("a", "int", true)]);
        let metadata = table(&two, "", FormatVersion::V2);
        let schema = metadata.current_schema();
        let found = key(&two, &metadata).unwrap().unwrap();
        let wanted = ["b", "a"].map(|name| schema.field_id_by_name(name).unwrap());
        assert_eq!(found.ids(), wanted);
        assert_eq!(schema.identifier_field_ids().len(), 2);
        assert!(schema.field_by_name("a").unwrap().required);
        assert!(!schema.field_by_name("n").unwrap().required);
        assert_eq!(found.schema().field_by_name("a").unwrap().id, wanted[1], "ids are the table's");
        let none = mapping(&[("b", "string", false)]);
        assert!(key(&none, &metadata).unwrap().is_none());
        let other = mapping(&[("c", "long", true)]);
        assert_eq!(key(&other, &metadata).unwrap_err(), KeyError::Missing("c".to_owned()));
        let old = table(&two, "", FormatVersion::V1);
        assert_eq!(key(&two, &old).unwrap_err(), KeyError::Format(FormatVersion::V1));
        let split = table(&two, "(a)", FormatVersion::V2);
        assert_eq!(
            key(&two, &split).unwrap_err(),
            KeyError::Spec,
            "no spec of it has no partition"
        );
    }

    #[test]
    fn keys_of_two_columns_are_told_apart() {
        let two = mapping(&[("a", "string", true), ("b", "string", true)]);
        let found = key(&two, &table(&two, "", FormatVersion::V2)).unwrap().unwrap();
        let key = Key { places: vec![0, 1], ..found };
        let columns = |rows: &[(&str, &str)]| {
            let a = StringArray::from_iter_values(rows.iter().map(|(a, _)| a));
            let b = StringArray::from_iter_values(rows.iter().map(|(_, b)| b));
            let fields = ["a", "b"].map(|name| Field::new(name, DataType::Utf8, false));
            let schema = Arc::new(ArrowSchema::new(fields.to_vec()));
            RecordBatch::try_new(schema, vec![Arc::new(a), Arc::new(b)]).unwrap()
        };
        let keys = key.of(&columns(&[("ab", "c"), ("a", "bc"), ("ab", "c")])).unwrap();
        assert_ne!(keys.get(0), keys.get(1));
        assert_eq!(keys.get(0), keys.get(2));
    }

    #[test]
    fn every_type_that_a_mapping_has_is_a_key_and_slices_are_their_own_rows() {
        let arrays: [ArrayRef; 9] = [
            Arc::new(BooleanArray::from(vec![true, false, true])),
            Arc::new(Int32Array::from(vec![1, 2, 1])),
            Arc::new(Int64Array::from(vec![1, 2, 1])),
            Arc::new(Decimal128Array::from(vec![1, 2, 1])),
            Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 1])),
            Arc::new(StringArray::from(vec!["x", "y", "x"])),
            Arc::new(LargeBinaryArray::from_vec(vec![b"x", b"", b"x"])),
            Arc::new(FixedSizeBinaryArray::from(vec![&[1_u8; 16], &[2; 16], &[1; 16]])),
            arrow_cast::cast(&Int32Array::from(vec![1, 2, 1]), &DataType::Date32).unwrap(),
        ];
        for array in arrays {
            let kind = array.data_type().clone();
            let schema = Arc::new(ArrowSchema::new(vec![Field::new("k", kind.clone(), false)]));
            let batch = RecordBatch::try_new(schema, vec![array]).unwrap();
            let one = mapping(&[("k", "long", true)]);
            let found = key(&one, &table(&one, "", FormatVersion::V2)).unwrap().unwrap();
            let key = Key { places: vec![0], ..found };
            let keys = key.of(&batch).unwrap();
            assert_ne!(keys.get(0), keys.get(1), "{kind}");
            assert_eq!(keys.get(0), keys.get(2), "{kind}");
            let sliced = key.of(&batch.slice(1, 2)).unwrap();
            assert_eq!((sliced.get(0), sliced.get(1)), (keys.get(1), keys.get(0)), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn the_last_row_of_each_key_stays_in_its_place(
            batches in prop::collection::vec(prop::collection::vec(0_i64..5, 0..8), 0..5),
        ) {
            let one = mapping(&[("k", "long", true)]);
            let found = key(&one, &table(&one, "", FormatVersion::V2)).unwrap().unwrap();
            let key = Key { places: vec![0], ..found };
            let schema = Arc::new(ArrowSchema::new(vec![
                Field::new("k", DataType::Int64, false),
                Field::new("at", DataType::Int64, false),
            ]));
            let all: Vec<i64> = batches.concat();
            let mut at = 0;
            let rows: Vec<RecordBatch> = batches.iter().map(|keys| {
                let places = Int64Array::from_iter_values(at..at + keys.len() as i64);
                at += keys.len() as i64;
                let keys = Int64Array::from(keys.clone());
                RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(keys), Arc::new(places)])
                    .unwrap()
            }).collect();
            let wanted: Vec<i64> = (0..all.len())
                .filter(|at| !all[at + 1..].contains(&all[*at]))
                .map(|at| at as i64)
                .collect();
            let (kept, left_out) = key.newest(rows).unwrap();
            let found: Vec<i64> = kept
                .iter()
                .flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec())
                .collect();
            prop_assert_eq!(left_out as usize, all.len() - wanted.len());
            prop_assert_eq!(found, wanted);
        }
    }
}
