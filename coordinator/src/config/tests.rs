use super::*;
use serde_json::json;

fn read(value: &Value, env: &[(&str, &str)]) -> Reading {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), value.to_string()).unwrap();
    Config::read(Some(file.path()), |name| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
}

fn load(value: Value, env: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let reading = read(&value, env);
    match reading.config {
        Some(config) if reading.faults.is_empty() => {
            Ok((config, reading.remarks.iter().map(ToString::to_string).collect()))
        }
        _ => Err(ConfigError::Many(reading.faults).to_string()),
    }
}

fn guide() -> Value {
    json!({
        "node_id": "node-1", "host": "coordinator1.example.com", "port": 8080,
        "data_dir": "/home/coordinator/distributed_testing/node1",
        "db_path": "/home/coordinator/distributed_testing/node1/coordinator.duckdb",
        "log_level": "INFO", "enable_redundancy": true,
        "peers": [
            {"id": "node-2", "host": "coordinator2.example.com", "port": 8080},
            {"id": "node-3", "host": "coordinator3.example.com", "port": 8080}
        ],
        "election_timeout_min": 150, "election_timeout_max": 300, "heartbeat_interval": 50,
        "snapshot_threshold": 1000, "max_log_size": 10000
    })
}

fn with(changes: Value) -> Value {
    let mut config = guide();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn the_guides_config_is_read_as_it_stands() {
    let (config, remarks) = load(guide(), &[]).unwrap();
    assert_eq!(config.peers.len(), 2);
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks[0].contains("is taken for a peer"), "{remarks:?}");
    assert!(remarks[1].contains("can run commands"), "{remarks:?}");
}

#[test]
fn the_key_table_is_the_structs() {
    let (config, _) = load(guide(), &[]).unwrap();
    let Value::Object(map) = serde_json::to_value(config).unwrap() else { panic!() };
    let mut fields: Vec<_> = map.keys().map(String::as_str).collect();
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    fields.sort_unstable();
    keys.sort_unstable();
    assert_eq!(fields, keys);
}

