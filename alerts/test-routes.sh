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
expect recovery,people-urgent alertname=HoldfastNoLeader severity=critical wakes=recovery job=holdfast-coordinator
expect recovery,people alertname=HoldfastMembersDown severity=warning wakes=recovery job=holdfast-coordinator
expect recovery,people-urgent alertname=HoldfastProcessCrash severity=critical wakes=recovery node=node-2
# What no automation can mend goes to people alone.
expect people alertname=HoldfastMonitorGone severity=warning job=holdfast-monitor
expect people alertname=HoldfastBackupTooOld severity=warning
expect people-urgent alertname=HoldfastFaultNotRepaired severity=critical
expect people-urgent alertname=SomethingElse severity=critical
expect people alertname=HoldfastVersionsDiffer severity=info
expect people alertname=SomethingElse
# The dead man's switch bothers nobody.
expect dead-mans-switch alertname=HoldfastWatchdog severity=info

# Every alert of the rules arrives somewhere, as its own labels say.
alert='' severity='' wakes=''
routed() { # the alert read last
    [ -n "$alert" ] || return 0
    case "$alert:$severity:$wakes" in
        HoldfastWatchdog:*) expect dead-mans-switch "alertname=$alert" "severity=$severity" ;;
        *:critical:recovery) expect recovery,people-urgent "alertname=$alert" "severity=$severity" wakes=recovery ;;
        *:critical:) expect people-urgent "alertname=$alert" "severity=$severity" ;;
        *:recovery) expect recovery,people "alertname=$alert" "severity=$severity" wakes=recovery ;;
        *) expect people "alertname=$alert" "severity=$severity" ;;
    esac
}
while read -r key value rest; do
    case "$key $value" in
        "- alert:") routed; alert=$rest severity='' wakes='' ;;
        severity:*) severity=$value ;;
        wakes:*) wakes=$value ;;
    esac
done < <(cat rules/*.yml)
routed
exit "$failed"
