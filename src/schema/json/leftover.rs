//! What a record has and no column takes, until its row is complete.
//!
//! Owns: the list of leftovers with their places, and their text in `_rest`: a JSON object with
//! the values, names and duplicates verbatim. A field left over within a known struct stands
//! within an object of that name; within a list, nulls keep the position. Does not own: where a
//! leftover could go instead ([`super::infer`]).

use std::ops::Range;

use crate::schema::evolve::SiblingKind;
use crate::schema::json::lexer::Text;

/// A place within the container around it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// Range of the member name in the record, quotes included.
    Key(u32, u32),
    /// Position in an array.
    Index(u32),
}

impl From<Text> for Place {
    fn from(key: Text) -> Self {
        let range = key.quoted();
        Self::Key(range.start as u32, range.end as u32)
    }
}

/// A column that would have taken the value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    /// None could.
    Nothing,
    /// A new field of the struct with that number.
    Field { ordinal: u32 },
    /// A sibling of the column at `place` in that struct.
    Sibling { ordinal: u32, place: u32, kind: SiblingKind },
}

/// One step through the leftovers of a record. Positions fit 32 bits: a record is below 1 GiB.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A known container opens.
    Open { place: Place, array: bool },
    /// A value is left over.
    Leaf { place: Place, value: Range<u32>, wish: Wish },
    /// The container closes.
    Close,
}

/// A leaf from a range of the record.
pub(super) fn leaf(place: Place, value: &Range<usize>, wish: Wish) -> Event {
    Event::Leaf { place, value: value.start as u32..value.end as u32, wish }
}

/// Appends the text of `_rest` to `out`; `record` is what the ranges of `events` refer to.
pub(super) fn render(events: &[Event], record: &[u8], out: &mut Vec<u8>) {
    let slice = |range: &Range<u32>| &record[range.start as usize..range.end as usize];
    // One entry per open container: its closing bracket and its next position.
    let mut open: Vec<(u8, u32)> = vec![(b'}', 0)];
    out.push(b'{');
    for event in events {
        if let Event::Open { place, .. } | Event::Leaf { place, .. } = event
            && let Some((_, next)) = open.last_mut()
        {
            begin(*place, next, record, out);
        }
        match event {
            Event::Open { array, .. } => {
                out.push(if *array { b'[' } else { b'{' });
                open.push((if *array { b']' } else { b'}' }, 0));
            }
            Event::Leaf { value, .. } => out.extend_from_slice(slice(value)),
            Event::Close => out.extend(open.pop().map(|(bracket, _)| bracket)),
        }
    }
    out.push(b'}');
}

fn begin(place: Place, next: &mut u32, record: &[u8], out: &mut Vec<u8>) {
    match place {
        Place::Key(start, end) => {
            if *next > 0 {
                out.push(b',');
            }
            *next += 1;
            out.extend_from_slice(&record[start as usize..end as usize]);
            out.push(b':');
        }
        Place::Index(index) => {
            while *next <= index {
                if *next > 0 {
                    out.push(b',');
                }
                if *next < index {
                    out.extend_from_slice(b"null");
                }
                *next += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_keep_their_place() {
        let record = br#"{"a":1,"l":[{},{},{"x":2},{"x":3}],"a":[ 4 ]}"#;
        let at = |text: &str, from: usize| {
            let start = record[from..].windows(text.len()).position(|w| w == text.as_bytes());
            let start = start.unwrap() + from;
            start as u32..(start + text.len()) as u32
        };
        let key = |text: &str, from: usize| {
            let range = at(text, from);
            Place::Key(range.start, range.end)
        };
        let leaf = |place, value| Event::Leaf { place, value, wish: Wish::Nothing };
        let events = [
            leaf(key("\"a\"", 0), at("1", 0)),
            Event::Open { place: key("\"l\"", 0), array: true },
            Event::Open { place: Place::Index(2), array: false },
            leaf(key("\"x\"", 0), at("2", 0)),
            Event::Close,
            Event::Close,
            leaf(key("\"a\"", 10), at("[ 4 ]", 0)),
        ];
        let mut out = Vec::new();
        render(&events, record, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":1,"l":[null,null,{"x":2}],"a":[ 4 ]}"#);
    }
}
