"""Numbers for KV blocks, and the small files that the engine's tests and `replay` read.

Equal numbers are equal tokens after equal blocks under an equal salt, whatever hash the engine
gave them.
"""

import json
from pathlib import Path

STORED, REMOVED, CLEARED = "S", "R", "C"


class Blocks:
    def __init__(self, size):
        self.size, self.numbers, self.by_hash = size, {}, {}

    def number(self, parent, tokens, salt):
        """The number of a block; new ones are counted from 1."""
        key = (parent, tuple(tokens), None if parent else salt)
        return self.numbers.setdefault(key, len(self.numbers) + 1)

    def chain(self, tokens, salt=None):
        """The numbers of all full blocks of a prompt."""
        parent, found = 0, []
        for start in range(0, len(tokens) - self.size + 1, self.size):
            parent = self.number(parent, tokens[start:start + self.size], salt)
            found.append(parent)
        return found

    def store(self, hashes, parent, tokens, salt=None):
        """The numbers of the parent and of the blocks of a `BlockStored` event."""
        parent = first = self.by_hash[parent] if parent is not None else 0
        found = []
        for place, name in enumerate(hashes):
            parent = self.number(parent, tokens[place * self.size:(place + 1) * self.size], salt)
            assert self.by_hash.setdefault(name, parent) == parent, "two contents under one hash"
            found.append(parent)
        return [first, *found]

    def save(self, out, head, jobs, messages):
        lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        for key, rows in (("jobs", jobs), ("messages", messages)):
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
            lines.append(f'"{key}": [\n{rows}\n]' + ("," if key == "jobs" else ""))
        Path(out).write_text("{\n" + "\n".join(lines) + "\n}\n")


def message(events, blocks):
    """The events of one message: `["S", parent, block …]`, `["R", block]`, `["C"]`."""
    found = []
    for event in events:
        kind = getattr(event, "type", type(event).__name__)
        if kind == "BlockStored":
            keys = (event.extra_keys or [None])[0]
            salt = keys[0] if keys else None
            found.append([STORED, *blocks.store(
                event.block_hashes, event.parent_block_hash, event.token_ids, salt)])
        elif kind == "BlockRemoved":
            found.extend([REMOVED, blocks.by_hash[name]] for name in event.block_hashes)
        else:
            found.append([CLEARED])
    return found
