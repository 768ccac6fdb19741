//! The JUnit file: every task of the run once, in the order of the input.
//!
//! Cases are written to an unnamed spool file as their tasks end, so that memory holds one offset
//! a task however much they printed. The file itself is written at the end, beside its place, and
//! renamed into it: a reader sees a whole file or none.

use super::verdict::{Kind, Verdict};
use crate::worker::output;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of each output stream that a case carries, head and tail; the task's own record has more.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// The file to be.
#[derive(Debug)]
pub struct Junit {
    path: PathBuf,
    spool: BufWriter<File>,
    end: u64,
    cases: Vec<Option<Case>>,
}

/// Where a case stands in the spool, and how it counts.
#[derive(Debug, Clone, Copy)]
struct Case {
    at: u64,
    bytes: u64,
    failed: bool,
    error: bool,
    seconds: f64,
}

/// What stands in the file's head.
#[derive(Debug)]
pub struct Run<'a> {
    /// The run's id.
    pub run_id: &'a str,
    /// When it began.
    pub started_at: jiff::Timestamp,
    /// How long it took.
    pub took: Duration,
}

impl Junit {
    /// A file for `tasks` cases at `path`. Fails at once where it could not be written later.
    pub fn create(path: &Path, tasks: usize) -> io::Result<Junit> {
        if path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        drop(beside(path)?);
        let spool = BufWriter::new(tempfile::tempfile_in(folder(path))?);
        Ok(Junit { path: path.to_owned(), spool, end: 0, cases: vec![None; tasks] })
    }

    /// Adds the case of task `number`; a second one for the same task changes nothing.
    pub fn add(&mut self, number: usize, line: &str, verdict: &Verdict) -> io::Result<()> {
        if self.cases.get(number).is_none_or(Option::is_some) {
            return Ok(());
        }
        let text = case(line, verdict);
        self.spool.write_all(text.as_bytes())?;
        let bytes = text.len() as u64;
        self.cases[number] = Some(Case {
            at: self.end,
            bytes,
            failed: matches!(verdict.kind, Kind::Failed(_)),
            error: matches!(verdict.kind, Kind::Error(_) | Kind::Unknown),
            seconds: verdict.seconds,
        });
        self.end += bytes;
        Ok(())
    }

    /// Writes the file.
    pub fn write(mut self, run: &Run<'_>) -> io::Result<()> {
        self.spool.flush()?;
        let spool = self.spool.get_mut();
        let cases: Vec<Case> = self.cases.iter().filter_map(|case| *case).collect();
        let totals = format!(
            r#"tests="{}" failures="{}" errors="{}" skipped="0" time="{:.3}""#,
            cases.len(),
            cases.iter().filter(|c| c.failed).count(),
            cases.iter().filter(|c| c.error).count(),
            cases.iter().map(|c| c.seconds).sum::<f64>(),
        );
        let mut file = beside(&self.path)?;
        let mut to = BufWriter::new(file.as_file_mut());
        writeln!(to, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(to, r#"<testsuites name="holdfast" {totals}>"#)?;
        writeln!(
            to,
            r#"<testsuite name="{}" timestamp="{}" hostname="{}" {totals}>"#,
            attribute(run.run_id),
            run.started_at,
            attribute(&crate::worker::host_name()),
        )?;
        writeln!(
            to,
            r#"<properties><property name="wall_seconds" value="{:.3}"/></properties>"#,
            run.took.as_secs_f64()
        )?;
        for case in &cases {
            spool.seek(SeekFrom::Start(case.at))?;
            io::copy(&mut Read::take(&mut *spool, case.bytes), &mut to)?;
        }
        writeln!(to, "</testsuite>\n</testsuites>")?;
        to.flush()?;
        drop(to);
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|e| e.error)?;
        Ok(())
    }
}

/// A new file in the folder of `path`, with the permissions that any new file gets.
fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".junit-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder(path))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn case(line: &str, verdict: &Verdict) -> String {
    let mut xml = format!(
        r#"<testcase name="{}" classname="{}" time="{:.3}">"#,
        attribute(line),
        attribute(&class_name(line)),
        verdict.seconds
    );
    let out = output::shorten(&verdict.output.stdout, MAX_OUTPUT_BYTES).text;
    let err = output::shorten(&verdict.output.stderr, MAX_OUTPUT_BYTES).text;
    let (element, kind) = match verdict.kind {
        Kind::Passed => ("", ""),
        Kind::Failed(kind) => ("failure", kind),
        Kind::Error(kind) => ("error", kind),
        Kind::Unknown => ("error", "unknown"),
    };
    if !element.is_empty() {
        // What readers of the file show first: the output that says why.
        let shown = if out.trim().is_empty() { &err } else { &out };
        xml.push_str(&format!(
            r#"<{element} message="{}" type="{kind}">{}</{element}>"#,
            attribute(&verdict.message),
            text(shown)
        ));
    }
    for (element, stream) in [("system-out", &out), ("system-err", &err)] {
        if !stream.is_empty() {
            xml.push_str(&format!("<{element}>{}</{element}>", text(stream)));
        }
    }
    xml.push_str("</testcase>\n");
    xml
}

/// The class that a pytest id names, file and classes joined by dots; `command` for other lines.
fn class_name(line: &str) -> String {
    let id = line.split('[').next().unwrap_or(line);
    let Some((file, rest)) = id.split_once("::") else { return "command".into() };
    if file.is_empty() || file.contains(char::is_whitespace) {
        return "command".into();
    }
    let module = file.strip_suffix(".py").unwrap_or(file).trim_start_matches("./").replace('/', ".");
    match rest.rsplit_once("::") {
        Some((classes, _)) => format!("{module}.{}", classes.replace("::", ".")),
        None => module,
    }
}

/// XML 1.0 has no way to write most control characters; they become `#x1B`, as pytest writes them.
fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{7e}' | '\u{85}' | '\u{a0}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}')
        || (c >= '\u{10000}' && (u32::from(c) & 0xFFFE) != 0xFFFE)
}

fn text(raw: &str) -> String {
    escape(raw, false)
}

fn attribute(raw: &str) -> String {
    escape(raw, true)
}

fn escape(raw: &str, in_attribute: bool) -> String {
    let mut xml = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' if in_attribute => xml.push_str("&quot;"),
            '\r' => xml.push_str("&#13;"),
            '\n' if in_attribute => xml.push_str("&#10;"),
            '\t' if in_attribute => xml.push_str("&#9;"),
            c if allowed(c) => xml.push(c),
            c => xml.push_str(&format!("#x{:02X}", u32::from(c))),
        }
    }
    xml
}

#[cfg(test)]
#[path = "junit_tests.rs"]
mod tests;
