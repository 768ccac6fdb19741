#!/bin/bash
# What an operator types to look at three nodes. Their names are coordinatorN.example.com.
set -euo pipefail

curl http://coordinator1.example.com:8080/api/status | jq

curl http://coordinator1.example.com:8080/api/debug/raft_log | jq

for node in coordinator1.example.com coordinator2.example.com coordinator3.example.com; do
  echo -n "$node: "
  curl -s http://$node:8080/api/status | jq '.role, .current_leader, .term'
  echo
done

for node in coordinator1.example.com coordinator2.example.com coordinator3.example.com; do
  echo -n "$node checksum: "
  curl -s http://$node:8080/api/health/state_checksum | jq '.checksum'
done

curl -X POST http://coordinator1.example.com:8080/api/maintenance/enable

curl http://coordinator1.example.com:8080/api/tasks?status=running

curl -X POST http://coordinator1.example.com:8080/api/maintenance/disable
