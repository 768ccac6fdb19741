//! PURE. What may be asked of history, and what an answer is.

use super::metric::{self, Kind, Metric};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Metrics in one question.
const MAX_METRICS: usize = 16;
/// Points of one series, at most.
pub const MAX_POINTS: u64 = 5_000;
/// Points of one series where nobody says how wide a step is.
const DEFAULT_POINTS: u64 = 600;
/// Points of all series of one answer together.
pub const MAX_ANSWER_POINTS: usize = 200_000;
/// How far back an answer goes where nobody says.
const DEFAULT_SECONDS: i64 = 15 * 60;
/// The widest step: a day.
const MAX_STEP_SECONDS: u64 = 86_400;

/// Widths that a step is rounded up to.
const STEPS_SECONDS: [u64; 15] =
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 10_800, 21_600, MAX_STEP_SECONDS];

/// The query of `GET /api/history`, as it stands in the address.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Names of metrics, separated by commas.
    pub metric: Option<String>,
    /// Only of this node.
    pub node: Option<String>,
    /// From when: RFC 3339, Unix seconds, or how long ago (`-15m`).
    pub from: Option<String>,
    /// Until when, in the same forms; now where it is missing.
    pub to: Option<String>,
    /// The width of a step: seconds, or `10s`, `5m`, `1h`.
    pub step: Option<String>,
}

/// A question that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which metrics.
    pub metrics: Vec<&'static Metric>,
    /// Only of this node; series of the cluster and of the monitor are given all the same.
    pub node: Option<String>,
    /// From when, a whole number of steps.
    pub from: Timestamp,
    /// Until when, without it.
    pub to: Timestamp,
    /// The width of a step.
    pub step_seconds: u64,
}

impl Query {
    /// Reads what was asked; `now` is where relative times begin.
    pub fn read(asked: &Asked, now: Timestamp) -> Result<Query, String> {
        let names = asked.metric.as_deref().unwrap_or_default();
        let mut metrics = Vec::new();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let found = metric::named(name).ok_or_else(|| {
                let name = crate::report::shorten(name, 60);
                format!("no metric is called `{name}`; GET /api/history/metrics lists them")
            })?;
            if !metrics.contains(&found) {
                metrics.push(found);
            }
        }
        if metrics.is_empty() {
            return Err("`metric` is missing; GET /api/history/metrics lists what there is".into());
        }
        if metrics.len() > MAX_METRICS {
            return Err(format!("{} metrics at once; at most {MAX_METRICS}", metrics.len()));
        }
        let (from, to) = span(asked.from.as_deref(), asked.to.as_deref(), now)?;
        let step_seconds = match &asked.step {
            Some(text) => step(text)?,
            None => fitting_step(seconds_of(from, to), DEFAULT_POINTS),
        };
        Query::new(metrics, asked.node.clone(), from, to, step_seconds)
    }

    /// The same from values.
    pub fn new(
        metrics: Vec<&'static Metric>,
        node: Option<String>,
        from: Timestamp,
        to: Timestamp,
        step_seconds: u64,
    ) -> Result<Query, String> {
        let seconds = seconds_of(from, to);
        let points = seconds.div_ceil(step_seconds.max(1));
        if points > MAX_POINTS {
            let wanted = fitting_step(seconds, MAX_POINTS);
            return Err(format!(
                "{points} points a series, at most {MAX_POINTS}; take a step of {wanted} s or more"
            ));
        }
        let from_ms =
            from.as_millisecond().div_euclid(step_seconds as i64 * 1_000) * step_seconds as i64 * 1_000;
        let from = Timestamp::from_millisecond(from_ms).map_err(|e| e.to_string())?;
        Ok(Query { metrics, node, from, to, step_seconds })
    }

    /// The last `seconds` before `now`, in about `points` points.
    pub fn last(
        metrics: Vec<&'static Metric>,
        seconds: u64,
        points: u64,
        now: Timestamp,
    ) -> Result<Query, String> {
        let from = now - SignedDuration::from_secs(seconds.min(i64::MAX as u64) as i64);
        let step_seconds = fitting_step(seconds, points.clamp(1, MAX_POINTS));
        Query::new(metrics, None, from, now, step_seconds)
    }
}