#[test]
fn every_key_can_come_from_the_environment() {
    let (config, _) = load(guide(), &[]).unwrap();
    let Value::Object(map) = serde_json::to_value(config).unwrap() else { panic!() };
    for key in KEYS {
        // A value of the key's kind that is not what the file has.
        let (text, expected) = match (key.name, key.kind) {
            ("trace_sample_ratio", _) => ("0.25", json!(0.25)),
            ("db_pragma", _) => (r#"{"threads": 2}"#, json!({"threads": 2})),
            ("peers", _) => {
                ("x:1,n9=y:2", json!([{"host": "x", "port": 1}, {"id": "n9", "host": "y", "port": 2}]))
            }
            ("auth_users", _) => (
                r#"[{"username": "u", "password_hash": "h"}]"#,
                json!([{"username": "u", "password_hash": "h"}]),
            ),
            (_, "text" | "path") => ("4711", json!("4711")),
            (_, "number") => ("4711", json!(4711)),
            (_, "true or false") if map[key.name] == json!(true) => ("false", json!(false)),
            (_, "true or false") => ("true", json!(true)),
            (name, kind) => panic!("{name} is {kind}, which this test does not know"),
        };
        let env = key.env();
        let reading = read(&guide(), &[(&env, text)]);
        let config = reading.config.unwrap_or_else(|| panic!("{}: {:?}", key.name, reading.faults));
        let value = serde_json::to_value(config).unwrap()[key.name].clone();
        assert_ne!(value, map[key.name], "{env} had no effect");
        // Users may have gained fields with defaults.
        if key.name != "auth_users" {
            assert_eq!(value, expected, "{env}");
        }
    }
}

#[test]
fn the_guides_compose_environment_is_a_whole_config() {
    let env = [
        ("NODE_ID", "node-1"),
        ("HOST", "coordinator-node1"),
        ("PORT", "8080"),
        ("DATA_DIR", "/data"),
        ("DB_PATH", "/data/coordinator.duckdb"),
        ("ENABLE_REDUNDANCY", "true"),
        ("PEERS", "coordinator-node2:8080,node-3=coordinator-node3:8080"),
    ];
    let (config, _) = load(json!({}), &env).unwrap();
    assert_eq!(config.peers[0].id, None);
    assert_eq!(config.peers[1].id.as_deref(), Some("node-3"));
    assert_eq!(config.peers[1].address(), "coordinator-node3:8080");
}

#[test]
fn every_fault_is_reported_at_once() {
    let bad = with(json!({
        "election_timeout_min": 60, "prometheus_port": 8080, "db_pragma": {"encoding": "utf8"},
        "heartbeat_intervall": 5, "zoned": "x",
    }));
    let error = load(bad, &[]).unwrap_err();
    for named in [
        "election_timeout_min",
        "prometheus_port",
        "`encoding`",
        "did you mean `heartbeat_interval`",
        "did you mean `zone`",
    ] {
        assert!(error.contains(named), "{named} is missing in:\n{error}");
    }
    // Values of the wrong type keep the cross-checks from running, but not each other.
    let mut bad = with(json!({"port": "many", "peers": [{"id": "a", "hots": "b"}], "log_max_size": -1}));
    bad.as_object_mut().unwrap().remove("node_id");
    let error = load(bad, &[]).unwrap_err();
    for named in ["`port`", "peers[0].hots", "did you mean `host`", "`node_id` is required", "`log_max_size`"]
    {
        assert!(error.contains(named), "{named} is missing in:\n{error}");
    }
}

#[test]
fn a_fault_of_the_environment_says_so() {
    let error = load(guide(), &[("HEARTBEAT_INTERVAL", "soon")]).unwrap_err();
    assert!(error.contains("HEARTBEAT_INTERVAL in the environment sets it"), "{error}");
    let error = load(guide(), &[("PEERS", "b:80x,:1,c")]).unwrap_err();
    assert!(
        error.contains("`80x` is not a port") && error.contains("`:1`") && error.contains("`c`"),
        "{error}"
    );
}

#[test]
fn a_guide_pragma_of_sqlite_is_a_warning() {
    let config =
        with(json!({"db_pragma": {"journal_mode": "WAL", "synchronous": "NORMAL", "cache_size": 10000}}));
    let (_, remarks) = load(config, &[]).unwrap();
    assert_eq!(remarks.iter().filter(|w| w.contains("SQLite")).count(), 3, "{remarks:?}");
}

/// The remarks about a key when the guide's config is changed so.
fn remarks_on(key: &str, changes: Value) -> Vec<String> {
    let (_, remarks) = load(with(changes), &[]).unwrap();
    remarks.into_iter().filter(|remark| remark.contains(&format!("`{key}`"))).collect()
}

#[test]
fn timers_of_one_place_and_of_several_are_fine() {
    for timers in [
        json!({"heartbeat_interval": 50, "election_timeout_min": 150, "election_timeout_max": 300}),
        json!({"heartbeat_interval": 30, "election_timeout_min": 200, "election_timeout_max": 400}),
        json!({"heartbeat_interval": 100, "election_timeout_min": 300, "election_timeout_max": 600}),
        json!({"heartbeat_interval": 200, "election_timeout_min": 600, "election_timeout_max": 1200}),
    ] {
        for key in ["heartbeat_interval", "election_timeout_min", "election_timeout_max"] {
            assert!(remarks_on(key, timers.clone()).is_empty(), "{key} in {timers}");
        }
    }
}

#[test]
fn timers_outside_the_recommended_ranges_are_warned_of() {
    for (key, changes, says) in [
        ("heartbeat_interval", json!({"heartbeat_interval": 70}), "more than a third"),
        (
            "heartbeat_interval",
            json!({"election_timeout_min": 600, "election_timeout_max": 1200}),
            "less than a tenth",
        ),
        (
            "heartbeat_interval",
            json!({"heartbeat_interval": 300, "election_timeout_min": 1000, "election_timeout_max": 2000}),
            "30 to 200 ms are recommended",
        ),
        ("heartbeat_interval", json!({"heartbeat_interval": 45}), "rounded up"),
        (
            "election_timeout_min",
            json!({"election_timeout_min": 120, "heartbeat_interval": 30}),
            "looks like a dead leader",
        ),
        (
            "election_timeout_min",
            json!({"election_timeout_min": 700, "election_timeout_max": 1200, "heartbeat_interval": 100}),
            "noticed late",
        ),
        ("election_timeout_max", json!({"election_timeout_max": 1300}), "300 to 1200 ms"),
        ("election_timeout_max", json!({"election_timeout_max": 200}), "split their votes"),
    ] {
        let remarks = remarks_on(key, changes.clone());
        assert!(remarks.iter().any(|r| r.contains(says)), "{changes}: {remarks:?}");
    }
}

#[test]
fn what_is_unusual_is_noted() {
    for (key, changes, says) in [
        ("node_id", json!({"node_id": "first"}), "a name and a number"),
        ("port", json!({"port": 9000}), "8080 to 8089"),
        ("snapshot_threshold", json!({"snapshot_threshold": 500}), "1000 to 10000"),
        ("max_log_size", json!({"max_log_size": 5000}), "10000 to 100000"),
        ("log_level", json!({"log_level": "DEBUG"}), "INFO is for production"),
        ("db_memory_limit", json!({"db_memory_limit": 1024}), "at most half"),
        ("host", json!({"host": "127.0.0.1"}), "would reach themselves"),
        ("peers", json!({"peers": [{"id": "node-2", "host": "b"}]}), "no more failures than one of 1"),
        ("peers", json!({"enable_redundancy": false}), "are not used"),
        ("connection_timeout", json!({"connection_timeout": 5000}), "in seconds"),
    ] {
        let remarks = remarks_on(key, changes.clone());
        assert!(remarks.iter().any(|r| r.contains(says)), "{changes}: {remarks:?}");
    }
}

#[test]
fn an_address_that_peers_cant_use_is_refused() {
    let error = load(with(json!({"host": "0.0.0.0"})), &[]).unwrap_err();
    assert!(error.contains("bind with `listen`"), "{error}");
}

#[test]
fn the_effective_config_has_no_secrets() {
    let reading = read(
        &with(json!({"jwt_secret": "hush", "auth_users": [{"username": "u", "password_hash": "hush"}]})),
        &[],
    );
    let shown = Value::Object(effective::effective(&reading.config.unwrap())).to_string();
    assert!(!shown.contains("hush") && shown.contains(effective::REMOVED), "{shown}");
    assert!(shown.contains("coordinator.duckdb"), "{shown}");
}

#[test]
fn a_reload_takes_what_can_change_and_names_the_rest() {
    let (running, _) = load(guide(), &[]).unwrap();
    let (fresh, _) =
        load(with(json!({"log_level": "DEBUG", "heartbeat_interval": 30, "max_log_size": 20000})), &[])
            .unwrap();
    let (merged, changes) = reload::merge(&running, &fresh);
    assert_eq!(changes.live, ["max_log_size", "log_level"]);
    assert_eq!(changes.restart, ["heartbeat_interval"]);
    assert_eq!(
        (merged.log_level.as_str(), merged.heartbeat_interval, merged.max_log_size),
        ("DEBUG", 50, 20000)
    );
    // What waits for a restart is named again.
    let (_, again) = reload::merge(&merged, &fresh);
    assert_eq!((again.live.len(), again.restart), (0, vec!["heartbeat_interval"]));
}

#[test]
fn a_pod_tells_the_name_that_others_resolve() {
    let env = |host: &'static str| {
        [
            ("NODE_ID", "coordinator-0"),
            ("HOST", host),
            ("DATA_DIR", "/data"),
            (
                "PEERS",
                "coordinator-0.coordinator:8080,coordinator-1.coordinator:8080,coordinator-2.coordinator:8080",
            ),
        ]
    };
    let (config, _) = load(json!({}), &env("coordinator-0")).unwrap();
    assert_eq!(config.address(), "coordinator-0.coordinator:8080");
    assert_eq!(config.bind_host(), "coordinator-0");
    // A host that is not the node's own name is told as it is.
    let (config, _) = load(json!({}), &env("10.0.0.7")).unwrap();
    assert_eq!(config.address(), "10.0.0.7:8080");
    let (config, _) = load(json!({}), &env("coordinator")).unwrap();
    assert_eq!(config.address(), "coordinator:8080");
}

