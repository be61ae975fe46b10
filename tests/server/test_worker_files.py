"""Under a low limit of open files a server serves as many connections as it can, and refuses the others in words."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from serving import Server, connect, message, serving


def statuses(server: Server, connections: int) -> Counter[int]:
    """Return the statuses of a call on each of so many connections, all open at once; 0 where there is no answer."""
    request = message("/v1/pipelines/log/predict", b'{"amount": 1.0}')
    found: Counter[int] = Counter()
    with ExitStack() as stack:
        for _ in range(connections):
            sock = stack.enter_context(connect(server.url))
            sock.sendall(request)
            found[status_of(sock)] += 1
    return found


def status_of(sock: socket.socket) -> int:
    """Return the status of the answer that comes."""
    try:
        words = sock.recv(65_536).split(b" ", 2)
    except ConnectionError:
        return 0
    return int(words[1]) if len(words) > 1 else 0


def test_soft_limit_of_open_files_is_raised(tmp_path: Path, pipelines_dir: Path) -> None:
    """A shell's low soft limit, which may be raised, bounds no server."""
    under = ("bash", "-c", 'ulimit -Sn 100; exec "$@"', "serve")
    with serving(tmp_path / "log", pipelines_dir / "log.py", "--connections-max", "400", under=under) as server:
        assert statuses(server, 300) == {200: 300}
        assert not server.events("the limit of open files is under connections_max")


def test_hard_limit_of_open_files_refuses_what_is_over(tmp_path: Path, pipelines_dir: Path) -> None:
    """What there is no file for is refused with a 503 and never dropped; the log says so at the start."""
    under = ("bash", "-c", 'ulimit -n 200; exec "$@"', "serve")
    with serving(tmp_path / "log", pipelines_dir / "log.py", under=under) as server:
        (told,) = server.events("the limit of open files is under connections_max")
        assert (told["files_max"], told["connections_max"]) == (200, 10_000)
        assert statuses(server, 190) == {200: told["used"], 503: 190 - told["used"]}
