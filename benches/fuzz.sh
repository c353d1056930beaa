#!/usr/bin/env bash
# Throws what chance brings, and what it learns from, at everything that reads what others wrote, and at the
# prefix index beside a naive model of it. Each target runs for so many seconds (60 when not said).
#   benches/fuzz.sh [SECONDS] [TARGET…]      targets: request stream answer metrics head http1 placements kv_events config trace index
# What is found new is kept under each fuzz folder's target/corpus; `benches/fuzz.sh keep` writes the part of it that
# covers anything back into seeds/. Ends with 1 when a target falls. Needs stable Rust and a C++ compiler only.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cargo=${CARGO:-cargo}
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(request stream answer metrics head http1 placements kv_events config trace index)
triple=$(rustc -vV | sed -n 's/host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"

room_of() { case $1 in config) echo router ;; trace) echo workload ;; index) echo policy ;; *) echo wire ;; esac }

# Most files that are kept of what was found: the longest of those under a kilobyte, which cover most.
KEPT=40

keep() { # target, folder: writes what covers anything back into the seeds
  local least=$2/target/least-$1
  rm -rf "$least" && mkdir -p "$least"
  "$2/target/$triple/release/$1" -merge=1 -verbosity=0 "$least" "$2/target/corpus/$1" "$2/seeds" >/dev/null 2>&1
  find "$least" -type f -size -2k -printf '%s %p\n' | sort -n | tail -n $KEPT | cut -d' ' -f2 | xargs -r cp -t "$2/seeds"
}

run() { # target, folder
  mkdir -p "$2/target/corpus/$1"
  echo "== $1"
  "$2/target/$triple/release/$1" -max_total_time="$seconds" -max_len=8192 -timeout=5 -rss_limit_mb=1024 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="$2/target/fell-$1-" "$2/target/corpus/$1" "$2/seeds" 2>&1 |
    grep -E 'stat::number_of_executed_units|stat::average_exec|stat::new_units|ERROR|panicked|SUMMARY|Test unit' || true
  if compgen -G "$2/target/fell-$1-*" >/dev/null; then
    echo "$1 fell: see $2/target/fell-$1-*"
    exit 1
  fi
}

for target in "${targets[@]}"; do
  room=$(room_of "$target")
  folder=$root/crates/$room/fuzz
  if [ "$room" = wire ]; then
    [ "$seconds" = keep ] || "$folder/run.sh" "$seconds" "$target"
    continue
  fi
  (cd "$folder" && CARGO_TARGET_DIR=target RUSTFLAGS="$flags" "$cargo" build --release --target "$triple" --quiet)
  if [ "$seconds" = keep ]; then keep "$target" "$folder"; else run "$target" "$folder"; fi
done
