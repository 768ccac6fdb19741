//! The archive: one tar.gz with a folder for each node.

use super::collect::NodeSeen;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes it; a file that is there already is left alone.
pub fn write(path: &Path, nodes: &[NodeSeen], verdict: &str) -> io::Result<()> {
    // Only its owner reads it: log lines may name hosts and people.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    add(&mut tar, "verdict.txt", verdict.as_bytes())?;
    for node in nodes {
        let folder = folder(&node.name());
        match &node.report {
            Some(report) => add_json(&mut tar, &format!("{folder}/report.json"), report)?,
            None => {
                let why = node.error.as_deref().unwrap_or("no answer");
                add(
                    &mut tar,
                    &format!("{folder}/no-answer.txt"),
                    format!("{}: {why}\n", node.address).as_bytes(),
                )?;
            }
        }
        for (file, document) in &node.documents {
            add_json(&mut tar, &format!("{folder}/{file}"), document)?;
        }
        if let Some(text) = &node.metrics {
            add(&mut tar, &format!("{folder}/metrics.txt"), text.as_bytes())?;
        }
        if !node.missing.is_empty() {
            add_json(&mut tar, &format!("{folder}/missing.json"), &node.missing)?;
        }
    }
    let mut file = tar.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}

/// A node's name as the name of a folder.
fn folder(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let folder: String = name.chars().map(safe).collect();
    format!("nodes/{}", folder.trim_start_matches('.'))
}

fn add_json<W: Write, T: Serialize + ?Sized>(
    tar: &mut tar::Builder<W>,
    name: &str,
    document: &T,
) -> io::Result<()> {
    add(tar, name, &serde_json::to_vec_pretty(document)?)
}

fn add<W: Write>(tar: &mut tar::Builder<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(jiff::Timestamp::now().as_second().unsigned_abs());
    tar.append_data(&mut header, name, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_archive_holds_what_was_seen_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.gz");
        let node = NodeSeen {
            address: "../h:1".into(),
            error: Some("refused".into()),
            documents: [("logs.json", serde_json::json!({"lines": []}))].into(),
            ..NodeSeen::default()
        };
        write(&path, std::slice::from_ref(&node), "all is well").unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()));
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            names.push((entry.path().unwrap().display().to_string(), text));
        }
        let found: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, ["verdict.txt", "nodes/_h_1/no-answer.txt", "nodes/_h_1/logs.json"]);
        assert_eq!(names[0].1, "all is well");
        assert!(names[1].1.contains("refused"));
        assert_eq!(write(&path, &[node], "").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
