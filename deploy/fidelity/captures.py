"""Turns recorded traffic of a real vLLM into the small sequences that the engine's tests replay.

    captures.py FOLDER TOKENIZER OUT.json

FOLDER holds exchanges (`NAME.request.http`, `NAME.http`) and `kv_events.jsonl`, as in
`../shared/data/engines/vllm-0.32.0`; TOKENIZER is the model's folder (`transformers` is needed).
Every block becomes a small number: equal numbers are equal content after equal content under an
equal salt. Nothing is guessed: what the recording does not determine is listed in `ASSUMED` and in
the README beside the fixtures.
"""

import json
import re
import sys
from pathlib import Path

from transformers import AutoTokenizer

# Steps between the first requests of the burst of 40: the second to the eighth were scheduled in
# one step, the ninth to the sixteenth in the next. The recording shows the groups and their order;
# that no step lay between them is assumed.
ASSUMED = {1: 1, 8: 1}
BURST, EVICT, EVICT_TOKENS = 40, 6, 3000
STORED, REMOVED, CLEARED = "S", "R", "C"


class Blocks:
    """Numbers for blocks, in the order in which they were first stored."""

    def __init__(self, size):
        self.size, self.by_hash, self.children, self.stored = size, {}, {}, {}

    def store(self, hashes, parent, tokens, salt, during):
        for i, name in enumerate(hashes):
            content = tuple(tokens[i * self.size:(i + 1) * self.size])
            key = (self.by_hash[parent] if parent else None, content, salt if parent is None else None)
            number = self.by_hash.setdefault(name, len(self.by_hash) + 1)
            assert self.children.setdefault(key, number) == number, "two names for one content"
            self.stored.setdefault(number, during)
            parent = name

    def prompt(self, tokens, salt):
        parent, chain = None, []
        for i in range(len(tokens) // self.size):
            key = (parent, tuple(tokens[i * self.size:(i + 1) * self.size]), None if parent else salt)
            parent = self.children[key]
            chain.append(parent)
        return chain

    def answer(self, name, tokens, chain, filled):
        """The blocks that filled up while decoding: the only ones that continue the prompt, or the
        only ones stored while the exchange went on."""
        parent, rest, found = chain[-1] if chain else None, tuple(tokens[len(chain) * self.size:]), []
        for _ in range(filled):
            fits = [n for (p, t, _), n in self.children.items() if p == parent and t[:len(rest)] == rest]
            fits = [n for n in fits if len(fits) == 1 or self.stored[n] == name]
            assert len(fits) == 1, f"{name}: {len(fits)} blocks continue the prompt"
            parent, rest = fits[0], ()
            found.append(parent)
        return found


def events(folder, blocks):
    """The messages, each a list of events, and their blocks."""
    messages = []
    for line in open(folder / "kv_events.jsonl"):
        message, row = [], json.loads(line)
        during = row["during"]
        for event in row["payload"][1]:
            if isinstance(event, list):
                fields = ["type", "block_hashes", "parent_block_hash", "token_ids"]
                event = dict(zip(fields, event))
            if event["type"] == "BlockStored":
                keys = event.get("extra_keys") or [None]
                parent = event["parent_block_hash"]
                salt = json.dumps(keys[0]) if keys[0] else None
                if "extra_keys" not in event and parent is None and "salt" in during:
                    salt = "salted"  # releases before 0.17 do not publish it
                blocks.store(event["block_hashes"], parent, event["token_ids"], salt, during)
                number = [blocks.by_hash[name] for name in event["block_hashes"]]
                message.append([STORED, blocks.by_hash[parent] if parent else 0, *number])
            elif event["type"] == "BlockRemoved":
                message.extend([REMOVED, blocks.by_hash[name]] for name in event["block_hashes"])
            else:
                message.append([CLEARED])
        messages.append(message)
    return messages


class Recording:
    def __init__(self, folder, tokenizer):
        self.folder, self.tokenizer = Path(folder), AutoTokenizer.from_pretrained(tokenizer)
        config = re.search(r"^vllm:cache_config_info\{(.*)\}", self.text("metrics_final.http"), re.M)[1]
        self.config = dict(re.findall(r'(\w+)="([^"]*)"', config))
        self.version = json.loads(self.text("version.http").split("\r\n\r\n")[1])["version"]
        self.blocks = Blocks(int(self.config["block_size"]))
        self.messages = events(self.folder, self.blocks)
        self.salts = sorted({key[2] for key in self.blocks.children if key[2]})
        assert len(self.salts) <= 1
        self.jobs, self.system = [], None

    def text(self, name):
        return open(self.folder / name, newline="").read()

    def chat(self, messages):
        return self.tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=False)

    def prompts(self, request):
        prompt = request.get("prompt")
        if prompt is None:
            given = request.get("messages", request.get("input"))
            if isinstance(given, str):
                given = [{"role": "user", "content": given}]
            return [self.chat(given)] * request.get("n", 1)
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            prompt = [prompt]
        return [self.tokenizer.encode(p) if isinstance(p, str) else p for p in prompt]

    def add(self, name, tokens, output, cached=None, wait="idle", salt=None, aborted=None):
        chain = self.blocks.prompt(tokens, salt)
        # The last token is never computed.
        filled = (len(tokens) + (aborted or output) - 1) // self.blocks.size - len(chain)
        job = {"name": name, "wait": wait, "prompt": len(tokens), "output": output, "blocks": chain,
               "answer": self.blocks.answer(name, tokens, chain, max(filled, 0))}
        job |= {} if cached is None else {"cached": cached}
        job |= {} if aborted is None else {"aborted_after": aborted}
        self.jobs.append(job)

    def exchange(self, name):
        """A recorded request that reached the engine: one job, or one for each choice or prompt."""
        request = json.loads(self.text(f"{name}.request.http").split("\r\n\r\n", 1)[1])
        self.system = self.system or request.get("messages", [None])[0]
        answer = self.text(f"{name}.http")

        def last(*keys):
            found = re.findall(rf'"(?:{"|".join(keys)})":(\d+)', answer)
            return int(found[-1]) if found else None

        prompts = self.prompts(request)
        output = last("completion_tokens", "output_tokens")
        if output is None:
            output = request.get("max_tokens", request.get("max_output_tokens")) * len(prompts)
        prompt = last("prompt_tokens", "input_tokens")
        total = len(prompts[0]) if "n" in request else sum(map(len, prompts))
        assert prompt in (None, total), f"{name}: {prompt} prompt tokens, not {total}"
        cached = last("cached_tokens", "cache_read_input_tokens")
        salt = self.salts[0] if request.get("cache_salt") else None
        for i, tokens in enumerate(prompts):
            # The usage of several choices reports the hit of the last one.
            known = cached if i == len(prompts) - 1 else None
            self.add(name, tokens, output // len(prompts), known, wait=0 if i else "idle", salt=salt)

    def abort(self, name):
        """The request whose client hung up: it got the tokens that no other request accounts for."""
        request = json.loads(self.text(f"{name}.request.http").split("\r\n\r\n", 1)[1])
        after = re.search(r"^vllm:generation_tokens_total\S* (\S+)", self.text("metrics_after.http"), re.M)
        others = sum(job["output"] for job in self.jobs) + (200 * BURST if self.burst_seen() else 0)
        aborted = int(float(after[1])) - others
        self.add(name, self.prompts(request)[0], request["max_tokens"], aborted=aborted)

    def burst_seen(self):
        return any('"during": "_b' in line for line in open(self.folder / "kv_events.jsonl"))

    def burst(self):
        """40 chats at once, in the order in which the engine admitted them."""
        chats = {}
        for i in range(BURST):
            tokens = self.chat([self.system, {"role": "user", "content": f"burst {i} " * 50}])
            shared = len(self.jobs[0]["blocks"]) - 1
            chats[self.blocks.prompt(tokens, None)[shared]] = (i, tokens)
        admitted = dict.fromkeys(
            event[2] for message in self.messages for event in message
            if event[0] == STORED and event[2] in chats)
        assert len(admitted) == BURST
        for place, first in enumerate(admitted):
            i, tokens = chats[first]
            self.add(f"burst_{i}", tokens, 200, wait=ASSUMED.get(place, 0) if place else "idle")

    def evict(self, count, length):
        for i in range(count):
            self.add(f"evict_{i}", [(i * 37 + j) % 4000 + 10 for j in range(length)], 1)

    def save(self, out):
        head = {"vllm": self.version, "block_size": self.blocks.size,
                "num_gpu_blocks": int(self.config["num_gpu_blocks"]), "max_model_len": 8192,
                "max_num_batched_tokens": 2048, "max_num_seqs": 16}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        for key, rows in (("jobs", self.jobs), ("messages", self.messages)):
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
            lines.append(f'"{key}": [\n{rows}\n]' + ("," if key == "jobs" else ""))
        Path(out).write_text("{\n" + "\n".join(lines) + "\n}\n")


# In the order in which they were sent.
EXCHANGES = """chat_1_cold chat_2_warm_shared_prefix chat_3_exact_repeat chat_stream_usage
chat_stream_continuous_usage chat_stream_no_usage chat_stream_token_ids chat_request_id_header
chat_kv_transfer_params chat_cache_salt chat_priority chat_logprobs chat_n2 completion_text
completion_token_ids completion_token_ids_repeat completion_batch_prompts completion_stream_usage
messages_anthropic messages_anthropic_stream responses responses_stream""".split()


def main(folder, tokenizer, out):
    recording = Recording(folder, tokenizer)
    for name in EXCHANGES:
        if (recording.folder / f"{name}.http").exists() and " 200 " in recording.text(f"{name}.http")[:20]:
            recording.exchange(name)
    recording.abort("chat_stream_client_abort")
    if recording.burst_seen():
        recording.burst()
        recording.evict(EVICT, EVICT_TOKENS)
    else:
        recording.evict(14, 1200)
    recording.jobs.append({"reset": True})
    recording.exchange("chat_after_reset")
    recording.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
