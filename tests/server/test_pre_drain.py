"""A server about to stop: it says that it is not ready, and serves on until balancers have seen it."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from serving import Server, connect, fetch, message, serving, start_serve, wait_for

from tailrace.loadtest.processes import is_running
from tailrace.release.pinned import Pin
from tailrace.server.options import ServeOptions
from tailrace.server.supervisor import Supervisor

AMOUNT = {"amount": 1.0}
CALL = message("/v1/pipelines/log/predict", b'{"amount": 1.0}')
PRE_DRAIN_S = 3.0


def readiness(server: Server) -> set[int]:
    """Return the statuses of /readyz on so many connections that each worker has answered, and on the admin port."""
    return {fetch(f"{url}/readyz")[0] for url in [server.url] * 16 + [server.admin]}


def ask(sock: socket.socket) -> bytes:
    """Send a call on a connection and return the head of its answer."""
    sock.sendall(CALL)
    return sock.recv(65_536).partition(b"\r\n\r\n")[0]


def test_pre_drain_serves_on_with_readiness_false(tmp_path: Path, pipelines_dir: Path) -> None:
    """Both ports say 503 on /readyz and all else goes on, on old connections and new; then the server drains."""
    options = ("--workers", "2", "--pre-drain-s", str(PRE_DRAIN_S))
    with serving(tmp_path / "log", pipelines_dir / "log.py", *options) as server, connect(server.url) as kept:
        assert ask(kept).startswith(b"HTTP/1.1 200")
        signalled_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: readiness(server) == {503}, PRE_DRAIN_S / 2)
        _, headers, body = fetch(f"{server.url}/readyz")
        assert (headers["Retry-After"], json.loads(body)["detail"]) == ("1", "not ready")
        while time.monotonic() - signalled_s < PRE_DRAIN_S - 0.5:
            answer = ask(kept)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"Connection: close" not in answer
            assert server.ask("log", AMOUNT).status == 200
            assert fetch(f"{server.url}/livez")[0] == fetch(f"{server.admin}/livez")[0] == 200
            assert readiness(server) == {503}
        wait_for(lambda: b"Connection: close" in ask(kept), PRE_DRAIN_S)
        assert time.monotonic() - signalled_s > PRE_DRAIN_S
        assert server.process.wait(10) == 0
    (told,) = server.events("stopping")
    assert told["pre_drain_s"] == PRE_DRAIN_S


def test_worker_killed_in_a_pre_drain_is_replaced(tmp_path: Path, pipelines_dir: Path) -> None:
    """Its successor serves too, and is no more ready than its siblings. A second SIGTERM ends all at once."""
    options = ("--workers", "2", "--pre-drain-s", "60")
    with serving(tmp_path / "log", pipelines_dir / "log.py", *options) as server:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: readiness(server) == {503}, 10)
        victim = server.workers()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: server.workers()[0]["pid"] not in (0, victim) and server.workers()[0]["state"] == "ready", 30)
        assert readiness(server) == {503}
        assert server.ask("log", AMOUNT).status == 200
        pids = [worker["pid"] for worker in server.workers()]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert not any(is_running(pid) for pid in pids)


def test_server_that_was_never_ready_has_no_pre_drain(tmp_path: Path, pipelines_dir: Path) -> None:
    """Nobody sends it requests, so it ends at once."""
    server = start_serve(tmp_path / "log", pipelines_dir / "log.py", "--pre-drain-s", "60")
    try:
        wait_for(lambda: server.events("starting"), 60)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    finally:
        server.end()


def test_drain_closes_no_connection_that_was_used_within_a_second(tmp_path: Path, pipelines_dir: Path) -> None:
    """A balancer that closes idle connections after less, as ours do, never sends on one that ends meanwhile."""
    with serving(tmp_path / "log", pipelines_dir / "log.py") as server, ExitStack() as stack:
        used_s: dict[socket.socket, float] = {}
        for _ in range(12):  # through a whole second: whenever it is that the server looks, one was used just before
            sock = stack.enter_context(connect(server.url))
            used_s[sock] = time.monotonic()
            ask(sock)
            time.sleep(0.08)
        server.process.send_signal(signal.SIGTERM)
        closed_s: dict[socket.socket, float] = {}
        while len(closed_s) < len(used_s):
            for sock in select.select(list(used_s.keys() - closed_s.keys()), [], [], 10)[0]:
                assert sock.recv(1) == b""
                closed_s[sock] = time.monotonic()
        assert min(closed_s[sock] - used_s[sock] for sock in used_s) > 1.0


def test_pre_drain_waits_though_a_child_has_ended_before() -> None:
    """A child that was stopped earlier, for another release, has a task that has ended: that is no second signal."""
    pin = Pin(root="/r", folder="/r/servers/1", number=1, files=("/a.py",), folders=())
    supervisor = Supervisor(ServeOptions(files=("/a.py",), pre_drain_s=0.2), pin)
    supervisor._was_ready = True

    async def pre_drain_s() -> float:
        ended, running = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(60))
        await ended
        start_s = time.monotonic()
        await supervisor._pre_drain([ended, running])
        running.cancel()
        return time.monotonic() - start_s

    assert asyncio.run(pre_drain_s()) >= 0.19