/// The time asked for: from and to.
pub fn span(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Result<(Timestamp, Timestamp), String> {
    let to = to.map_or(Ok(now), |text| moment("to", text, now))?;
    let back = SignedDuration::from_secs(DEFAULT_SECONDS);
    let from = from
        .map_or_else(|| to.checked_sub(back).map_err(|e| e.to_string()), |text| moment("from", text, now))?;
    match from < to {
        true => Ok((from, to)),
        false => Err(format!("`from` ({from}) is not before `to` ({to})")),
    }
}

fn seconds_of(from: Timestamp, to: Timestamp) -> u64 {
    (to.duration_since(from).as_millis().max(0) as u64).div_ceil(1_000)
}

/// The smallest usual step that gives at most `points` points.
pub fn fitting_step(seconds: u64, points: u64) -> u64 {
    let least = seconds.div_ceil(points.max(1));
    let usual = STEPS_SECONDS.iter().copied().find(|step| *step >= least);
    usual.unwrap_or_else(|| least.div_ceil(MAX_STEP_SECONDS) * MAX_STEP_SECONDS)
}

/// RFC 3339, Unix seconds, or so long ago.
fn moment(key: &str, text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong = || {
        let text = crate::report::shorten(text, 60);
        format!("`{key}` is `{text}`; give a time such as {now:.0}, Unix seconds, or how long ago (`-15m`)")
    };
    if text == "now" {
        return Ok(now);
    }
    if let Some(ago) = text.strip_prefix("now-").or(text.strip_prefix('-')) {
        let seconds = duration_seconds(ago).ok_or_else(wrong)?;
        let back = SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| wrong())?);
        return now.checked_sub(back).map_err(|_| wrong());
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return Timestamp::from_millisecond((seconds * 1_000.0) as i64).map_err(|_| wrong());
    }
    text.parse().map_err(|_| wrong())
}

fn step(text: &str) -> Result<u64, String> {
    duration_seconds(text).filter(|seconds| (1..=MAX_STEP_SECONDS).contains(seconds)).ok_or_else(|| {
        let text = crate::report::shorten(text, 40);
        format!("`step` is `{text}`; give seconds, or `10s`, `5m`, `1h`, at most a day")
    })
}

/// `90`, `90s`, `15m`, `2h`, `7d`.
fn duration_seconds(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().next_back()? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 3_600),
        (at, 'd') => (&text[..at], 86_400),
        _ => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A step of a series. In JSON an array in this order, `at` as seconds behind the answer's `from`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where the step begins.
    pub at: Timestamp,
    /// The mean; for a state the last.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The last.
    pub last: f64,
}

/// One series.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Which metric.
    pub metric: &'static Metric,
    /// Of which node.
    pub node: Option<String>,
    /// About which peer.
    pub peer: Option<String>,
    /// Steps in which there was a sample, in order. The others are missing: a gap is a gap.
    pub points: Vec<Point>,
    /// For a state: the name of each value that occurs.
    pub states: BTreeMap<u64, String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// The width of a step.
    pub step_seconds: u64,
    /// Where it comes from: `embedded`, or the address of a server.
    pub source: String,
    /// The series, by metric in the order asked for, then node, then peer.
    pub series: Vec<Series>,
}

#[derive(Serialize)]
struct SeriesJson<'a> {
    metric: &'a str,
    unit: &'a str,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    states: &'a BTreeMap<u64, String>,
    points: Vec<(u64, f64, f64, f64, f64)>,
}

