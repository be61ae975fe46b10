"""A real nginx or HAProxy in front of a server of a test, configured as `tailrace export` has it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from programs import find_program
from tailrace.deploy.haproxy import haproxy_config
from tailrace.deploy.nginx import nginx_config
from tailrace.deploy.upstream import upstream_of
from tailrace.loadtest.processes import start, wait_ready
from tailrace.pipeline import Pipeline

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from rolling import NGINX, steady_ports

PROXIES = {"nginx": "nginx-light", "haproxy": "haproxy"}
"""Each with Debian's package of it."""


def start_proxy(
    stack: ExitStack,
    name: str,
    folder: Path,
    pipeline: Pipeline,
    server: tuple[str, int],
    change: Callable[[str], str] = str,
    grpc: tuple[int, int] | None = None,
) -> tuple[str, int]:
    """Start a proxy in front of a server, which must answer /livez and /readyz; return where it is asked.

    change: of its configuration. grpc: the ports of the proxy and of the server for gRPC. Its output is in the folder's
    `log`.
    """
    program = find_program(name, PROXIES[name])
    (port,) = steady_ports(1)
    grpc_listen, behind = ("127.0.0.1:8001", []) if grpc is None else (f"127.0.0.1:{grpc[0]}", [f"127.0.0.1:{grpc[1]}"])
    upstream = upstream_of([pipeline], ["{}:{}".format(*server)], 1 << 20, behind)
    listen = f"127.0.0.1:{port}"
    if name == "nginx":
        (folder / "site.conf").write_text(change(nginx_config(upstream, listen, grpc_listen)))
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, site=folder / "site.conf"))
        command = [program, "-p", str(folder), "-e", str(folder / "start.log"), "-c", str(folder / "nginx.conf")]
    else:
        (folder / "haproxy.cfg").write_text(change(haproxy_config(upstream, listen, grpc_listen)))
        command = [program, "-db", "-f", str(folder / "haproxy.cfg")]
    wait_ready(start(stack, name, command, folder / "log"), f"http://{listen}/livez")
    return "127.0.0.1", port
