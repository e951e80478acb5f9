//! Columns for events that are like some samples.
//!
//! Owns: which columns are proposed. Fields of objects become columns up to a depth, lists and what
//! is deeper become text. A proposed column is null where an event has no such field, so that every
//! sample is a row. Pure.

use std::collections::HashSet;

use serde_json::Map;
use serde_json::Value;

use crate::schema::columns::is_legal;
use crate::schema::json::contract::cells::is_date;
use crate::schema::json::contract::cells::is_timestamptz;
use crate::sink::mapping::COLUMNS_MAX;
use crate::sink::mapping::Column;
use crate::sink::mapping::Event;
use crate::sink::mapping::Kind;
use crate::sink::mapping::body;
use crate::sink::mapping::path::Path;

/// Most samples of one call.
pub const SAMPLES_MAX: usize = 1_000;

/// Names on the way to a value that becomes a column of its own.
const DEPTH_MAX: usize = 3;

/// Fields of one object that are looked at.
const MEMBERS_MAX: usize = 1_000;

/// Largest integer up to which doubles hold all.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// What is proposed.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Columns of a mapping: the event's id, its time, then fields in the order they were first seen.
    pub columns: Vec<Column>,
    /// Fields that have no column: there are too many, or no path leads to their names. `a.*` are
    /// those of an object with more than 1,000.
    pub left_out: Vec<String>,
}

/// A sample that says nothing about fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sample {}: {reason}", index + 1)]
pub struct InferError {
    /// Its place, counted from 0.
    pub index: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// What the values of a field have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Boolean,
    Long,
    Double,
    Timestamp,
    Date,
    /// Anything: it is kept as text.
    Text,
}

/// A field of the samples.
#[derive(Debug, Default)]
struct Field {
    form: Option<Form>,
    members: Vec<(String, Field)>,
    /// There are more of them.
    is_cut: bool,
}

/// Proposes columns for `samples`, at most [`SAMPLES_MAX`] of which are looked at.
///
/// # Errors
/// [`InferError`] for a body that is neither a JSON object nor a form.
pub fn infer(samples: &[Event<'_>]) -> Result<Proposal, InferError> {
    let mut root = Field::default();
    let mut proposal = Proposal { columns: Vec::new(), left_out: Vec::new() };
    for (index, sample) in samples.iter().take(SAMPLES_MAX).enumerate() {
        let failed = |reason: String| InferError { index, reason };
        let text = body::to_json(sample.headers, sample.body);
        let text = text.map_err(|error| failed(error.to_string()))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| failed(format!("the body is not JSON: {error}")))?;
        let members = value.as_object();
        let members = members.ok_or_else(|| failed("the body is not a JSON object".to_owned()))?;
        root.observe(members, 1);
    }
    let mut names = HashSet::new();
    root.propose(&mut Vec::new(), &mut names, &mut proposal);
    let mut first = Vec::new();
    for (kind, name) in [(Kind::Uuid, "id"), (Kind::Datetime, "received_at")] {
        let name = if names.contains(name) { format!("event_{name}") } else { name.to_owned() };
        first.push(Column::new(kind, unused(name, &mut names)));
    }
    proposal.columns.splice(..0, first);
    let beyond = proposal.columns.split_off(proposal.columns.len().min(COLUMNS_MAX));
    proposal.left_out.extend(beyond.into_iter().filter_map(|column| column.path));
    Ok(proposal)
}

impl Field {
    /// Notes the members of one object, which stand `depth` names deep.
    fn observe(&mut self, members: &Map<String, Value>, depth: usize) {
        for (name, value) in members {
            let known = self.members.iter().position(|(other, _)| other == name);
            let place = match known {
                Some(place) => place,
                None if self.members.len() >= MEMBERS_MAX => {
                    self.is_cut = true;
                    continue;
                }
                None => {
                    self.members.push((name.clone(), Self::default()));
                    self.members.len() - 1
                }
            };
            let field = &mut self.members[place].1;
            match value {
                Value::Object(inner) if depth < DEPTH_MAX && !inner.is_empty() => {
                    field.observe(inner, depth + 1);
                }
                value => field.form = join(field.form, form(value)),
            }
        }
    }

    fn propose(
        &self,
        path: &mut Vec<String>,
        names: &mut HashSet<String>,
        proposal: &mut Proposal,
    ) {
        for (name, field) in &self.members {
            path.push(name.clone());
            let full = path.join(".");
            let column = path.join("_");
            if !Path::is_one_name(name) || !is_legal(&column) || Path::parse(&full).is_err() {
                proposal.left_out.push(full);
            } else if field.form.is_none() && !field.members.is_empty() {
                field.propose(path, names, proposal);
            } else {
                // An object now and then is text, as all else is that has no one type.
                let is_mixed = !field.members.is_empty();
                let form = field.form.filter(|_| !is_mixed).unwrap_or(Form::Text);
                let column = Column::new(Kind::Path, unused(column, names));
                proposal.columns.push(Column {
                    path: Some(full),
                    default_value: Some(Value::Null),
                    data_type: Some(form.data_type().to_owned()),
                    ..column
                });
            }
            path.pop();
        }
        if self.is_cut {
            path.push("*".to_owned());
            proposal.left_out.push(path.join("."));
            path.pop();
        }
    }
}

impl Form {
    fn data_type(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Long => "long",
            Self::Double => "double",
            Self::Timestamp => "timestamptz",
            Self::Date => "date",
            Self::Text => "string",
        }
    }
}

