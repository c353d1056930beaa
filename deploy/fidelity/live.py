"""Runs one workload twice, live and simulated, and compares what clients saw.

    live.py [--sluice target/release/sluice] [--policy prefix-aware] [--rate 2] [--duration 240] [--seed 1]

Live: emulated replicas, the router and the load generator are processes of their own and speak HTTP over
loopback, in real time. Simulated: the same requests, the same policy and the same engine model in
virtual time. Both start with cold caches. The comparison fails where a figure differs by more than
`--within`.

Sockets, timers and waiting for a processor make the live run late by milliseconds that the simulated one
does not have, by tens of them on a busy machine. `slow.yaml` is therefore an engine four times as slow as
a real one: what is compared is the model, not the machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from processes import Ports, fleet

HERE = Path(__file__).parent
PROFILE, REPLICAS, KV_BLOCKS = HERE / "slow.yaml", 4, 6000
TTFT_MS, TPOT_MS = 1500, 150
PORTS = Ports(18100, 18080, 18090)

SCENARIO = """
name: live
fleet: {{ replicas: {replicas}, profile: {profile}, overrides: {{ kv_tokens: {kv_tokens} }} }}
policy: {{ strategy: {policy} }}
workload:
{workload}
load: {{ rates_per_s: [{rate}], duration: {duration}s }}
# The emulated replicas make up answers of their own, which no later prompt quotes.
quoted_answers: false
slo: {{ ttft: {ttft}ms, tpot: {tpot}ms }}
"""


def run(args, *command):
    result = subprocess.run([args.sluice, *command], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: {result.stderr}")
    return json.loads(result.stdout)["runs"][0]


def live(args, folder):
    with ExitStack() as stack:
        fleet(stack, args.sluice, folder, PORTS, REPLICAS, f"policy: {{ strategy: {args.policy} }}",
              "--profile", str(PROFILE), "--kv-blocks", str(KV_BLOCKS))
        return run(args, "replay", "--target", f"http://127.0.0.1:{PORTS.router}", "--workload",
                   str(HERE / "live-workload.yaml"), "--rate", str(args.rate), "--duration", f"{args.duration}s",
                   "--seed", str(args.seed), "--json", "--goodput",
                   f"time_to_first_token:{TTFT_MS} time_per_output_token:{TPOT_MS}")


def simulated(args, folder):
    workload = (HERE / "live-workload.yaml").read_text()
    scenario = folder / "live.yaml"
    scenario.write_text(SCENARIO.format(
        replicas=REPLICAS, profile=PROFILE, kv_tokens=KV_BLOCKS * 16, policy=args.policy, rate=args.rate,
        workload="\n".join("  " + line for line in workload.splitlines()), duration=args.duration,
        ttft=TTFT_MS, tpot=TPOT_MS))
    return run(args, "simulate", "-s", str(scenario), "--seed", str(args.seed), "--json", "--no-limits")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sluice", default=str(HERE.parents[1] / "target/release/sluice"))
    parser.add_argument("--policy", default="prefix-aware")
    for name, default in (("rate", 2), ("duration", 240), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--within", type=float, default=0.05)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, other = live(args, Path(folder)), simulated(args, Path(folder))
    figures = {
        "TTFT p50, ms": lambda run: run["ttft_ms"]["p50"],
        "TTFT p90, ms": lambda run: run["ttft_ms"]["p90"],
        "TTFT mean, ms": lambda run: run["ttft_ms"]["mean"],
        "TPOT mean, ms": lambda run: run["tpot_ms"]["mean"],
        "E2E mean, ms": lambda run: run["e2e_ms"]["mean"],
        "hit rate": lambda run: run["cache_hit_rate"],
        "goodput, 1/s": lambda run: run["request_goodput"],
    }
    lag = one["generator_lag_ms"]["p99"]
    print(f"{args.policy}, {one['requests']} requests live and {other['requests']} simulated; "
          f"the generator lagged {lag:.1f} ms (p99)")
    apart = []
    for name, figure in figures.items():
        real, ours = figure(one), figure(other)
        off = ours / real - 1 if real else float(ours != real)
        apart += [name] if abs(off) > args.within else []
        print(f"{name:14} {real:10.3f} live {ours:10.3f} simulated {off:+7.1%}")
    if apart:
        sys.exit(f"more than {args.within:.0%} apart: {', '.join(apart)}")


if __name__ == "__main__":
    main()
