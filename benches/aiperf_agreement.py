#!/usr/bin/env python3
"""Runs AIPerf and `sluice replay` with one trace against the same emulated replicas, and compares what they say.

    cargo build --release -p sluice
    benches/aiperf_agreement.py OUT [AIPERF]

AIPERF is an `aiperf` command; without it version 0.13.0 is installed from PyPI into OUT/venv (1.2 GB). AIPerf wants a
tokenizer even where it counts nothing with it: a small one is trained on Python's own standard library and put where
the Hugging Face client looks first, so that nothing is downloaded.

The trace holds whole request bodies with their times, so both tools send the same bytes at the same moments: the
slice of a production trace that Sluice carries, sped up, its prompts cut to an eighth. Two emulated replicas stand
behind `sluice serve` (round-robin), fresh for each tool; its access log is the third witness, which says when each
answer began and ended on the server's side.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "sluice"
SLICE = ROOT / "crates/workload/data/mooncake-conversation-slice.jsonl"
PORT, SPEEDUP, SHRINK, MODEL = 22100, 10, 8, "tiny"
GOODPUT = {"time_to_first_token": 120, "inter_token_latency": 12}


def trace(path):
    """Whole bodies with times; equal block names become equal text."""
    words = ["".join(chr(97 + (n // 26**i) % 26) for i in (2, 1, 0)) for n in range(2_048)]
    with SLICE.open() as lines, path.open("w") as out:
        rows = [json.loads(line) for line in lines]
        first = rows[0]["timestamp"]
        for place, row in enumerate(rows):
            text = []
            for name in row["hash_ids"][:-1] + [1_000_000 + place]:
                text += [words[(name * 7_919 + word * 104_729) % 2_048] for word in range(512 // SHRINK)]
            payload = {"model": MODEL, "messages": [{"role": "user", "content": " ".join(text)}], "stream": True,
                       "stream_options": {"include_usage": True}, "ignore_eos": True, "temperature": 0,
                       "max_tokens": max(row["output_length"] // 4, 2)}
            at = round((row["timestamp"] - first) / SPEEDUP)
            out.write(json.dumps({"timestamp": at, "payload": payload}) + "\n")
    return len(rows)


def tokenizer(home, python):
    """A byte-level BPE of 4,096 tokens, as the Hugging Face client would have stored it."""
    snapshot = home / "hub/models--local--tiny/snapshots/0"
    snapshot.mkdir(parents=True, exist_ok=True)
    (home / "hub/models--local--tiny/refs").mkdir(exist_ok=True)
    (home / "hub/models--local--tiny/refs/main").write_text("0")
    subprocess.run([python, "-c", f"""
