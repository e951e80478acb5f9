//! What is told of a read that goes wrong.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::log::testing::{FakeDirectory, OPTIONS, P};
use crate::types::Lsn;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn corrupt_records_are_told_by_topic_and_partition() {
    let directory = FakeDirectory::default();
    directory.0.lock().insert(P, OPTIONS);
    let run = Run {
        partition: P,
        base_offset: 5,
        end_offset: 9,
        lsn: Lsn(96),
        disk_len: 128,
        max_timestamp: 0,
        append_ms: 0,
    };
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || tell_corrupt(&directory, &run, "crc"));
    let line = String::from_utf8(lines.0.lock().clone()).unwrap();
    let index = P.0;
    for word in [
        "topic=\"fake\"",
        &format!("partition={index}"),
        "from=5",
        "to=9",
        "lsn=96",
        "internal_id=",
    ] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
}
