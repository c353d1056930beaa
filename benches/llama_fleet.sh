#!/usr/bin/env bash
# Mean time to first token on four real engines whose caches are cold at first, under one strategy after another:
#
#   benches/llama_fleet.sh OUT START_ENGINE
#
# START_ENGINE PORT must start an engine in the foreground that speaks OpenAI's chat API on 127.0.0.1:PORT and has
# /health, such as a script that runs llama.cpp's
#
#   llama-server -m MODEL.gguf --host 127.0.0.1 --port $1 -np 4 -c 16384 -t 1 -tb 1 --metrics --slots --cache-ram 0 --jinja
#
# For each of STRATEGIES the engines are started anew, the same conversations are sent through `sluice serve`, and
# OUT/STRATEGY holds what came of it; the comparison is printed at the end. SLUICE names the binary; WORKLOAD is a
# workload file, RATE the conversations that begin in a second, DURATION how long they do; PREFIX (such as
# `chrt -r 1`) stands before every program.
set -euo pipefail
out=$(mkdir -p "$1" && realpath "$1")
engine=$(realpath "$2")
sluice=$(realpath "${SLUICE:-target/release/sluice}")
read -ra prefix <<<"${PREFIX:-}"
read -ra strategies <<<"${STRATEGIES:-round-robin sticky prefix-aware least-latency}"
work=$(mktemp -d)
port=8210 engines=4
declare -a pids=()

await() { for _ in $(seq 600); do curl -fs -o "$work/probe" "$1" && return; sleep 0.2; done; echo "$1 does not answer" >&2; exit 1; }
stop() {
  # Each engine is a group of its own: some have children that hold their ports.
  for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  pids=()
}
trap 'stop; rm -r "$work"' EXIT
begin() { setsid "${prefix[@]}" "$@" & pids+=($!); }

workload=${WORKLOAD:-$work/workload.yaml}
cat >"$work/workload.yaml" <<'YAML'
support-chat:
  tenants: 6
  prefix_tokens: 1500
  turns: 4
  question_tokens: { min: 20, max: 60 }
  answer_tokens: { min: 10, max: 30 }
  think_time: { min: 2s, max: 5s }
YAML
{
  echo 'listen: 127.0.0.1:8200'
  echo 'admin: { listen: "127.0.0.1:8290" }'
  # A slow engine needs longer than the answer to a health check takes elsewhere; nothing is turned away.
  echo 'admission: { mode: "off" }'
  echo 'replicas:'
  for at in $(seq 0 $((engines - 1))); do echo "  - { name: llama-$at, url: 'http://127.0.0.1:$((port + at))' }"; done
} >"$work/router.yaml"

for strategy in "${strategies[@]}"; do
  for at in $(seq 0 $((engines - 1))); do begin "$engine" $((port + at)) >"$out/engine-$at.log" 2>&1; done
  for at in $(seq 0 $((engines - 1))); do await "http://127.0.0.1:$((port + at))/health"; done
  begin "$sluice" serve -c "$work/router.yaml" --policy "$strategy" >"$out/router-$strategy.log" 2>&1
  await http://127.0.0.1:8290/readyz
  "${prefix[@]}" "$sluice" replay --target http://127.0.0.1:8200 --workload "$workload" --rate "${RATE:-0.4}" \
    --duration "${DURATION:-90s}" --closed --allow-lag --out "$out/$strategy" >"$out/$strategy.txt" || true
  stop
done
"$sluice" report "${strategies[@]/#/$out/}" --out "$out/compared"
