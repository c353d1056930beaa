#!/usr/bin/env bash
# What a rolling restart costs those who are being served, against emulated replicas behind the router:
#   benches/disruption_gap.sh OUT [PREFIX …]
# measures the frontier and the states of the caches in real time, some 20 minutes, and writes OUT/frontier.json,
# OUT/report.html and OUT/frontier.txt. PREFIX, such as `chrt -r 1`, stands before every program. SLUICE names
# the binary; RATES, SEEDS and DURATION change what is measured.
set -euo pipefail
out=$(mkdir -p "$1" && realpath "$1"); shift
sluice=${SLUICE:-target/release/sluice}
prefix=("$@")
port=19100 replicas=2 work=$(mktemp -d)
declare -a pids=()

# Each replica is a process of its own, so that it can be restarted alone.
replica() {
  "${prefix[@]}" "$sluice" emulate --listen "127.0.0.1:$((port + $1))" --kv-blocks 5000 >/dev/null 2>&1 &
  echo $! >"$work/replica-$1"
}
await() { for _ in $(seq 200); do curl -sf -o /dev/null "$1" && return; sleep 0.1; done; echo "$1 does not answer" >&2; exit 1; }
restart_all() {
  for at in $(seq 0 $((replicas - 1))); do
    kill -KILL "$(cat "$work/replica-$at")"
    sleep 2
    replica "$at"
    await "http://127.0.0.1:$((port + at))/health"
    # Long enough for the router to see it back before the next one goes.
    sleep 3
  done
}
end() { for file in "$work"/replica-*; do kill "$(cat "$file")" 2>/dev/null || true; done; kill "${pids[@]}" 2>/dev/null || true; rm -r "$work"; }

if [[ -n ${DISRUPTION_WORK:-} ]]; then work=$DISRUPTION_WORK; prefix=(${DISRUPTION_PREFIX:-}); restart_all; exit; fi
trap end EXIT

for at in $(seq 0 $((replicas - 1))); do replica "$at"; await "http://127.0.0.1:$((port + at))/health"; done
cat >"$work/router.yaml" <<YAML
listen: 127.0.0.1:$((port + 80))
admin: { listen: "127.0.0.1:$((port + 90))" }
replicas: [$(for at in $(seq 0 $((replicas - 1))); do printf '{ name: r%s, url: "http://127.0.0.1:%s" }, ' "$at" $((port + at)); done)]
policy: { strategy: prefix-aware }
admission: { mode: off }
health: { interval: 500ms }
YAML
"${prefix[@]}" "$sluice" serve -c "$work/router.yaml" >/dev/null 2>"$work/router.log" &
pids+=($!)
await "http://127.0.0.1:$((port + 90))/readyz"
cat >"$work/workload.yaml" <<YAML
support-chat: { tenants: 16, prefix_tokens: 6000, turns: 4 }
YAML
self=$(realpath "${BASH_SOURCE[0]}")
"${prefix[@]}" "$sluice" frontier --target "http://127.0.0.1:$((port + 80))" --workload "$work/workload.yaml" \
  --rates "${RATES:-8,14,20,24,28,36}" --seeds "${SEEDS:-3}" --duration "${DURATION:-24s}" --warm-up 10s \
  --replicas $replicas --costs replica_hour=2.50 --deployments-per-day 10 --allow-lag --out "$out" \
  --disrupt "DISRUPTION_WORK='$work' DISRUPTION_PREFIX='${prefix[*]}' SLUICE='$sluice' '$self' '$out'" | tee "$out/frontier.txt"
