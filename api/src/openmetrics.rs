//! PURE. `GET /metrics` in the format that was asked for: Prometheus text, or OpenMetrics 1.0.
//!
//! The Prometheus library writes only the former. The latter is the same samples with another
//! head: a counter's family is named without `_total`, quotes in a help text are escaped, and a
//! last line says that nothing was cut off. Labels stay as they are, bounds of buckets included
//! (`le="1"`, where OpenMetrics would rather see `1.0`), so that a series has one name however it
//! is scraped.

use std::borrow::Cow;

/// Content type of Prometheus text.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Content type and body of an answer to somebody who accepts this, from Prometheus text.
pub fn answer(accept: Option<&str>, text: String) -> (&'static str, String) {
    match accept {
        Some(accept) if prefers_openmetrics(accept) => (OPENMETRICS, from_text(&text)),
        _ => (TEXT, text),
    }
}

/// True where OpenMetrics of the version written here is accepted at least as gladly as text.
fn prefers_openmetrics(accept: &str) -> bool {
    let (mut openmetrics, mut text) = (0.0f64, 0.0f64);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0, None);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match name.as_str() {
            "application/openmetrics-text" if version.is_none_or(|v| v == "1.0.0") => {
                openmetrics = openmetrics.max(quality);
            }
            "text/plain" | "text/*" | "*/*" => text = text.max(quality),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

/// The OpenMetrics text that says what this Prometheus text says.
fn from_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    // A family's help comes before its type, and its name depends on the type.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (family, kind) = match (kind, name.strip_suffix("_total")) {
                ("counter", Some(family)) => (family, "counter"),
                // Every counter of OpenMetrics ends in `_total`.
                ("counter", None) | ("untyped", _) => (name, "unknown"),
                (kind, _) => (name, kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                let help = match help.contains('"') {
                    true => Cow::Owned(help.replace('"', "\\\"")),
                    false => Cow::Borrowed(help),
                };
                out.extend(["# HELP ", family, " ", &help, "\n"]);
            }
            out.extend(["# TYPE ", family, " ", kind, "\n"]);
        } else if !line.is_empty() && !line.starts_with('#') {
            out.extend([line, "\n"]);
        }
    }
    out.push_str("# EOF\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_is_not_asked_for_otherwise() {
        let body = |accept| answer(accept, "a 1\n".into());
        for accept in [
            None,
            Some("*/*"),
            Some("text/plain"),
            Some("application/json"),
            Some("text/plain, application/openmetrics-text;q=0.5"),
            Some("application/openmetrics-text;version=0.0.1"),
            Some("application/openmetrics-text;q=0"),
            Some(";;q=,"),
        ] {
            assert_eq!(body(accept), (TEXT, "a 1\n".to_owned()), "{accept:?}");
        }
        for accept in [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=1.0.0",
            // As Prometheus asks.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        ] {
            assert_eq!(body(Some(accept)), (OPENMETRICS, "a 1\n# EOF\n".to_owned()), "{accept}");
        }
    }

    #[test]
    fn families_get_the_names_and_types_of_openmetrics_and_samples_stay() {
        let text = r#"# HELP a_total Says "a" and \\n.
# TYPE a_total counter
a_total{of="x y",le="1"} 3
# HELP odd A counter by another name.
# TYPE odd counter
odd 1
# TYPE b_seconds histogram
b_seconds_bucket{le="+Inf"} 2
b_seconds_sum 0.5
b_seconds_count 2
# HELP c
# TYPE c untyped
c NaN
"#;
        let expected = r#"# HELP a Says \"a\" and \\n.
# TYPE a counter
a_total{of="x y",le="1"} 3
# HELP odd A counter by another name.
# TYPE odd unknown
odd 1
# TYPE b_seconds histogram
b_seconds_bucket{le="+Inf"} 2
b_seconds_sum 0.5
b_seconds_count 2
# HELP c 
# TYPE c unknown
c NaN
# EOF
"#;
        assert_eq!(from_text(text), expected);
    }

    /// OpenMetrics takes `x` and `x_total` for one family.
    #[test]
    fn no_two_declared_metrics_become_one_family() {
        let mut families = std::collections::BTreeMap::new();
        for metric in crate::metrics::ALL {
            let name = metric.prometheus_name();
            let family = name.strip_suffix("_total").unwrap_or(&name).to_owned();
            assert_eq!(families.insert(family, name.clone()).filter(|other| *other != name), None);
        }
    }
}
