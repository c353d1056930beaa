#!/usr/bin/env python3
"""Measures the load generator: the rate it holds, its own lag, streams open at once, a stalled server.

    cargo build --release -p sluice && cargo build --release -p benches --bin canned-server
    benches/load_generator.py OUT [rate|streams|stall]...

The target is `canned-server` on the same machine, one thread. Nothing is pinned. On a machine that others use,
`chrt -f 1` before the command keeps their work out of the lag; say so beside the figures. Prints one JSON object a
measurement and keeps the results folders in OUT.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
ADDRESS = "127.0.0.1:22001"
WORKLOAD = "independent: {{ prompt_tokens: {{ min: 20, max: 20 }}, answer_tokens: {{ min: {0}, max: {0} }} }}\n"


def cpu_s(pid):
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


class Watch(threading.Thread):
    """Looks at a process while it runs: highest memory, most open files, CPU time."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.files, self.rss, self.cpu = pid, 0, [], 0.0
        self.start()

    def run(self):
        while True:
            try:
                files = len(os.listdir(f"/proc/{self.pid}/fd"))
                self.rss.append((files, rss_kb(self.pid)))
                self.files = max(self.files, files)
                self.cpu = cpu_s(self.pid)
            except (FileNotFoundError, ProcessLookupError, IndexError):
                return
            time.sleep(0.02)


def measure(name, out, server, replay, answer_tokens=3):
    """Runs the server and the generator; returns the run's figures and what the processes took."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    workload = folder / "workload.yaml"
    workload.write_text(WORKLOAD.format(answer_tokens))
    target = subprocess.Popen([BIN / "canned-server", ADDRESS, *server])
    try:
        time.sleep(0.5)
        before = os.getloadavg()[0]
        server_cpu = cpu_s(target.pid)
        command = [BIN / "sluice", "replay", "--target", f"http://{ADDRESS}", "--model", "canned",
                   "--workload", workload, *replay, "--allow-lag", "--json", "--out", folder]
        started = time.time()
        generator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watch = Watch(generator.pid)
        text, _ = generator.communicate()
        wall = time.time() - started
        run = json.loads(text)["runs"][0]
        figures = {
            "name": name, "requests": run["requests"], "completed": run["completed"], "failed": run["failed"],
            "offered_rps": round(run["offered_rps"], 1), "drain_s": round(run["drain_s"], 3),
            "lag_ms": {key: round(run["generator_lag_ms"][key], 3) for key in ("p50", "p95", "p99", "max")},
            "ttft_ms": {key: round(run["ttft_ms"][key], 3) for key in ("p50", "p99", "max")},
            "e2e_ms": {key: round(run["e2e_ms"][key], 3) for key in ("mean", "p50", "p90", "p95", "p99")},
            "generator_cpu_us_per_request": round(watch.cpu / run["requests"] * 1e6, 1),
            "server_cpu_us_per_request": round((cpu_s(target.pid) - server_cpu) / run["requests"] * 1e6, 1),
            "wall_s": round(wall, 1), "load_average_before": before,
        }
        # A record a request is for the disk only where it is small.
        (folder / "requests.jsonl").unlink(missing_ok=True)
        return figures, watch
    finally:
        target.terminate()
        target.wait()


def rate(out):
    for rps in (5_000, 10_000):
        figures, _ = measure(f"rate-{rps}", out, [], ["--rate", str(rps), "--arrivals", "constant", "--duration", "20s"])
        yield figures


def streams(out):
    """Five thousand answers of twenty tokens, one a second, all open at once."""
    figures, watch = measure("streams", out, ["tokens=20", "gap_ms=1000"],
                             ["--rate", "1000", "--arrivals", "constant", "--duration", "5s"], answer_tokens=20)
    # Before the first stream, with the whole schedule planned.
    idle = next(rss for files, rss in watch.rss if files >= 10)
    most = max(files for files, _ in watch.rss)
    busy = max(rss for files, rss in watch.rss if files == most)
    figures |= {"open_files": watch.files, "resident_kb_before": idle, "resident_kb_open": busy,
                "kb_per_stream": round((busy - idle) / (most - 10), 2)}
    yield figures


def stall(out):
    """1,000 requests a second of 5 ms each; the server is frozen 1 s of every 10 s."""
    figures, _ = measure("stall", out, ["service_ms=5", "freeze_ms=1000", "every_ms=10000"],
                         ["--rate", "1000", "--arrivals", "constant", "--duration", "60s"])
    truth = {"mean": 55.05, "p50": 5.0, "p90": 5.0, "p95": 505.0, "p99": 905.0}
    figures["truth_e2e_ms"] = truth
    figures["p99_off_percent"] = round((figures["e2e_ms"]["p99"] / truth["p99"] - 1) * 100, 2)
    yield figures


def main():
    out, *names = sys.argv[1:]
    measurements = {"rate": rate, "streams": streams, "stall": stall}
    for name in names or measurements:
        for figures in measurements[name](Path(out)):
            print(json.dumps(figures), flush=True)


main()
