//! PURE. Which lines of the input become tasks.
//!
//! A blank line never does. Any other line does, whatever it starts with, with one exception: when
//! the template runs pytest, the input is likely to be the output of `pytest --collect-only -q`,
//! whose end is a summary for people. Then, if any line contains `::`, only the lines that name a
//! test are kept (they contain `::` and begin with neither white space, `=` nor `ERROR `); if none
//! does, the lines are taken as files or directories, and only headings (`=== … ===`) and counts
//! (`no tests ran in 0.01s`, `12 tests collected in 0.03s`) are skipped. What was skipped is
//! counted, and collection errors are named.

/// The longest line, in bytes; longer than any argument list that a system takes.
pub const MAX_LINE_BYTES: usize = 128 * 1024;
/// The most lines of one run.
pub const MAX_LINES: usize = 1_000_000;

/// The lines that become tasks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// In the order of the input.
    pub lines: Vec<&'a str>,
    /// How many lines that are not blank were left out.
    pub skipped: usize,
    /// The lines in which pytest says that it could not collect something.
    pub collection_errors: Vec<&'a str>,
}

/// Why the input can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Not text.
    #[error("line {line} is not valid UTF-8")]
    NotText {
        /// Counts from 1.
        line: usize,
    },
    /// No argument can carry a NUL.
    #[error("line {line} contains a NUL character")]
    Nul {
        /// Counts from 1.
        line: usize,
    },
    /// Too long.
    #[error("line {line} has {bytes} bytes; {MAX_LINE_BYTES} are the limit")]
    TooLong {
        /// Counts from 1.
        line: usize,
        /// Its length.
        bytes: usize,
    },
    /// Too many.
    #[error("the input has more than {MAX_LINES} lines; split it")]
    TooMany,
}

/// Chooses the lines of `input` that become tasks.
pub fn choose(input: &[u8], runs_pytest: bool) -> Result<Chosen<'_>, InputError> {
    let mut lines = Vec::new();
    for (at, line) in input.split(|b| *b == b'\n').enumerate() {
        let number = at + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > MAX_LINE_BYTES {
            return Err(InputError::TooLong { line: number, bytes: line.len() });
        }
        let text = std::str::from_utf8(line).map_err(|_| InputError::NotText { line: number })?;
        if text.contains('\0') {
            return Err(InputError::Nul { line: number });
        }
        if !text.trim().is_empty() {
            lines.push(text);
        }
        if lines.len() > MAX_LINES {
            return Err(InputError::TooMany);
        }
    }
    if !runs_pytest {
        return Ok(Chosen { lines, ..Chosen::default() });
    }
    let total = lines.len();
    let collection_errors = lines.iter().copied().filter(|line| line.starts_with("ERROR ")).collect();
    if lines.iter().any(|line| names_a_test(line)) {
        lines.retain(|line| names_a_test(line));
    } else {
        lines.retain(|line| !is_summary(line) && !line.starts_with("ERROR "));
    }
    let skipped = total - lines.len();
    Ok(Chosen { lines, skipped, collection_errors })
}

fn names_a_test(line: &str) -> bool {
    line.contains("::")
        && !line.starts_with(|c: char| c.is_whitespace() || c == '=')
        && !line.starts_with("ERROR ")
}

/// A heading between `=` signs, or a count that ends in a duration.
fn is_summary(line: &str) -> bool {
    if line.starts_with("===") || line.starts_with("!!!") {
        return true;
    }
    let counts = line.starts_with("no tests ") || line.starts_with(|c: char| c.is_ascii_digit());
    let duration = line.rsplit_once(" in ").map(|(_, end)| end.split(' ').next().unwrap_or(""));
    counts && duration.is_some_and(|d| d.strip_suffix('s').is_some_and(|n| n.parse::<f64>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blank_lines_are_skipped() {
        let chosen = choose(b"make a\n\n# not a comment\r\n   \n- x", false).unwrap();
        assert_eq!(chosen.lines, ["make a", "# not a comment", "- x"]);
        assert_eq!(chosen.skipped, 0);
    }

    #[test]
    fn pytest_collection_output_becomes_its_tests() {
        let output = "\
tests/test_a.py::test_one
tests/test_a.py::TestX::test_two[a b]
#odd.py::test_three[1 in 2s]

=============================== warnings summary ===============================
tests/test_a.py:3
  /src/tests/test_a.py:3: UserWarning: use Foo::bar
    warnings.warn(\"x\")

-- Docs: https://docs.pytest.org/en/stable/how-to/capture-warnings.html
=========================== short test summary info ============================
ERROR tests/test_bad.py::TestY - ModuleNotFoundError: No module named 'x'
!!!!!!!!!!!!!!!!!!!! Interrupted: 1 error during collection !!!!!!!!!!!!!!!!!!!!
3 tests collected, 1 error in 0.03s
";
        let chosen = choose(output.as_bytes(), true).unwrap();
        assert_eq!(
            chosen.lines,
            [
                "tests/test_a.py::test_one",
                "tests/test_a.py::TestX::test_two[a b]",
                "#odd.py::test_three[1 in 2s]"
            ]
        );
        assert_eq!(chosen.skipped, 9);
        assert_eq!(chosen.collection_errors.len(), 1);
    }

    #[test]
    fn nothing_collected_is_no_task() {
        for output in [
            "\nno tests ran in 0.01s\n",
            "\nno tests collected in 0.00s\n",
            "no tests collected (12 deselected) in 0.01s",
            "============ no tests ran in 0.01s ============",
            "12/20 tests collected (8 deselected) in 65.03s (0:01:05)",
        ] {
            let chosen = choose(output.as_bytes(), true).unwrap();
            assert_eq!((chosen.lines.len(), chosen.skipped), (0, 1), "{output}");
        }
    }

    #[test]
    fn pytest_takes_files_as_well() {
        let chosen = choose(b"tests/test_a.py\ntests/test_b.py\n2 tests collected in 0.1s\n", true).unwrap();
        assert_eq!(chosen.lines, ["tests/test_a.py", "tests/test_b.py"]);
        assert_eq!(chosen.skipped, 1);
    }

    #[test]
    fn what_can_not_be_run_names_its_line() {
        assert_eq!(choose(b"a\nb\xff\n", false), Err(InputError::NotText { line: 2 }));
        assert_eq!(choose(b"a\n\nb\0\n", false), Err(InputError::Nul { line: 3 }));
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        assert_eq!(choose(&long, false), Err(InputError::TooLong { line: 1, bytes: MAX_LINE_BYTES + 1 }));
    }
}
