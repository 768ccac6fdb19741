//! Charts over time: lines in SVG, each with a table that has the same.
//!
//! Nothing here needs a script. With one, a cursor goes over all charts of a page at once: a chart
//! carries the times and values of its points for it.

use crate::listings::Choice;
use crate::timeline::Tick;
use askama::Template;
use std::fmt::Write;

/// Height of the drawing without its axis.
const HEIGHT: f64 = 110.0;
/// Units of a line's own coordinates, stretched over the whole width.
const WIDTH: f64 = 1_000.0;
/// Rows of a chart's table, at most.
const TABLE_ROWS: usize = 24;
/// Looks of lines; more lines begin anew.
const LOOKS: usize = 7;

/// What is to be drawn: values at even steps of time, gaps where there is none.
#[derive(Debug, Clone, Default)]
pub struct Plot {
    /// The id of the chart on its page.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// The unit behind every figure; empty for a bare number.
    pub unit: &'static str,
    /// The name of each line and its values.
    pub lines: Vec<(String, Vec<Option<f64>>)>,
    /// A scale that must be shown in full, such as 100 percent.
    pub whole: Option<f64>,
}

/// A line as it is drawn.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its look, 0 to 6.
    pub look: usize,
    /// Its path.
    pub path: String,
    /// Its values as text, `-` where there is none.
    pub values: String,
    /// Its last value.
    pub latest: String,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The time.
    pub at: String,
    /// A value for each line.
    pub values: Vec<String>,
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Its id on the page.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// In a sentence: the latest values.
    pub latest: String,
    /// The times of its points.
    pub times: String,
    /// Its lines.
    pub lines: Vec<Line>,
    /// Marks of the upright axis: place and figure.
    pub marks: Vec<(String, String)>,
    /// Marks of time.
    pub ticks: Vec<Tick>,
    /// Its table, the latest first.
    pub rows: Vec<Row>,
    /// True where there is no value at all.
    pub is_empty: bool,
}

/// All charts of a page.
#[derive(Debug, Clone, Template)]
#[template(path = "charts.html")]
pub struct Charts {
    /// Ranges of time to choose from.
    pub ranges: Vec<Choice>,
    /// The charts.
    pub charts: Vec<Chart>,
    /// Where the figures come from, and how wide a step is; or why there are none.
    pub note: String,
}

/// A figure as people read it: `0`, `0.42`, `18.4`, `1,240`, `3.1 M`.
pub fn figure(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".to_owned(),
        0.0 => "0".to_owned(),
        ..0.995 => format!("{value:.2}"),
        ..9.95 => trimmed(format!("{value:.1}")),
        ..99_950.0 => grouped(value.round()),
        ..999_950.0 => format!("{:.0} k", value / 1e3),
        ..999_950_000.0 => format!("{:.1} M", value / 1e6),
        _ => format!("{:.1} G", value / 1e9),
    }
}

fn trimmed(text: String) -> String {
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn grouped(value: f64) -> String {
    let whole = format!("{value:.0}");
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole.as_str()), |digits| ("-", digits));
    match digits.len() {
        4.. => format!("{sign}{},{}", &digits[..digits.len() - 3], &digits[digits.len() - 3..]),
        _ => whole,
    }
}

/// The same with its unit. Bytes get the binary prefix that fits.
fn measured(value: f64, unit: &str) -> String {
    match unit {
        "" => figure(value),
        "bytes" => {
            let steps = ["B", "KiB", "MiB", "GiB", "TiB"];
            let power = (value.abs().max(1.0).log2() / 10.0).floor().min(4.0);
            format!("{} {}", figure(value / 1_024_f64.powf(power)), steps[power as usize])
        }
        unit => format!("{} {unit}", figure(value)),
    }
}

/// The least round number that is not below `value`.
fn ceiling(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|top| *top >= value * 0.9999).unwrap_or(10.0 * power)
}

impl Chart {
    /// Draws `plot`; `times` are its points' times as text, `ticks` the marks of the time axis.
    pub fn draw(plot: Plot, times: &[String], ticks: Vec<Tick>) -> Chart {
        let values = plot.lines.iter().flat_map(|(_, values)| values.iter().flatten());
        let greatest = values.clone().copied().fold(0.0, f64::max);
        let is_empty = values.count() == 0;
        // Bytes are round in powers of two.
        let top = match (plot.whole, plot.unit) {
            (Some(whole), _) => whole.max(ceiling(greatest)),
            (None, "bytes") => greatest.max(1.0).log2().ceil().exp2(),
            (None, _) => ceiling(greatest),
        };
        let marks =
            [1.0, 0.5].map(|part| (format!("{:.1}", HEIGHT * (1.0 - part)), measured(top * part, plot.unit)));
        let lines: Vec<Line> = plot
            .lines
            .iter()
            .enumerate()
            .map(|(n, (name, values))| Line {
                name: name.clone(),
                look: n % LOOKS,
                path: path(values, top),
                values: texts(values, plot.unit),
                latest: latest(values).map_or("no data".to_owned(), |v| measured(v, plot.unit)),
            })
            .collect();
        let spoken: Vec<String> = lines.iter().map(|line| format!("{} {}", line.name, line.latest)).collect();
        Chart {
            id: plot.id,
            latest: if is_empty { "no data yet".into() } else { format!("Last: {}", spoken.join(", ")) },
            title: plot.title,
            times: times.join(" "),
            marks: marks.into(),
            ticks,
            rows: rows(&plot.lines, times, plot.unit),
            lines,
            is_empty,
        }
    }

