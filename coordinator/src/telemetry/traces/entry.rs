//! PURE. The places of an entry's commands in their traces, as the entry carries them.
//!
//! They stand in the *context* of Raft's entry, beside its data: so they travel and lie in the log
//! with it, and neither the machine nor the hash chain over the log, which see the data alone, can
//! know of them. An entry of which nothing is sampled has an empty context.
//!
//! Layout: a version byte, the proposer's Raft id, then for each sampled command its position in
//! the batch, the trace and the span; numbers little-endian.
//!
//! Invariant: what can't be read is no places. A trace must never decide whether an entry applies.

use otlp::{Context, SpanId, TraceId};
use xxhash_rust::xxh3::xxh3_64;

/// The first byte of the present layout.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8;
const PLACE_BYTES: usize = 2 + 16 + 8;
/// Commands of one entry whose places travel; the spans of others end with their proposal.
pub const MAX_PLACES: usize = 256;

/// The places of one entry's commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Raft id of the node that proposed the entry.
    pub proposer: u64,
    /// (position in the batch, place) by position.
    list: Vec<(u16, Context)>,
}

impl Places {
    /// Adds the place of the command at this position, behind those that are there.
    pub fn push(&mut self, position: usize, place: Context) {
        if self.list.len() < MAX_PLACES
            && let Ok(position) = u16::try_from(position)
        {
            self.list.push((position, place));
        }
    }

    /// True where nothing of the entry is sampled.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The place of the command at this position.
    pub fn at(&self, position: usize) -> Option<Context> {
        let found = self.list.binary_search_by_key(&position, |(at, _)| usize::from(*at)).ok()?;
        self.list.get(found).map(|(_, place)| *place)
    }

    /// Every place.
    pub fn iter(&self) -> impl Iterator<Item = Context> {
        self.list.iter().map(|(_, place)| *place)
    }

    /// The context of the entry; empty, and nothing allocated, where there are no places.
    pub fn encode(&self, proposer: u64) -> Vec<u8> {
        if self.list.is_empty() {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.list.len() * PLACE_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&proposer.to_le_bytes());
        for (position, place) in &self.list {
            bytes.extend_from_slice(&position.to_le_bytes());
            bytes.extend_from_slice(&place.trace.to_bytes());
            bytes.extend_from_slice(&place.span.to_bytes());
        }
        bytes
    }

    /// Reads an entry's context.
    pub fn decode(context: &[u8]) -> Places {
        Places::read(context).unwrap_or_default()
    }

    fn read(context: &[u8]) -> Option<Places> {
        let (head, rest) = context.split_at_checked(HEAD_BYTES)?;
        let (version, proposer) = head.split_first()?;
        if *version != VERSION || rest.len() % PLACE_BYTES != 0 || rest.len() / PLACE_BYTES > MAX_PLACES {
            return None;
        }
        let proposer = u64::from_le_bytes(proposer.try_into().ok()?);
        let mut list: Vec<(u16, Context)> = Vec::with_capacity(rest.len() / PLACE_BYTES);
        for place in rest.chunks_exact(PLACE_BYTES) {
            let position = u16::from_le_bytes(place[..2].try_into().ok()?);
            let trace = TraceId::from_bytes(place[2..18].try_into().ok()?);
            let span = SpanId::from_bytes(place[18..].try_into().ok()?);
            if list.last().is_some_and(|(last, _)| *last >= position) {
                return None;
            }
            list.push((position, Context { trace, span }));
        }
        Some(Places { proposer, list })
    }
}

/// The id of the span in which the proposer sends an entry to a peer: both know it, so that the
/// peer's spans hang on it without a word more on the wire.
pub fn replicate_id(proposal: SpanId, peer: u64) -> SpanId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&proposal.to_bytes());
    bytes[8..].copy_from_slice(&peer.to_le_bytes());
    SpanId::from(xxh3_64(&bytes).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(number: u64) -> Context {
        Context { trace: TraceId::from(u128::from(number) << 70 | 5), span: SpanId::from(number) }
    }

    #[test]
    fn nothing_sampled_is_no_byte() {
        let none = Places::default();
        assert!(none.is_empty() && none.encode(7).is_empty());
        assert_eq!(Places::decode(&[]), none);
    }

    #[test]
    fn places_are_read_as_they_were_written() {
        let mut places = Places::default();
        places.push(0, place(1));
        places.push(9, place(2));
        let bytes = places.encode(0x0102_0304_0506_0708);
        assert_eq!(bytes.len(), HEAD_BYTES + 2 * PLACE_BYTES);
        let read = Places::decode(&bytes);
        assert_eq!(read.proposer, 0x0102_0304_0506_0708);
        assert_eq!((read.at(0), read.at(1), read.at(9)), (Some(place(1)), None, Some(place(2))));
        assert_eq!(read.iter().count(), 2);
    }

    #[test]
    fn an_entry_carries_so_many_and_no_more() {
        let mut places = Places::default();
        (0..2 * MAX_PLACES).for_each(|position| places.push(position, place(1)));
        assert_eq!(Places::decode(&places.encode(1)).iter().count(), MAX_PLACES);
    }

    #[test]
    fn both_ends_of_a_connection_know_the_span_of_it() {
        let proposal = SpanId::from(5);
        assert_eq!(replicate_id(proposal, 2), replicate_id(proposal, 2));
        assert_ne!(replicate_id(proposal, 2), replicate_id(proposal, 3));
        assert_ne!(replicate_id(proposal, 2), replicate_id(SpanId::from(6), 2));
    }

    proptest! {
        #[test]
        fn no_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Places::decode(&bytes);
        }

        #[test]
        fn a_damaged_context_is_read_or_not_and_that_is_all(at in 0usize..61, value: u8) {
            let mut places = Places::default();
            places.push(3, place(1));
            places.push(4, place(2));
            let mut bytes = places.encode(9);
            bytes[at] = value;
            let _ = Places::decode(&bytes);
        }
    }
}
