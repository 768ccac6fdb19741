//! `docs/cli.md`, written from the command line's own declarations.

use clap::{Arg, Command};
use std::fmt::Write as _;

const INTRODUCTION: &str = "# The command line of `coordinator`

This page is written from the declarations in `coordinator/src/cli`; a test fails where it is not current
(`UPDATE=1 cargo test -p coordinator --lib the_reference_is_current` writes it).

Commands that talk to a cluster take `--coordinators` (or `HOLDFAST_COORDINATORS`): any node will do, the leader
is found from there. Tables are for people; with `--json` a command prints one JSON document on standard output.
Remarks go to standard error.

Exit codes, where a command says nothing else: 0 done; 1 the thing asked is not so, was refused, or a task
failed; 2 it could not be told: nobody answered, or the usage was wrong.
";

/// The page for a command and all that stand under it.
pub fn page(command: &Command) -> String {
    let mut page = INTRODUCTION.to_owned();
    section(&mut page, command, command.get_name());
    page
}

fn section(page: &mut String, command: &Command, path: &str) {
    let _ = write!(page, "\n## `{path}`\n");
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        let _ = write!(page, "\n{}\n", about.to_string().trim());
    }
    let shown: Vec<&Arg> =
        command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())).collect();
    if !shown.is_empty() {
        page.push_str("\n| | default | |\n|---|---|---|\n");
        shown.into_iter().for_each(|arg| row(page, arg));
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set())
    {
        section(page, below, &format!("{path} {}", below.get_name()));
    }
}

fn row(page: &mut String, arg: &Arg) {
    let values: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(|name| format!(" {name}")).collect();
    let takes = arg.get_action().takes_values();
    let name = match (arg.get_long(), takes) {
        (Some(long), true) => format!("--{long}{}", values.concat()),
        (Some(long), false) => format!("--{long}"),
        (None, _) => values.concat().trim().to_owned(),
    };
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    let default =
        if defaults.is_empty() || !takes { String::new() } else { format!("`{}`", defaults.join(",")) };
    let env = arg.get_env().map(|env| format!(" Also `{}`.", env.to_string_lossy())).unwrap_or_default();
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let _ = writeln!(page, "| `{name}` | {default} | {help}{env} |");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::CommandFactory;

    #[test]
    fn the_reference_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
        let mut command = Arguments::command();
        command.build();
        let written = page(&command);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &written).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == written,
            "docs/cli.md is not current: UPDATE=1 cargo test -p coordinator --lib the_reference_is_current"
        );
    }

    #[test]
    fn every_command_that_talks_to_a_cluster_takes_addresses_and_json() {
        fn walk(command: &Command, path: &str, seen: &mut usize) {
            let below: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
            for c in &below {
                walk(c, &format!("{path} {}", c.get_name()), seen);
            }
            let takes = |name: &str| command.get_arguments().any(|arg| arg.get_long() == Some(name));
            if below.is_empty() && takes("coordinators") {
                assert!(takes("json"), "{path} has no --json");
                *seen += 1;
            }
        }
        let mut seen = 0;
        walk(&Arguments::command(), "coordinator", &mut seen);
        assert!(seen >= 12, "{seen} commands");
    }
}