import glob, os, sysconfig
from tokenizers import Tokenizer, models, trainers, pre_tokenizers, decoders
from transformers import PreTrainedTokenizerFast
tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tok.decoder = decoders.ByteLevel()
files = sorted(glob.glob(os.path.join(sysconfig.get_paths()['stdlib'], '*.py')))[:60]
tok.train(files, trainers.BpeTrainer(vocab_size=4096, special_tokens=['<|end|>'], show_progress=False,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token='<|end|>', pad_token='<|end|>')
fast.chat_template = '{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}'
fast.save_pretrained({str(snapshot)!r})
"""], check=True)


class Fleet:
    """Two emulated replicas behind a router, whose access log is kept."""

    def __init__(self, log):
        self.log = log
        replica = [BIN, "emulate", "--listen", f"127.0.0.1:{PORT + 1}", "--replicas", "2", "--model", MODEL]
        self.replicas = subprocess.Popen(replica, stderr=subprocess.DEVNULL)
        time.sleep(1)
        router = [BIN, "serve", "--listen", f"127.0.0.1:{PORT}", "--admin-listen", f"127.0.0.1:{PORT + 9}",
                  "--policy", "round-robin", "--log-format", "json"]
        router += [flag for n in (1, 2) for flag in ("--replica", f"http://127.0.0.1:{PORT + n}")]
        self.router = subprocess.Popen(router, stderr=log.open("w"))
        time.sleep(2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in (self.router, self.replicas):
            process.terminate()
            process.wait()

    def seen(self):
        """Means and percentiles of what the router saw."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines() if '"request"' in line]
        rows = [row for row in rows if row.get("message") == "request" and row.get("ttft_ms") is not None]
        ttft = [row["ttft_ms"] for row in rows]
        tpot = [(row["e2e_ms"] - row["ttft_ms"]) / (row["output_tokens"] - 1) for row in rows]
        return {"requests": len(rows), **spread("ttft", ttft), **spread("tpot", tpot),
                **spread("e2e", [row["e2e_ms"] for row in rows])}


def spread(name, values):
    values = sorted(values)

    def at(share):
        place = share * (len(values) - 1)
        low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
        return low + (high - low) * (place - int(place))

    return {f"{name}_mean": statistics.fmean(values), f"{name}_p50": at(0.5), f"{name}_p99": at(0.99)}


def run_aiperf(aiperf, out, lines, requests):
    home = out / "hf"
    tokenizer(home, Path(aiperf).parent / "python")
    with Fleet(out / "aiperf-router.log") as fleet:
        command = [aiperf, "profile", "--model", MODEL, "--url", f"http://127.0.0.1:{PORT}", "--endpoint-type", "chat",
                   "--streaming", "--tokenizer", "local/tiny", "--input-file", lines, "--custom-dataset-type",
                   "mooncake_trace", "--fixed-schedule", "--fixed-schedule-auto-offset", "--use-server-token-count",
                   "--request-count", str(requests), "--goodput", " ".join(f"{k}:{v}" for k, v in GOODPUT.items()),
                   "--output-artifact-dir", out / "aiperf", "--ui", "none"]
        environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        (out / "aiperf.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            sys.exit(f"AIPerf ended with {done.returncode}; see {out / 'aiperf.log'}")
        time.sleep(0.5)
        seen = fleet.seen()
    said = json.loads(next((out / "aiperf").rglob("profile_export_aiperf.json")).read_text())
    value = lambda name, key: (said.get(name) or {}).get(key)
    figures = {"requests": value("request_count", "avg"), "duration_s": value("benchmark_duration", "avg"),
               "goodput": value("goodput", "avg"), "good": value("good_request_count", "avg"),
               "good_request_fraction": value("good_request_fraction", "avg")}
    for ours, theirs in (("ttft", "time_to_first_token"), ("tpot", "inter_token_latency"), ("e2e", "request_latency")):
        figures |= {f"{ours}_{n}": value(theirs, key) for n, key in (("mean", "avg"), ("p50", "p50"), ("p99", "p99"))}
    return figures, seen


def run_sluice(out, lines):
    goodput = " ".join(f"{k}:{v}" for k, v in GOODPUT.items())
    with Fleet(out / "sluice-router.log") as fleet:
        command = [BIN, "replay", "--target", f"http://127.0.0.1:{PORT}", "--trace", lines, "--goodput", goodput,
                   "--no-session-header", "--allow-lag", "--json", "--out", out / "sluice"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        time.sleep(0.5)
        seen = fleet.seen()
    run = json.loads(done.stdout)["runs"][0]
    rows = [json.loads(line) for line in (out / "sluice/requests.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["ending"] == "completed"]
    figures = {"requests": run["requests"], "duration_s": run["window_s"] + run["drain_s"], "good": run["good"],
               "goodput": run["request_goodput"], "good_request_fraction": run["good_request_fraction"],
               # As AIPerf divides: by the time from the first request to the last answer.
               "goodput_over_duration": run["good"] / (run["window_s"] + run["drain_s"]),
               "lag_p99": run["generator_lag_ms"]["p99"]}
    for name in ("ttft", "tpot", "e2e"):
        figures |= {f"{name}_{key}": run[f"{name}_ms"][key] for key in ("mean", "p50", "p99")}
    return figures, seen, rows


def main():
    out = Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    aiperf = Path(sys.argv[2]).absolute() if len(sys.argv) > 2 else out / "venv/bin/aiperf"
    if not aiperf.exists():
        subprocess.run([sys.executable, "-m", "venv", out / "venv"], check=True)
        subprocess.run([out / "venv/bin/pip", "install", "-q", "aiperf==0.13.0"], check=True)
    lines = out / "trace.jsonl"
    requests = trace(lines)
    sluice, sluice_router, _ = run_sluice(out, lines)
    theirs, aiperf_router = run_aiperf(aiperf, out, lines, requests)
    print(f"{'':24}{'sluice':>10}{'AIPerf':>10}{'differs':>9}   router, during each")
    for name in ("requests", "ttft_mean", "ttft_p50", "ttft_p99", "tpot_mean", "tpot_p50", "tpot_p99", "e2e_mean",
                 "e2e_p50", "e2e_p99", "good", "good_request_fraction", "goodput", "goodput_over_duration", "duration_s"):
        ours, other = sluice[name], theirs.get("goodput" if name == "goodput_over_duration" else name)
        witness = [side[name] for side in (sluice_router, aiperf_router) if name in side]
        differs = f"{(other / ours - 1) * 100:+8.1f}%" if other is not None and ours else "        -"
        told = f"{other:10.2f}" if other is not None else "         -"
        print(f"{name:24}{ours:10.2f}{told}{differs}   " + "  ".join(f"{it:.2f}" for it in witness))
    print(f"lag of sluice, p99: {sluice['lag_p99']:.2f} ms")
    (out / "figures.json").write_text(json.dumps({"sluice": sluice, "aiperf": theirs, "router_during_sluice": sluice_router,
                                                  "router_during_aiperf": aiperf_router}, indent=1))


main()
