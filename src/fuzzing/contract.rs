//! JSON for a table whose schema is the contract: at the door and in tiering.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::Schema as ArrowSchema;

use crate::fuzzing::schema::typed_schema;
use crate::fuzzing::steer;
use crate::schema::columns::{Mode, Options, Plan};
use crate::schema::json::contract::{Checker, Decoder, IGNORED_NAMES_MAX, Rules, Unit};

/// The first byte picks the rules; the rest are records, one a line.
///
/// # Panics
/// If a property does not hold.
pub fn contract_decoder(data: &[u8]) {
    let (first, rest) = steer(data);
    let bit = |place: u8| first >> place & 1 == 1;
    let units = [Unit::Seconds, Unit::Millis, Unit::Micros, Unit::Nanos];
    let unit = units[usize::from(first >> 2 & 3)];
    let rules = Rules { fold_case: bit(0), lenient: bit(1), unit };
    let options = Options { mode: Mode::Contract, ..Options::default() };
    let plan = Arc::new(Plan::new(&typed_schema(), options).expect("the schema has Arrow types"));
    let mut checker = Checker::new(Arc::clone(&plan), rules);
    let mut decoder = Decoder::new(Arc::clone(&plan), rules);
    let mut rows = 0;
    for record in rest.split(|byte| *byte == b'\n').take(24) {
        let decoded = decoder.push(Some(record));
        if let Ok(text) = std::str::from_utf8(record) {
            assert_eq!(checker.check(text), decoded, "door and table differ");
        }
        match decoded {
            Ok(()) => rows += 1,
            Err(misfit) => {
                let bad = misfit.bad_record();
                assert!(bad.message.len() < 1_024 && bad.field_path.len() <= 1_024);
                // Where it must be a row all the same, a row or nothing comes of it.
                rows += usize::from(decoder.push_lossy(Some(record)).is_ok());
            }
        }
    }
    assert!(checker.ignored().names.len() <= IGNORED_NAMES_MAX);
    let arrow = Arc::new(ArrowSchema::new(plan.fields().to_vec()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let arrays = decoder.flush().expect("cells of the columns' types");
    RecordBatch::try_new_with_options(arrow, arrays, &options)
        .expect("arrays of the table's types");
}
