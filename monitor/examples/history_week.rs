//! A week of five nodes in a history file, and how long its questions take.
//!
//! `cargo run --release --example history_week [FOLDER]`. The rows are those that retention leaves
//! of a week at one round a second: two hours of samples, a day of 10 s, a week of minutes and of
//! hours, for every metric of every node and of every pair.

use anyhow::Context;
use duckdb::Connection;
use jiff::{SignedDuration, Timestamp};
use monitor::history::metric::{self, Scope};
use monitor::history::{History, Query, Settings, tier};
use std::path::{Path, PathBuf};
use std::time::Instant;

const NODES: usize = 5;
const WEEK_SECONDS: i64 = 7 * 86_400;

fn main() -> anyhow::Result<()> {
    let given = std::env::args().nth(1).map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let folder = given.unwrap_or_else(|| temporary.path().to_owned());
    let path = folder.join("history.duckdb");
    let now = Timestamp::from_second(Timestamp::now().as_second() / 3_600 * 3_600)?;
    if !path.exists() {
        History::open(Some(&path), &Settings::default())?.close();
        let began = Instant::now();
        let rows = fill(&path, now)?;
        println!("made {rows} rows in {:.1} s", began.elapsed().as_secs_f64());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask_all(&path, now))
}

/// Metric, node and peer of every series.
fn series() -> Vec<(&'static str, Option<String>, Option<String>)> {
    let name = |n: usize| Some(format!("node-{n}"));
    let mut series = Vec::new();
    for metric in metric::ALL {
        match metric.scope {
            Scope::Cluster | Scope::Monitor => series.push((metric.name, None, None)),
            Scope::Node => series.extend((1..=NODES).map(|n| (metric.name, name(n), None))),
            Scope::Peer => {
                for from in 1..=NODES {
                    let others = (1..=NODES).filter(|to| *to != from);
                    series.extend(others.map(|to| (metric.name, name(from), name(to))));
                }
            }
        }
    }
    series
}

fn fill(path: &Path, now: Timestamp) -> anyhow::Result<u64> {
    let connection = Connection::open(path)?;
    let series = series();
    for (id, (metric, node, peer)) in series.iter().enumerate() {
        let row = duckdb::params![id as u32 + 1, metric, node, peer];
        connection.execute("INSERT INTO series VALUES (?, ?, ?, ?)", row)?;
    }
    let settings = Settings::default();
    let to_ms = now.as_millisecond();
    let mut total = 0;
    for tier in 0..tier::COUNT {
        let width_ms = tier::SECONDS[tier] as i64 * 1_000;
        let from_ms = to_ms - settings.age_ms(tier).min(WEEK_SECONDS * 1_000);
        let value = "100 + 50 * sin(t / 1e7 + s) + 10 * random()";
        let figures = match tier {
            0 => value.to_owned(),
            _ => format!("{value}, {value} + 20, ({value}) * 10, 10, {value}"),
        };
        let sql = format!(
            "INSERT INTO {} SELECT t, s, {figures} FROM range({from_ms}, {to_ms}, {width_ms}) a(t),
             range(1, {}) b(s) ORDER BY t, s",
            tier::table(tier),
            series.len() + 1
        );
        total += connection.execute(&sql, [])?;
        if tier > 0 {
            let row = format!("INSERT INTO tiers VALUES ({tier}, {from_ms}, {to_ms})");
            connection.execute(&row, [])?;
        }
    }
    connection.execute_batch("CHECKPOINT")?;
    Ok(total as u64)
}

async fn ask_all(path: &Path, now: Timestamp) -> anyhow::Result<()> {
    let history = History::open(Some(path), &Settings::default())?;
    let standing = history.standing();
    println!("{} series, {} rows, {} MiB", standing.series, standing.rows, standing.file_bytes >> 20);
    let questions: [(&str, &[&str], i64, u64); 6] = [
        ("a week, one metric of all nodes", &["writes"], WEEK_SECONDS, 600),
        (
            "a week, six metrics of all nodes",
            &["writes", "reads", "commit_p50", "commit_p99", "lag", "cpu"],
            WEEK_SECONDS,
            600,
        ),
        ("a week, round trips of all pairs", &["rtt"], WEEK_SECONDS, 600),
        (
            "a day, six metrics of all nodes",
            &["writes", "reads", "commit_p50", "commit_p99", "lag", "cpu"],
            86_400,
            600,
        ),
        (
            "an hour, six metrics of all nodes",
            &["writes", "reads", "commit_p50", "commit_p99", "lag", "cpu"],
            3_600,
            600,
        ),
        ("fifteen minutes, one metric, each second", &["writes"], 900, 900),
    ];
    for (what, names, seconds, points) in questions {
        let metrics = names.iter().map(|name| metric::named(name).context("no such metric"));
        let metrics: Vec<_> = metrics.collect::<anyhow::Result<_>>()?;
        let from = now - SignedDuration::from_secs(seconds);
        let step_seconds = monitor::history::query::fitting_step(seconds as u64, points);
        let mut took_ms = Vec::new();
        let mut found = 0;
        for _ in 0..11 {
            let query =
                Query::new(metrics.clone(), None, from, now, step_seconds).map_err(anyhow::Error::msg)?;
            let began = Instant::now();
            let answer = history.query(query).await?;
            took_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
            found = answer.series.iter().map(|s| s.points.len()).sum();
        }
        let first_ms = took_ms[0];
        took_ms.sort_by(f64::total_cmp);
        println!(
            "{what}: {found} points, first {first_ms:.0} ms, median {:.0} ms, worst {:.0} ms",
            took_ms[5], took_ms[10]
        );
    }
    history.close();
    Ok(())
}
