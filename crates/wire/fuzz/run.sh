#!/usr/bin/env bash
# Throws bytes at every parser of `wire`, each target for so many seconds (60 when not said), starting
# from the recordings of real engines in ../tests/captures; what it finds new is kept in target/corpus. Ends with 1 when one of them falls.
#   crates/wire/fuzz/run.sh [SECONDS] [TARGET…]
# Coverage comes from flags that stable Rust has, so neither a nightly nor cargo-fuzz is needed; libFuzzer is
# compiled from source, for which a C++ compiler must be there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(request stream answer metrics head http1 placements kv_events)
triple=$(rustc -vV | sed -n 's/host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
"${CARGO:-cargo}" build --release --target "$triple" --quiet
body() { sed '1,/^\r*$/d' "$1"; }
pick() { # target, recording: the part of the recording that the target reads, or nothing
  case $1:$2 in
    request:*.request.http) printf '\0'; body "$2" ;;
    stream:*.request.http | answer:*.request.http | http1:*.request.http) ;;
    stream:*stream*.http) printf '\7'; body "$2" ;;
    http1:*.http) printf '\7'; cat "$2" ;;
    answer:*.http) body "$2" ;;
    metrics:*metrics*) cat "$2" ;;
    kv_events:*/kv_events.bin) tail -c +13 "$2" ;; # the first payload, without its number and length
    head:*.request.http) sed '/^\r*$/q' "$2" ;;
  esac
}
seed() { # target: what real engines were sent and sent
  local to=target/corpus/$1 file name
  mkdir -p "$to"
  for file in ../tests/captures/*/*; do
    name=$to/$(printf %s "$file" | cksum | cut -d' ' -f1)
    pick "$1" "$file" | head -c 20000 >"$name" || true
    [ -s "$name" ] || rm -f "$name"
  done
}
for target in "${targets[@]}"; do
  seed "$target"
  echo "== $target"
  "$CARGO_TARGET_DIR/$triple/release/$target" -max_total_time="$seconds" -max_len=20000 -timeout=5 -rss_limit_mb=1024 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="target/fell-$target-" "target/corpus/$target" 2>&1 |
    grep -E 'stat::number_of_executed_units|stat::average_exec|stat::new_units|ERROR|panicked|SUMMARY|Test unit' || true
  if compgen -G "target/fell-$target-*" >/dev/null; then echo "$target fell: see target/fell-$target-*"; exit 1; fi
done
