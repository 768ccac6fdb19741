//! How commands speak: tables and JSON on standard output, remarks on standard error.

use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// A line on standard output. A reader that has gone away is no fault of ours.
pub fn out(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line on standard error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// One JSON document on standard output.
pub fn json<T: Serialize + ?Sized>(document: &T) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => out(&text),
        Err(error) => say(&format!("coordinator: the answer can't be printed as JSON: {error}")),
    }
}

/// A table on standard output.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| visible(&cell)));
    }
    out(&table.trim_fmt());
}

/// `-` for what is not there.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

/// `1h 2m`, `3m 4s`, `5.6s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1 warning`, `2 warnings`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The text with control characters made visible, so that what a task printed can't move the
/// cursor or set the title of an operator's terminal. Line feeds and tabs stay.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (ms, text) in [(5_600, "5.6s"), (184_000, "3m 4s"), (3_725_000, "1h 2m")] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn escape_sequences_are_shown_not_sent() {
        assert_eq!(visible("a\x1b[31m\tb\n"), "a\\u{1b}[31m\tb\n");
    }
}
