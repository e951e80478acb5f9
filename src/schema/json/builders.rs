//! Growing Arrow columns that can be cut back to any earlier length: a value that turns out not
//! to fit, or a row that turns out not to be JSON, leaves no cell behind.
//!
//! Owns: cells and their validity. Does not own: what a cell means. A column may be shorter than
//! the rows so far; it is filled up with nulls when the next value comes or at the end, so that
//! a row costs nothing for the columns it lacks.

use std::sync::Arc;

use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, FixedSizeBinaryArray, LargeBinaryArray, ListArray,
    MapArray, PrimitiveArray, StringArray, StructArray, new_null_array,
};
use arrow_buffer::{
    BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer,
};
use arrow_schema::{ArrowError, DataType, FieldRef};

use crate::schema::columns::{Kind, Shape, Slot};

/// No place is expected.
const NOWHERE: u32 = u32::MAX;

/// The cells of one column.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) data: Data,
    nulls: NullBufferBuilder,
}

/// Values by physical type; in step with the validity except where noted.
#[derive(Debug)]
pub(super) enum Data {
    Boolean(BooleanBufferBuilder),
    /// int and date
    I32(Vec<i32>),
    /// long, time, timestamps
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I128(Vec<i128>),
    Uuid(Vec<u8>),
    /// Values of so many bytes each.
    Fixed(Vec<u8>, usize),
    Utf8(Strings<i32>),
    Binary(Strings<i64>),
    /// Children may be shorter than the struct.
    Struct(Fields),
    List(Vec<i32>, Box<Column>),
    Map(Vec<i32>, Strings<i32>, Box<Column>),
    /// Only nulls.
    Opaque,
}

/// Bytes and their ends.
#[derive(Debug)]
pub(super) struct Strings<O> {
    ends: Vec<O>,
    pub(super) bytes: Vec<u8>,
}

impl<O: Copy + TryFrom<usize> + TryInto<usize> + Default> Strings<O> {
    fn new() -> Self {
        Self { ends: vec![O::default()], bytes: Vec::new() }
    }

    /// Ends the string at what was appended to `bytes`. The decoder keeps the sum of all input
    /// far below what an offset can hold.
    pub(super) fn end(&mut self) {
        let end = O::try_from(self.bytes.len()).ok();
        self.ends.push(end.expect("the decoder bounds the bytes of a batch"));
    }

    pub(super) fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.end();
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.ends.truncate(len + 1);
        let end = self.ends.last().and_then(|end| (*end).try_into().ok());
        self.bytes.truncate(end.unwrap_or(0));
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    pub(super) fn get(&self, at: usize) -> &[u8] {
        let bound = |at: usize| self.ends[at].try_into().unwrap_or(0);
        &self.bytes[bound(at)..bound(at + 1)]
    }

    fn take(&mut self) -> (Vec<O>, Vec<u8>) {
        let mut ends = Vec::with_capacity(self.ends.len());
        ends.push(O::default());
        (std::mem::replace(&mut self.ends, ends), renew(&mut self.bytes))
    }
}

/// Takes all items; there is room for as many again, for one block of rows is much like the next.
fn renew<T>(items: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(items.len());
    std::mem::replace(items, room)
}

/// The columns of a struct and the order in which its fields usually come.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) columns: Vec<Column>,
    /// The place that usually follows each place; the last entry is for the start.
    next: Vec<u32>,
}

impl Fields {
    pub(super) fn new(shape: &Shape) -> Self {
        Self {
            columns: shape.slots.iter().map(Column::new).collect(),
            next: vec![NOWHERE; shape.slots.len() + 1],
        }
    }

    /// Where a record starts.
    pub(super) fn start(&self) -> usize {
        self.columns.len()
    }

    /// The column that usually comes after the place `previous`, with its place.
    #[inline]
    pub(super) fn expected<'s>(
        &self,
        shape: &'s Shape,
        previous: usize,
    ) -> Option<(u32, &'s Slot)> {
        let place = self.next[previous];
        Some((place, shape.slots.get(place as usize)?))
    }

    /// The place of the column named `name`, which comes after the place `previous`.
    #[inline]
    pub(super) fn find(&mut self, shape: &Shape, previous: usize, name: &[u8]) -> Option<u32> {
        if let Some((place, slot)) = self.expected(shape, previous)
            && slot.name.as_bytes() == name
        {
            return Some(place);
        }
        let found = shape.exact(name)?;
        self.next[previous] = found;
        Some(found)
    }

    pub(super) fn truncate(&mut self, len: usize) {
        for column in &mut self.columns {
            column.truncate(len);
        }
    }

    /// Takes the cells as arrays of `len` rows.
    pub(super) fn finish(
        &mut self,
        fields: &[FieldRef],
        len: usize,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let columns = self.columns.iter_mut().zip(fields);
        columns.map(|(column, field)| column.finish(field, len)).collect()
    }
}

