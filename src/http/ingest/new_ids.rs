//! Ids that events are stored with (rules 7.2). Pure but for the clock and random numbers.

use uuid::Uuid;

use crate::runtime::ids::uuid_v7;

/// New ids of the events of one request: UUIDs of version 7 with the time of the first, one more than
/// the other in their random part. A thousand of them take one look at the clock and one random
/// number; in order they stand as the events do.
pub(super) struct NewIds(u128);

/// The highest random bit of a UUID of version 7. The first id does not have it, so that a count does not
/// run over into the bits above.
const ROOM: u128 = 1 << 61;

impl NewIds {
    pub(super) fn new() -> Self {
        Self(uuid_v7().as_u128() & !ROOM)
    }

    fn next(&mut self) -> Uuid {
        let id = Uuid::from_u128(self.0);
        self.0 += 1;
        id
    }

    /// The text of the next one.
    pub(super) fn take(&mut self) -> [u8; 36] {
        let mut text = [0; 36];
        self.next().hyphenated().encode_lower(&mut text);
        text
    }
}

/// The id that an event is stored with.
pub(super) enum EventId {
    New([u8; 36]),
    Own(String),
}

impl EventId {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::New(text) => text,
            Self::Own(text) => text.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_are_of_version_7_and_in_order() {
        let mut ids = NewIds::new();
        let made: Vec<Uuid> = (0..1000).map(|_| ids.next()).collect();
        assert!(made.is_sorted() && made.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(made.iter().all(|id| id.get_version_num() == 7));
        let mut last = NewIds(Uuid::max().as_u128() & !(0x8 << 76) & !(1 << 62) & !ROOM);
        let (first, next) = (last.next(), last.next());
        assert_eq!(first.as_u128() >> 62, next.as_u128() >> 62, "the variant stays");
    }
}
