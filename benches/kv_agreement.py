#!/usr/bin/env python3
"""Expected against found cached tokens, through a router in kv-aware before two engines.

    kv_agreement.py --router URL [--admin URL] [--requests N] [--families N] [--tokens N]
                    [--block N] [--restart COMMAND]

Sends prompts of token ids, of more families than the engines' caches have room for, one at a time and in
a fixed order, and compares what the router expected (`x-sluice-prefix-hit`) with what the engine says it
found (`usage.prompt_tokens_details.cached_tokens`; vLLM: --enable-prompt-tokens-details). With --restart
the command is run in the middle; it must return when one engine has been killed and started again. The
requests after it must find no ghost hit: none may be expected and not found.
`kv_agreement.sh` starts everything on this machine.
"""

import argparse
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request


def ask(router, model, ids):
    body = {"model": model, "prompt": ids, "max_tokens": 2, "temperature": 0}
    request = urllib.request.Request(
        router + "/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    for attempt in range(60):
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                expected = int(answer.headers["x-sluice-prefix-hit"].split("/")[0])
                replica = answer.headers["x-sluice-replica"]
                usage = json.load(answer)["usage"]
                details = usage.get("prompt_tokens_details") or {}
                return replica, expected, details.get("cached_tokens") or 0
        except urllib.error.HTTPError as error:
            if error.code not in (502, 503) or attempt == 59:
                raise
            time.sleep(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--router", default="http://127.0.0.1:8080")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--families", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--restart")
    options = parser.parse_args()
    with urllib.request.urlopen(options.router + "/v1/models", timeout=30) as answer:
        model = json.load(answer)["data"][0]["id"]
    draw = random.Random(7)
    families = [
        [draw.randrange(options.vocabulary) for _ in range(options.tokens)]
        for _ in range(options.families)
    ]
    within = ghosts = found_sum = expected_sum = 0
    replicas = {}
    for number in range(options.requests):
        if options.restart and number == options.requests // 2:
            subprocess.run(options.restart, shell=True, check=True)
        family = families[min(draw.randrange(options.families), draw.randrange(options.families))]
        ids = family[: draw.randrange(options.tokens // 4, options.tokens)]
        ids += [draw.randrange(options.vocabulary) for _ in range(draw.randrange(1, 100))]
        replica, expected, found = ask(options.router, model, ids)
        replicas[replica] = replicas.get(replica, 0) + 1
        within += abs(expected - found) <= options.block
        if expected > found + options.block:
            ghosts += 1
            print(f"request {number} on {replica}: expected {expected}, found {found}")
        expected_sum += expected
        found_sum += found
        time.sleep(options.pause)
    share = within / options.requests
    print(
        json.dumps(
            {
                "requests": options.requests,
                "within_one_block": round(share, 4),
                "expected_tokens": expected_sum,
                "found_tokens": found_sum,
                "ghost_hits": ghosts,
                "by_replica": replicas,
            }
        )
    )
    return 0 if share >= 0.99 and ghosts <= options.requests // 100 else 1


if __name__ == "__main__":
    sys.exit(main())
