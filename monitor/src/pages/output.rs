//! PURE. Outputs as they are shown: without what a terminal would do, and cut where they are long.

use super::format::grouped;
use crate::report::bytes;
use web::listings::Output;

/// Bytes that are shown of the beginning, and of the end, unless all is asked for.
const SHOWN_BYTES: usize = 16 * 1024;
/// Lines that are shown of the beginning, and of the end.
const SHOWN_LINES: usize = 200;

/// A text without the escape sequences of terminals, and how many there were.
///
/// Colours and cursor movements say nothing on a page. What is no whole sequence stays, and the
/// page shows it as what it is.
fn without_sequences(text: &str) -> (String, usize) {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    let mut removed = 0;
    while let Some(at) = rest.find('\u{1b}') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        match sequence_bytes(rest.as_bytes()) {
            Some(length) => {
                removed += 1;
                rest = &rest[length..];
            }
            None => {
                plain.push('\u{1b}');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    (plain, removed)
}

/// The length of the escape sequence that begins `bytes`: `ESC [ … letter`, `ESC ] … BEL or ESC \`,
/// `ESC ( B` and such.
fn sequence_bytes(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'[' => {
            let end = bytes.iter().skip(2).take(64).position(|b| !(0x20..=0x3f).contains(b))? + 2;
            (0x40..=0x7e).contains(&bytes[end]).then_some(end + 1)
        }
        b']' => {
            let limit = bytes.len().min(512);
            let end = bytes[..limit].iter().position(|b| *b == 0x07)?;
            Some(end + 1)
        }
        b'(' | b')' => bytes.get(2).filter(|b| b.is_ascii_alphanumeric()).map(|_| 3),
        b'7' | b'8' | b'=' | b'>' | b'M' | b'c' => Some(2),
        _ => None,
    }
}

/// The end of the beginning that is shown: so many lines, so many bytes, no character cut.
fn head_end(text: &str) -> usize {
    let lines = text.match_indices('\n').nth(SHOWN_LINES - 1).map_or(text.len(), |(at, _)| at + 1);
    let mut end = lines.min(SHOWN_BYTES).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// The beginning of the end that is shown.
fn tail_start(text: &str) -> usize {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let lines = body.rmatch_indices('\n').nth(SHOWN_LINES - 1).map_or(0, |(at, _)| at + 1);
    let mut start = lines.max(text.len().saturating_sub(SHOWN_BYTES));
    while !text.is_char_boundary(start) {
        start += 1;
    }
    start
}

/// An output; `all_href` is where all of it is shown, none where it is now.
pub(super) fn output(name: &str, id: &str, text: &str, all_href: Option<&str>) -> Output {
    let (plain, removed) = without_sequences(text);
    let plain = plain.replace("\r\n", "\n").replace('\r', "\n");
    let (head, tail) = (head_end(&plain), tail_start(&plain));
    let cut = all_href.is_some() && head < tail;
    let lines = plain.lines().count();
    let mut note = match plain.len() {
        0 => "Empty.".to_owned(),
        length => {
            let noun = if lines == 1 { "line" } else { "lines" };
            format!("{} {noun}, {}.", grouped(lines as u64), bytes(length as u64))
        }
    };
    if removed > 0 {
        note.push_str(&format!(" {} escape sequences for terminals are left out.", grouped(removed as u64)));
    }
    Output {
        name: name.to_owned(),
        id: id.to_owned(),
        head: if cut { plain[..head].to_owned() } else { plain.clone() },
        gap: cut.then(|| format!("… {} are left out here …", bytes((tail - head) as u64))),
        tail: if cut { plain[tail..].to_owned() } else { String::new() },
        note,
        all: all_href.filter(|_| cut).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_titles_of_terminals_go() {
        let text = "\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}done\u{1b}(B\r\nnext\rover";
        let shown = output("Output", "o", text, Some("?all"));
        assert_eq!(shown.head, "red done\nnext\nover");
        assert!(shown.note.contains("4 escape sequences"), "{}", shown.note);
        assert_eq!(shown.gap, None);
    }

    #[test]
    fn what_is_no_sequence_stays() {
        for odd in ["\u{1b}", "\u{1b}[", "\u{1b}[31", "\u{1b}[3é", "\u{1b}]never ends", "\u{1b}é"] {
            assert_eq!(without_sequences(odd).0, odd);
        }
    }

    #[test]
    fn a_long_output_shows_both_ends() {
        let text: String = (0..100_000).map(|n| format!("line {n} é\n")).collect();
        let shown = output("Output", "o", &text, Some("?output=all"));
        assert!(shown.head.starts_with("line 0 é\n") && shown.tail.ends_with("line 99999 é\n"));
        assert!(shown.head.len() <= SHOWN_BYTES && shown.tail.lines().count() <= SHOWN_LINES);
        assert!(shown.gap.is_some() && shown.all.is_some());
        let all = output("Output", "o", &text, None);
        assert_eq!((all.head.len(), all.gap, all.all), (text.len(), None, None));
    }

    #[test]
    fn one_endless_line_is_cut_between_characters() {
        let text = "é".repeat(1 << 19);
        let shown = output("Output", "o", &text, Some("?output=all"));
        assert!(shown.head.len() <= SHOWN_BYTES && shown.tail.len() <= SHOWN_BYTES);
        assert_eq!(output("Output", "o", "", Some("")).note, "Empty.");
    }
}
