//! `coordinator --check-config`.

use super::{EXIT_NOT_SO, print};
use crate::access::Access;
use crate::config::effective::effective;
use crate::config::{Grade, Reading};
use std::process::ExitCode;

/// Prints the config as it counts on standard output, and what is to be said of it on standard
/// error.
pub fn check_config(reading: &Reading) -> ExitCode {
    if let Some(config) = &reading.config {
        print::json(&effective(config));
    }
    reading.remarks.iter().for_each(|remark| print::say(&remark.to_string()));
    let faults = faults(reading);
    faults.iter().for_each(|fault| print::say(&format!("fault: {fault}")));
    let warnings = reading.remarks.iter().filter(|remark| remark.grade == Grade::Warning).count();
    let warnings = print::counted(warnings, "warning");
    match (&reading.config, faults.len()) {
        (Some(config), 0) => {
            print::say(&format!("the config of node {} is valid; {warnings}", config.node_id));
            ExitCode::SUCCESS
        }
        (_, faults) => {
            let faults = print::counted(faults, "fault");
            print::say(&format!("the config is not valid; {faults}, {warnings}"));
            ExitCode::from(EXIT_NOT_SO)
        }
    }
}

/// What keeps a node from starting with it. Certificates and secrets are read only where nothing else
/// is wrong: they lie in files that the config names.
fn faults(reading: &Reading) -> Vec<String> {
    let in_config: Vec<String> = reading.faults.iter().map(ToString::to_string).collect();
    match &reading.config {
        Some(config) if in_config.is_empty() => {
            Access::from_config(config).err().iter().map(ToString::to_string).collect()
        }
        _ => in_config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use serde_json::json;

    #[test]
    fn a_file_that_is_named_and_can_not_be_used_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.json");
        let said = |extra: (&str, bool, &str)| {
            let (key, enable_tls, file) = extra;
            let config = json!({"node_id": "n1", "host": "127.0.0.1", "data_dir": folder.path().join("d"),
                "enable_redundancy": false, "enable_tls": enable_tls, "cert_path": folder.path().join("c.pem"),
                "key_path": folder.path().join("k.pem"), key: folder.path().join(file)});
            std::fs::write(&path, config.to_string()).unwrap();
            faults(&Config::read(Some(&path), |_| None))
        };
        assert_eq!(said(("log_file", false, "n1.log")), Vec::<String>::new());
        let missing = said(("cluster_secret_file", false, "secret"));
        assert!(missing.len() == 1 && missing[0].contains("secret"), "{missing:?}");
        let missing = said(("log_file", true, "n1.log"));
        assert!(missing.len() == 1 && missing[0].contains("c.pem"), "{missing:?}");
    }
}
