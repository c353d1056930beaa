#!/usr/bin/env python3
"""Expected against found cached tokens, through a router in kv-aware before two engines.

    kv_agreement.py --router URL [--requests N] [--families N] [--tokens N] [--block N]
                    [--chat] [--in-flight N] [--restart COMMAND]

Sends prompts of token ids, of more families than the engines' caches have room for, and compares what the
router expected (`x-sluice-prefix-hit`) with what the engine says it found
(`usage.prompt_tokens_details.cached_tokens`; vLLM: --enable-prompt-tokens-details). They go one at a time
in a fixed order, or --in-flight N at once: then what has just been computed elsewhere may not be known
yet. With --chat they are conversations as text, with a system prompt, tools and turns that grow, which the
router must render and tokenise as the engine does (`tokenizers` in its configuration). With --restart
the command is run in the middle; it must return when one engine has been killed and started again. The
requests after it must find no ghost hit: none may be expected and not found.
`kv_agreement.sh` starts everything on this machine.
"""

import argparse
import concurrent.futures
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks up what is known of a " + name,
            # Not in the order of the alphabet: engines render what was sent.
            "parameters": {
                "type": "object",
                "properties": {"where": {"type": "string"}, "city": {"type": "string", "enum": ["b", "a"]}},
                "required": ["where"],
            },
        },
    }
    for name in ("weather", "address")
]


def text(draw, words):
    """Pseudo-words, with marks and letters beyond ASCII among them."""
    drawn = ["".join(draw.choice("aeioubdklmnrst") for _ in range(draw.randrange(2, 9))) for _ in range(words)]
    for at in range(7, words, 13):
        drawn[at] += draw.choice([".\n", ", ", " é", "?", " 12", '"'])
    return " ".join(drawn)


class TokenIds:
    """Prompts of token ids."""

    path = "/v1/completions"

    def __init__(self, draw, options):
        self.draw, self.options = draw, options
        self.families = [self.ids(options.tokens) for _ in range(options.families)]

    def ids(self, count):
        return [self.draw.randrange(self.options.vocabulary) for _ in range(count)]

    def body(self, family):
        ids = self.families[family][: self.draw.randrange(self.options.tokens // 4, self.options.tokens)]
        return {"prompt": ids + self.ids(self.draw.randrange(1, 100))}


class Chats:
    """Conversations, each asked again with one turn more until it begins anew."""

    path = "/v1/chat/completions"

    def __init__(self, draw, options):
        self.draw = draw
        # Made-up words take some four tokens each.
        self.systems = [text(draw, options.tokens // 8) for _ in range(options.families)]
        self.turns = [[] for _ in range(options.families)]

    def body(self, family):
        turns = self.turns[family]
        if len(turns) >= 12:
            turns.clear()
        if turns:
            turns.append({"role": "assistant", "content": text(self.draw, self.draw.randrange(5, 30))})
        turns.append({"role": "user", "content": text(self.draw, self.draw.randrange(5, 40))})
        body = {"messages": [{"role": "system", "content": self.systems[family]}, *turns]}
        if family % 2:
            body["tools"] = TOOLS
        return body


def ask(router, path, body):
    request = urllib.request.Request(
        router + path, json.dumps(body).encode(), {"content-type": "application/json"}
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
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--restart")
    options = parser.parse_args()
    with urllib.request.urlopen(options.router + "/v1/models", timeout=30) as answer:
        model = json.load(answer)["data"][0]["id"]
    draw = random.Random(7)
    prompts = (Chats if options.chat else TokenIds)(draw, options)
    bodies = []
    for _ in range(options.requests):
        family = min(draw.randrange(options.families), draw.randrange(options.families))
        bodies.append({"model": model, "max_tokens": 2, "temperature": 0, **prompts.body(family)})
    within = ghosts = found_sum = expected_sum = 0
    replicas = {}

    def one(body):
        answer = ask(options.router, prompts.path, body)
        time.sleep(options.pause)
        return answer

    half = options.requests // 2 if options.restart else options.requests
    answers = []
    with concurrent.futures.ThreadPoolExecutor(options.in_flight) as pool:
        answers += pool.map(one, bodies[:half])
        if options.restart:
            subprocess.run(options.restart, shell=True, check=True)
        answers += pool.map(one, bodies[half:])
    for number, (replica, expected, found) in enumerate(answers):
        replicas[replica] = replicas.get(replica, 0) + 1
        within += abs(expected - found) <= options.block
        if expected > found + options.block:
            ghosts += 1
            print(f"request {number} on {replica}: expected {expected}, found {found}")
        expected_sum += expected
        found_sum += found
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
