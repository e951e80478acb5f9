//! The partition spec as text: `(region, hour(floe.timestamp), bucket(16, id))`.
//!
//! Owns: the grammar, which takes the spellings of the common brokers and engines, and its
//! binding to a schema. Does not own: the split of rows ([`crate::schema::split`]).
//!
//! ```text
//! spec      = "" | list | "(" list ")" | "[" list "]"
//! list      = term { "," term }
//! term      = column | transform "(" arguments ")"
//! transform = identity | void | year[s] | month[s] | day[s] | hour[s]     with (column)
//!           | bucket | truncate                              with (column, n) or (n, column)
//! column    = name { "." name }, or quoted whole with `"` or "`"
//! ```

use std::collections::HashSet;
use std::fmt;

use iceberg::spec::{Schema, Transform, Type, UnboundPartitionField, UnboundPartitionSpec};

/// Longest text of a spec, in bytes.
pub const TEXT_LEN_MAX: usize = 4_096;

/// Most terms of a spec.
pub const TERMS_MAX: usize = 32;

/// A text that is no partition spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found} at character {at}: expected {expected}")]
pub struct ParseError {
    /// The token found, quoted, or `end of text`.
    pub found: String,
    /// Its position in characters, counted from 1.
    pub at: usize,
    /// What would have been right.
    pub expected: String,
}

/// Why a spec does not go with a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The column is not there, but may come with later records.
    #[error("the table has no column {column:?} yet")]
    Pending {
        /// Full name as written.
        column: String,
    },
    /// It can never work with this schema.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    transform: Transform,
    column: String,
}

/// A partition spec that is not bound to a schema; its display is canonical.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecText {
    terms: Vec<Term>,
}

/// Checks the text of a spec.
///
/// # Errors
/// The text names the token and its position.
pub fn check(text: &str) -> Result<(), String> {
    SpecText::parse(text).map(drop).map_err(|error| error.to_string())
}

impl SpecText {
    /// Parses a spec; blank is unpartitioned.
    ///
    /// # Errors
    /// [`ParseError`] names the token and its position.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > TEXT_LEN_MAX {
            let expected = format!("at most {TEXT_LEN_MAX} bytes");
            return Err(ParseError { found: "text".to_owned(), at: TEXT_LEN_MAX, expected });
        }
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, at: 0, end: text.chars().count() + 1 };
        let close = match parser.peek() {
            Some(Kind::Open('(')) => Some(')'),
            Some(Kind::Open(_)) => Some(']'),
            _ => None,
        };
        parser.at += usize::from(close.is_some());
        let empty = match parser.peek() {
            None => close.is_none(),
            Some(token) => close.is_some_and(|close| *token == Kind::Close(close)),
        };
        let terms = if empty { Vec::new() } else { parser.terms()? };
        if let Some(close) = close {
            parser.need(&Kind::Close(close), &format!("`,` or `{close}`"))?;
        }
        if parser.at < tokens.len() {
            return Err(parser.expected(if close.is_some() {
                "the end"
            } else {
                "`,` or the end"
            }));
        }
        Ok(Self { terms })
    }

    /// True if there is no term.
    pub fn is_unpartitioned(&self) -> bool {
        self.terms.is_empty()
    }

    /// Binds column names to the field ids of `schema`. Names match exactly, or else ignoring
    /// case.
    ///
    /// # Errors
    /// [`BindError::Pending`] if a column is not there, [`BindError::Invalid`] if a transform
    /// does not take its type or the column is within a list or map.
    pub fn bind(&self, schema: &Schema) -> Result<UnboundPartitionSpec, BindError> {
        let mut names = HashSet::new();
        let mut fields = Vec::with_capacity(self.terms.len());
        for term in &self.terms {
            let field = schema
                .field_by_name(&term.column)
                .or_else(|| schema.field_by_name_case_insensitive(&term.column))
                .ok_or_else(|| BindError::Pending { column: term.column.clone() })?;
            let refuse = |why: &str| BindError::Invalid(format!("{term}: {why}"));
            if !matches!(&*field.field_type, Type::Primitive(_)) {
                return Err(refuse("the column is not of a primitive type"));
            }
            if schema.accessor_by_field_id(field.id).is_none() {
                return Err(refuse("the column is within a list or map"));
            }
            if term.transform.result_type(&field.field_type).is_err() {
                let why = format!("the transform does not take the type {}", field.field_type);
                return Err(refuse(&why));
            }
            let path = schema.name_by_field_id(field.id).unwrap_or(&term.column);
            fields.push(UnboundPartitionField {
                source_id: field.id,
                field_id: None,
                name: field_name(schema, &mut names, term.transform, path),
                transform: term.transform,
            });
        }
        let builder = UnboundPartitionSpec::builder().add_partition_fields(fields);
        let spec = builder.map_err(|error| BindError::Invalid(error.to_string()))?.build();
        let bound = spec.clone().bind(schema.clone());
        bound.map_err(|error| BindError::Invalid(error.to_string()))?;
        Ok(spec)
    }
}

