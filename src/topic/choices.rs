//! What options that name one of a few things choose. Which word means which is in `options`.

/// What happens at the pin limit (`table.pin.overflow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PinOverflow {
    /// Producers of this topic are refused with a retriable error.
    #[default]
    Block,
    /// The oldest records are given up as a recorded gap.
    DropOldest,
}

/// Where a value goes that does not fit its column (`table.type.conflict`, rules 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TypeConflict {
    /// To a typed sibling column.
    #[default]
    Suffix,
    /// To `_rest`.
    Rest,
    /// The row goes to the dead-letter table.
    Dlq,
}

/// What becomes of untiered rows of a deleted topic (`topic.delete.untiered`, rules 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeleteUntiered {
    /// They are still committed, within a bound.
    #[default]
    Drain,
    /// They are recorded drops.
    Discard,
}

/// What tells a request over HTTP from its repeats (`topic.idempotency`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idempotency {
    /// A key or a channel, where the sender gives one.
    #[default]
    Optional,
    /// Requests without one are refused.
    Required,
    /// Without one, its body.
    Body,
}

impl Idempotency {
    /// The one of that word.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word {
            "optional" => Some(Self::Optional),
            "required" => Some(Self::Required),
            "body" => Some(Self::Body),
            _ => None,
        }
    }
}
