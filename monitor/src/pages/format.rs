//! PURE. Numbers and times as people read them.

use jiff::Timestamp;
use web::fragments::Moment;

/// `1,204,331`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0.42 ms`, `18 ms`, `1.2 s`.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if !ms.is_finite() || ms < 0.0 => "–".to_owned(),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1_000.0),
    }
}

/// `12.4 %`.
pub fn percent(value: f64) -> String {
    if value.is_finite() { format!("{value:.1} %") } else { "–".to_owned() }
}

/// `part` of `whole`, 0 to 100, at least 1 where there is something.
pub fn percent_of(part: u64, whole: u64) -> u8 {
    if part == 0 || whole == 0 {
        return 0;
    }
    ((part as f64 / whole as f64 * 100.0) as u8).clamp(1, 100)
}

/// A moment with its time of day, as seen from `now`; with its date where that is another day's.
pub fn moment(at: Timestamp, now: Timestamp) -> Moment {
    let day = |t: Timestamp| t.strftime("%m-%d").to_string();
    let time = at.strftime("%H:%M:%S").to_string();
    let text = if day(at) == day(now) { time } else { format!("{} {time}", day(at)) };
    Moment { iso: at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(), text }
}

/// The same to the millisecond.
pub fn exact_moment(at: Timestamp, now: Timestamp) -> Moment {
    let mut moment = moment(at, now);
    moment.text.push_str(&at.strftime(".%3f").to_string());
    moment
}

/// The same with a capital.
pub fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A name as one segment of a path.
pub fn escape_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte))
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// The fields that are not empty as the query of an address.
pub fn query(fields: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&escape_path(value));
    }
    query
}

/// The first characters of a hash.
pub fn short_hash(hash: &str) -> String {
    hash.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let groups = [0, 999, 1_000, 1_204_331].map(grouped);
        assert_eq!(groups, ["0", "999", "1,000", "1,204,331"]);
        assert_eq!([0.417, 18.4, 1_240.0, f64::NAN].map(milliseconds), ["0.42 ms", "18 ms", "1.2 s", "–"]);
        assert_eq!((percent_of(1, 1_000_000), percent_of(0, 5), percent_of(5, 5)), (1, 0, 100));
    }

    #[test]
    fn a_query_has_only_what_is_there() {
        assert_eq!(query(&[("a", ""), ("b", "x y&z"), ("c", "1")]), "?b=x%20y%26z&c=1");
        assert_eq!(query(&[("a", "")]), "");
        let at: Timestamp = "2026-11-22T10:00:00.5Z".parse().unwrap();
        assert_eq!(exact_moment(at, at).text, "10:00:00.500");
    }

    #[test]
    fn another_day_is_named() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        assert_eq!(moment(now, now).text, "10:00:00");
        let earlier = moment("2026-11-21T10:00:00.5Z".parse().unwrap(), now);
        assert_eq!(earlier.text, "11-21 10:00:00");
        assert_eq!(earlier.iso, "2026-11-21T10:00:00.500Z");
    }

    #[test]
    fn a_name_can_not_leave_its_path_segment() {
        assert_eq!(escape_path("a/../b?c#d\"é"), "a%2F..%2Fb%3Fc%23d%22%C3%A9");
    }
}
