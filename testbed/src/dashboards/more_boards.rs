//! Storage, tasks and workers, recovery, one node.

use super::model::{Board, folded, lines, row, stat, states};

/// Log, snapshots, database, disk, checks.
pub(super) const STORAGE: Board = Board {
    name: "storage",
    title: "Storage",
    description: "The log, snapshots, DuckDB, the disks, and what checks of integrity found.",
    one_instance: false,
    rows: &[
        row(
            "Sound?",
            &[
                stat(
                    "Damaged parts",
                    "short",
                    "Parts in which the last check found damage. 0 is well.",
                    &[("sum(holdfast_integrity_damaged{$m})", "")],
                )
                .red_from(1.0),
                stat(
                    "Oldest check",
                    "s",
                    "Since the part that was checked longest ago; beyond the scrub interval something is stuck.",
                    &[("time() - min(holdfast_integrity_last_check_timestamp_seconds{$m} > 0)", "")],
                ),
                stat(
                    "Last backup",
                    "s",
                    "Since the state in the last backup that a node sent whole.",
                    &[("time() - max(holdfast_backup_last_timestamp_seconds{$m} > 0)", "")],
                )
                .red_from(93_600.0),
                stat(
                    "Databases that take writes",
                    "short",
                    "All nodes, or one has lost its history.",
                    &[("sum(holdfast_store_healthy{$m})", "")],
                ),
            ],
        ),
        row(
            "Log",
            &[
                lines(
                    "Sync",
                    "s",
                    "Percentiles of one synced write of the log, by node.",
                    &[
                        (
                            "histogram_quantile(0.5, sum by (instance, le) (rate(holdfast_log_sync_duration_seconds_bucket{$m}[$__rate_interval])))",
                            "{{instance}} p50",
                        ),
                        (
                            "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_log_sync_duration_seconds_bucket{$m}[$__rate_interval])))",
                            "{{instance}} p99",
                        ),
                    ],
                ),
                lines(
                    "Syncs a second",
                    "ops",
                    "How often the disk is asked; load gathers in larger ones.",
                    &[(
                        "sum by (instance) (rate(holdfast_log_sync_duration_seconds_count{$m}[$__rate_interval]))",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Entries behind the snapshot",
                    "short",
                    "What a restart replays.",
                    &[("holdfast_raft_last_index{$m} - holdfast_raft_snapshot_index{$m}", "{{instance}}")],
                ),
            ],
        ),
        row(
            "Disk",
            &[
                lines(
                    "Free",
                    "bytes",
                    "Of the data directory's file system.",
                    &[("holdfast_disk_free_bytes{$m}", "{{instance}}")],
                ),
                lines(
                    "Data directory",
                    "bytes",
                    "What the node itself has there.",
                    &[("holdfast_data_size_bytes{$m}", "{{instance}}")],
                ),
                lines(
                    "In four hours",
                    "bytes",
                    "Free bytes, drawn on from the last hour. Below zero: it fills up.",
                    &[("predict_linear(holdfast_disk_free_bytes{$m}[1h], 4 * 3600)", "{{instance}}")],
                ),
            ],
        ),
        folded(
            "DuckDB",
            &[
                lines(
                    "Transactions",
                    "s",
                    "99th percentile of one transaction.",
                    &[(
                        "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_store_write_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Effects a transaction",
                    "short",
                    "Mean number of effects that share one.",
                    &[(
                        "sum by (instance) (rate(holdfast_store_batch_sum{$m}[$__rate_interval])) / (sum by (instance) (rate(holdfast_store_batch_count{$m}[$__rate_interval])) > 0)",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Behind",
                    "short",
                    "Entries behind what is applied.",
                    &[("holdfast_store_lag{$m}", "{{instance}}")],
                ),
                lines(
                    "Size",
                    "bytes",
                    "Of the database file.",
                    &[("holdfast_store_size_bytes{$m}", "{{instance}}")],
                ),
            ],
        ),
        folded(
            "Snapshots, checks, backups",
            &[
                lines(
                    "Time to write a snapshot",
                    "s",
                    "Mean since the process started; work goes on beside it.",
                    &[(
                        "holdfast_snapshot_duration_seconds_sum{$m} / holdfast_snapshot_duration_seconds_count{$m}",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Size of the newest snapshot",
                    "bytes",
                    "Compressed.",
                    &[("holdfast_snapshot_size_bytes{$m}", "{{instance}}")],
                ),
                lines(
                    "Snapshots that failed or were fetched",
                    "short",
                    "In an hour.",
                    &[
                        (
                            "increase(holdfast_snapshot_failures_total{$m}[1h])",
                            "{{instance}} could not write",
                        ),
                        (
                            "increase(holdfast_snapshot_fetches_total{$m}[1h])",
                            "{{instance}} fetch {{outcome}}",
                        ),
                    ],
                ),
                lines(
                    "Checks",
                    "short",
                    "Whole checks in an hour, by part and outcome.",
                    &[(
                        "sum by (part, outcome) (increase(holdfast_integrity_checks_total{$m}[1h]))",
                        "{{part}} {{outcome}}",
                    )],
                ),
                lines(
                    "Backups",
                    "short",
                    "In a day, by outcome.",
                    &[("sum by (outcome) (increase(holdfast_backups_total{$m}[1d]))", "{{outcome}}")],
                ),
            ],
        ),
    ],
};

/// What the cluster is there for.
pub(super) const TASKS: Board = Board {
    name: "tasks",
    title: "Tasks and workers",
    description: "What waits, runs and ended, how long it took, and who does it. Every node counts every task: the figures are the largest of any node.",
    one_instance: false,
    rows: &[
        row(
            "Now",
            &[
                stat(
                    "Pending",
                    "short",
                    "Tasks that wait for a worker.",
                    &[("max(holdfast_tasks{$m, state=\"pending\"})", "")],
                ),
                stat(
                    "Running",
                    "short",
                    "Tasks at a worker.",
                    &[("max(sum by (instance) (holdfast_tasks{$m, state=~\"assigned|running\"}))", "")],
                ),
                stat(
                    "Workers",
                    "short",
                    "That are active or busy.",
                    &[("max(sum by (instance) (holdfast_workers{$m, state=~\"active|busy\"}))", "")],
                )
                .red_below(1.0),
                stat(
                    "Maintenance",
                    "bool_on_off",
                    "On: nothing is accepted or assigned.",
                    &[("max(holdfast_maintenance{$m})", "")],
                )
                .red_from(1.0),
            ],
        ),
        row(
            "Throughput",
            &[
                lines(
                    "Submitted and ended",
                    "ops",
                    "Tasks a second.",
                    &[
                        ("max(rate(holdfast_tasks_submitted_total{$m}[$__rate_interval]))", "submitted"),
                        ("max(rate(holdfast_tasks_completed_total{$m}[$__rate_interval]))", "completed"),
                        ("max(rate(holdfast_tasks_failed_total{$m}[$__rate_interval]))", "failed"),
                        ("max(rate(holdfast_tasks_cancelled_total{$m}[$__rate_interval]))", "cancelled"),
                    ],
                ),
                lines(
                    "Retries and ended leases",
                    "ops",
                    "Attempts that will be followed by another, and leases that ran out.",
                    &[
                        ("max(rate(holdfast_tasks_retried_total{$m}[$__rate_interval]))", "retried"),
                        (
                            "max(rate(holdfast_tasks_expired_total{$m}[$__rate_interval]))",
                            "lease or time ran out",
                        ),
                    ],
                ),
                lines(
                    "Tasks by state",
                    "short",
                    "In memory; finished ones leave it after a while.",
                    &[("max by (state) (holdfast_tasks{$m})", "{{state}}")],
                ),
            ],
        ),
        row(
            "Time",
            &[
                lines(
                    "Wait",
                    "s",
                    "From submission, or the time of a retry, to assignment.",
                    &[
                        (
                            "histogram_quantile(0.5, max by (le) (rate(holdfast_task_queue_wait_seconds_bucket{$m}[$__rate_interval])))",
                            "p50",
                        ),
                        (
                            "histogram_quantile(0.99, max by (le) (rate(holdfast_task_queue_wait_seconds_bucket{$m}[$__rate_interval])))",
                            "p99",
                        ),
                    ],
                ),
                lines(
                    "Run",
                    "s",
                    "From assignment to the accepted result.",
                    &[
                        (
                            "histogram_quantile(0.5, max by (le) (rate(holdfast_task_run_time_seconds_bucket{$m}[$__rate_interval])))",
                            "p50",
                        ),
                        (
                            "histogram_quantile(0.99, max by (le) (rate(holdfast_task_run_time_seconds_bucket{$m}[$__rate_interval])))",
                            "p99",
                        ),
                    ],
                ),
                lines(
                    "Workers by state",
                    "short",
                    "Lost: silent for longer than their time.",
                    &[("max by (state) (holdfast_workers{$m})", "{{state}}")],
                ),
            ],
        ),
    ],
};

/// Monitor and recovery daemon.
pub(super) const RECOVERY: Board = Board {
    name: "recovery",
    title: "Recovery",
    description: "What the monitor finds, what the recovery daemon does about it, and whether both are at work.",
    one_instance: false,
    rows: &[
        row(
            "Status",
            &[
                stat(
                    "Findings",
                    "short",
                    "Of the monitor, now.",
                    &[("sum(holdfast_monitor_anomalies{$m}) or 0 * sum(holdfast_monitor_nodes{$m})", "")],
                )
                .red_from(1.0),
                stat(
                    "Open faults",
                    "short",
                    "Known to the daemon and not repaired.",
                    &[("sum(holdfast_recovery_faults{$m})", "")],
                )
                .red_from(1.0),
                stat(
                    "Brake",
                    "bool_on_off",
                    "On: nothing is repaired.",
                    &[("max(holdfast_recovery_brake{$m})", "")],
                )
                .red_from(1.0),
                stat(
                    "Halted",
                    "bool_yes_no",
                    "Yes: the audit can't be written, and nothing is repaired.",
                    &[("max(holdfast_recovery_halted{$m})", "")],
                )
                .red_from(1.0),
                stat(
                    "Since the last step",
                    "s",
                    "Since the daemon last acted.",
                    &[("time() - max(holdfast_recovery_last_action_timestamp_seconds{$m} > 0)", "")],
                ),
            ],
        ),
        row(
            "Findings",
            &[
                lines(
                    "Findings by kind and node",
                    "short",
                    "Empty is well.",
                    &[(
                        "sum by (kind, node, severity) (holdfast_monitor_anomalies{$m})",
                        "{{kind}} {{node}} {{severity}}",
                    )],
                ),
                lines(
                    "Detection delay",
                    "s",
                    "Mean from the first round that showed a fault to its finding, by kind, since the monitor started.",
                    &[(
                        "sum by (kind) (holdfast_monitor_detection_delay_seconds_sum{$m}) / sum by (kind) (holdfast_monitor_detection_delay_seconds_count{$m})",
                        "{{kind}}",
                    )],
                ),
                lines(
                    "Nodes as the monitor knows them",
                    "short",
                    "How many report, are unknown, are down.",
                    &[("holdfast_monitor_nodes{$m}", "{{state}}")],
                ),
            ],
        ),
        row(
            "Repairs",
            &[
                lines(
                    "Begun and ended",
                    "short",
                    "In an hour, by kind and outcome.",
                    &[
                        (
                            "sum by (kind) (increase(holdfast_recovery_attempts_total{$m}[1h]))",
                            "{{kind}} begun",
                        ),
                        (
                            "sum by (kind, outcome) (increase(holdfast_recovery_outcomes_total{$m}[1h]))",
                            "{{kind}} {{outcome}}",
                        ),
                    ],
                ),
                lines(
                    "Time to repair",
                    "s",
                    "Mean from first sight to the verified repair, since the daemon started.",
                    &[(
                        "sum by (kind) (holdfast_recovery_duration_seconds_sum{$m}) / sum by (kind) (holdfast_recovery_duration_seconds_count{$m})",
                        "{{kind}}",
                    )],
                ),
                lines(
                    "Denied by gate",
                    "short",
                    "In an hour: why the policy let the daemon do nothing.",
                    &[("sum by (gate) (increase(holdfast_recovery_gate_denials_total{$m}[1h]))", "{{gate}}")],
                ),
            ],
        ),
        folded(
            "The watchers themselves",
            &[
                lines(
                    "Rounds",
                    "s",
                    "99th percentile of one round.",
                    &[
                        (
                            "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_monitor_round_duration_seconds_bucket{$m}[$__rate_interval])))",
                            "{{instance}}",
                        ),
                        (
                            "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_recovery_round_duration_seconds_bucket{$m}[$__rate_interval])))",
                            "{{instance}}",
                        ),
                    ],
                ),
                lines(
                    "Scrapes of the monitor",
                    "s",
                    "99th percentile of the time to ask one node.",
                    &[(
                        "histogram_quantile(0.99, sum by (node, le) (rate(holdfast_monitor_scrape_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{node}}",
                    )],
                ),
                lines(
                    "Scrapes that failed",
                    "ops",
                    "By node and kind of failure.",
                    &[(
                        "sum by (node, kind) (rate(holdfast_monitor_scrape_failures_total{$m}[$__rate_interval]))",
                        "{{node}} {{kind}}",
                    )],
                ),
            ],
        ),
    ],
};

/// Everything of one coordinator.
pub(super) const NODE: Board = Board {
    name: "node",
    title: "One node",
    description: "Everything one coordinator says of itself.",
    one_instance: true,
    rows: &[
        row(
            "Status",
            &[
                stat("Up for", "s", "Since the process started.", &[("holdfast_uptime_seconds{$m}", "")]),
                stat("Term", "short", "Of this node.", &[("holdfast_raft_term{$m}", "")]),
                stat(
                    "Knows a leader",
                    "bool_yes_no",
                    "No: elections, or cut off.",
                    &[("holdfast_raft_has_leader{$m}", "")],
                )
                .red_below(1.0),
                stat(
                    "Behind the commit index",
                    "short",
                    "Entries that are committed and not applied here.",
                    &[("holdfast_raft_commit_index{$m} - holdfast_raft_applied_index{$m}", "")],
                ),
                stat(
                    "Checks that fail",
                    "short",
                    "Of GET /api/health; 0 is well.",
                    &[("sum(holdfast_health_check{$m, state=\"failing\"})", "")],
                )
                .red_from(1.0),
                stat(
                    "Damaged parts",
                    "short",
                    "Found by the last checks; 0 is well.",
                    &[("sum(holdfast_integrity_damaged{$m})", "")],
                )
                .red_from(1.0),
            ],
        ),
        row(
            "Health",
            &[
                states("Role", "What it was, when.", &[("holdfast_raft_role{$m} == 1", "{{state}}")]),
                states(
                    "Checks",
                    "1 where a check of GET /api/health was not ok.",
                    &[("1 - holdfast_health_check{$m, state=\"ok\"}", "{{check}}")],
                )
                .red_from(1.0),
            ],
        ),
        row(
            "Requests",
            &[
                lines(
                    "Requests by route",
                    "reqps",
                    "HTTP requests a second.",
                    &[(
                        "sum by (http_route) (rate(http_server_request_duration_seconds_count{$m}[$__rate_interval]))",
                        "{{http_route}}",
                    )],
                ),
                lines(
                    "Answers by status",
                    "reqps",
                    "HTTP answers a second.",
                    &[(
                        "sum by (http_response_status_code) (rate(http_server_request_duration_seconds_count{$m}[$__rate_interval]))",
                        "{{http_response_status_code}}",
                    )],
                ),
                lines(
                    "Time to answer",
                    "s",
                    "99th percentile by route; long polls of workers wait on purpose.",
                    &[(
                        "histogram_quantile(0.99, sum by (http_route, le) (rate(http_server_request_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{http_route}}",
                    )],
                ),
            ],
        ),
        row(
            "Resources",
            &[
                lines(
                    "Processor",
                    "percentunit",
                    "Cores in use.",
                    &[("rate(holdfast_process_cpu_time_seconds_total{$m}[$__rate_interval])", "used")],
                ),
                lines(
                    "Memory",
                    "bytes",
                    "At the limit new tasks are refused.",
                    &[
                        ("holdfast_process_memory_bytes{$m}", "resident"),
                        ("holdfast_process_memory_limit_bytes{$m}", "limit"),
                    ],
                ),
                lines(
                    "Descriptors and threads",
                    "short",
                    "Open file descriptors and threads.",
                    &[
                        ("holdfast_process_open_fds{$m}", "descriptors"),
                        ("holdfast_process_threads{$m}", "threads"),
                    ],
                ),
                lines(
                    "Connections",
                    "short",
                    "Open, and refused a second.",
                    &[
                        ("holdfast_http_connections{$m}", "open"),
                        (
                            "rate(holdfast_http_connections_refused_total{$m}[$__rate_interval])",
                            "refused a second",
                        ),
                    ],
                ),
                lines(
                    "Disk",
                    "bytes",
                    "Free, and in the data directory.",
                    &[
                        ("holdfast_disk_free_bytes{$m}", "free"),
                        ("holdfast_data_size_bytes{$m}", "data directory"),
                    ],
                ),
                lines(
                    "Log lines lost",
                    "short",
                    "That did not reach the log file, in an hour.",
                    &[("increase(holdfast_log_lines_lost_total{$m}[1h])", "lost")],
                ),
                lines(
                    "Telemetry for the collector",
                    "cps",
                    "Spans, log records and collections of metrics, by what became of them: what failed or was dropped is lost.",
                    &[(
                        "sum by (signal, outcome) (rate(holdfast_otlp_items_total{$m}[$__rate_interval]))",
                        "{{signal}} {{outcome}}",
                    )],
                ),
            ],
        ),
        folded(
            "Log and peers",
            &[
                lines(
                    "Sync of the log",
                    "s",
                    "99th percentile.",
                    &[(
                        "histogram_quantile(0.99, sum by (le) (rate(holdfast_log_sync_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "p99",
                    )],
                ),
                lines("Round trips", "s", "To its peers.", &[("holdfast_peer_rtt_seconds{$m}", "{{peer}}")]),
                lines(
                    "Messages",
                    "ops",
                    "Raft messages by peer and direction.",
                    &[(
                        "sum by (peer, direction) (rate(holdfast_peer_messages_total{$m}[$__rate_interval]))",
                        "{{direction}} {{peer}}",
                    )],
                ),
            ],
        ),
    ],
};