impl Column {
    pub(super) fn new(slot: &Slot) -> Self {
        let data = match &slot.kind {
            Kind::Boolean => Data::Boolean(BooleanBufferBuilder::new(0)),
            Kind::Int | Kind::Date => Data::I32(Vec::new()),
            Kind::Long | Kind::Time | Kind::Timestamp { .. } => Data::I64(Vec::new()),
            Kind::Float => Data::F32(Vec::new()),
            Kind::Double => Data::F64(Vec::new()),
            Kind::Decimal { .. } => Data::I128(Vec::new()),
            Kind::Uuid => Data::Uuid(Vec::new()),
            Kind::Fixed(width) => Data::Fixed(Vec::new(), usize::from(*width)),
            Kind::String => Data::Utf8(Strings::new()),
            Kind::Binary => Data::Binary(Strings::new()),
            Kind::Struct(shape) => Data::Struct(Fields::new(shape)),
            Kind::List(element) => Data::List(vec![0], Box::new(Self::new(element))),
            Kind::Map(value) => Data::Map(vec![0], Strings::new(), Box::new(Self::new(value))),
            Kind::Opaque => Data::Opaque,
        };
        Self { data, nulls: NullBufferBuilder::new(0) }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Counts the cell that was appended to `data`.
    #[inline]
    pub(super) fn set_valid(&mut self) {
        self.nulls.append_non_null();
    }

    /// Appends nulls up to `len` rows.
    #[inline]
    pub(super) fn fill(&mut self, len: usize) {
        if self.len() < len {
            self.push_nulls(len - self.len());
        }
    }

    pub(super) fn push_nulls(&mut self, count: usize) {
        match &mut self.data {
            Data::Boolean(values) => values.append_n(count, false),
            Data::I32(values) => values.resize(values.len() + count, 0),
            Data::I64(values) => values.resize(values.len() + count, 0),
            Data::F32(values) => values.resize(values.len() + count, 0.0),
            Data::F64(values) => values.resize(values.len() + count, 0.0),
            Data::I128(values) => values.resize(values.len() + count, 0),
            Data::Uuid(values) => values.resize(values.len() + 16 * count, 0),
            Data::Fixed(values, width) => values.resize(values.len() + *width * count, 0),
            Data::Utf8(values) => repeat_last(&mut values.ends, count),
            Data::Binary(values) => repeat_last(&mut values.ends, count),
            Data::List(ends, _) | Data::Map(ends, _, _) => repeat_last(ends, count),
            Data::Struct(_) | Data::Opaque => {}
        }
        self.nulls.append_n_nulls(count);
    }

    /// Cuts back to `len` cells; also drops what an unfinished cell has appended.
    pub(super) fn truncate(&mut self, len: usize) {
        match &mut self.data {
            Data::Boolean(values) => values.truncate(len),
            Data::I32(values) => values.truncate(len),
            Data::I64(values) => values.truncate(len),
            Data::F32(values) => values.truncate(len),
            Data::F64(values) => values.truncate(len),
            Data::I128(values) => values.truncate(len),
            Data::Uuid(values) => values.truncate(16 * len),
            Data::Fixed(values, width) => values.truncate(*width * len),
            Data::Utf8(values) => values.truncate(len),
            Data::Binary(values) => values.truncate(len),
            Data::Struct(fields) => fields.truncate(len),
            Data::List(ends, child) => {
                ends.truncate(len + 1);
                child.truncate(last(ends));
            }
            Data::Map(ends, keys, child) => {
                ends.truncate(len + 1);
                keys.truncate(last(ends));
                child.truncate(last(ends));
            }
            Data::Opaque => {}
        }
        self.nulls.truncate(len);
    }

    /// Takes the cells as an array of `len` rows and leaves the column empty.
    pub(super) fn finish(&mut self, field: &FieldRef, len: usize) -> Result<ArrayRef, ArrowError> {
        self.fill(len);
        let nulls = self.nulls.finish();
        let kind = field.data_type();
        Ok(match &mut self.data {
            Data::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Data::I32(values) if *kind == DataType::Date32 => {
                primitive::<Date32Type>(values, nulls, kind)
            }
            Data::I32(values) => primitive::<Int32Type>(values, nulls, kind),
            Data::I64(values) => match kind {
                DataType::Time64(_) => primitive::<Time64MicrosecondType>(values, nulls, kind),
                DataType::Timestamp(..) => {
                    primitive::<TimestampMicrosecondType>(values, nulls, kind)
                }
                _ => primitive::<Int64Type>(values, nulls, kind),
            },
            Data::F32(values) => primitive::<Float32Type>(values, nulls, kind),
            Data::F64(values) => primitive::<Float64Type>(values, nulls, kind),
            Data::I128(values) => primitive::<Decimal128Type>(values, nulls, kind),
            Data::Uuid(values) => {
                let bytes = Buffer::from_vec(renew(values));
                Arc::new(FixedSizeBinaryArray::try_new(16, bytes, nulls)?)
            }
            Data::Fixed(values, width) => {
                let bytes = Buffer::from_vec(renew(values));
                let width = i32::try_from(*width).map_err(|_| mismatch(kind))?;
                Arc::new(FixedSizeBinaryArray::try_new(width, bytes, nulls)?)
            }
            Data::Utf8(values) => {
                let (ends, bytes) = values.take();
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                Arc::new(StringArray::try_new(ends, Buffer::from_vec(bytes), nulls)?)
            }
            Data::Binary(values) => {
                let (ends, bytes) = values.take();
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                Arc::new(LargeBinaryArray::try_new(ends, Buffer::from_vec(bytes), nulls)?)
            }
            Data::Opaque => new_null_array(kind, len),
            Data::Struct(_) | Data::List(..) | Data::Map(..) => {
                return self.finish_nested(kind, nulls, len);
            }
        })
    }

    fn finish_nested(
        &mut self,
        kind: &DataType,
        nulls: Option<NullBuffer>,
        len: usize,
    ) -> Result<ArrayRef, ArrowError> {
        match (&mut self.data, kind) {
            (Data::Struct(fields), DataType::Struct(names)) => {
                let arrays = fields.finish(names, len)?;
                Ok(Arc::new(StructArray::try_new_with_length(names.clone(), arrays, nulls, len)?))
            }
            (Data::List(ends, child), DataType::List(element)) => {
                let items = child.finish(element, last(ends))?;
                let ends = offsets(ends);
                Ok(Arc::new(ListArray::try_new(Arc::clone(element), ends, items, nulls)?))
            }
            (Data::Map(ends, keys, child), DataType::Map(entry, sorted)) => {
                let DataType::Struct(pair) = entry.data_type() else {
                    return Err(mismatch(kind));
                };
                let values = child.finish(&pair[1], last(ends))?;
                let (key_ends, bytes) = keys.take();
                let key_ends = OffsetBuffer::new(ScalarBuffer::from(key_ends));
                let keys = StringArray::try_new(key_ends, Buffer::from_vec(bytes), None)?;
                let pairs = vec![Arc::new(keys) as ArrayRef, values];
                let entries = StructArray::try_new(pair.clone(), pairs, None)?;
                let (entry, ends) = (Arc::clone(entry), offsets(ends));
                Ok(Arc::new(MapArray::try_new(entry, ends, entries, nulls, *sorted)?))
            }
            _ => Err(mismatch(kind)),
        }
    }
}

fn mismatch(kind: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("cells do not match the type {kind}"))
}

fn last(ends: &[i32]) -> usize {
    ends.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or(0)
}

fn repeat_last<O: Copy + Default>(ends: &mut Vec<O>, count: usize) {
    let last = ends.last().copied().unwrap_or_default();
    ends.resize(ends.len() + count, last);
}

fn offsets(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(ends, vec![0])))
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
    kind: &DataType,
) -> ArrayRef {
    let values = ScalarBuffer::from(renew(values));
    // The type carries what the values do not: precision and scale, the time zone.
    Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(kind.clone()))
}