    /// The drawing's height without its axis.
    pub fn height(&self) -> u32 {
        HEIGHT as u32
    }
}

/// The last value there is, if it is one of the last three steps: an old one is not "now".
fn latest(values: &[Option<f64>]) -> Option<f64> {
    values.iter().rev().take(3).flatten().next().copied()
}

fn texts(values: &[Option<f64>], unit: &str) -> String {
    let text = |value: &Option<f64>| match value {
        // The script splits at spaces.
        Some(value) => measured(*value, unit).replace(' ', "\u{a0}"),
        None => "-".to_owned(),
    };
    values.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// A path with a break at every gap; a value alone is a dot.
fn path(values: &[Option<f64>], top: f64) -> String {
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let mut path = String::new();
    let mut begins = true;
    for (n, value) in values.iter().enumerate() {
        let Some(value) = value else {
            begins = true;
            continue;
        };
        let (x, y) = (n as f64 * step, HEIGHT * (1.0 - (value / top).clamp(0.0, 1.0)));
        // Writing into a string can't fail.
        let _ = write!(path, "{}{x:.1} {y:.1}", if begins { "M" } else { "L" });
        let alone = begins && values.get(n + 1).is_none_or(Option::is_none);
        if alone {
            let _ = write!(path, "L{:.1} {y:.1}", x + 0.1);
        }
        begins = false;
    }
    path
}

fn rows(lines: &[(String, Vec<Option<f64>>)], times: &[String], unit: &str) -> Vec<Row> {
    let every = times.len().div_ceil(TABLE_ROWS).max(1);
    let row = |n: usize| Row {
        at: times[n].replace('\u{a0}', " "),
        values: lines
            .iter()
            .map(|(_, values)| values.get(n).copied().flatten().map_or("–".into(), |v| measured(v, unit)))
            .collect(),
    };
    (0..times.len()).rev().step_by(every).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let read = [0.0, 0.417, 3.04, 8.0, 18.4, 1_240.4, 54_321.0, 123_456.0, 3_100_000.0].map(figure);
        assert_eq!(read, ["0", "0.42", "3", "8", "18", "1,240", "54,321", "123 k", "3.1 M"]);
        assert_eq!(measured(3.0 * 1_048_576.0, "bytes"), "3 MiB");
        assert_eq!(measured(12.0, "ms"), "12 ms");
    }

    #[test]
    fn a_scale_ends_at_a_round_number() {
        assert_eq!(
            [0.0, 0.7, 1.0, 1.2, 17.0, 99.0, 101.0].map(ceiling),
            [1.0, 0.8, 1.0, 1.5, 20.0, 100.0, 150.0]
        );
    }

    #[test]
    fn a_gap_is_a_gap_and_a_value_alone_a_dot() {
        let values = [Some(0.0), Some(5.0), None, Some(10.0), None, Some(10.0)];
        let drawn = path(&values, 10.0);
        assert_eq!(drawn, "M0.0 110.0L200.0 55.0M600.0 0.0L600.1 0.0M1000.0 0.0L1000.1 0.0");
    }

    #[test]
    fn what_is_old_is_not_now() {
        let plot = Plot {
            title: "Lag".into(),
            unit: "entries",
            lines: vec![
                ("a".into(), vec![Some(1.0), None, None, None]),
                ("b".into(), vec![Some(1.0), None, None, Some(7.0)]),
            ],
            ..Plot::default()
        };
        let times: Vec<String> = (0..4).map(|n| format!("12:00:0{n}")).collect();
        let chart = Chart::draw(plot, &times, vec![]);
        assert_eq!(chart.latest, "Last: a no data, b 7 entries");
        assert_eq!(chart.lines[1].values, "1\u{a0}entries - - 7\u{a0}entries");
        assert_eq!(chart.rows[0].values, ["–", "7 entries"]);
        assert_eq!(chart.rows.len(), 4);
    }
}
