#!/usr/bin/env bash
# Sluice beside nginx, HAProxy and the routers that its users would take otherwise, before one static back end, in one
# run: CPU time per request and per streamed event, latency, rate and memory.
#   cargo build --release -p sluice -p benches && benches/peers/run.sh [SCRATCH_FOLDER] [SECONDS]
# Needs wrk, nginx and HAProxy (Debian: wrk nginx-light haproxy) and python3-venv; the rivals come from PyPI, each in a
# virtual environment of its own in the scratch folder. One worker thread, pinned to core 1; client and back end share
# core 0. CPU time (user + system of the proxy's process) is the figure to trust where others use the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scratch=${1:-${TMPDIR:-/tmp}/sluice-peers} seconds=${2:-3}
target=${CARGO_TARGET_DIR:-target}
[[ $target = /* ]] || target=$PWD/$target
bin=$target/release
mkdir -p "$scratch"
venv() { # name, requirement
  [ -x "$scratch/$1/bin/pip" ] || python3 -m venv "$scratch/$1"
  "$scratch/$1/bin/pip" install --quiet --disable-pip-version-check "$2" || echo "$2 cannot be installed: left out"
}
venv sglang sglang-router==0.3.2
venv smg smg==1.13.0
venv vllm vllm-router==0.1.17
pids=()
cleanup() { kill "${pids[@]}" 2>/dev/null || true; }
trap cleanup EXIT
temp() { printf 'client_body_temp_path %s/%s.b; proxy_temp_path %s/%s.p; fastcgi_temp_path %s/%s.f; uwsgi_temp_path %s/%s.u; scgi_temp_path %s/%s.s;' "$scratch" "$1" "$scratch" "$1" "$scratch" "$1" "$scratch" "$1" "$scratch" "$1"; }
common='access_log off; keepalive_requests 100000000; keepalive_timeout 3600s; client_max_body_size 64m; client_body_buffer_size 256k;'
answer='{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"a canned answer of some thirty tokens, about as long as a short one is in practice, so that sizes are realistic for once"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":30,"total_tokens":50}}'
cat >"$scratch/replicas.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $scratch/replicas.pid; error_log $scratch/replicas.err;
events { worker_connections 4096; }
http { $common $(temp r) default_type application/json;
  server { listen 127.0.0.1:23111 backlog=4096; listen 127.0.0.1:23112 backlog=4096; listen 127.0.0.1:23113 backlog=4096; listen 127.0.0.1:23114 backlog=4096;
    location = /health { return 200 ''; }
    location = /metrics { return 200 ''; }
    location = /v1/models { return 200 '{"object":"list","data":[{"id":"tiny","object":"model","created":1,"owned_by":"static","max_model_len":131072}]}'; }
    location = /get_model_info { return 200 '{"model_path":"tiny","is_generation":true}'; }
    location = /get_server_info { return 200 '{"model_path":"tiny"}'; }
    location /v1/ { return 200 '$answer'; } } }
CONF
cat >"$scratch/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $scratch/nginx.pid; error_log $scratch/nginx.err;
events { worker_connections 4096; }
http { $common $(temp n)
  upstream fleet { least_conn; server 127.0.0.1:23111; server 127.0.0.1:23112; server 127.0.0.1:23113; server 127.0.0.1:23114; keepalive 256; keepalive_requests 100000000; }
  upstream streams { server 127.0.0.1:23120; keepalive 256; }
  server { listen 127.0.0.1:23201; location / { proxy_pass http://fleet; proxy_http_version 1.1; proxy_set_header Connection ""; } }
  server { listen 127.0.0.1:23301; location / { proxy_pass http://streams; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }
CONF
cat >"$scratch/haproxy.cfg" <<'CONF'
global
  nbthread 1
  maxconn 4000
  tune.bufsize 262144
defaults
  mode http
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  option http-keep-alive
  http-reuse always
listen fleet
  bind 127.0.0.1:23202
  balance leastconn
  server a 127.0.0.1:23111
  server b 127.0.0.1:23112
  server c 127.0.0.1:23113
  server d 127.0.0.1:23114
listen streams
  bind 127.0.0.1:23302
  server a 127.0.0.1:23120
CONF
cat >"$scratch/post.lua" <<'LUA'
local bytes = tonumber(os.getenv("BODY_KB")) * 1024
local text = string.sub(string.rep("lorem ipsum dolor sit amet consectetur adipiscing elit sed do ", math.ceil(bytes / 62)), 1, bytes)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"tiny","messages":[{"role":"system","content":"' .. text .. '"},{"role":"user","content":"question"}],"max_tokens":16}'
done = function(s, l)
  io.write(string.format("%d %.0f %d %d %d", s.requests, s.requests / (s.duration / 1e6), l:percentile(50), l:percentile(99), s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout + s.errors.status))
end
LUA
start() { local core=$1 log=$2; shift 2; taskset -c "$core" "$@" >"$scratch/$log.log" 2>&1 & pids+=($!); last=$!; }
start 0 replicas nginx -c "$scratch/replicas.conf"
start 0 streams "$bin/sse-cost" replica 127.0.0.1:23120
fleet=(http://127.0.0.1:23111 http://127.0.0.1:23112 http://127.0.0.1:23113 http://127.0.0.1:23114)
stream=(http://127.0.0.1:23120)
flags() { local url; for url in "$@"; do printf -- '--replica %s ' "$url"; done; }
export TOKIO_WORKER_THREADS=1
declare -A pid
names=(nginx haproxy bare-relay sluice sglang-router smg vllm-router)
start 1 nginx nginx -c "$scratch/nginx.conf"; pid[nginx]=$last pid[nginx-stream]=$last
start 1 haproxy haproxy -f "$scratch/haproxy.cfg"; pid[haproxy]=$last pid[haproxy-stream]=$last
start 1 bare "$bin/bare-relay" 127.0.0.1:23203 "${fleet[@]#http://}"; pid[bare-relay]=$last
start 1 bare-stream "$bin/bare-relay" 127.0.0.1:23303 "${stream[@]#http://}"; pid[bare-relay-stream]=$last
start 1 sluice "$bin/sluice" serve --worker-threads 1 $(flags "${fleet[@]}") --listen 127.0.0.1:23204 --admin-listen 127.0.0.1:23404; pid[sluice]=$last
# One replica with hundreds of streams looks full, and would be spared: its rivals ask nobody.
echo "admission: { mode: 'off' }" >"$scratch/open.yaml"
start 1 sluice-stream "$bin/sluice" serve -c "$scratch/open.yaml" --worker-threads 1 $(flags "${stream[@]}") --listen 127.0.0.1:23304 --admin-listen 127.0.0.1:23504; pid[sluice-stream]=$last
rival() { # name, port, command…
  local name=$1 port=$2; shift 2
  start 1 "$name" "$@" --host 127.0.0.1 --port "2320$port" --worker-urls "${fleet[@]}" --prometheus-port "2340$port"; pid[$name]=$last
  start 1 "$name-stream" "$@" --host 127.0.0.1 --port "2330$port" --worker-urls "${stream[@]}" --prometheus-port "2350$port"; pid[$name-stream]=$last
}
rival sglang-router 5 "$scratch/sglang/bin/python" -m sglang_router.launch_router --policy round_robin
rival smg 6 "$scratch/smg/bin/smg" launch --policy round_robin
rival vllm-router 7 "$scratch/vllm/bin/vllm-router" --policy round_robin
sleep 12
ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
rss() { awk '/VmRSS/ {printf "%.0f", $2 / 1024}' "/proc/$1/status"; }
per() { awk -v t="$1" -v n="$2" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf n ? "%.1f" : "-", t / hz * 1e6 / (n ? n : 1) }'; }
echo "| proxy | body | CPU µs/request, 32 connections | requests/s | p50 µs | p99 µs | p50 µs, 1 connection | errors | MB resident |"
echo "|---|---|---|---|---|---|---|---|---|"
row() { # name, port
  local name=$1 port=$2 kb before after n rate p50 p99 errors lone
  for kb in 1 16 128; do
    before=$(ticks "${pid[$name]}")
    read -r n rate p50 p99 errors < <(BODY_KB=$kb taskset -c 0 wrk -t1 -c32 "-d${seconds}s" -s "$scratch/post.lua" "http://127.0.0.1:2320$port/v1/chat/completions" | tail -1; echo) || true
    after=$(ticks "${pid[$name]}")
    read -r _ _ lone _ _ < <(BODY_KB=$kb taskset -c 0 wrk -t1 -c1 -d1s -s "$scratch/post.lua" "http://127.0.0.1:2320$port/v1/chat/completions" | tail -1; echo) || true
    echo "| $name | $kb KB | $(per $((after - before)) "$n") | $rate | $p50 | $p99 | $lone | $errors | $(rss "${pid[$name]}") |"
  done
}
at=1
for name in "${names[@]}"; do
  if kill -0 "${pid[$name]}" 2>/dev/null; then row "$name" $at; else echo "| $name | did not start: $(tail -1 "$scratch/$name.log" | cut -c1-120) | | | | | | | |"; fi
  at=$((at + 1))
done
echo
echo "| proxy | streams | CPU µs/event | events | seconds |"
echo "|---|---|---|---|---|"
at=1
for name in "${names[@]}"; do
  for streams in 64 256; do
    target=${pid[$name-stream]}
    kill -0 "$target" 2>/dev/null || continue
    before=$(ticks "$target"); result=$(taskset -c 0 timeout 60 "$bin/sse-cost" read "127.0.0.1:2330$at" $streams || true); after=$(ticks "$target")
    n=$(sed -n 's/events=\([0-9]*\).*/\1/p' <<<"$result")
    echo "| $name | $streams | $(per $((after - before)) "${n:-0}") | ${n:-0} | ${result##*seconds=} |"
  done
  at=$((at + 1))
done
