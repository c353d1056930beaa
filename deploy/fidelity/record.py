"""Runs a real vLLM under cache pressure and writes down what it did, for the engine to repeat.

    record.py MODEL OUT.json [--requests 300] [--blocks 97] [--seats 8] [--budget 512] [--seed 1]

vLLM's own engine runs in this process, on CPU, one step at a time: so it is known in which step
each request arrived, and the same sequence can be given to the emulated engine. Requests share
prefixes of documents, repeat earlier prompts, quote earlier answers as the next turn of a
conversation, carry a salt, and some are aborted while they decode. Few blocks make vLLM evict and
preempt. Prompts are token ids; answers are what the model (random weights) generated.

`replay` (`cargo run -p engine --example replay -- OUT.json`) then repeats it on the emulated engine
and compares cached tokens, the step of each last token, preemptions and every KV event.
"""

import argparse
import json
import os
import random
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_LOGGING_LEVEL": "WARNING",
}

from blocks import Blocks, message  # noqa: E402

MODEL_LEN, VOCABULARY, BLOCK = 2048, 4000, 32


def workload(args):
    """Requests one after the other: `(steps to wait, what to send)`; see `Session.prompt`."""
    draw = random.Random(args.seed)
    documents = [draw.choices(range(10, VOCABULARY), k=draw.randint(1, 12) * BLOCK - draw.randint(0, 8))
                 for _ in range(12)]
    for _ in range(args.requests):
        wait = draw.choices([0, draw.randint(1, 6), draw.randint(10, 60)], [5, 4, 1])[0]
        kind = draw.choices(["document", "repeat", "turn", "fresh"], [5, 2, 3, 2])[0]
        rank = min(int(draw.paretovariate(0.9)) - 1, len(documents) - 1)
        yield wait, {
            "kind": kind, "document": documents[rank], "pick": draw.random(),
            "suffix": draw.choices(range(10, VOCABULARY), k=draw.choice([1, 5, 40, 200, 700])),
            "output": draw.choice([1, 2, 16, 33, 64, 120, 200]),
            "salt": "tenant-a" if draw.random() < 0.15 else None,
            "abort_after": draw.randint(1, 40) if draw.random() < 0.05 else None,
        }


class Session:
    """A vLLM engine, and what is known of each request that it got."""

    def __init__(self, args):
        from vllm import EngineArgs
        from vllm.config import KVEventsConfig
        from vllm.v1.engine.llm_engine import LLMEngine

        self.engine = LLMEngine.from_engine_args(EngineArgs(
            model=args.model, dtype="bfloat16", max_model_len=MODEL_LEN, block_size=BLOCK,
            max_num_seqs=args.seats, max_num_batched_tokens=args.budget, enforce_eager=True,
            enable_prefix_caching=True, num_gpu_blocks_override=args.blocks,
            kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null")))
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.scheduler.kv_event_publisher.publish = lambda batch: self.raw.append(batch.events)
        preempt = self.scheduler._preempt_request

        def count(request, *rest, **named):
            self.jobs[int(request.request_id.split("-")[0])]["preempted"] += 1
            return preempt(request, *rest, **named)

        self.scheduler._preempt_request = count
        self.jobs, self.prompts, self.answers = [], [], []
        self.raw, self.steps, self.since = [], 0, 0

    def prompt(self, it):
        """Tokens and salt: of a document, of an earlier prompt, or of its next turn."""
        if it["kind"] in ("repeat", "turn") and self.prompts:
            back = int(it["pick"] * min(len(self.prompts), 25)) + 1
            tokens, salt = self.prompts[-back]
            if it["kind"] == "turn":
                tokens = tokens + self.answers[-back] + it["suffix"][:40]
            if len(tokens) + it["output"] <= MODEL_LEN:
                return tokens, salt
        if it["kind"] == "fresh":
            return it["suffix"] + it["suffix"][:7], it["salt"]
        return it["document"] + it["suffix"], it["salt"]

    def submit(self, it):
        from vllm import SamplingParams

        tokens, salt = self.prompt(it)
        number = len(self.jobs)
        self.jobs.append({"name": it["kind"], "wait": self.since, "prompt": len(tokens),
                          "output": it["output"], "abort_after": it["abort_after"], "preempted": 0})
        self.since = 0
        self.prompts.append((tokens, salt))
        self.answers.append([])
        prompt = {"prompt_token_ids": tokens} | ({"cache_salt": salt} if salt else {})
        parameters = SamplingParams(temperature=0, max_tokens=it["output"], ignore_eos=True)
        self.engine.add_request(str(number), prompt, parameters)

    def step(self):
        outputs = self.engine.step()
        self.steps, self.since = self.steps + 1, self.since + 1
        for output in outputs:
            number = int(output.request_id.split("-")[0])
            job, answer = self.jobs[number], list(output.outputs[0].token_ids)
            self.answers[number] = answer
            job["cached"] = output.num_cached_tokens
            if output.finished:
                job["ended"] = self.steps
            elif job["abort_after"] and len(answer) >= job["abort_after"]:
                job["aborted_after"] = len(answer)
                self.engine.abort_request([output.request_id])

    def busy(self):
        return self.engine.has_unfinished_requests()

    def run(self, moves):
        for wait, it in moves:
            for _ in range(wait):
                if self.busy():
                    self.step()
            self.submit(it)
        while self.busy():
            self.step()

    def save(self, args):
        import vllm

        blocks = Blocks(BLOCK)
        for job, (tokens, salt), answer in zip(self.jobs, self.prompts, self.answers):
            # The last token that was generated is never computed.
            whole = blocks.chain((tokens + answer)[:-1] if answer else tokens, salt)
            full = len(tokens) // BLOCK
            if len(whole) < full:
                whole = blocks.chain(tokens, salt)
            job |= {"blocks": whole[:full], "answer": whole[full:]}
            del job["abort_after"]
        messages = [message(events, blocks) for events in self.raw]
        head = {"vllm": vllm.__version__, "block_size": BLOCK, "num_gpu_blocks": args.blocks,
                "max_model_len": MODEL_LEN, "max_num_batched_tokens": args.budget,
                "max_num_seqs": args.seats}
        blocks.save(args.out, head, self.jobs, messages)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    for name, default in (("requests", 300), ("blocks", 97), ("seats", 8), ("budget", 512), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.model = str(args.model.resolve())
    session = Session(args)
    session.run(workload(args))
    session.save(args)
    preemptions = sum(job["preempted"] for job in session.jobs)
    print(f"{len(session.jobs)} requests, {session.steps} steps, {preemptions} preemptions")


if __name__ == "__main__":
    main()