/// The names that Iceberg's Java library gives, with dots as underscores; never the name of
/// another column (Iceberg spec, "Partitioning").
fn field_name(
    schema: &Schema,
    names: &mut HashSet<String>,
    transform: Transform,
    path: &str,
) -> String {
    let suffix = match transform {
        Transform::Identity if !path.contains('.') => {
            names.insert(path.to_owned());
            return path.to_owned();
        }
        Transform::Year => "_year",
        Transform::Month => "_month",
        Transform::Day => "_day",
        Transform::Hour => "_hour",
        Transform::Bucket(_) => "_bucket",
        Transform::Truncate(_) => "_trunc",
        Transform::Void => "_null",
        _ => "",
    };
    let mut name = format!("{}{suffix}", path.replace('.', "_"));
    while schema.field_by_name_case_insensitive(&name).is_some() || names.contains(&name) {
        name.push_str("_part");
    }
    names.insert(name.clone());
    name
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |char: char| is_word(char) && char != '"' && char != '`';
        // A number would be taken for the size of a bucket.
        let digits = self.column.bytes().all(|byte| byte.is_ascii_digit());
        let quote = match !digits && self.column.chars().all(plain) {
            true => "",
            false if self.column.contains('`') => "\"",
            false => "`",
        };
        let column = &self.column;
        match self.transform {
            Transform::Identity => write!(f, "{quote}{column}{quote}"),
            Transform::Bucket(n) => write!(f, "bucket({quote}{column}{quote}, {n})"),
            Transform::Truncate(n) => write!(f, "truncate({quote}{column}{quote}, {n})"),
            transform => write!(f, "{transform}({quote}{column}{quote})"),
        }
    }
}

impl fmt::Display for SpecText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms: Vec<String> = self.terms.iter().map(Term::to_string).collect();
        write!(f, "({})", terms.join(", "))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Open(char),
    Close(char),
    Comma,
    Word(String),
    Quoted(String),
}

/// A token with its position in characters, counted from 1.
type Token = (Kind, usize);

fn is_word(char: char) -> bool {
    !char.is_whitespace() && !char.is_control() && !"()[],\"`'".contains(char)
}

fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().zip(1..).peekable();
    while let Some((char, at)) = chars.next() {
        let kind = match char {
            '(' | '[' => Kind::Open(char),
            ')' | ']' => Kind::Close(char),
            ',' => Kind::Comma,
            '"' | '`' => {
                let name: String =
                    chars.by_ref().map(|(next, _)| next).take_while(|next| *next != char).collect();
                Kind::Quoted(name)
            }
            _ if char.is_whitespace() => continue,
            _ if is_word(char) => {
                let mut word = String::from(char);
                while let Some((next, _)) = chars.next_if(|(next, _)| is_word(*next)) {
                    word.push(next);
                }
                Kind::Word(word)
            }
            _ => {
                let expected = "a column or transform".to_owned();
                return Err(ParseError { found: format!("{char:?}"), at, expected });
            }
        };
        tokens.push((kind, at));
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    end: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|(kind, _)| kind)
    }

    fn expected(&self, expected: &str) -> ParseError {
        let (found, at) = match self.tokens.get(self.at) {
            None => ("end of text".to_owned(), self.end),
            Some((kind, at)) => {
                let text = match kind {
                    Kind::Open(char) | Kind::Close(char) => char.to_string(),
                    Kind::Comma => ",".to_owned(),
                    Kind::Word(word) | Kind::Quoted(word) => word.chars().take(64).collect(),
                };
                (format!("`{text}`"), *at)
            }
        };
        ParseError { found, at, expected: expected.to_owned() }
    }

    fn take(&mut self, kind: &Kind) -> bool {
        let found = self.peek() == Some(kind);
        self.at += usize::from(found);
        found
    }

    fn need(&mut self, kind: &Kind, expected: &str) -> Result<(), ParseError> {
        if self.take(kind) { Ok(()) } else { Err(self.expected(expected)) }
    }

    fn terms(&mut self) -> Result<Vec<Term>, ParseError> {
        let mut terms = Vec::new();
        loop {
            let start = self.at;
            let term = self.term()?;
            if terms.contains(&term) || terms.len() == TERMS_MAX {
                self.at = start;
                return Err(self.expected(&format!("at most {TERMS_MAX} different terms")));
            }
            terms.push(term);
            if !self.take(&Kind::Comma) {
                return Ok(terms);
            }
        }
    }

    fn term(&mut self) -> Result<Term, ParseError> {
        let start = self.at;
        let expected = "a column or transform";
        let call = self.tokens.get(self.at + 1).is_some_and(|(kind, _)| *kind == Kind::Open('('));
        if !call {
            let column = self.column(expected)?;
            return Ok(Term { transform: Transform::Identity, column });
        }
        let Some(Kind::Word(word)) = self.peek() else {
            return Err(self.expected(expected));
        };
        let name = word.to_lowercase();
        self.at += 2;
        let simple = match name.as_str() {
            "identity" => Some(Transform::Identity),
            "void" => Some(Transform::Void),
            "year" | "years" => Some(Transform::Year),
            "month" | "months" => Some(Transform::Month),
            "day" | "days" | "date" => Some(Transform::Day),
            "hour" | "hours" | "date_hour" => Some(Transform::Hour),
            "bucket" | "truncate" => None,
            _ => {
                self.at = start;
                let all = "identity, void, year, month, day, hour, bucket or truncate";
                return Err(self.expected(all));
            }
        };
        let term = match simple {
            Some(transform) => Term { transform, column: self.column("a column")? },
            None => self.sized(name == "bucket")?,
        };
        self.need(&Kind::Close(')'), "`)`")?;
        Ok(term)
    }

    /// The arguments of bucket and truncate, in either order.
    fn sized(&mut self, bucket: bool) -> Result<Term, ParseError> {
        let make = |size: u32, column| {
            let transform =
                if bucket { Transform::Bucket(size) } else { Transform::Truncate(size) };
            Term { transform, column }
        };
        let number_first = matches!(self.peek(), Some(Kind::Word(word))
            if word.bytes().all(|byte| byte.is_ascii_digit()));
        if number_first {
            let size = self.size()?;
            self.need(&Kind::Comma, "`,`")?;
            return Ok(make(size, self.column("a column")?));
        }
        let column = self.column("a column")?;
        self.need(&Kind::Comma, "`,`")?;
        Ok(make(self.size()?, column))
    }

    fn size(&mut self) -> Result<u32, ParseError> {
        if let Some(Kind::Word(word)) = self.peek()
            && let Ok(size @ 1..=0x7fff_ffff) = word.parse::<u32>()
        {
            self.at += 1;
            return Ok(size);
        }
        Err(self.expected("a number from 1 to 2147483647"))
    }

    fn column(&mut self, expected: &str) -> Result<String, ParseError> {
        let column = match self.peek() {
            Some(Kind::Word(word) | Kind::Quoted(word)) if !word.is_empty() => word.clone(),
            _ => return Err(self.expected(expected)),
        };
        self.at += 1;
        Ok(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceberg::spec::{ListType, NestedField, PrimitiveType, StructType};

    #[test]
    fn a_column_whose_name_is_a_number_is_not_taken_for_a_size() {
        let spec = SpecText::parse("bucket(16, 1), truncate(`2`, 3), 4").unwrap();
        assert_eq!(spec.to_string(), "(bucket(`1`, 16), truncate(`2`, 3), `4`)");
        assert_eq!(SpecText::parse(&spec.to_string()), Ok(spec));
    }

    #[test]
    fn every_spelling_is_one_spec() {
        let canonical = "(a, hour(b.c), bucket(id, 16), day(ts), truncate(c, 4))";
        for text in [
            canonical,
            "[a, hours(b.c), bucket(16, id), DAYS( ts ), truncate(4,c)]",
            "identity(a),hour(b.c) , bucket(id,16),day(ts),truncate(c,4)",
            " ( `a`, hour(\"b.c\"), bucket(id,16), day(ts), truncate(c, 4) ) ",
        ] {
            assert_eq!(SpecText::parse(text).unwrap().to_string(), canonical, "{text}");
        }
        for text in ["", "  ", "()", "[ ]"] {
            assert!(SpecText::parse(text).unwrap().is_unpartitioned(), "{text:?}");
        }
        assert_eq!(
            SpecText::parse("`odd name`, void(x)").unwrap().to_string(),
            "(`odd name`, void(x))"
        );
    }

    #[test]
    fn errors_name_token_and_position() {
        for (text, message) in [
            (
                "(a, hourly(ts))",
                "`hourly` at character 5: expected identity, void, year, month, day, hour, bucket or truncate",
            ),
            ("a b", "`b` at character 3: expected `,` or the end"),
            ("(a", "end of text at character 3: expected `,` or `)`"),
            ("(a]", "`]` at character 3: expected `,` or `)`"),
            ("a,", "end of text at character 3: expected a column or transform"),
            ("(a) b", "`b` at character 5: expected the end"),
            ("bucket(id)", "`)` at character 10: expected `,`"),
            ("bucket(id, x)", "`x` at character 12: expected a number from 1 to 2147483647"),
            ("bucket(0, id)", "`0` at character 8: expected a number from 1 to 2147483647"),
            ("hour(a, b)", "`,` at character 7: expected `)`"),
            ("a, a", "`a` at character 4: expected at most 32 different terms"),
            ("é, 'x'", "'\\'' at character 4: expected a column or transform"),
        ] {
            assert_eq!(check(text), Err(message.to_owned()), "{text}");
        }
        assert!(check(&"a".repeat(5_000)).is_err());
    }

    fn schema() -> Schema {
        let primitive = Type::Primitive;
        let system = StructType::new(vec![
            NestedField::optional(2, "timestamp", primitive(PrimitiveType::Timestamptz)).into(),
        ]);
        let element = NestedField::list_element(7, primitive(PrimitiveType::Long), false);
        Schema::builder()
            .with_fields(vec![
                NestedField::optional(1, "floe", Type::Struct(system)).into(),
                NestedField::optional(3, "Region", primitive(PrimitiveType::String)).into(),
                NestedField::optional(4, "amount", primitive(PrimitiveType::Double)).into(),
                NestedField::optional(5, "Region_bucket", primitive(PrimitiveType::Long)).into(),
                NestedField::optional(6, "tags", Type::List(ListType::new(element.into()))).into(),
            ])
            .build()
            .unwrap()
    }

    #[test]
    fn binding_finds_columns_and_checks_types() {
        let bind = |text: &str| SpecText::parse(text).unwrap().bind(&schema());
        let spec = bind("region, hour(floe.timestamp), bucket(8, Region)").unwrap();
        let fields: Vec<_> =
            spec.fields().iter().map(|field| (field.source_id, field.name.as_str())).collect();
        assert_eq!(fields, [(3, "Region"), (2, "floe_timestamp_hour"), (3, "Region_bucket_part")]);
        assert_eq!(bind("x"), Err(BindError::Pending { column: "x".to_owned() }));
        for (text, part) in [
            ("hour(region)", "hour(region): the transform does not take the type string"),
            ("floe", "not of a primitive type"),
            ("tags.element", "within a list"),
            ("bucket(amount, 4)", "does not take the type double"),
        ] {
            let error = bind(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        assert!(matches!(
            bind("hour(floe.timestamp), day(floe.timestamp)"),
            Err(BindError::Invalid(_))
        ));
    }
}
