//! PURE. Putting a line into a shell command without the shell seeing into it.

/// `text` as one word of a POSIX shell.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+:,./-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A command with places for the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// What stands before, between and after the places.
    parts: Vec<String>,
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It has no place.
    #[error("the template {0:?} has no {{}} for the line")]
    NoPlace(String),
    /// The place stands in quotes.
    #[error(
        "the template {0:?} has {{}} inside quotes; the line is quoted already, so write {{}} without them"
    )]
    PlaceInQuotes(String),
}

impl Template {
    /// Reads a template. `{}` inside quotes is refused: a quoted line in there would end the
    /// quotes, and the shell would read the line's own text as code.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        #[derive(PartialEq)]
        enum Within {
            Nothing,
            Single,
            Double,
        }
        let mut within = Within::Nothing;
        let mut parts = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '{' && chars.peek() == Some(&'}') {
                if within != Within::Nothing {
                    return Err(TemplateError::PlaceInQuotes(text.into()));
                }
                chars.next();
                parts.push(String::new());
                continue;
            }
            let part = parts.last_mut().expect("there is always one part");
            part.push(c);
            match (c, &within) {
                ('\\', Within::Nothing | Within::Double) => part.extend(chars.next()),
                ('\'', Within::Nothing) => within = Within::Single,
                ('\'', Within::Single) | ('"', Within::Double) => within = Within::Nothing,
                ('"', Within::Nothing) => within = Within::Double,
                _ => {}
            }
        }
        if parts.len() == 1 { Err(TemplateError::NoPlace(text.into())) } else { Ok(Template { parts }) }
    }

    /// The command for a line.
    pub fn render(&self, line: &str) -> String {
        self.parts.join(&quoted(line))
    }

    /// True where the command is pytest's, so that its collection output may be the input.
    pub fn runs_pytest(&self) -> bool {
        self.parts.iter().any(|part| part.contains("pytest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// What a real shell makes of `script`: the arguments of `printf`, each ended by a NUL.
    fn words(script: &str) -> Vec<String> {
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert!(output.status.success(), "{script:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn plain_words_stay_readable() {
        assert_eq!(quoted("tests/test_a.py::test_b"), "tests/test_a.py::test_b");
        assert_eq!(quoted("test_a.py::test_b[1-x y]"), "'test_a.py::test_b[1-x y]'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("A=1"), "'A=1'", "would be an assignment at the start of a command");
    }

    #[test]
    fn every_place_takes_the_line() {
        let template = Template::parse("run {} --log {}.txt").unwrap();
        assert_eq!(template.render("a b"), "run 'a b' --log 'a b'.txt");
    }

    #[test]
    fn a_template_without_a_safe_place_is_refused() {
        assert!(matches!(Template::parse("pytest"), Err(TemplateError::NoPlace(_))));
        for quoted in ["pytest '{}'", "sh -c \"pytest {}\"", r#"echo "a\"{}""#] {
            assert!(matches!(Template::parse(quoted), Err(TemplateError::PlaceInQuotes(_))), "{quoted}");
        }
        for free in ["'a' {}", r"it\'s {}", r#""a\"" {}"#] {
            assert!(Template::parse(free).is_ok(), "{free}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_real_shell_gives_back_every_line(lines in proptest::collection::vec("[^\0]{0,40}", 1..20)) {
            let script = format!("printf '%s\\0' {}", lines.iter().map(|l| quoted(l)).collect::<Vec<_>>().join(" "));
            prop_assert_eq!(words(&script), lines);
        }

        #[test]
        fn shell_syntax_in_a_line_is_only_text(line in "[a-c '\"\\\\$`;&|<>(){}*?#~!\\-=\n\t]{0,30}") {
            let template = Template::parse("printf '%s\\0' {}").unwrap();
            prop_assert_eq!(words(&template.render(&line)), vec![line]);
        }
    }
}
