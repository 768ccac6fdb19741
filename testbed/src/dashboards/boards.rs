//! Overview and Raft.

use super::model::{Board, folded, lines, row, stat, states};

/// The first look.
pub(super) const OVERVIEW: Board = Board {
    name: "overview",
    title: "Overview",
    description: "Is the cluster well, and if not, where to look.",
    one_instance: false,
    rows: &[
        row(
            "Status",
            &[
                stat(
                    "Coordinators that answer",
                    "short",
                    "Nodes that serve their metrics now.",
                    &[("count(holdfast_raft_term{$m})", "")],
                )
                .red_below(1.0),
                stat(
                    "Nodes that know a leader",
                    "short",
                    "All of them, or elections are under way.",
                    &[("sum(holdfast_raft_has_leader{$m})", "")],
                )
                .red_below(1.0),
                stat(
                    "Term",
                    "short",
                    "Rises with every election. Calm clusters stay in one for weeks.",
                    &[("max(holdfast_raft_term{$m})", "")],
                ),
                stat(
                    "Findings of the monitor",
                    "short",
                    "What the monitor finds wrong now, whatever its severity. 0 is well.",
                    &[("sum(holdfast_monitor_anomalies{$m}) or 0 * sum(holdfast_monitor_nodes{$m})", "")],
                )
                .red_from(1.0),
                stat(
                    "Tasks that wait",
                    "short",
                    "Pending tasks, as the node furthest ahead counts them.",
                    &[("max(holdfast_tasks{$m, state=\"pending\"})", "")],
                ),
                stat(
                    "Workers at work",
                    "short",
                    "Workers that are active or busy.",
                    &[("max(sum by (instance) (holdfast_workers{$m, state=~\"active|busy\"}))", "")],
                )
                .red_below(1.0),
            ],
        ),
        row(
            "Requests",
            &[
                lines(
                    "Requests",
                    "reqps",
                    "HTTP requests a second by method, over all nodes. What a follower forwards counts twice.",
                    &[(
                        "sum by (http_request_method) (rate(http_server_request_duration_seconds_count{$m}[$__rate_interval]))",
                        "{{http_request_method}}",
                    )],
                ),
                lines(
                    "Errors",
                    "percentunit",
                    "Share of requests that ended with a server's error. Zero but for the seconds of a lost leader.",
                    &[(
                        "(sum(rate(http_server_request_duration_seconds_count{$m, http_response_status_code=~\"5..\"}[$__rate_interval])) or 0 * sum(rate(http_server_request_duration_seconds_count{$m}[$__rate_interval]))) / sum(rate(http_server_request_duration_seconds_count{$m}[$__rate_interval]))",
                        "5xx",
                    )],
                ),
                lines(
                    "Time to answer a submission",
                    "s",
                    "Percentiles of POST /api/tasks, over all nodes. 99 % are promised within 0.25 s.",
                    &[
                        (
                            "histogram_quantile(0.5, sum by (le) (rate(http_server_request_duration_seconds_bucket{$m, http_route=\"/api/tasks\", http_request_method=\"POST\"}[$__rate_interval])))",
                            "p50",
                        ),
                        (
                            "histogram_quantile(0.99, sum by (le) (rate(http_server_request_duration_seconds_bucket{$m, http_route=\"/api/tasks\", http_request_method=\"POST\"}[$__rate_interval])))",
                            "p99",
                        ),
                    ],
                ),
            ],
        ),
        row(
            "Raft and replication",
            &[
                states(
                    "Leader",
                    "Which node led when.",
                    &[("holdfast_raft_role{$m, state=\"leader\"}", "{{instance}}")],
                ),
                lines(
                    "Lag of followers",
                    "short",
                    "Log entries a follower is behind, as the leader counts them. A few under load.",
                    &[("max by (peer) (holdfast_peer_lag{$m})", "{{peer}}")],
                ),
                lines(
                    "Commands a second",
                    "ops",
                    "Commands that were applied and answered, by the node that proposed them.",
                    &[(
                        "sum by (instance) (rate(holdfast_raft_proposals_total{$m, outcome=\"applied\"}[$__rate_interval]))",
                        "{{instance}}",
                    )],
                ),
            ],
        ),
        folded(
            "Storage",
            &[
                lines(
                    "Log sync",
                    "s",
                    "99th percentile of one synced write of the log. Every write waits for one on a majority.",
                    &[(
                        "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_log_sync_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Disk in use",
                    "percentunit",
                    "The data directory's file system. At the floor a node refuses writes.",
                    &[("1 - holdfast_disk_free_bytes{$m} / holdfast_disk_size_bytes{$m}", "{{instance}}")],
                ),
                lines(
                    "DuckDB behind",
                    "short",
                    "Entries the database is behind what is applied; no answer waits for it.",
                    &[("holdfast_store_lag{$m}", "{{instance}}")],
                ),
            ],
        ),
        folded(
            "Recovery",
            &[
                lines(
                    "Findings by kind",
                    "short",
                    "What the monitor finds wrong; empty is well.",
                    &[("sum by (kind, node) (holdfast_monitor_anomalies{$m})", "{{kind}} {{node}}")],
                ),
                lines(
                    "Open faults",
                    "short",
                    "What the recovery daemon knows of and has not repaired.",
                    &[("sum by (kind) (holdfast_recovery_faults{$m})", "{{kind}}")],
                ),
            ],
        ),
        folded(
            "Resources",
            &[
                lines(
                    "Processor",
                    "percentunit",
                    "Cores in use by each coordinator.",
                    &[(
                        "rate(holdfast_process_cpu_time_seconds_total{$m}[$__rate_interval])",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Memory",
                    "bytes",
                    "Resident memory of each coordinator.",
                    &[("holdfast_process_memory_bytes{$m}", "{{instance}}")],
                ),
                lines(
                    "Connections",
                    "short",
                    "Open connections to the API ports, peers included.",
                    &[("holdfast_http_connections{$m}", "{{instance}}")],
                ),
            ],
        ),
    ],
};

/// Elections, replication, and where a write's time goes.
pub(super) const RAFT: Board = Board {
    name: "raft",
    title: "Raft",
    description: "Who leads, how a write's time is spent, who hears whom.",
    one_instance: false,
    rows: &[
        row(
            "Leadership",
            &[
                states(
                    "Leader",
                    "Which node led when.",
                    &[("holdfast_raft_role{$m, state=\"leader\"}", "{{instance}}")],
                ),
                lines(
                    "Term",
                    "short",
                    "One line while all agree; a node that runs ahead disturbs the others.",
                    &[("holdfast_raft_term{$m}", "{{instance}}")],
                ),
                lines(
                    "Leader changes and elections",
                    "short",
                    "In five minutes, as each node saw or started them.",
                    &[
                        ("increase(holdfast_raft_leader_changes_total{$m}[5m])", "{{instance}} changes"),
                        ("increase(holdfast_raft_elections_total{$m}[5m])", "{{instance}} elections"),
                    ],
                ),
            ],
        ),
        row(
            "A write's time",
            &[
                lines(
                    "Sync of the log",
                    "s",
                    "99th percentile of one synced write, by node.",
                    &[(
                        "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_log_sync_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Commit",
                    "s",
                    "99th percentile from the first proposal in an entry to its commit: sync here, way there, sync there.",
                    &[(
                        "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_raft_commit_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Answer",
                    "s",
                    "99th percentile from the first proposal in an entry to the replies.",
                    &[(
                        "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_raft_proposal_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Apply",
                    "s",
                    "99th percentile of applying one batch of entries.",
                    &[(
                        "histogram_quantile(0.99, sum by (instance, le) (rate(holdfast_raft_apply_duration_seconds_bucket{$m}[$__rate_interval])))",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Commands an entry",
                    "short",
                    "Mean number of commands that share one log entry: rises with load.",
                    &[(
                        "sum by (instance) (rate(holdfast_raft_entry_commands_sum{$m}[$__rate_interval])) / (sum by (instance) (rate(holdfast_raft_entry_commands_count{$m}[$__rate_interval])) > 0)",
                        "{{instance}}",
                    )],
                ),
                lines(
                    "Entries a sync",
                    "short",
                    "Mean number of entries made durable by one sync.",
                    &[(
                        "sum by (instance) (rate(holdfast_log_sync_entries_sum{$m}[$__rate_interval])) / (sum by (instance) (rate(holdfast_log_sync_entries_count{$m}[$__rate_interval])) > 0)",
                        "{{instance}}",
                    )],
                ),
            ],
        ),
        row(
            "Proposals and reads",
            &[
                lines(
                    "Commands by outcome",
                    "ops",
                    "Dropped: nothing was done. Unknown: leadership or time ran out in flight.",
                    &[(
                        "sum by (outcome) (rate(holdfast_raft_proposals_total{$m}[$__rate_interval]))",
                        "{{outcome}}",
                    )],
                ),
                lines(
                    "Linearizable reads by outcome",
                    "ops",
                    "Expired: leadership could not be confirmed in time.",
                    &[(
                        "sum by (outcome) (rate(holdfast_raft_reads_total{$m}[$__rate_interval]))",
                        "{{outcome}}",
                    )],
                ),
                lines(
                    "Indexes",
                    "short",
                    "Commit and applied lie together; the snapshot follows in steps.",
                    &[
                        ("max(holdfast_raft_commit_index{$m})", "commit"),
                        ("min(holdfast_raft_applied_index{$m})", "applied, the last"),
                        ("min(holdfast_raft_snapshot_index{$m})", "snapshot, the oldest"),
                    ],
                ),
            ],
        ),
        folded(
            "Peers",
            &[
                lines(
                    "Round trip",
                    "s",
                    "Smoothed, from each node to each peer. Election time-outs must be ten times that.",
                    &[("holdfast_peer_rtt_seconds{$m}", "{{instance}} to {{peer}}")],
                ),
                lines(
                    "Last contact",
                    "s",
                    "Since a peer was heard of.",
                    &[("holdfast_peer_last_contact_seconds{$m}", "{{instance}} of {{peer}}")],
                ),
                states(
                    "Connection",
                    "1 while a node has a connection to the peer.",
                    &[("holdfast_peer_reachable{$m}", "{{instance}} to {{peer}}")],
                )
                .red_below(1.0),
                lines(
                    "Lag",
                    "short",
                    "Log entries a follower is behind, on the leader.",
                    &[("holdfast_peer_lag{$m}", "{{peer}}")],
                ),
                lines(
                    "Bytes",
                    "Bps",
                    "Raft messages by peer and direction.",
                    &[(
                        "sum by (instance, peer, direction) (rate(holdfast_peer_transferred_bytes_total{$m}[$__rate_interval]))",
                        "{{instance}} {{direction}} {{peer}}",
                    )],
                ),
                lines(
                    "Clocks",
                    "s",
                    "A peer's wall clock minus the node's own.",
                    &[("holdfast_peer_clock_offset_seconds{$m}", "{{instance}} of {{peer}}")],
                ),
            ],
        ),
        folded(
            "Members",
            &[lines(
                "Members",
                "short",
                "Voters, learners, and voters that nobody knows any more.",
                &[("max by (state) (holdfast_members{$m})", "{{state}}")],
            )],
        ),
    ],
};
