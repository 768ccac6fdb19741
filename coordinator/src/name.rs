//! PURE. What may stand in a name: ids of tasks, workers and leases, types, labels, resources.
//!
//! Names are compared byte by byte, printed in terminals and pages, and written into paths and
//! logs. So what nobody sees, what turns a line round, and what a URL takes for "here" or "one up"
//! is no name. Everything else is, in any script.

/// What is wrong with a character in a name.
fn unfit(c: char) -> Option<&'static str> {
    match c {
        c if c.is_control() => Some("a control character"),
        '\u{2028}' | '\u{2029}' => Some("a line separator"),
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            Some("a character that changes the direction of text")
        }
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => {
            Some("an invisible character")
        }
        '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => {
            Some("an invisible character")
        }
        c if (c as u32) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&c) => {
            Some("what is no character of Unicode")
        }
        _ => None,
    }
}

/// What keeps `value` from being a name of at most `most_bytes` bytes.
pub fn fault(value: &str, most_bytes: usize) -> Option<String> {
    if value.is_empty() {
        return Some("must not be empty".to_owned());
    }
    if matches!(value, "." | "..") {
        return Some("must not be `.` or `..`, which a path takes for something else".to_owned());
    }
    if value.trim() != value {
        return Some("must not begin or end with white space".to_owned());
    }
    fault_of_text(value, most_bytes)
}

/// What keeps `value` from being a text beside a name (a label's value), which may be empty.
pub fn fault_of_text(value: &str, most_bytes: usize) -> Option<String> {
    if value.len() > most_bytes {
        return Some(format!("has {} bytes; at most {most_bytes} are allowed", value.len()));
    }
    let (place, c, why) = value.char_indices().find_map(|(place, c)| Some((place, c, unfit(c)?)))?;
    Some(format!("must not have {why} (U+{:04X} at byte {place})", c as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_script_are_names() {
        for name in
            ["a", "tests/unit/test_a.py::test_b[x y]", "größe", "试验-1", "اختبار", "a=b,c", "...", "🦀"]
        {
            assert_eq!(fault(name, 256), None, "{name}");
        }
    }

    #[test]
    fn what_nobody_sees_or_a_path_swallows_is_none() {
        for (name, why) in [
            ("", "empty"),
            (".", "path"),
            ("..", "path"),
            (" a", "white space"),
            ("a\u{3000}", "white space"),
            ("a\0b", "a control character (U+0000 at byte 1)"),
            ("a\nb", "control"),
            ("a\u{7f}", "control"),
            ("a\u{85}b", "control"),
            ("a\u{2028}b", "line separator"),
            ("a\u{202e}b", "direction of text (U+202E at byte 1)"),
            ("\u{2066}a", "direction"),
            ("a\u{200b}b", "invisible"),
            ("\u{feff}a", "invisible"),
            ("a\u{e0041}", "invisible"),
            ("a\u{fffe}", "no character"),
            ("a\u{1ffff}", "no character"),
        ] {
            let said = fault(name, 256).unwrap_or_else(|| panic!("{name:?} is taken"));
            assert!(said.contains(why), "{name:?}: {said}");
        }
        assert!(fault(&"é".repeat(129), 256).unwrap().contains("has 258 bytes; at most 256"));
    }

    #[test]
    fn a_value_may_be_empty_and_have_spaces() {
        assert_eq!(fault_of_text("", 9), None);
        assert_eq!(fault_of_text(" a ", 9), None);
        assert!(fault_of_text("a\u{202e}", 9).is_some());
    }
}
