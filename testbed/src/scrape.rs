//! Prometheus text, taken apart: what a program shows at `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one scrape.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<Sample>);

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name, with `_bucket` and the like.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Samples {
    /// Takes a text apart; the error names the line that is none of Prometheus'.
    pub fn parse(text: &str) -> Result<Samples, String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| sample(line).ok_or_else(|| format!("no sample: {line}")))
            .collect::<Result<_, _>>()
            .map(Samples)
    }

    /// Scrapes a URL.
    pub async fn of(http: &reqwest::Client, url: &str) -> Result<Samples, String> {
        let why = |e: reqwest::Error| format!("{url}: {}", api::client::error_chain(&e));
        let answer = http.get(url).send().await.map_err(why)?.error_for_status().map_err(why)?;
        Samples::parse(&answer.text().await.map_err(why)?)
    }

    /// Every name.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|sample| sample.name.as_str()).collect()
    }

    /// The samples of that name with these labels among theirs.
    pub fn of_name<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        })
    }

    /// The sum over all of that name with these labels; none where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.of_name(name, labels).map(|sample| sample.value).reduce(|a, b| a + b)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (head, labels, rest) = match line.find('{') {
        Some(open) => {
            let (labels, rest) = labels(&line[open + 1..])?;
            (&line[..open], labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, BTreeMap::new(), rest)
        }
    };
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample { name: head.to_owned(), labels, value })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches(',');
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => match letters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, letter) => value.push(letter),
            }
        };
        labels.insert(name.to_owned(), value);
        text = &rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let text = "# HELP a It.\na 1\nb{x=\"1\",y=\"a \\\"}\\\\ \\n\"} 2.5e3\nb_bucket{x=\"2\",le=\"+Inf\"} +Inf\n\n";
        let samples = Samples::parse(text).unwrap();
        assert_eq!(samples.names().into_iter().collect::<Vec<_>>(), ["a", "b", "b_bucket"]);
        assert_eq!(samples.sum("a", &[]), Some(1.0));
        assert_eq!(samples.sum("b", &[("x", "1")]), Some(2500.0));
        assert_eq!(samples.of_name("b", &[]).next().unwrap().labels["y"], "a \"}\\ \n");
        assert_eq!(samples.sum("b", &[("x", "2")]), None);
        assert!(Samples::parse("a{ 1").is_err());
        assert!(Samples::parse("a one").is_err());
    }
}
