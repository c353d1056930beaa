#!/usr/bin/env bash
# How the cost of a simulation grows with requests and replicas: CPU time and memory of `sluice simulate`.
#
#     benches/simulate_growth.sh [POLICY]
#
# Needs a release build (cargo build --release) and GNU time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
policy=${1:-prefix-aware}
scenario=$(mktemp --suffix .yaml)
trap 'rm -f "$scenario"' EXIT

# NAME REPLICAS REQUESTS_PER_S SECONDS WORKLOAD
measure() {
    cat > "$scenario" <<SCENARIO
name: $1
fleet: { replicas: $2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
workload: { $5 }
load: { rates_per_s: [$3], duration: $4s }
slo: { ttft: 2s, tpot: 50ms }
SCENARIO
    /usr/bin/time -f "%U s CPU, %M KB" target/release/sluice simulate -s "$scenario" \
        --policy "$policy" --jobs 1 --no-limits 2>&1 | grep -E "requests at|CPU" | sed 's/ requests at.*/ requests/'
}

small="independent: { prompt_tokens: { min: 200, max: 1000 }, answer_tokens: { min: 50, max: 200 } }"
measure "8 replicas, small" 8 60 100 "$small"
measure "64 replicas" 64 640 16 "support-chat: {}"
measure "64 replicas" 64 640 156 "support-chat: {}"
measure "64 replicas" 64 640 1575 "support-chat: {}"
measure "8 replicas" 8 80 1250 "support-chat: {}"
measure "512 replicas" 512 5120 20 "support-chat: {}"
