#!/usr/bin/env python3
"""Memory of the router while many streams stand open and say nothing, and after they have closed.

    cargo build --release -p sluice && benches/idle_streams.py [STREAMS] [BINARY]

Admission and the ejection of replicas that fall silent are off, or nobody would be let in after the first. Opens STREAMS (8,000 when not said) streams through `sluice serve --worker-threads 1` to a replica that sends one event
and then nothing. Needs Python 3 and two file descriptors a stream: the router raises its own limit as far as it may.
"""

import asyncio
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request

STREAMS = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
BINARY = sys.argv[2] if len(sys.argv) > 2 else "target/release/sluice"
REPLICA, ROUTER, ADMIN = 24120, 24121, 24122
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CONFIG = "{ admission: { mode: 'off' }, health: { silence: 10m, standstill: 10m } }"
BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"wait"}]}'
ASK = (b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\ncontent-length: "
       + str(len(BODY)).encode() + b"\r\n\r\n" + BODY)


async def answer(reader, writer):
    try:
        while line := await reader.readline():
            length = 0
            while (header := await reader.readline()) not in (b"\r\n", b""):
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            await reader.readexactly(length)
            if line.startswith(b"POST"):
                writer.write(HEAD + b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()


def replica():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def serve():
        server = await asyncio.start_server(answer, "127.0.0.1", REPLICA, backlog=4096)
        await server.serve_forever()

    asyncio.run(serve())


def rss_kb(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


async def stream(at):
    # Ports of one address do not suffice for much more than this.
    local = (f"127.0.0.{2 + at % 4}", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", ROUTER, local_addr=local)
    writer.write(ASK)
    await asyncio.wait_for(reader.readuntil(b"delta"), 60)
    return writer


async def measure(pid):
    idle = rss_kb(pid)
    started = time.monotonic()
    writers = []
    for first in range(0, STREAMS, 200):
        writers += await asyncio.gather(*(stream(at) for at in range(first, min(first + 200, STREAMS))))
    took = time.monotonic() - started
    await asyncio.sleep(1)
    full = rss_kb(pid)
    for writer in writers:
        writer.close()
    await asyncio.sleep(10)
    after = rss_kb(pid)
    print(f"streams={len(writers)} opened_in_s={took:.1f} idle_kb={idle} open_kb={full} "
          f"kb_per_stream={(full - idle) / len(writers):.1f} ten_s_after_close_kb={after}")


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    back = multiprocessing.Process(target=replica, daemon=True)
    back.start()
    config = tempfile.NamedTemporaryFile("w", suffix=".yaml")
    config.write(CONFIG)
    config.flush()
    router = subprocess.Popen(
        [BINARY, "serve", "-c", config.name, "--worker-threads", "1", "--replica", f"http://127.0.0.1:{REPLICA}",
         "--listen", f"127.0.0.1:{ROUTER}", "--admin-listen", f"127.0.0.1:{ADMIN}"],
        stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/readyz")
                break
            except OSError:
                time.sleep(0.1)
        asyncio.run(measure(router.pid))
    finally:
        router.terminate()
        router.wait()
        back.terminate()


if __name__ == "__main__":
    main()
