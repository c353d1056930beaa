#!/usr/bin/env bash
# CPU time per proxied request and per relayed server-sent event: Sluice beside nginx and beside a bare relay built
# on the same libraries, in turn, in one run; and Sluice's memory when idle. Needs wrk and nginx (Debian packages).
#   cargo build --release && cargo build --release -p benches && benches/proxy_cost.sh [ROUNDS] [SECONDS]
# The proxy under test has one worker thread on core 1; client and replicas share core 0. CPU time (user + system of
# the proxy's process) is the figure to trust: rates on a shared machine are not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=${1:-3} seconds=${2:-4}
bin=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d)
pids=()
cleanup() { kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT

common="access_log off; keepalive_requests 100000000; keepalive_timeout 3600s; client_body_buffer_size 256k;
  client_body_temp_path $work/body; proxy_temp_path $work/proxy; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;"
answer='{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"a canned answer of some thirty tokens, about as long as a short one is in practice, so that sizes are realistic for once"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":30,"total_tokens":50}}'
cat >"$work/replicas.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/replicas.pid; error_log $work/replicas.err;
events { worker_connections 4096; }
http { $common default_type application/json;
  server { listen 127.0.0.1:21111; listen 127.0.0.1:21112; listen 127.0.0.1:21113; listen 127.0.0.1:21114;
    location = /health { return 200 ''; }
    location = /metrics { return 200 ''; }
    location = /v1/models { return 200 '{"object":"list","data":[{"id":"tiny","object":"model"}]}'; }
    location /v1/ { return 200 '$answer'; } } }
CONF
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.err;
events { worker_connections 4096; }
http { $common
  upstream fleet { server 127.0.0.1:21111; server 127.0.0.1:21112; server 127.0.0.1:21113; server 127.0.0.1:21114; keepalive 256; keepalive_requests 100000000; }
  upstream streams { server 127.0.0.1:21120; keepalive 256; }
  server { listen 127.0.0.1:21901; location / { proxy_pass http://fleet; proxy_http_version 1.1; proxy_set_header Connection ""; } }
  server { listen 127.0.0.1:21911; location / { proxy_pass http://streams; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }
CONF
cat >"$work/post.lua" <<'LUA'
local text = string.sub(string.rep("lorem ipsum dolor sit amet consectetur adipiscing elit sed do ", 17), 1, 1024)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"tiny","messages":[{"role":"system","content":"' .. text .. '"},{"role":"user","content":"question"}],"max_tokens":16}'
done = function(s, l)
  io.write(string.format("requests=%d rps=%.0f p50=%.0fus errors=%d\n", s.requests, s.requests / (s.duration / 1e6), l:percentile(50), s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout + s.errors.status))
end
LUA

start() { local core=$1; shift; taskset -c "$core" "$@" >>"$work/log" 2>&1 & pids+=($!); last=$!; }
replica_flags=(--replica http://127.0.0.1:21111 --replica http://127.0.0.1:21112 --replica http://127.0.0.1:21113 --replica http://127.0.0.1:21114)
serve=("$bin/sluice" serve --worker-threads 1 --policy prefix-aware)
start 0 nginx -c "$work/replicas.conf"
start 0 "$bin/sse-cost" replica 127.0.0.1:21120
start 1 nginx -c "$work/nginx.conf"; nginx_pid=$last
start 1 "$bin/bare-relay" 127.0.0.1:21902 127.0.0.1:21111 127.0.0.1:21112 127.0.0.1:21113 127.0.0.1:21114; bare=$last
start 1 "$bin/bare-relay" 127.0.0.1:21912 127.0.0.1:21120; bare_sse=$last
sleep 0.5
start 1 "${serve[@]}" "${replica_flags[@]}" --listen 127.0.0.1:21903 --admin-listen 127.0.0.1:21993; sluice=$last
start 1 env SLUICE_LOG=warn "${serve[@]}" "${replica_flags[@]}" --listen 127.0.0.1:21904 --admin-listen 127.0.0.1:21994; quiet=$last
# One replica with a thousand streams looks full, and would be spared.
echo "admission: { mode: 'off' }" >"$work/open.yaml"
start 1 "${serve[@]}" -c "$work/open.yaml" --replica http://127.0.0.1:21120 --listen 127.0.0.1:21913 --admin-listen 127.0.0.1:21995; sluice_sse=$last
sleep 2
echo "idle: $(awk '/VmRSS/ {print $2}' "/proc/$sluice/status") KiB resident"

ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
per() { awk -v t="$1" -v n="$2" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.1f", t / hz * 1e6 / n }'; }
requests() { # name port pid
  local before after result n
  before=$(ticks "$3"); result=$(taskset -c 0 wrk -t1 -c32 "-d${seconds}s" -s "$work/post.lua" "http://127.0.0.1:$2/v1/chat/completions" | grep requests=); after=$(ticks "$3")
  n=$(sed 's/requests=\([0-9]*\).*/\1/' <<<"$result")
  printf 'request  %-22s %6s us CPU  %s\n' "$1" "$(per $((after - before)) "$n")" "$result"
}
events() { # name port pid streams
  local before after result n
  before=$(ticks "$3"); result=$(taskset -c 0 "$bin/sse-cost" read "127.0.0.1:$2" "$4"); after=$(ticks "$3")
  n=$(sed 's/events=\([0-9]*\).*/\1/' <<<"$result")
  printf 'event    %-22s %6s us CPU  %s streams=%s\n' "$1" "$(per $((after - before)) "$n")" "$result" "$4"
}
for _ in $(seq "$rounds"); do
  requests nginx 21901 "$nginx_pid"
  requests bare-relay 21902 "$bare"
  requests sluice 21903 "$sluice"
  requests 'sluice, no log lines' 21904 "$quiet"
done
for _ in $(seq "$rounds"); do
  for streams in 64 256 1024; do
    events nginx 21911 "$nginx_pid" "$streams"
    events bare-relay 21912 "$bare_sse" "$streams"
    events sluice 21913 "$sluice_sse" "$streams"
  done
done
