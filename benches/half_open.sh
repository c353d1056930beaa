#!/usr/bin/env bash
# A replica whose machine is gone without a word (A5): what is sent to it goes nowhere. In a network namespace of its own,
# which needs no rights where user namespaces are allowed, and `ip`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${CARGO:-cargo}" test -p router --test half_open --no-run
unshare -rn bash -c 'ip link set lo up && "${CARGO:-cargo}" test -p router --test half_open -- --ignored --nocapture'