impl Serialize for Answer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        // Figures are for eyes: six digits tell everything, and halve the answer.
        let round = |value: f64| format!("{value:.5e}").parse::<f64>().unwrap_or(value);
        let exact = |value: f64| if value.fract() == 0.0 { value } else { round(value) };
        let series: Vec<SeriesJson<'_>> = self
            .series
            .iter()
            .map(|series| SeriesJson {
                metric: series.metric.name,
                unit: series.metric.unit,
                kind: series.metric.kind,
                node: series.node.as_deref(),
                peer: series.peer.as_deref(),
                states: &series.states,
                points: series
                    .points
                    .iter()
                    .map(|p| {
                        let after = p.at.duration_since(self.from).as_secs().max(0) as u64;
                        (after, exact(p.mean), exact(p.min), exact(p.max), exact(p.last))
                    })
                    .collect(),
            })
            .collect();
        let mut answer = serializer.serialize_struct("Answer", 6)?;
        answer.serialize_field("from", &self.from)?;
        answer.serialize_field("to", &self.to)?;
        answer.serialize_field("step_seconds", &self.step_seconds)?;
        answer.serialize_field("source", &self.source)?;
        answer.serialize_field("columns", &["seconds_after_from", "mean", "min", "max", "last"])?;
        answer.serialize_field("series", &series)?;
        answer.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn read(metric: &str, from: Option<&str>, to: Option<&str>, step: Option<&str>) -> Result<Query, String> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let asked =
            Asked { metric: Some(metric.into()), node: None, from: own(from), to: own(to), step: own(step) };
        Query::read(&asked, now())
    }

    #[test]
    fn times_come_in_three_forms() {
        let expected: Timestamp = "2026-11-23T11:45:00Z".parse().unwrap();
        for from in ["-15m", "now-900s", "2026-11-23T11:45:00Z", &expected.as_second().to_string()] {
            let query = read("writes", Some(from), None, None).unwrap();
            assert_eq!((query.from, query.to), (expected, now()), "{from}");
        }
        assert_eq!(read("writes", None, None, None).unwrap().from, expected);
    }

    #[test]
    fn the_step_fits_the_time_and_the_beginning_the_step() {
        assert_eq!(read("writes", Some("-15m"), None, None).unwrap().step_seconds, 2);
        assert_eq!(read("writes", Some("-7d"), None, None).unwrap().step_seconds, 1_800);
        let query = read("writes", Some("-61s"), None, Some("1m")).unwrap();
        assert_eq!(query.from, "2026-11-23T11:58:00Z".parse().unwrap());
    }

    #[test]
    fn what_can_not_be_answered_says_what_to_do() {
        for (metric, from, to, step, part) in [
            ("", None, None, None, "`metric` is missing"),
            ("writes,speed", None, None, None, "no metric is called `speed`"),
            ("writes", Some("yesterday"), None, None, "`from` is `yesterday`"),
            ("writes", Some("-1m"), Some("-2m"), None, "is not before"),
            ("writes", None, None, Some("0"), "`step` is `0`"),
            ("writes", None, None, Some("1w"), "`step` is `1w`"),
            ("writes", Some("-7d"), None, Some("1s"), "take a step of 300 s or more"),
            ("writes", Some("-99999999999999999999d"), None, None, "`from` is"),
        ] {
            let error = read(metric, from, to, step).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_answer_is_compact_and_carries_its_units() {
        let from = now();
        let at = from + SignedDuration::from_secs(10);
        let answer = Answer {
            from,
            to: at,
            step_seconds: 10,
            source: "embedded".into(),
            series: vec![Series {
                metric: &metric::RTT,
                node: Some("node-1".into()),
                peer: Some("node-2".into()),
                points: vec![Point { at, mean: 1.0 / 3.0, min: 0.0, max: 123_456_789.0, last: 2.0 }],
                states: BTreeMap::new(),
            }],
        };
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["from"], "2026-11-23T12:00:00Z");
        assert_eq!(json["series"][0]["unit"], "ms");
        assert_eq!(
            json["series"][0]["points"][0],
            serde_json::json!([10, 0.333_333, 0.0, 123_456_789.0, 2.0])
        );
    }
}
