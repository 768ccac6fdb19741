//! The shipped suite: real commands with the outcome each must have.
//!
//! It is the first thing a new cluster does, and it is written so that a cluster that does its job
//! badly is seen: commands that fail, time out, want a label, succeed only when retried, or leave
//! processes behind stand among the ordinary ones. The files lie in `suite/`, whose README tells
//! their format, and are compiled in.

pub mod case;
pub mod check;
pub mod run;

pub use case::{Case, Expected};
pub use run::{Summary, run};

use crate::Error;

const FILES: [(&str, &str); 5] = [
    ("text.txt", include_str!("../../suite/text.txt")),
    ("files.txt", include_str!("../../suite/files.txt")),
    ("exits.txt", include_str!("../../suite/exits.txt")),
    ("limits.txt", include_str!("../../suite/limits.txt")),
    ("placement.txt", include_str!("../../suite/placement.txt")),
];

/// Every case of the shipped suite.
pub fn shipped() -> Result<Vec<Case>, Error> {
    let mut cases = Vec::new();
    for (file, text) in FILES {
        cases.extend(case::parse(file, text)?);
    }
    let mut names: Vec<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::Setting(format!("the suite has two cases named {}", pair[0])));
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_suite_covers_what_it_must() {
        let cases = shipped().unwrap();
        let count = |want: Expected| cases.iter().filter(|c| c.expected == want).count();
        assert!(cases.len() >= 40, "only {} cases", cases.len());
        assert!(count(Expected::Failed) >= 5);
        assert!(count(Expected::TimedOut) >= 3);
        assert!(cases.iter().any(|c| c.labels.get("zone").is_some_and(|z| z == "b")));
        assert!(cases.iter().any(|c| c.attempts > 1 && c.expected == Expected::Completed));
        assert!(cases.iter().all(|c| c.labels.keys().all(|k| k == "zone")));
    }
}
