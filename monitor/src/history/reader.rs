//! Questions to the embedded history, on a connection of their own.

use super::error::{HistoryError, Tried};
use super::metric::{Kind, Metric};
use super::query::{Answer, MAX_ANSWER_POINTS, Point, Query, Series};
use super::tier::{self, Part};
use super::{PastEvent, PastFinding, Shared};
use duckdb::{Connection, Row};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;

/// A series that was asked for.
struct Wanted {
    id: u32,
    metric: &'static Metric,
    node: Option<String>,
    peer: Option<String>,
}

/// What is told of a series in one step.
struct Cell {
    series: u32,
    bucket: i64,
    min: f64,
    max: f64,
    mean: f64,
    last: f64,
}

/// Answers a question.
pub(super) fn ask(connection: &Connection, shared: &Shared, query: &Query) -> Result<Answer, HistoryError> {
    let wanted = wanted(shared, query);
    let answer = |series| Answer {
        from: query.from,
        to: query.to,
        step_seconds: query.step_seconds,
        source: "embedded".into(),
        series,
    };
    if wanted.is_empty() {
        return Ok(answer(Vec::new()));
    }
    let held = shared.held();
    let tier = tier::fitting(query.step_seconds);
    let parts = tier::parts(&held, tier, query.from.as_millisecond(), query.to.as_millisecond());
    if parts.is_empty() {
        return Ok(answer(Vec::new()));
    }
    let sql = sql(&wanted, &parts, query.step_seconds);
    let mut statement = connection.prepare(&sql).tried("ask for samples")?;
    let cell = |row: &Row| {
        Ok(Cell {
            series: row.get(0)?,
            bucket: row.get(1)?,
            min: row.get(2)?,
            max: row.get(3)?,
            mean: row.get(4)?,
            last: row.get(5)?,
        })
    };
    let cells: Vec<Cell> = statement.query_map([], cell).and_then(Iterator::collect).tried("read samples")?;
    if cells.len() > MAX_ANSWER_POINTS {
        return Err(HistoryError::TooLong { most: MAX_ANSWER_POINTS });
    }
    Ok(answer(series(&wanted, &cells, query.step_seconds, shared)))
}

fn wanted(shared: &Shared, query: &Query) -> Vec<Wanted> {
    let known = shared.series();
    let mut wanted = Vec::new();
    for metric in &query.metrics {
        let of_metric = known.iter().filter(|((name, _, _), _)| name == metric.name);
        for ((_, node, peer), id) in of_metric {
            let is_asked_for = match (&query.node, node) {
                (Some(only), Some(node)) => only == node,
                _ => true,
            };
            if is_asked_for {
                wanted.push(Wanted { id: *id, metric, node: node.clone(), peer: peer.clone() });
            }
        }
    }
    wanted
}

/// Only figures of our own stand in the text: ids, times and widths.
fn sql(wanted: &[Wanted], parts: &[Part], step_seconds: u64) -> String {
    let ids: Vec<String> = wanted.iter().map(|w| w.id.to_string()).collect();
    let ids = ids.join(", ");
    let parts: Vec<String> = parts
        .iter()
        .map(|part| {
            let figures = match part.tier {
                0 => "value AS min, value AS max, value AS sum, 1 AS count, value AS last",
                _ => "min, max, sum, count, last",
            };
            let (table, from, to) = (tier::table(part.tier), part.from_ms, part.to_ms);
            format!(
                "SELECT at_ms, series, {figures} FROM {table} WHERE at_ms >= {from} AND at_ms < {to} AND series IN ({ids})"
            )
        })
        .collect();
    let step_ms = step_seconds * 1_000;
    format!(
        "SELECT series, at_ms // {step_ms} AS bucket, min(min), max(max), sum(sum) / sum(count), arg_max(last, at_ms)
         FROM ({}) GROUP BY series, bucket ORDER BY series, bucket LIMIT {}",
        parts.join(" UNION ALL "),
        MAX_ANSWER_POINTS + 1
    )
}

fn series(wanted: &[Wanted], cells: &[Cell], step_seconds: u64, shared: &Shared) -> Vec<Series> {
    let names = shared.names();
    let mut by_id: BTreeMap<u32, Vec<&Cell>> = BTreeMap::new();
    for cell in cells {
        by_id.entry(cell.series).or_default().push(cell);
    }
    wanted
        .iter()
        .filter_map(|w| {
            let cells = by_id.get(&w.id)?;
            let is_state = w.metric.kind == Kind::State;
            let point = |cell: &&Cell| {
                let at = Timestamp::from_millisecond(cell.bucket * step_seconds as i64 * 1_000).ok()?;
                let mean = if is_state { cell.last } else { cell.mean };
                Some(Point { at, mean, min: cell.min, max: cell.max, last: cell.last })
            };
            let points: Vec<Point> = cells.iter().filter_map(point).collect();
            let mut states = BTreeMap::new();
            if is_state {
                for value in points.iter().map(|p| p.last as u64) {
                    let fixed = w.metric.states.get(value as usize).map(|name| (*name).to_owned());
                    let name = fixed.or_else(|| names.get(&value).cloned());
                    states.entry(value).or_insert_with(|| name.unwrap_or_else(|| value.to_string()));
                }
            }
            Some(Series { metric: w.metric, node: w.node.clone(), peer: w.peer.clone(), points, states })
        })
        .collect()
}

fn nodes(text: String) -> Vec<String> {
    serde_json::from_str(&text).unwrap_or_default()
}

