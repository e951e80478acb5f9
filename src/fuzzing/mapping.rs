//! Mappings of sinks: what users write, and events that come to them.

use serde_json::Value;
use uuid::Uuid;

use crate::fuzzing::steer;
use crate::sink::mapping::infer::infer;
use crate::sink::mapping::{Column, Event, Header, Kind, Mapping};

/// The first byte picks the content type; the first line is a mapping, the others are bodies.
/// Templates that need the interpreter are left out: it is not ours, and has threads of its own.
///
/// # Panics
/// If a property does not hold.
pub fn mapping(data: &[u8]) {
    let (first, rest) = steer(data);
    let media: &[u8] = match first % 4 {
        0 => b"application/json",
        1 => b"application/x-www-form-urlencoded",
        2 => b"Application/X+JSON; charset=utf-8",
        _ => rest,
    };
    let headers: &[Header<'_>] = &[(b"content-type", Some(media)), (rest, None)];
    let mut lines = rest.split(|byte| *byte == b'\n');
    let json = lines.next().and_then(|line| serde_json::from_slice::<Value>(line).ok());
    let events: Vec<Event<'_>> = lines
        .take(24)
        .map(|body| Event { id: Uuid::nil(), received_ms: 1, ip: None, headers, body })
        .collect();
    if let Ok(proposal) = infer(&events) {
        let proposed = Mapping::new(proposal.columns).expect("what is proposed is a mapping");
        let rows = rows(&proposed, &events);
        assert_eq!(rows, events.len(), "a sample is no row of its proposal");
    }
    let Some(json) = json.filter(|json| !json.to_string().contains("\"template\"")) else { return };
    match Mapping::parse(&json) {
        Ok(mapping) => {
            let again = Mapping::parse(&mapping.to_json()).expect("what is written is read");
            assert_eq!(again.columns(), mapping.columns());
            assert_eq!(again.schema(), mapping.schema());
            let found = rows(&mapping, &events);
            let whole = [Kind::Path, Kind::Body];
            let needs_nothing = |column: &Column| {
                let is_known = column.kind != Kind::Ip || !column.primary_key;
                is_known && !whole.contains(&column.kind)
            };
            if mapping.columns().iter().all(needs_nothing) {
                assert_eq!(found, events.len(), "a row was lost that needs no body");
            }
        }
        Err(faults) => assert!(!faults.0.is_empty()),
    }
}

/// How many events are rows; what the others leave is nothing.
fn rows(mapping: &Mapping, events: &[Event<'_>]) -> usize {
    let mut mapper = mapping.compile();
    for event in events {
        let before = mapper.rows();
        let appended = mapper.append(event);
        assert_eq!(mapper.rows(), before + usize::from(appended.is_ok()));
        if let Err(error) = appended {
            assert!(mapping.names().any(|name| name == error.column));
            assert!(error.bad_record().message.len() <= 1_000);
        }
    }
    let rows = mapper.rows();
    let columns = mapper.finish().expect("cells of the columns' types");
    assert!(columns.iter().all(|(_, array)| array.len() == rows));
    for event in events {
        let before = mapper.rows();
        let appended = mapper.append_lossy(event);
        assert_eq!(mapper.rows(), before + usize::from(appended.is_ok()));
        if let Err(error) = appended {
            let mut key = mapping.primary_key();
            assert!(key.any(|column| column.name == error.column), "with nulls it is a row");
        }
    }
    rows
}
