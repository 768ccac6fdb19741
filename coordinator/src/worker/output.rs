//! PURE. Bounded capture of a stream: its first bytes and its last ones.
//!
//! A test that fails says why at the end, and what it set out to do at the beginning; the middle
//! is what can be spared. Half of the limit keeps the head, half the tail, and what fell between
//! them is counted. Memory is bounded by the limit whatever the child writes.

use std::collections::VecDeque;

/// Bytes of each stream that are kept when the task names no limit.
pub const DEFAULT_LIMIT_BYTES: usize = 1024 * 1024;
/// The highest limit a task may name; a higher one is lowered to this.
pub const MAX_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// The head and the tail of a stream.
#[derive(Debug)]
pub struct HeadTail {
    head: Vec<u8>,
    head_limit_bytes: usize,
    tail: VecDeque<u8>,
    tail_limit_bytes: usize,
    dropped_bytes: u64,
}

/// What is kept of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Head and tail, with a line between them that says how much is missing, if any is.
    pub text: String,
    /// Bytes that were dropped.
    pub dropped_bytes: u64,
}

impl HeadTail {
    /// Keeps at most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        let limit_bytes = limit_bytes.min(MAX_LIMIT_BYTES);
        let head_limit_bytes = limit_bytes / 2;
        HeadTail {
            head: Vec::new(),
            head_limit_bytes,
            tail: VecDeque::new(),
            tail_limit_bytes: limit_bytes - head_limit_bytes,
            dropped_bytes: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        let for_head = bytes.len().min(self.head_limit_bytes - self.head.len());
        self.head.extend_from_slice(&bytes[..for_head]);
        let rest = &bytes[for_head..];
        let kept = &rest[rest.len().saturating_sub(self.tail_limit_bytes)..];
        let overflow = (self.tail.len() + kept.len()).saturating_sub(self.tail_limit_bytes);
        self.tail.drain(..overflow);
        self.tail.extend(kept);
        self.dropped_bytes += (rest.len() - kept.len() + overflow) as u64;
    }

    /// What was kept, as text. Bytes that are not UTF-8 become U+FFFD; a character that the cut
    /// went through is dropped whole.
    pub fn keep(&self) -> Kept {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        if self.dropped_bytes == 0 {
            let whole = [self.head.as_slice(), tail.as_slice()].concat();
            return Kept { text: String::from_utf8_lossy(&whole).into_owned(), dropped_bytes: 0 };
        }
        let head = without_cut_end(&self.head);
        let tail = without_cut_start(&tail);
        let cut = (self.head.len() - head.len() + self.tail.len() - tail.len()) as u64;
        let dropped_bytes = self.dropped_bytes + cut;
        let text = format!(
            "{}\n[... {dropped_bytes} bytes left out ...]\n{}",
            String::from_utf8_lossy(head),
            String::from_utf8_lossy(tail)
        );
        Kept { text, dropped_bytes }
    }
}

/// `text` cut to at most `limit_bytes` of head and tail together; the count of what fell out.
pub fn shorten(text: &str, limit_bytes: usize) -> Kept {
    let mut kept = HeadTail::new(limit_bytes);
    kept.push(text.as_bytes());
    kept.keep()
}

/// The bytes without an incomplete character at their end.
fn without_cut_end(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needed = match bytes[at] {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return bytes,
        };
        return if needed > back { &bytes[..at] } else { bytes };
    }
    bytes
}

/// The bytes without the rest of a character at their start.
fn without_cut_start(bytes: &[u8]) -> &[u8] {
    let continuation = bytes.iter().take(3).take_while(|b| (0x80..=0xBF).contains(*b)).count();
    &bytes[continuation..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_is_kept_as_it_is() {
        let mut kept = HeadTail::new(10);
        kept.push(b"12345");
        kept.push(b"67890");
        assert_eq!(kept.keep(), Kept { text: "1234567890".into(), dropped_bytes: 0 });
    }

    #[test]
    fn head_and_tail_survive_and_the_middle_is_counted() {
        let mut kept = HeadTail::new(8);
        kept.push(b"head");
        kept.push(&[b'.'; 1000]);
        kept.push(b"tail");
        let kept = kept.keep();
        assert_eq!(kept.text, "head\n[... 1000 bytes left out ...]\ntail");
        assert_eq!(kept.dropped_bytes, 1000);
    }

    #[test]
    fn a_character_across_the_join_is_whole_and_one_in_the_cut_is_gone() {
        let mut whole = HeadTail::new(6);
        whole.push("aaäbb".as_bytes());
        assert_eq!(whole.keep().text, "aaäbb");

        let mut cut = HeadTail::new(6);
        cut.push("aaäxxxxäbb".as_bytes());
        let cut = cut.keep();
        assert_eq!(cut.text, "aa\n[... 8 bytes left out ...]\nbb");
        assert_eq!(cut.dropped_bytes, 8);
    }

    #[test]
    fn bytes_that_are_not_text_do_not_fail() {
        let mut kept = HeadTail::new(100);
        kept.push(b"a\xff\xfeb\0");
        assert_eq!(kept.keep().text, "a\u{fffd}\u{fffd}b\0");
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_every_byte_is_accounted_for(
            chunks in proptest::collection::vec(proptest::collection::vec(b' '..b'~', 0..40), 0..20),
            limit in 0usize..100,
        ) {
            let all = chunks.concat();
            let mut kept = HeadTail::new(limit);
            for chunk in &chunks {
                kept.push(chunk);
            }
            prop_assert!(kept.head.len() + kept.tail.len() <= limit);
            prop_assert_eq!(kept.head.len() + kept.tail.len() + kept.dropped_bytes as usize, all.len());
            prop_assert!(all.starts_with(&kept.head));
            let tail: Vec<u8> = kept.tail.iter().copied().collect();
            prop_assert!(all.ends_with(&tail));
        }
    }
}
