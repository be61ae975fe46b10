"""Record what real clients write, into bench/clients: run anew when a client has changed what it sends.

    python bench/record_clients.py                                    all whose programs are there
    python bench/record_clients.py --python VENV/bin/python httpx     with the packages of a venv, one of them

Each client posts payments to a server on 127.0.0.1, one after the other on one keep-alive connection, each in a trace
of its own (`traceparent`), as a client that is instrumented does. Needs requests, httpx and aiohttp in that Python;
Go, curl and Chromium (apt-get install golang-go curl chromium).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from machine import LOAD_CORE, SERVER_CORE, BenchError
from recorder import Recorder
from recording import Recording, make_recording, write_recording
from tailrace.loadtest.processes import Process, end

SENDERS: Final = Path(__file__).parent / "senders"
PATH: Final = "/v1/pipelines/fraud/predict"
PAGE: Final = "/"
TELL_PACKAGES: Final = """\
import platform, sys
from importlib.metadata import version
print(*(f"{name} {version(name)}" for name in sys.argv[1:]), f"Python {platform.python_version()}", sep=", ")
"""
SECONDS_MAX: Final = 120.0
BODIES: Final = [
    {"transaction_id": str(448_520 + index), "customer_id": customer, "terminal_id": 3_189, "amount": amount,
     "time": "2026-11-24T00:03:37Z"}
    for index, (customer, amount) in enumerate([(1_111, 79.39), (687, 58.22), (1_484, 12.8), (449, 82.95),
                                                (1_304, 76.02), (98, 121.5), (2_795, 64.25), (17, 9.99)])
]  # fmt: skip
"""Of different lengths, so that Content-Length varies."""


@dataclass(frozen=True, slots=True)
class Client:
    """How a client is run. command: to send `lines` to a URL; its input: what it reads. version: what tells it."""

    command: Callable[[str, str, Path], Sequence[str]]
    version: Callable[[str], Sequence[str]]
    needs: str = ""
    input_of: Callable[[str], str] = lambda url: "".join(json.dumps(body) + "\n" for body in BODIES)


def python_client(*packages: str) -> Client:
    """Return the client of a Python package, and of those whose versions belong to it."""
    script = str(SENDERS / f"send_{packages[0]}.py")
    return Client(
        lambda python, url, _: [python, "-I", script, url],
        lambda python: [python, "-I", "-c", TELL_PACKAGES, *packages],
    )


def curl_config(url: str) -> str:
    """Return what curl is told to post: several requests in one process share its connection."""
    parts = []
    for body in BODIES:
        data = json.dumps(json.dumps(body))
        trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        headers = f'header = "Content-Type: application/json"\nheader = "traceparent: {trace}"\n'
        parts.append(f'url = "{url}"\n{headers}data = {data}\n')
    return "next\n".join(parts)


def browser(python: str, url: str, folder: Path) -> Sequence[str]:
    """Return how Chromium opens the page that posts, and asks nobody else anything."""
    page = url.removesuffix(PATH) + PAGE
    return ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", page]  # fmt: skip


CLIENTS: Final = {
    "aiohttp": python_client("aiohttp"),
    "browser": Client(browser, lambda python: ["chromium", "--version"], needs="chromium", input_of=lambda url: ""),
    "curl": Client(lambda python, url, _: ["curl", "-sS", "-o", "/dev/null", "-K", "-"],
                   lambda python: ["curl", "--version"], needs="curl", input_of=curl_config),
    "go": Client(lambda python, url, _: ["go", "run", str(SENDERS / "send_go.go"), url],
                 lambda python: ["go", "version"], needs="go"),
    "httpx": python_client("httpx", "httpcore", "h11"),
    "requests": python_client("requests", "urllib3"),
}  # fmt: skip


def pages() -> dict[str, bytes]:
    """Return the page that posts every body."""
    page = Template((SENDERS / "send_browser.html").read_text())
    return {PAGE: page.substitute(bodies=json.dumps(BODIES), path=PATH).encode()}


def record(name: str, client: Client, python: str) -> Recording:
    """Run a client against a server that keeps what it writes; the client is ended when all has come."""
    with Recorder(pages()) as recorder, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as text:
        folder = Path(text)
        url = f"http://{recorder.authority}{PATH}"
        (folder / "input").write_text(client.input_of(url))
        command = ["taskset", "-c", str(LOAD_CORE), *client.command(python, url, folder)]
        with (folder / "input").open("rb") as lines, (folder / "log").open("wb") as log:
            environ = {**os.environ, "TMPDIR": text}
            popen = subprocess.Popen(command, stdin=lines, stdout=log, stderr=log, env=environ, start_new_session=True)
        process = Process(name, popen, folder / "log", time.perf_counter())

        def is_done() -> bool:
            return popen.poll() is not None or sum(map(len, recorder.connections.values())) == len(BODIES)

        try:
            connections = recorder.record(is_done, SECONDS_MAX)
            if sum(map(len, connections)) < len(BODIES):
                raise BenchError(f"{name} ended with status {popen.returncode}:\n{process.tail()}")
        finally:
            end(process)
        return make_recording(name, tell_version(client, python), recorder.authority, connections)


def tell_version(client: Client, python: str) -> str:
    """Return the first line of what a client says of its version, without what stands in brackets behind it."""
    done = subprocess.run(client.version(python), capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip().splitlines()[0].partition(" (")[0]


def missing(client: Client, python: str) -> str:
    """Return what a client needs and this machine lacks; nothing when all is there."""
    if client.needs:
        return "" if shutil.which(client.needs) else client.needs
    done = subprocess.run(client.version(python), capture_output=True, text=True, check=False, timeout=60)
    return (done.stderr.strip().splitlines() or ["it"])[-1] if done.returncode else ""


def main() -> int:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", default=sorted(CLIENTS), metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the packages")
    options = parser.parse_args()
    if unknown := set(options.clients) - set(CLIENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CLIENTS)}")
    os.sched_setaffinity(0, {SERVER_CORE})
    failed = False
    for name in options.clients:
        client = CLIENTS[name]
        try:
            if lack := missing(client, options.python):
                raise BenchError(f"{name} is not recorded, {lack} is missing")
            recording = record(name, client, options.python)
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        write_recording(recording)
        sizes = " + ".join(str(len(segment)) for segment in recording.requests[-1])
        print(f"{name}: {recording.version}; {sizes} bytes; varies {', '.join(recording.varies)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
