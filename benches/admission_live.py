#!/usr/bin/env python3
"""Admission on a live router: goodput past the knee by mode, and what it costs to turn a request away.

    cargo build --release && python3 benches/admission_live.py [--sluice target/release/sluice] [--knee 7]

*Goodput*: emulated replicas, the router and the load generator are processes of their own and speak HTTP over
loopback in real time. Each mode meets the same requests. The engine is `deploy/fidelity/slow.yaml`, four times
as slow as a real one, so that what is measured is the rule and not the machine.

*Refusals*: the router has one worker thread on the last core; every replica is held by an answer that stands
still, and every request asks for a first token within a millisecond. Latency is measured with few connections,
the rate with many. CPU time a refusal is the figure to trust on a busy machine. Needs wrk (a Debian package).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "deploy/fidelity"))

from processes import Ports, fleet, start  # noqa: E402

PROFILE, REPLICAS = ROOT / "deploy/fidelity/slow.yaml", 4
TTFT_MS, TPOT_MS = 2000, 150
PORTS = Ports(18300, 18280, 18290)

# Connections, and what refusals are held to: latency with few, and a rate with many, which is ten times the knee of
# eight modelled replicas under chat.
FEW, MANY, P99_MAX_US, RATE_MIN = 2, 64, 2000, 1080

WORKLOAD = """
independent:
  prompt_tokens: { min: 500, max: 1500 }
  answer_tokens: { min: 50, max: 150 }
"""

CONFIG = """
policy: {{ strategy: least-latency }}
slo: {{ default: {{ ttft: {ttft}ms, tpot: {tpot}ms }} }}
admission: {{ {admission} }}
"""

POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["x-sluice-slo-ttft-ms"] = "1"
wrk.body = '{"model":"llama-3-70b-slow","messages":[{"role":"user","content":"question"}],"max_tokens":16}'
done = function(s, l)
  io.write(string.format("answers=%d other_than_200=%d rate=%.0f p50_us=%.0f p99_us=%.0f\\n", s.requests,
    s.errors.status, s.requests / (s.duration / 1e6), l:percentile(50), l:percentile(99)))
end
"""


def begin(stack, args, folder, admission, *flags, prefix=()):
    rest = CONFIG.format(admission=admission, ttft=TTFT_MS, tpot=TPOT_MS)
    return fleet(stack, args.sluice, folder, PORTS, REPLICAS, rest, "--profile", str(PROFILE), *flags, prefix=prefix)


def replay(args, folder, admission, rate):
    workload = folder / "workload.yaml"
    workload.write_text(WORKLOAD)
    with ExitStack() as stack:
        begin(stack, args, folder, admission)
        command = [args.sluice, "replay", "--target", f"http://127.0.0.1:{PORTS.router}", "--workload", str(workload),
                   "--rate", str(rate), "--duration", f"{args.duration}s", "--warm-up", f"{args.duration // 4}s",
                   "--seed", "1", "--json", "--allow-lag", "--goodput",
                   f"time_to_first_token:{TTFT_MS} time_per_output_token:{TPOT_MS}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not result.stdout:
            sys.exit(f"{' '.join(command)}: {result.stderr}")
        return json.loads(result.stdout)["runs"][0]


def goodput(args, folder):
    print("mode\ttimes the knee\toffered/s\tgood/s\tof the knee %\tgood of let in %\trefused\tfailed\tTTFT p99 ms"
          "\tTPOT p99 ms\tlag p99 ms\tload of the machine", flush=True)
    at_knee = None
    everywhere = [("knee", it) for it in args.times] + [("off", it) for it in args.times]
    by_hand = [(f"static, in_flight_max: {at}", it) for it in args.times for at in args.static]
    others = [(mode, args.times[0]) for mode in args.others]
    for mode, times in [("off", 1.0), ("knee", 0.8), *everywhere, *by_hand, *others]:
        run = replay(args, folder, f"mode: {mode}", args.knee * times)
        at_knee = at_knee or run["request_goodput"]
        let_in = max(run["requests"] - run["rejected"], 1)
        good = run["good_request_fraction"] * run["requests"]
        tpot = run.get("tpot_ms") or {}
        print(f"{mode}\t{times}\t{run['offered_rps']:.1f}\t{run['request_goodput']:.2f}"
              f"\t{100 * run['request_goodput'] / at_knee:.0f}\t{100 * good / let_in:.1f}"
              f"\t{run['rejected']}\t{run.get('failed', 0)}\t{run['ttft_ms']['p99']:.0f}\t{tpot.get('p99', 0):.0f}"
              f"\t{run['generator_lag_ms']['p99']:.0f}\t{os.getloadavg()[0]:.1f}", flush=True)


def verdict(is_met):
    return "met" if is_met else "MISSED"


def ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def refusals(args, folder):
    script = folder / "post.lua"
    script.write_text(POST)
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        router = begin(stack, args, folder, "mode: knee", "--fault", "stall:1",
                       prefix=("taskset", "-c", str(cores[-1])))
        body = json.dumps({"model": "llama-3-70b-slow", "stream": True, "max_tokens": 16,
                           "messages": [{"role": "user", "content": "x" * 400}]})
        for _ in range(3 * REPLICAS):
            start(stack, "curl", "-sN", f"http://127.0.0.1:{PORTS.router}/v1/chat/completions", "-H",
                  "content-type: application/json", "-d", body)
        time.sleep(2)
        for connections in (FEW, MANY):
            before, began = ticks(router.pid), time.monotonic()
            run = subprocess.run(["taskset", "-c", str(cores[0]), "wrk", "-t1", f"-c{connections}",
                                  f"-d{args.seconds}s", "-s", str(script), "--timeout", "10s",
                                  f"http://127.0.0.1:{PORTS.router}/v1/chat/completions"],
                                 capture_output=True, text=True, check=False)
            line = [it for it in run.stdout.splitlines() if it.startswith("answers=")]
            if not line:
                sys.exit(f"wrk: {run.stdout}{run.stderr}")
            used_s = ticks(router.pid) - before
            answers = int(line[0].split()[0].split("=")[1])
            print(f"refusals, {connections} connections: {line[0]} router_cpu_us={1e6 * used_s / answers:.1f}"
                  f" cpu_share={used_s / (time.monotonic() - began):.2f}")
            figures = dict(it.split("=") for it in line[0].split())
            if figures["answers"] != figures["other_than_200"]:
                print("  some were let in: the fleet was not full")
            if connections == FEW:
                print(f"  p99 within {P99_MAX_US} us: {verdict(int(figures['p99_us']) <= P99_MAX_US)}")
            else:
                print(f"  {RATE_MIN}/s a core: {verdict(RATE_MIN <= int(figures['rate']))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sluice", default=str(ROOT / "target/release/sluice"))
    parser.add_argument("--knee", type=float, default=7.0, help="requests/s at which `off` keeps 97 %% of promises")
    parser.add_argument("--duration", type=int, default=80, help="seconds of each run")
    parser.add_argument("--times", type=float, nargs="+", default=[1.4, 2.0, 3.0], help="what is offered, times the knee")
    parser.add_argument("--static", type=int, nargs="*", default=[16, 20, 24], help="numbers for `static`")
    parser.add_argument("--others", nargs="*", default=["ttft-only", "gradient", "vegas", "aimd"],
                        help="modes to compare with, at the first of --times")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each run of refusals")
    parser.add_argument("--only", choices=("goodput", "refusals"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "refusals":
            goodput(args, Path(folder))
        if args.only != "goodput":
            refusals(args, Path(folder))


if __name__ == "__main__":
    main()
