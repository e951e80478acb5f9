//! What is said of one topic option: key, values it takes, default, effect, doc.
//!
//! Owns: these types. Does not own: the options (`option_table`).

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A plain 32-bit number within bounds, inclusive.
    Int(i64, i64),
    /// A plain 64-bit number within bounds, inclusive.
    Long(i64, i64),
    /// A decimal number within bounds, inclusive.
    Double(f64, f64),
    /// Milliseconds, or a number with a unit (`30s`, `5m`), within bounds, inclusive.
    Duration(i64, i64),
    /// Bytes, or a number with a unit (`64MiB`), within bounds, inclusive; -1 where it says so.
    Size(i64, i64),
    /// A plain count within bounds, inclusive.
    Count(i64, i64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Comma-separated items, each one of these words.
    List(&'static [&'static str]),
    /// Comma-separated `partition:broker` pairs, or `*`.
    Replicas,
    /// Free text.
    Text,
    /// Names of a namespace joined by dots.
    Namespace,
    /// A table name, or empty for the one made from the topic name.
    TableName,
    /// A partition spec in the table's own grammar.
    PartitionSpec,
    /// A path in a JSON object such as `$.id`, or empty.
    JsonPath,
    /// A path in a JSON object such as `$.id`, the name of a record header, or empty.
    KeyField,
    /// Comma-separated `name=$.path` pairs: record headers and where their values are.
    HeaderFields,
    /// Comma-separated origins (`https://a.example`), or `*`.
    Origins,
}

/// Whether an option changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does what Kafka's, or our, documentation says.
    Active,
    /// It is checked and kept, but changes nothing, for this reason.
    None(&'static str),
}

/// One option of a topic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptionDef {
    /// Canonical key. Ours are accepted under `floe.` too.
    pub key: &'static str,
    /// Values it takes.
    pub kind: Kind,
    /// Value when nobody sets it.
    pub default: &'static str,
    /// Whether it changes anything.
    pub effect: Effect,
    /// What it does, for people.
    pub doc: &'static str,
}

impl OptionDef {
    /// True for an option that Kafka does not have.
    pub fn is_ours(&self) -> bool {
        self.key.starts_with("table.") || self.key.starts_with("topic.")
    }

    /// True for an option that is listed only where it is set.
    pub fn is_hidden(&self) -> bool {
        self.key.starts_with("redpanda.")
    }
}

/// A row of the table of options.
pub(crate) const fn row(
    key: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
    doc: &'static str,
) -> OptionDef {
    OptionDef { key, kind, default, effect, doc }
}
