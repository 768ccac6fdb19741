//! IO: a file that is read again when it changes, a name that is looked up again and again.

use crate::config::node_address;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The largest file of addresses.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Between two looks at a name.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(10);
/// How long a look-up may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// A file of addresses: a JSON array, or one a line, with remarks behind `#`.
#[derive(Debug)]
pub struct NodesFile {
    path: PathBuf,
    secure: bool,
    read: Option<(SystemTime, u64)>,
}

impl NodesFile {
    /// A file that was not read yet; `secure` where its nodes are asked by https.
    pub fn new(path: PathBuf, secure: bool) -> Self {
        NodesFile { path, secure, read: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says, if it has changed since it was read last.
    pub async fn changed(&mut self) -> Option<Result<Vec<String>, String>> {
        let found = match tokio::fs::metadata(&self.path).await {
            Ok(found) => found,
            Err(error) => {
                self.read = None;
                return Some(Err(format!("{}: {error}", self.path.display())));
            }
        };
        let stamp = (found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len());
        if self.read == Some(stamp) {
            return None;
        }
        if found.len() > MAX_FILE_BYTES {
            return Some(Err(format!("{}: larger than {MAX_FILE_BYTES} bytes", self.path.display())));
        }
        let text = match tokio::fs::read_to_string(&self.path).await {
            Ok(text) => text,
            Err(error) => return Some(Err(format!("{}: {error}", self.path.display()))),
        };
        self.read = Some(stamp);
        Some(read_addresses(&text, self.secure).map_err(|why| format!("{}: {why}", self.path.display())))
    }
}

/// The addresses in the text of a file.
fn read_addresses(text: &str, secure: bool) -> Result<Vec<String>, String> {
    let entries: Vec<String> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|e| format!("no JSON array of addresses: {e}"))?
    } else {
        let line = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
        text.lines().map(line).filter(|line| !line.is_empty()).collect()
    };
    let (_, is_https) = api::http::addresses(entries.iter().cloned()).map_err(|e| e.to_string())?;
    if is_https && !secure {
        return Err("names https nodes, but the others are asked by http".into());
    }
    let mut addresses = Vec::new();
    for entry in entries {
        let address = node_address(&entry).map_err(|why| format!("`{entry}`: {why}"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err("names no node; the last ones are kept".into()),
        false => Ok(addresses),
    }
}

/// A name, all of whose addresses are nodes.
#[derive(Debug)]
pub struct NodesName {
    name: String,
    looked: Option<Instant>,
}

impl NodesName {
    /// A name (`host:port`) that was not looked up yet.
    pub fn new(name: String) -> Self {
        NodesName { name, looked: None }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses, if it is time to look.
    pub async fn due(&mut self) -> Option<Result<Vec<String>, String>> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOKUP_INTERVAL) {
            return None;
        }
        self.looked = Some(Instant::now());
        Some(lookup(&self.name).await.map(|found| found.iter().map(ToString::to_string).collect()))
    }
}

async fn lookup(name: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host(name)).await;
    let found = found.map_err(|_| format!("{name}: not looked up within {} s", LOOKUP_LIMIT.as_secs()))?;
    let mut found: Vec<SocketAddr> = found.map_err(|e| format!("{name}: {e}"))?.collect();
    found.sort();
    found.dedup();
    match found.is_empty() {
        true => Err(format!("{name}: has no address")),
        false => Ok(found),
    }
}

/// Where addresses lead, for telling those that lead to one place.
pub async fn resolve(addresses: &[String]) -> BTreeMap<String, Vec<SocketAddr>> {
    let looked = addresses.iter().take(64).map(|address| async {
        let found = lookup(address).await.unwrap_or_default();
        (address.clone(), found)
    });
    futures_util::future::join_all(looked).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_lines_or_json() {
        let lines = "# ours\n a:1 # first\nhttp://b:2/\n\na:1\n";
        assert_eq!(read_addresses(lines, false).unwrap(), ["a:1", "b:2"]);
        assert_eq!(read_addresses(r#" ["a:1", "b:2"]"#, false).unwrap(), ["a:1", "b:2"]);
        assert_eq!(read_addresses("https://a:1", true).unwrap(), ["a:1"]);
        for (text, part) in [
            ("a", "has no port"),
            ("[1]", "no JSON array"),
            ("https://a:1", "asked by http"),
            ("# nothing\n", "names no node"),
        ] {
            let error = read_addresses(text, false).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a:1\n").unwrap();
        let mut nodes = NodesFile::new(file.path().to_owned(), false);
        assert_eq!(nodes.changed().await, Some(Ok(vec!["a:1".to_owned()])));
        assert_eq!(nodes.changed().await, None);
        std::fs::write(file.path(), "a:1\nb:2\n").unwrap();
        assert_eq!(nodes.changed().await, Some(Ok(vec!["a:1".to_owned(), "b:2".to_owned()])));
        file.close().unwrap();
        assert!(nodes.changed().await.unwrap().unwrap_err().contains("No such file"));
    }

    #[tokio::test]
    async fn a_name_gives_every_address_it_has() {
        let mut name = NodesName::new("localhost:8080".into());
        let found = name.due().await.unwrap().unwrap();
        assert!(found.contains(&"127.0.0.1:8080".to_owned()), "{found:?}");
        assert!(name.due().await.is_none());
        let error = NodesName::new("no-such-host.invalid:1".into()).due().await.unwrap().unwrap_err();
        assert!(error.contains("no-such-host.invalid"), "{error}");
        let resolved = resolve(&["localhost:1".into(), "127.0.0.1:1".into()]).await;
        assert!(resolved["localhost:1"].iter().any(|at| resolved["127.0.0.1:1"].contains(at)));
    }
}
