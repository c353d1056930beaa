#!/usr/bin/env bash
# Writes what the binary is made of: every crate that is built into it, with version, licence and the checksum of
# Cargo.lock, as a CycloneDX list (JSON, 1.5) that scanners read and advisories can be held against.
#   deploy/sbom.sh [FILE [FEATURE…]]      target/sluice.cdx.json when not said; features as they were built
# Installs cargo-cyclonedx where it is not there; needs python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
file=$(realpath -m "${1:-$root/target/sluice.cdx.json}")
shift || true
features=${*:+--features "$*"}
triple=$(rustc -vV | sed -n 's/host: //p')
cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-cyclonedx

# It writes beside each manifest of the workspace, under a name that nothing else has.
name=sbom-of-this-run
trap 'find "$root/crates" "$root/benches" -name "$name.json" -delete' EXIT
cd "$root"
cargo cyclonedx --quiet --manifest-path crates/sluice/Cargo.toml --format json --spec-version 1.5 --target "$triple" \
  --override-filename "$name"
mkdir -p "$(dirname "$file")"
# It lists what any member of the workspace turns on. What is built is what cargo says, so the rest is left out; and
# so is where this machine has its checkout.
# shellcheck disable=SC2086
cargo tree --locked --package sluice --edges normal,build --prefix none --target "$triple" --format '{p}' $features |
  python3 -c '
import json, sys
_, made, file, root = sys.argv
built = {tuple(line.split()[:2]) for line in sys.stdin if line.strip()}
with open(made) as it:
    bom = json.loads(it.read().replace(f"file://{root}/", "file:///"))
bom["components"] = [it for it in bom["components"] if (it["name"], "v" + it["version"]) in built]
kept = {it["bom-ref"] for it in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
bom["dependencies"] = [
    it | {"dependsOn": [on for on in it.get("dependsOn", []) if on in kept]}
    for it in bom["dependencies"] if it["ref"] in kept
]
missing = built - {(it["name"], "v" + it["version"]) for it in bom["components"]} - {("sluice", "v" + bom["metadata"]["component"]["version"])}
if missing:
    sys.exit(f"not in the list, though built: {sorted(missing)}")
with open(file, "w") as it:
    json.dump(bom, it, indent=1)
print(f"{file}: {len(bom['"'components'"'])} crates")
' "crates/sluice/$name.json" "$file" "$root"
