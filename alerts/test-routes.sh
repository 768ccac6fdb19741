#!/usr/bin/env bash
# Checks alertmanager.yml and who is told of what. Needs amtool.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

amtool check-config alertmanager.yml

failed=0
expect() { # RECEIVERS LABEL=VALUE...
    local receivers=$1
    shift
    if amtool config routes test --config.file=alertmanager.yml --verify.receivers="$receivers" "$@" >/dev/null 2>&1; then
        echo "ok: $* -> $receivers"
    else
        echo "FAILED: $* should go to $receivers, goes to: $(amtool config routes test --config.file=alertmanager.yml "$@")"
        failed=1
    fi
}

# Automation first, and the same alert reaches people as well.
expect recovery,people-urgent alertname=HoldfastNoLeader severity=critical job=coordinator
expect recovery,people alertname=HoldfastMembersDown severity=warning job=coordinator
# What no automation can mend goes to people alone.
expect people alertname=HoldfastMonitorGone severity=warning job=holdfast-monitor
expect people-urgent alertname=SomethingElse severity=critical
expect people alertname=SomethingElse
exit "$failed"