/// The form of a value; null says nothing.
fn form(value: &Value) -> Option<Form> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(_) => Form::Boolean,
        Value::Number(number) if number.is_i64() => Form::Long,
        // Larger integers would be rounded.
        Value::Number(number) => match number.as_f64() {
            Some(value) if value.abs() < EXACT_MAX => Form::Double,
            _ => Form::Text,
        },
        Value::String(text) if is_timestamptz(text) => Form::Timestamp,
        Value::String(text) if is_date(text) => Form::Date,
        Value::String(_) | Value::Array(_) | Value::Object(_) => Form::Text,
    })
}

fn join(one: Option<Form>, other: Option<Form>) -> Option<Form> {
    match (one, other) {
        (Some(one), Some(other)) if one == other => Some(one),
        (Some(Form::Long), Some(Form::Double)) | (Some(Form::Double), Some(Form::Long)) => {
            Some(Form::Double)
        }
        (Some(_), Some(_)) => Some(Form::Text),
        (one, other) => one.or(other),
    }
}

/// The name, with a number if another column has it, ignoring case.
fn unused(name: String, names: &mut HashSet<String>) -> String {
    let mut found = name.clone();
    let mut number = 2;
    while !names.insert(found.to_lowercase()) {
        found = format!("{name}_{number}");
        number += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::sink::mapping::Mapping;

    fn event(body: &[u8]) -> Event<'_> {
        Event { id: Uuid::nil(), received_ms: 0, ip: None, headers: &[], body }
    }

    fn proposed(samples: &[Value]) -> Proposal {
        let texts: Vec<String> = samples.iter().map(ToString::to_string).collect();
        let events: Vec<Event<'_>> = texts.iter().map(|text| event(text.as_bytes())).collect();
        infer(&events).unwrap()
    }

    fn shown(proposal: &Proposal) -> Vec<String> {
        let shown = |column: &Column| {
            let path = column.path.as_deref().unwrap_or("-");
            let kind = column.data_type.as_deref().unwrap_or("-");
            format!("{} {path} {kind}", column.name)
        };
        proposal.columns.iter().map(shown).collect()
    }

    #[test]
    fn fields_become_columns_of_their_types() {
        let samples = [
            json!({"n": 1, "d": 1, "t": "2024-01-01T00:00:00Z", "day": "2024-01-01", "s": "a",
                "o": {"b": true, "l": [1], "p": {"q": {"r": 1}}}, "big": 9_300_000_000_000_000_000_u64}),
            json!({"n": null, "d": 1.5, "t": "2024-01-01T00:00:00.5+01:00", "s": 7, "x": {}}),
        ];
        assert_eq!(
            shown(&proposed(&samples)),
            [
                "id - -",
                "received_at - -",
                "n n long",
                "d d double",
                "t t timestamptz",
                "day day date",
                "s s string",
                "o_b o.b boolean",
                "o_l o.l string",
                "o_p_q o.p.q string",
                "big big string",
                "x x string",
            ]
        );
    }

    #[test]
    fn names_are_told_apart_and_what_has_no_path_is_left_out() {
        let sample = json!({
            "ID": "x", "id": 1, "a": {"b": 1}, "a_b": 2, "c.d": 1, "e[0]": 1, "": 1, "f\n": 1,
        });
        let proposal = proposed(&[sample]);
        assert_eq!(
            shown(&proposal),
            [
                "event_id - -",
                "received_at - -",
                "ID ID string",
                "id_2 id long",
                "a_b a.b long",
                "a_b_2 a_b long",
            ]
        );
        assert_eq!(proposal.left_out, ["c.d", "e[0]", "", "f\n"]);
        let many: Map<String, Value> = (0..200).map(|n| (format!("f{n}"), n.into())).collect();
        let proposal = proposed(&[Value::Object(many)]);
        assert_eq!((proposal.columns.len(), proposal.left_out.len()), (100, 102));
        assert_eq!(proposal.left_out[0], "f98");
        let more: Map<String, Value> = (0..1_001).map(|n| (format!("f{n}"), n.into())).collect();
        let proposal = proposed(&[json!({ "o": more })]);
        assert_eq!(proposal.left_out.len(), 1 + 1_000 - 98);
        assert_eq!(proposal.left_out[0], "o.*");
    }

    #[test]
    fn samples_must_be_objects() {
        let error = infer(&[event(b"{}"), event(b"[1]")]).unwrap_err();
        assert_eq!(error.to_string(), "sample 2: the body is not a JSON object");
        assert!(
            infer(&[event(b"{")]).unwrap_err().to_string().starts_with("sample 1: the body is not")
        );
        assert_eq!(shown(&infer(&[]).unwrap()), ["id - -", "received_at - -"]);
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop::sample::select(vec![
                "2024-01-01",
                "2024-01-01T00:00:00Z",
                "2024-01-01T23:59:60Z",
                "0000-01-01",
                "x",
            ])
            .prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                members(inner),
            ]
        });
        members(value)
    }

    fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        let name = prop::sample::select(vec!["a", "b", "A", "0", "a_b", "c.d", "id"]);
        prop::collection::vec((name, value), 0..5).prop_map(|members| {
            members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        })
    }

    proptest! {
        #[test]
        fn every_sample_is_a_row_of_the_proposal(samples in prop::collection::vec(object(), 0..6)) {
            let proposal = proposed(&samples);
            let mut mapper = Mapping::new(proposal.columns).unwrap().compile();
            for sample in &samples {
                let text = sample.to_string();
                prop_assert_eq!(mapper.append(&event(text.as_bytes())), Ok(()), "{}", text);
            }
        }
    }
}
