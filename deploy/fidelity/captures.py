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
from types import SimpleNamespace

from transformers import AutoTokenizer

from blocks import STORED, Blocks, message

# Steps between the first requests of the burst of 40: the second to the eighth were scheduled in
# one step, the ninth to the sixteenth in the next. The recording shows the groups and their order;
# that no step lay between them is assumed.
ASSUMED = {1: 1, 8: 1}
BURST, EVICT, EVICT_TOKENS = 40, 6, 3000
class Recorded(Blocks):
    """Blocks of which only the events tell the tokens, at least those of answers."""

    def __init__(self, size):
        super().__init__(size)
        self.during = {}

    def seen(self, numbers, during):
        for number in numbers:
            self.during.setdefault(number, during)

    def prompt(self, tokens, salt):
        known = len(self.numbers)
        chain = self.chain(tokens, salt)
        assert len(self.numbers) == known, "a full block of a prompt was never stored"
        return chain

    def answer(self, name, tokens, chain, filled):
        """The blocks that filled up while decoding: the only ones that continue the prompt, or the
        only ones stored while the exchange went on."""
        parent, rest, found = chain[-1] if chain else 0, tuple(tokens[len(chain) * self.size:]), []
        for _ in range(filled):
            fits = [n for (p, t, _), n in self.numbers.items() if p == parent and t[:len(rest)] == rest]
            fits = [n for n in fits if len(fits) == 1 or self.during[n] == name]
            assert len(fits) == 1, f"{name}: {len(fits)} blocks continue the prompt"
            parent, rest = fits[0], ()
            found.append(parent)
        return found


def events(folder, blocks):
    """The messages, each a list of events as `blocks.message` writes them."""
    messages = []
    for line in open(folder / "kv_events.jsonl"):
        row = json.loads(line)
        found = []
        for event in row["payload"][1]:
            if isinstance(event, list):  # positional until 0.23
                fields = ["type", "block_hashes", "parent_block_hash", "token_ids"]
                event = dict(zip(fields, event))
            if event["type"] == "BlockStored" and "extra_keys" not in event:
                # Published since 0.17; before, the exchange's name tells.
                event["extra_keys"] = [["tenant-a"] if "salt" in row["during"] else None]
            found.append(SimpleNamespace(**event))
        messages.append(message(found, blocks))
        for event in messages[-1]:
            if event[0] == STORED:
                blocks.seen(event[2:], row["during"])
    return messages


class Recording:
    def __init__(self, folder, tokenizer):
        self.folder, self.tokenizer = Path(folder), AutoTokenizer.from_pretrained(tokenizer)
        config = re.search(r"^vllm:cache_config_info\{(.*)\}", self.text("metrics_final.http"), re.M)[1]
        self.config = dict(re.findall(r'(\w+)="([^"]*)"', config))
        self.version = json.loads(self.text("version.http").split("\r\n\r\n")[1])["version"]
        self.blocks = Recorded(int(self.config["block_size"]))
        self.messages = events(self.folder, self.blocks)
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
        salt = request.get("cache_salt")
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
        self.blocks.save(out, head, self.jobs, self.messages)


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
