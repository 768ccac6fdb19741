//! PURE. Who led when, as a drawing.

use super::Seen;
use super::format::{grouped, moment};
use crate::chronicle::{Reign, Who};
use crate::report::{Span, seconds_between};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use web::timeline::{self, LANE, Lane, Leadership, Tick};

/// Marks on the axis.
const TICKS: u32 = 6;
/// A stretch that is narrower has no room for its label, percent.
const LABEL_PERCENT: f64 = 9.0;
/// The narrowest stretch that can still be seen, percent.
const LEAST_PERCENT: f64 = 0.25;
/// Rows of the table.
const SHOWN_REIGNS: usize = 50;
/// The name of the lane of no leader.
const NOBODY: &str = "nobody";

/// The drawing of the last `range`.
pub(super) fn leadership(seen: &Seen, range: SignedDuration) -> Leadership {
    let now = seen.snapshot.at;
    let from = now.checked_sub(range).unwrap_or(now);
    let reigns: Vec<&Reign> = seen.chronicle.reigns.iter().filter(|reign| reign.until >= from).collect();
    let axis = Axis { from, until: now };
    let lanes = lanes(seen, &reigns, &axis);
    Leadership {
        summary: summary(seen, &reigns, range),
        height: LANE * lanes.len() as u32,
        lanes,
        ticks: axis.ticks(),
        reigns: table(seen, &reigns),
    }
}

/// A stretch of time, drawn from left to right.
pub(super) struct Axis {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Axis {
    fn percent(&self, at: Timestamp) -> f64 {
        let whole = seconds_between(self.from, self.until).max(1.0);
        (at.duration_since(self.from).as_secs_f64() / whole * 100.0).clamp(0.0, 100.0)
    }

    /// Round times, a handful.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        const STEPS: [i64; 16] = [
            10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400, 172_800,
        ];
        let whole = self.until.as_second() - self.from.as_second();
        let fits = |step: &&i64| whole / **step <= i64::from(TICKS);
        let step = STEPS.iter().find(fits).copied().unwrap_or(7 * 86_400);
        let form = match (step, whole) {
            (86_400.., _) => "%m-%d",
            (_, 86_401..) => "%m-%d %H:%M",
            (60.., _) => "%H:%M",
            _ => "%H:%M:%S",
        };
        let first = (self.from.as_second() / step + 1) * step;
        let times = std::iter::successors(Some(first), |at| Some(at + step));
        let times = times.take_while(|at| *at <= self.until.as_second()).take(2 * TICKS as usize);
        let ticks = times.filter_map(|second| {
            let at = Timestamp::from_second(second).ok()?;
            Some(Tick { at: format!("{:.2}", self.percent(at)), text: at.strftime(form).to_string() })
        });
        // Text at the very edges would be cut.
        ticks.filter(|tick| tick.at.parse::<f64>().is_ok_and(|at| (3.0..97.0).contains(&at))).collect()
    }
}

fn lanes(seen: &Seen, reigns: &[&Reign], axis: &Axis) -> Vec<Lane> {
    let led = reigns.iter().filter_map(|reign| match &reign.who {
        Who::Leads { node, .. } => Some(node.as_str()),
        _ => None,
    });
    let watched = seen.snapshot.nodes.iter().map(|node| node.name());
    let mut names: Vec<&str> = watched.collect();
    let known: BTreeSet<&str> = names.iter().copied().collect();
    let gone: BTreeSet<&str> = led.filter(|name| !known.contains(name)).collect();
    names.extend(gone);
    let has_gap = reigns.iter().any(|reign| !matches!(reign.who, Who::Leads { .. }));
    names.extend(has_gap.then_some(NOBODY));
    let lane = |(n, name): (usize, &str)| Lane {
        name: name.to_owned(),
        y: LANE * n as u32,
        spans: reigns.iter().filter_map(|reign| span(seen, reign, name, axis)).collect(),
    };
    names.into_iter().enumerate().map(lane).collect()
}

fn span(seen: &Seen, reign: &Reign, lane: &str, axis: &Axis) -> Option<timeline::Span> {
    let (class, what, label) = match &reign.who {
        Who::Leads { node, term } if node == lane => {
            ("leads", format!("{node} led term {}", grouped(*term)), format!("term {}", grouped(*term)))
        }
        Who::Nobody if lane == NOBODY => ("nobody", "nobody led".to_owned(), String::new()),
        Who::Unseen if lane == NOBODY => ("unseen", "the monitor saw nobody".to_owned(), String::new()),
        _ => return None,
    };
    let now = seen.snapshot.at;
    let (x, end) = (axis.percent(reign.from), axis.percent(reign.until));
    let width = (end - x).max(LEAST_PERCENT);
    let times = format!("{} to {}", moment(reign.from, now).text, moment(reign.until, now).text);
    Some(timeline::Span {
        x: format!("{:.2}", x.min(100.0 - LEAST_PERCENT)),
        width: format!("{width:.2}"),
        class,
        title: format!("{what}, {times}"),
        label: if width >= LABEL_PERCENT { label } else { String::new() },
    })
}

fn summary(seen: &Seen, reigns: &[&Reign], range: SignedDuration) -> String {
    let led = reigns.iter().filter(|reign| matches!(reign.who, Who::Leads { .. })).count();
    let changes = led.saturating_sub(1);
    let known = seen.chronicle.led_since.map_or(0.0, |since| seconds_between(since, seen.snapshot.at));
    let asked = range.as_secs_f64();
    let over = if known < asked {
        format!("in the {} that are known", Span(known.round()))
    } else {
        format!("in the last {}", Span(asked))
    };
    let times = match changes {
        0 => "No change of leader".to_owned(),
        1 => "1 change of leader".to_owned(),
        n => format!("{n} changes of leader"),
    };
    let without: f64 = reigns
        .iter()
        .filter(|reign| reign.who == Who::Nobody)
        .map(|reign| seconds_between(reign.from, reign.until))
        .sum();
    let gap = if without > 0.0 { format!(", {} without one", Span(without)) } else { String::new() };
    format!("{times} {over}{gap}.")
}

fn table(seen: &Seen, reigns: &[&Reign]) -> Vec<timeline::Reign> {
    let now = seen.snapshot.at;
    let last = reigns.len().saturating_sub(1);
    let rows = reigns.iter().enumerate().rev().take(SHOWN_REIGNS).map(|(n, reign)| {
        let (who, term) = match &reign.who {
            Who::Leads { node, term } => (node.clone(), grouped(*term)),
            Who::Nobody => ("nobody".to_owned(), "–".to_owned()),
            Who::Unseen => ("not known: nobody reported".to_owned(), "–".to_owned()),
        };
        timeline::Reign {
            from: moment(reign.from, now),
            until: (n != last).then(|| moment(reign.until, now)),
            who,
            term,
            lasted: Span(seconds_between(reign.from, reign.until)).to_string(),
        }
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_a_handful_of_round_times() {
        let until = Timestamp::from_second(1_790_000_123).unwrap();
        for seconds in [60, 300, 900, 3_600, 6 * 3_600, 86_400, 7 * 86_400] {
            let axis = Axis { from: until - SignedDuration::from_secs(seconds), until };
            let ticks = axis.ticks();
            assert!((2..=7).contains(&ticks.len()), "{seconds}: {ticks:?}");
        }
        let axis = Axis { from: until - SignedDuration::from_secs(900), until };
        assert!(axis.ticks().iter().all(|tick| tick.text.len() == 5), "{:?}", axis.ticks());
    }
}
