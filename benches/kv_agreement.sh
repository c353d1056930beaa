#!/usr/bin/env bash
# Expected against found cached tokens, with two engines behind a router in kv-aware, one of which is
# killed and started again in the middle.
#
#   kv_agreement.sh [START_ENGINE]
#
# START_ENGINE PORT KV_PORT REPLAY_PORT must start an engine in the foreground that publishes KV events on
# tcp://*:KV_PORT and answers replays on tcp://*:REPLAY_PORT; its blocks must have BLOCK tokens. Without it
# two emulated engines take part. For vLLM 0.32 on a CPU, START_ENGINE is a script that runs
#
#   vllm serve MODEL --port $1 --block-size 32 --enable-prompt-tokens-details --kv-events-config \
#     "{\"enable_kv_cache_events\":true,\"publisher\":\"zmq\",\"endpoint\":\"tcp://*:$2\",\"replay_endpoint\":\"tcp://*:$3\"}"
#
# With TOKENIZER=FOLDER of the model, where its tokenizer and chat template are, conversations are sent as text
# (MODEL is the model's name, by default tiny-llama). Then `sluice` must have been built with
# `--features tokenizer`. IN_FLIGHT requests go at once, one by default.
#
# Needs a built `sluice` (SLUICE, default target/release/sluice) and python3.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sluice=${SLUICE:-$here/../target/release/sluice}
block=${BLOCK:-}
work=$(mktemp -d)
# Engines have children that hold their ports: each is a group of its own, and goes as one.
trap 'for file in "$work"/*.pid; do [ -e "$file" ] && { kill -- "-$(cat "$file")" || kill "$(cat "$file")"; } 2>/dev/null; done; rm -r "$work"' EXIT

if [ $# -gt 0 ]; then
    engine=$1
    block=${block:-32}
else
    engine=$work/emulate
    block=${block:-16}
    cat > "$engine" <<EOF
#!/usr/bin/env bash
exec "$sluice" emulate --listen 127.0.0.1:\$1 --kv-blocks ${KV_BLOCKS:-300} \
    --kv-events "tcp://127.0.0.1:\$2" --kv-events-replay "tcp://127.0.0.1:\$3"
EOF
    chmod +x "$engine"
fi

start() { # number port kv replay
    setsid "$engine" "$2" "$3" "$4" > "$work/engine-$1.log" 2>&1 &
    echo $! > "$work/engine-$1.pid"
}
until_up() { # url
    for _ in $(seq 600); do
        curl -fs "$1" > "$work/probe" 2>/dev/null && return
        sleep 1
    done
    echo "$1 does not answer" >&2
    exit 1
}

start 0 8101 8111 8121
start 1 8102 8112 8122
cat > "$work/router.yaml" <<EOF
listen: 127.0.0.1:8100
admin: { listen: "127.0.0.1:8190" }
replicas:
  - { name: e0, url: "http://127.0.0.1:8101", kv_events: "tcp://127.0.0.1:8111", kv_replay: "tcp://127.0.0.1:8121" }
  - { name: e1, url: "http://127.0.0.1:8102", kv_events: "tcp://127.0.0.1:8112", kv_replay: "tcp://127.0.0.1:8122" }
policy: { strategy: kv-aware, prefix: { block: $block tokens } }
EOF
chat=()
if [ -n "${TOKENIZER:-}" ]; then
    chat=(--chat)
    printf 'tokenizers: { "%s": "%s" }\n' "${MODEL:-tiny-llama}" "$(realpath "$TOKENIZER")" >> "$work/router.yaml"
fi
until_up http://127.0.0.1:8101/health
until_up http://127.0.0.1:8102/health
"$sluice" serve -c "$work/router.yaml" > "$work/router.log" 2>&1 &
echo $! > "$work/router.pid"
until_up http://127.0.0.1:8190/readyz

cat > "$work/restart" <<EOF
#!/usr/bin/env bash
kill -9 -- "-\$(cat "$work/engine-0.pid")"
sleep 2
setsid "$engine" 8101 8111 8121 > "$work/engine-0-again.log" 2>&1 &
echo \$! > "$work/engine-0.pid"
for _ in \$(seq 600); do
    curl -fs http://127.0.0.1:8101/health > "$work/probe" 2>/dev/null && break
    sleep 1
done
EOF
chmod +x "$work/restart"
status=0
python3 "$here/kv_agreement.py" --router http://127.0.0.1:8100 --block "$block" \
    --requests "${REQUESTS:-400}" --in-flight "${IN_FLIGHT:-1}" "${chat[@]}" --restart "$work/restart" || status=$?
curl -s http://127.0.0.1:8190/metrics | grep -E '^sluice_(kv|cache_mode|held)' || true
exit $status
