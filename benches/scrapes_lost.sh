#!/usr/bin/env bash
# Goodput while every reading of the replicas' load is lost for a minute, over HTTP: two routers with least-latency
# before four emulated replicas, each with half of the requests, so that what a router does not see itself is half.
#   cargo build --release -p sluice && benches/scrapes_lost.sh [RATE_PER_ROUTER] [SECONDS] [SCRATCH_FOLDER]
# Prints goodput with scrapes each second, and without (the interval is an hour); the bar is 5 % less.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rate=${1:-8} seconds=${2:-60} scratch=${3:-$(mktemp -d)}
bin=$PWD/${CARGO_TARGET_DIR:-target}/release/sluice
mkdir -p "$scratch"
pids=()
cleanup() { kill "${pids[@]}" 2>/dev/null || true; }
trap cleanup EXIT
wait_for() { for _ in $(seq 300); do curl -fsS -o /dev/null "$1" 2>/dev/null && return; sleep 0.1; done; echo "no answer at $1" >&2; exit 1; }

measure() { # name, scrape interval
  "$bin" emulate --listen 127.0.0.1:27100 --replicas 4 >"$scratch/emulate.log" 2>&1 & pids=($!)
  for at in 0 1; do
    cat >"$scratch/router-$at.yaml" <<YAML
listen: 127.0.0.1:2711$at
admin: { listen: 127.0.0.1:2712$at }
hash_seed: 7
policy: { strategy: least-latency }
health: { scrape_interval: $2 }
replicas:
  - { name: r0, url: "http://127.0.0.1:27100" }
  - { name: r1, url: "http://127.0.0.1:27101" }
  - { name: r2, url: "http://127.0.0.1:27102" }
  - { name: r3, url: "http://127.0.0.1:27103" }
YAML
    "$bin" serve -c "$scratch/router-$at.yaml" >"$scratch/router-$at.log" 2>&1 & pids+=($!)
  done
  wait_for http://127.0.0.1:27120/readyz
  wait_for http://127.0.0.1:27121/readyz
  local replays=()
  for at in 0 1; do
    "$bin" replay --target "http://127.0.0.1:2711$at" --workload config/workloads/support-chat.yaml --rate "$rate" \
      --duration "${seconds}s" --seed "$((at + 1))" --allow-lag --json >"$scratch/$1-$at.json" 2>"$scratch/$1-$at.log" & replays+=($!)
  done
  wait "${replays[@]}"
  cleanup
  wait "${pids[@]}" 2>/dev/null || true
}
measure scraped 1s
measure lost 1h
python3 - "$scratch" <<'PY'
import json, sys
def runs(name): return [json.load(open(f"{sys.argv[1]}/{name}-{at}.json"))["runs"][0] for at in (0, 1)]
total = {}
for name in ("scraped", "lost"):
    both = runs(name)
    total[name] = sum(run["request_goodput"] for run in both)
    hits = sum(run["cache_hit_rate"] or 0 for run in both) / 2
    late = max(run["ttft_ms"]["p99"] for run in both)
    lag = max((run["generator_lag_ms"] or {}).get("p99", 0) for run in both)
    print(f"{name:8} goodput {total[name]:.2f}/s, hit rate {hits:.3f}, TTFT p99 {late:.0f} ms, lag p99 {lag:.0f} ms")
print(f"lost by it: {100 * (1 - total['lost'] / total['scraped']):.1f} % of goodput")
PY