fn moment(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Events of that time, the latest first; all, or only of these kinds.
pub(super) fn events(
    connection: &Connection,
    from: Timestamp,
    to: Timestamp,
    limit: usize,
    kinds: &[&str],
) -> Result<Vec<PastEvent>, HistoryError> {
    // Only names of our own stand in the text.
    let quoted: Vec<String> = kinds.iter().map(|kind| format!("'{kind}'")).collect();
    let only = if quoted.is_empty() { String::new() } else { format!("AND kind IN ({})", quoted.join(", ")) };
    let sql = format!(
        "SELECT at_ms, kind, severity, nodes, text, fault FROM events WHERE at_ms >= ? AND at_ms < ? {only}
         ORDER BY at_ms DESC, rowid DESC LIMIT {limit}"
    );
    let mut statement = connection.prepare(&sql).tried("ask for events")?;
    let row = |row: &Row| {
        Ok(PastEvent {
            at: moment(row.get(0)?),
            kind: row.get(1)?,
            severity: row.get(2)?,
            nodes: nodes(row.get(3)?),
            text: row.get(4)?,
            fault: row.get(5)?,
        })
    };
    let span = [from.as_millisecond(), to.as_millisecond()];
    statement.query_map(span, row).and_then(Iterator::collect).tried("read events")
}

/// The newest sample before `before`, from the finest tier that has one.
pub(super) fn last_round(
    connection: &Connection,
    before: Option<Timestamp>,
) -> Result<Option<Timestamp>, HistoryError> {
    let before_ms = before.map_or(i64::MAX, Timestamp::as_millisecond);
    for tier in 0..tier::COUNT {
        let sql = format!("SELECT max(at_ms) FROM {} WHERE at_ms < ?", tier::table(tier));
        let found: Option<i64> =
            connection.query_row(&sql, [before_ms], |row| row.get(0)).tried("look for the last round")?;
        if let Some(at_ms) = found {
            return Ok(Some(moment(at_ms)));
        }
    }
    Ok(None)
}

/// Findings that stood at any moment of that time, the latest first.
pub(super) fn findings(
    connection: &Connection,
    from: Timestamp,
    to: Timestamp,
    limit: usize,
) -> Result<Vec<PastFinding>, HistoryError> {
    let sql = format!(
        "SELECT kind, nodes, severity, since, found_at, ended_at, evidence FROM findings
         WHERE since < ? AND coalesce(ended_at, 9223372036854775807) >= ?
         ORDER BY since DESC, rowid DESC LIMIT {limit}"
    );
    let mut statement = connection.prepare(&sql).tried("ask for findings")?;
    let row = |row: &Row| {
        Ok(PastFinding {
            kind: row.get(0)?,
            nodes: nodes(row.get(1)?),
            severity: row.get(2)?,
            since: moment(row.get(3)?),
            found_at: moment(row.get(4)?),
            ended_at: row.get::<_, Option<i64>>(5)?.map(moment),
            evidence: nodes(row.get(6)?),
        })
    };
    let span = [to.as_millisecond(), from.as_millisecond()];
    statement.query_map(span, row).and_then(Iterator::collect).tried("read findings")
}

/// What can be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Export {
    /// Samples, from the finest tier that has the time.
    Samples,
    /// Events.
    Events,
    /// Findings.
    Findings,
}

/// Writes a Parquet file of that time. Gives the rows in it.
pub(super) fn export(
    connection: &Connection,
    shared: &Shared,
    what: Export,
    from: Timestamp,
    to: Timestamp,
    path: &Path,
) -> Result<u64, HistoryError> {
    let (from_ms, to_ms) = (from.as_millisecond(), to.as_millisecond());
    let select = match what {
        Export::Samples => {
            let parts = tier::parts(&shared.held(), 0, from_ms, to_ms);
            let mut selects: Vec<String> = parts.iter().map(samples_of).collect();
            if selects.is_empty() {
                selects.push(samples_of(&Part { tier: 0, from_ms, to_ms: from_ms }));
            }
            selects.join(" UNION ALL ")
        }
        Export::Events => format!(
            "SELECT make_timestamp_ms(at_ms) AS time, kind, severity, nodes, text, fault FROM events
             WHERE at_ms >= {from_ms} AND at_ms < {to_ms} ORDER BY time"
        ),
        Export::Findings => format!(
            "SELECT kind, nodes, severity, make_timestamp_ms(since) AS since,
             make_timestamp_ms(found_at) AS found_at, make_timestamp_ms(ended_at) AS ended_at, evidence
             FROM findings WHERE since < {to_ms} AND coalesce(ended_at, {to_ms}) >= {from_ms} ORDER BY since"
        ),
    };
    let quoted = path.display().to_string().replace('\'', "''");
    let sql = format!("COPY ({select}) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)");
    connection.execute(&sql, []).map(|rows| rows as u64).tried("write a Parquet file")
}

fn samples_of(part: &Part) -> String {
    let figures = match part.tier {
        0 => "value AS min, value AS max, value AS mean, 1::UINTEGER AS count, value AS last",
        _ => "min, max, sum / count AS mean, count, last",
    };
    let (seconds, table) = (tier::SECONDS[part.tier], tier::table(part.tier));
    let (from, to) = (part.from_ms, part.to_ms);
    format!(
        "SELECT make_timestamp_ms(at_ms) AS time, {seconds} AS step_seconds, metric, node, peer, {figures}
         FROM {table} JOIN series ON series.id = {table}.series WHERE at_ms >= {from} AND at_ms < {to}"
    )
}
