"""Two servers behind a real load balancer, restarted one after the other while requests go on.

The configurations are those of examples/balancers, with other ports.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from machine import BenchError
from peers import ROOT, TAILRACE, find_program
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import Process, end, start, wait_ready
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load

CONFIGURATIONS: Final = ROOT / "examples" / "balancers"
BALANCERS: Final = ("haproxy", "nginx")
PORTS: Final = (8000, 8080, 8082)
"""Those of the configurations: the balancer's, and its servers'."""
STOP_S_MAX: Final = 60.0
AGAIN_S: Final = 0.2
"""Between two signals of one kind: two that wait to be taken are one."""
SETTLED_S: Final = 1.0
"""How long a load runs before the first restart."""
SEEN_S: Final = 3.0
"""How long after a server is ready both balancers send it requests again: two checks a second apart, and some."""
NGINX: Final = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    include {site};
}}
"""


@dataclass
class Pair:
    """Two servers of one file. folder: for their logs. pre_drain_s: how long each serves on when it is to stop."""

    file: Path
    folder: Path
    pre_drain_s: float
    ports: list[int] = field(default_factory=lambda: steady_ports(2))
    _servers: list[Process] = field(default_factory=list)
    _starts: int = 0

    def start(self, stack: ExitStack) -> None:
        """Start both, and wait until they are ready; the stack ends those that run then."""
        stack.callback(self._end)
        self._servers += [self._start(port) for port in self.ports]
        for server, port in zip(self._servers, self.ports, strict=True):
            wait_ready(server, f"http://127.0.0.1:{port}/readyz")

    def restart(self, number: int) -> None:
        """Stop one by SIGTERM, start it anew, wait until it is ready. Raises BenchError where it does not end well."""
        old, port = self._servers[number], self.ports[number]
        old.popen.terminate()
        code = old.popen.wait(STOP_S_MAX)
        if code:
            raise BenchError(f"a server that was asked to stop ended with status {code}:\n{old.tail()}")
        self._servers[number] = self._start(port)
        wait_ready(self._servers[number], f"http://127.0.0.1:{port}/readyz")

    def _start(self, port: int) -> Process:
        self._starts += 1
        command = [TAILRACE, "serve", str(self.file), "--port", str(port), "--admin-port", "0",
                   "--pre-drain-s", str(self.pre_drain_s)]  # fmt: skip
        return start(None, "tailrace", command, self.folder / f"tailrace-{self._starts}.log")

    def _end(self) -> None:
        """End both at once: the second SIGTERM ends a pre-drain."""
        for server in self._servers:
            server.popen.terminate()
        time.sleep(AGAIN_S)
        for server in self._servers:
            end(server)


def start_balancer(stack: ExitStack, name: str, pair: Pair) -> str:
    """Start a balancer in front of a pair, with its log in the pair's folder; return where it is asked."""
    (port,) = steady_ports(1)
    folder, program = pair.folder, find_program(name) or name
    if name == "haproxy":
        command = [program, "-db", "-f", str(_configuration("haproxy.cfg", port, pair))]
    else:
        whole = folder / "whole-nginx.conf"
        whole.write_text(NGINX.format(folder=folder, site=_configuration("nginx.conf", port, pair)))
        command = [program, "-p", str(folder), "-e", str(folder / "nginx-start.log"), "-c", str(whole)]
    process = start(stack, name, command, folder / f"{name}.log")
    url = f"http://127.0.0.1:{port}"
    wait_ready(process, f"{url}/readyz")
    return url


def _configuration(name: str, port: int, pair: Pair) -> Path:
    """Write one of the configurations with these ports; return its path."""
    text = (CONFIGURATIONS / name).read_text()
    for shown, wanted in zip(PORTS, (port, *pair.ports), strict=True):
        if f"127.0.0.1:{shown}" not in text:
            raise BenchError(f"{name} names no port {shown}")
        text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{wanted}")
    (pair.folder / name).write_text(text)
    return pair.folder / name


def steady_ports(count: int) -> list[int]:
    """Return free ports that the kernel gives to no outgoing connection, so that a server finds its own again."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(max(low - 20_000, 1_024), low)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


def roll(pair: Pair, restarts: int, plans: Sequence[LoadPlan], tell: Callable[[int], None]) -> list[LoadReport]:
    """Restart the servers in turn under these loads, each once the balancers have seen the one before it come back.

    tell: called with the number of each restart. Raises BenchError where the loads end sooner: they would show nothing.
    """
    with ThreadPoolExecutor(len(plans)) as pool:
        loads = [pool.submit(run_load, plan) for plan in plans]
        time.sleep(SETTLED_S)
        for number in range(restarts):
            tell(number)
            pair.restart(number % 2)
            time.sleep(SEEN_S)
        if any(load.done() for load in loads):
            raise BenchError(f"a load ended before {restarts} restarts had: the machine was too slow for its duration")
        return [load.result() for load in loads]


def count_failed(report: LoadReport) -> int:
    """Return how many requests got no 200."""
    return report.shots - report.statuses.get(200, 0)
