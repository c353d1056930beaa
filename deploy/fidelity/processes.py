"""Starts emulated replicas and a router in front of them, each a process of its own, and waits until they answer."""

import subprocess
import sys
import time
import urllib.request

CONFIG = """
listen: 127.0.0.1:{router}
admin: {{ listen: 127.0.0.1:{admin} }}
replicas:
{replicas}
{rest}
"""


class Ports:
    """The first replica's port, that of the router's data and that of its admin interface."""

    def __init__(self, emulator, router, admin):
        self.emulator, self.router, self.admin = emulator, router, admin


def start(stack, *command):
    """Starts a process that ends with `stack`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def wait_for(url, process):
    """Returns once `url` answers; ends the program where `process` has ended or half a minute has passed."""
    for _ in range(300):
        if process.poll() is not None:
            sys.exit(f"{' '.join(process.args)} ended: is one of its ports taken?")
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def fleet(stack, sluice, folder, ports, replicas, rest, *flags, prefix=()):
    """`replicas` emulated with `flags`, and a router in front of them, run by `prefix`, whose configuration has `rest`
    besides ports and replicas; returns the router's process."""
    named = "\n".join(f"  - {{ name: replica-{it}, url: http://127.0.0.1:{ports.emulator + it} }}"
                      for it in range(replicas))
    config = folder / "router.yaml"
    config.write_text(CONFIG.format(router=ports.router, admin=ports.admin, replicas=named, rest=rest))
    process = start(stack, sluice, "emulate", "--listen", f"127.0.0.1:{ports.emulator}", "--replicas",
                    str(replicas), *flags)
    wait_for(f"http://127.0.0.1:{ports.emulator + replicas - 1}/health", process)
    router = start(stack, *prefix, sluice, "serve", "-c", str(config))
    wait_for(f"http://127.0.0.1:{ports.admin}/readyz", router)
    return router
