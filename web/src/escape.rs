//! How a value gets into a page: as text, and as text that shows what it is.
//!
//! Names, outputs and log lines come from strangers. Escaping markup keeps them from becoming part
//! of the page; it does not keep them from lying. A right-to-left override turns `txt.exe` round, a
//! zero-width space makes two names look alike, an escape code hides what follows in a terminal. So
//! characters that have no glyph of their own are written out.
//!
//! Invariant: this is the only way a value gets into a template (`askama.toml`).

use askama::filters::Escaper;
use std::fmt::{self, Write};

/// Escapes markup and makes the invisible visible.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Escaper for Plain {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        let mut plain_from = 0;
        for (at, c) in text.char_indices() {
            let Some(instead) = instead_of(c) else { continue };
            dest.write_str(&text[plain_from..at])?;
            match instead {
                Instead::Entity(entity) => dest.write_str(entity)?,
                Instead::Picture(picture) => dest.write_char(picture)?,
                Instead::Code => write!(dest, "⟨U+{:04X}⟩", u32::from(c))?,
            }
            plain_from = at + c.len_utf8();
        }
        dest.write_str(&text[plain_from..])
    }
}

enum Instead {
    Entity(&'static str),
    Picture(char),
    Code,
}

fn instead_of(c: char) -> Option<Instead> {
    Some(match c {
        '<' => Instead::Entity("&#60;"),
        '>' => Instead::Entity("&#62;"),
        '&' => Instead::Entity("&#38;"),
        '"' => Instead::Entity("&#34;"),
        '\'' => Instead::Entity("&#39;"),
        '\t' | '\n' | '\r' => return None,
        // U+2400 on are the pictures of the control characters.
        '\0'..='\u{1f}' => Instead::Picture(char::from_u32(0x2400 + u32::from(c))?),
        '\u{7f}' => Instead::Picture('\u{2421}'),
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' => {
            Instead::Code
        }
        '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => {
            Instead::Code
        }
        '\u{e0000}'..='\u{e007f}' => Instead::Code,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        let mut escaped = String::new();
        Plain.write_escaped_str(&mut escaped, text).unwrap();
        escaped
    }

    #[test]
    fn markup_becomes_text() {
        assert_eq!(plain("<a b=\"c\" d='e'>&amp;"), "&#60;a b=&#34;c&#34; d=&#39;e&#39;&#62;&#38;amp;");
    }

    #[test]
    fn what_does_not_show_is_shown() {
        assert_eq!(plain("a\u{202e}txt.exe"), "a⟨U+202E⟩txt.exe");
        assert_eq!(plain("\u{1b}[31mred\u{7}\0\u{7f}"), "␛[31mred␇␀␡");
        assert_eq!(plain("no\u{200b}de \u{2066}x\u{9b}"), "no⟨U+200B⟩de ⟨U+2066⟩x⟨U+009B⟩");
    }

    #[test]
    fn what_shows_stays() {
        let text = "plain, grüße, 你好, 🏳️‍🌈, עברית\n\ttabs";
        assert_eq!(plain(text), text);
        assert_eq!(plain(""), "");
    }
}