#[test]
fn what_is_exported_is_off_until_a_collector_is_named() {
    let (config, _) = load(guide(), &[]).unwrap();
    assert!(config.export().unwrap().is_none());

    let standard = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318"), ("TRACE_SAMPLE_RATIO", "0.5")];
    let (config, _) = load(guide(), &standard).unwrap();
    let settings = config.export().unwrap().unwrap();
    assert_eq!((settings.endpoint.as_str(), settings.ratio), ("http://standard:4318", 0.5));
    assert_eq!(settings.signals, otlp::Signals::ALL);

    let named = with(json!({"otlp_endpoint": "https://own:4318", "otlp_signals": "traces"}));
    let (config, _) = load(named, &standard).unwrap();
    let settings = config.export().unwrap().unwrap();
    assert_eq!(
        settings.endpoint, "https://own:4318",
        "the file's own key comes before the standard variable"
    );
    assert!(settings.signals.traces && !settings.signals.logs);

    let bad = with(json!({
        "otlp_endpoint": "collector:4318", "otlp_signals": "spans", "trace_sample_ratio": 2.0,
        "otlp_metrics_interval_seconds": 0,
    }));
    let error = load(bad, &[]).unwrap_err();
    for named in ["otlp_endpoint", "`otlp_signals`", "trace_sample_ratio", "otlp_metrics_interval_seconds"] {
        assert!(error.contains(named), "{named} is missing in: {error}");
    }
}
