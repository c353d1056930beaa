#!/usr/bin/env bash
# The tests that do what docs/reliability.md asks for at its full count, one after another, optimised. Such a test is
# ignored otherwise, its name begins with full_ID_ (full_b6_…), and it prints its figures as lines that begin with
# that ID ("B6: …"). A line that begins with "ID skipped" says what it lacks, and is shown as such.
#   benches/full_counts.sh [PART_OF_A_NAME …]
# Prints a line for each test: id, passed, failed or skipped, seconds, figures. Fails if any of them does.
# Quicker to build, slower to run: CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16.
# B4 and B5 need slowhttptest, a Debian package: apt-get install slowhttptest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ulimit -n "$(ulimit -Hn)"
command -v slowhttptest >/dev/null ||
  echo "slowhttptest is missing (apt-get install slowhttptest): B4 and B5 will be skipped" >&2
built=$(mktemp)
trap 'rm -f "$built"' EXIT
mapfile -t files < <(grep -l '^\(async \)\?fn full_' crates/{router,sluice,wire}/tests/*.rs)
targets=()
for file in "${files[@]}"; do targets+=(--test "$(basename "$file" .rs)"); done
"${CARGO:-cargo}" test --release -p router -p sluice -p wire "${targets[@]}" --no-run --message-format=json-render-diagnostics >"$built"
echo "# $(git describe --always --dirty), $(ulimit -n) descriptors, $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
exec python3 - "$built" "$@" <<'PY'
import json, os, re, subprocess, sys, time

def tests():
    for line in open(sys.argv[1]):
        built = json.loads(line)
        if built.get("reason") != "compiler-artifact" or not built["profile"]["test"] or not built["executable"]:
            continue
        home = os.path.dirname(built["manifest_path"])
        listed = subprocess.run([built["executable"], "--ignored", "--list", "--format=terse"], cwd=home, text=True,
                                capture_output=True, check=True).stdout
        for name in (it.removesuffix(": test") for it in listed.splitlines() if it.endswith(": test")):
            plain = name.rsplit("::", 1)[-1]
            if plain.startswith("full_") and (not sys.argv[2:] or any(it in plain for it in sys.argv[2:])):
                yield plain.split("_")[1].upper(), name, built["executable"], home

def order(test):
    id = re.match(r"([A-Z]*)(\d*)", test[0])
    return id[1], int(id[2] or 0), test[1]

failed = 0
for id, name, executable, home in sorted(tests(), key=order):
    began = time.monotonic()
    ran = subprocess.run([executable, name, "--exact", "--ignored", "--nocapture", "--test-threads=1"], cwd=home,
                         env=os.environ | {"CARGO_MANIFEST_DIR": home}, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    # The first line that a test says follows its name.
    lines = (re.sub(r"^test \S+ \.\.\. ", "", it) for it in ran.stdout.splitlines())
    said = [it for it in lines if re.match(rf"{id}\b", it)]
    is_skipped = any(it.startswith(f"{id} skipped") for it in said)
    word = "FAILED" if ran.returncode else "skipped" if is_skipped else "passed"
    figures = "; ".join(re.sub(rf"^{id}:? ?", "", it) for it in said)
    print(f"{id:4} {word:7} {time.monotonic() - began:6.1f} s  {name}: {figures}", flush=True)
    if ran.returncode:
        failed += 1
        print(ran.stdout, file=sys.stderr)
if not failed:
    sys.exit()
sys.exit(f"{failed} failed")
PY
