"""The corpus against all that a real server listens on, and floods that last: it stays, forgets, and lets no one in."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hostile_corpus import PATH, SOUND, SOUND_POST, Case, cases, statuses
from serving import Server, fetch, load, serving, wait_for
from test_corpus import told
from tls_client import Wrapped
from tls_files import Authority
from typer.testing import CliRunner

from tailrace.cli.main import app
from tailrace.server.key_file import changing, make_key

pytestmark = pytest.mark.slow

REQUEST_S = 1.0
DRIPPING = 300
CONNECTIONS_MAX = 400
ROUNDS = 3
GROWN_BYTES_MAX = 24 << 20
"""By how much a process may be larger after the whole corpus than after its first round."""
WRONG_KEYS = 10_000
LONG_POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n" % PATH.encode()


class Doors:
    """A server, and how each of its listeners is reached."""

    def __init__(self, server: Server, unix: Path, trusting: ssl.SSLContext | None = None) -> None:
        self.server = server
        self._unix = str(unix)
        self._trusting = trusting

    def connect(self, door: str) -> Any:
        """Return a connection to a listener."""
        if door == "tls":
            url = urlsplit(self.server.url)
            assert self._trusting is not None
            return Wrapped((url.hostname or "", url.port or 0), self._trusting)
        if door == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._unix)
        else:
            url = urlsplit(self.server.admin if door == "admin" else self.server.url)
            sock = socket.create_connection((url.hostname or "", url.port or 0))
        sock.settimeout(20)
        return sock

    def assert_sound(self) -> None:
        """Assert that the first worker still serves, and that nothing failed in any process."""
        status, _, body = fetch(f"{self.server.url}{PATH}", SOUND)
        assert (status, json.loads(body)["label"]) == (200, "sound")
        assert [each["restarts"] for each in self.server.workers()] == [0]
        assert fetch(f"{self.server.admin}/livez")[0] == 200
        lines = [json.loads(line) for line in self.server.log.read_text().splitlines() if line.startswith("{")]
        assert [line for line in lines if line["level"] in ("error", "critical")] == []

    def rss_bytes(self) -> int:
        """Return the resident memory of all processes."""
        found = 0
        for pid in self.server.processes():
            with suppress(OSError):
                found += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4_096
        return found


def file_in(folder: Path, pipelines_dir: Path) -> Path:
    """Return a file of a pipeline that sheds nothing, and speaks every codec."""
    (folder / "models").symlink_to(pipelines_dir / "models")
    file = folder / "log.py"
    file.write_text((pipelines_dir / "log.py").read_text().replace('"50ms"', '"20s"'))
    assert CliRunner().invoke(app, ["export", "proto", str(file), "log"]).exit_code == 0
    return file


@pytest.fixture(scope="module")
def served(pipelines_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Serve a pipeline by port and by path, with an admin port."""
    folder = tmp_path_factory.mktemp("listeners")
    options = ("--unix", str(folder / "s"), "--request-s", str(REQUEST_S), "--connections-max", str(CONNECTIONS_MAX))
    with serving(folder / "log", file_in(folder, pipelines_dir), *options) as server:
        yield Doors(server, folder / "s")


@pytest.fixture(scope="module")
def secret(pipelines_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Serve a pipeline by TLS."""
    folder = tmp_path_factory.mktemp("secret")
    authority = Authority(folder)
    signed = authority.server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority.file))
        options = ("--tls-cert", str(signed.cert), "--tls-key", str(signed.key), "--request-s", str(REQUEST_S))
        with serving(folder / "log", file_in(folder, pipelines_dir), *options) as server:
            yield Doors(server, folder / "s", authority.trusting())


def fits_admin(case: Case, found: list[int]) -> bool:
    """Return whether answers are those of a port that has no pipelines, and takes less of a body and of a head."""
    return found[-1:] in ([413], [431]) or any(
        len(found) == len(wanted)
        and all(status == other or other in (404, 405) for status, other in zip(wanted, found, strict=True))
        for wanted in case.answers
    )


@pytest.mark.parametrize("door", ["port", "unix", "admin", "tls"])
def test_listener_bears_the_corpus(request: pytest.FixtureRequest, door: str) -> None:
    """Each case comes to what its file says, round after round, and what was taken for it is given back."""
    served: Doors = request.getfixturevalue("secret" if door == "tls" else "served")
    chosen = [case for case in cases() if door != "admin" or case.is_of_framing]
    sizes = []
    for _ in range(ROUNDS):
        for case in chosen:
            found, _ = statuses(told(served.connect(door), case.data + SOUND_POST))
            fits = fits_admin(case, found) if door == "admin" else tuple(found) in case.answers
            assert fits, (case.name, found)
        sizes.append(served.rss_bytes())
    served.assert_sound()
    assert sizes[-1] - sizes[0] < GROWN_BYTES_MAX


@pytest.mark.parametrize("door", ["port", "unix", "admin"])
@pytest.mark.parametrize("begin", [b"", b"POST ", LONG_POST], ids=["nothing", "a method", "a head"])
def test_client_that_drips_is_closed(served: Doors, door: str, begin: bytes) -> None:
    """However many send a byte now and then, each is told so in time, and others are answered meanwhile."""
    # The admin port has places for 64, and gives one that is too many the oldest's.
    with ExitStack() as stack:
        dripping = [stack.enter_context(served.connect(door)) for _ in range(30 if door == "admin" else DRIPPING)]
        ends_s = time.monotonic() + REQUEST_S * 4 + (4 if door == "admin" else 0)
        for sock in dripping:
            sock.sendall(begin)
        place = 0
        while time.monotonic() < ends_s:
            for sock in dripping:
                with suppress(OSError):
                    sock.send(b"X"[: place + 1 if begin else 0])
            place += 1
            began_s = time.monotonic()
            assert fetch(f"{served.server.url}{PATH}", SOUND)[0] == 200
            assert time.monotonic() - began_s < 1
            time.sleep(0.25)
        if begin:  # who has sent nothing is idle, which he may be for longer
            for sock in dripping:
                answer = b""
                with suppress(ConnectionError):
                    while part := sock.recv(65_536):
                        answer += part
                assert statuses(answer)[0] in ([408], [400], [])
    served.assert_sound()


def test_connections_without_end_leave_the_probes_answered(served: Doors) -> None:
    """With every place taken by those who say nothing, a health check is answered, and calls are once they go."""
    with ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX + 50):
            stack.enter_context(served.connect("port"))
        assert fetch(f"{served.server.url}/readyz")[0] == 200
        assert fetch(f"{served.server.url}{PATH}", SOUND)[0] == 503
    wait_for(lambda: fetch(f"{served.server.url}{PATH}", SOUND)[0] == 200, 10)
    served.assert_sound()


def test_nobody_gets_in_without_a_key(pipelines_dir: Path, tmp_path: Path) -> None:
    """The corpus, and ten thousand wrong keys, at a server with keys: no call is decided, and who has one is served."""
    file = file_in(tmp_path, pipelines_dir)
    secret, key = make_key("caller", ("pipelines/log",))
    with changing(tmp_path / "keys.json", create=True) as known:
        known.append(key)
    with serving(tmp_path / "log", file, "--keys", str(tmp_path / "keys.json")) as server:
        doors = Doors(server, tmp_path / "s")
        for case in cases():
            found, bodies = statuses(told(doors.connect("port"), case.data + SOUND_POST))
            for status, body in zip(found, bodies, strict=True):
                assert status != 200 or body in (b"live\n", b"ready\n"), (case.name, body)
        assert server.metric("tailrace_requests_total", 'pipeline="log"', 'code="200"') == 0
        before = doors.rss_bytes()
        with load(f"{server.url}{PATH}", [SOUND], rate=100, duration_s=6, headers=[("X-API-Key", secret)]) as report:
            told_of = flood(doors)
        found = report.result()
        assert found.statuses == {200: found.shots}  # none of its neighbours is refused, or has its connection closed
        assert told_of == {401: WRONG_KEYS}
        assert doors.rss_bytes() - before < GROWN_BYTES_MAX
        assert secret not in server.log.read_text()
        assert fetch(f"{server.url}{PATH}", SOUND)[0] == 401


def flood(doors: Doors) -> dict[int, int]:
    """Send wrong keys, a hundred at a time on a connection, as fast as they are refused; return the statuses."""
    found: dict[int, int] = {}
    for number in range(WRONG_KEYS // 100):
        with doors.connect("port") as sock:
            wrong = [f"X-API-Key: tr_{number:06}{place:06}_{'A' * 43}" for place in range(100)]
            head = SOUND_POST.replace(b"Host: a", b"Host: a\r\nKEY")
            sock.sendall(b"".join(head.replace(b"KEY", each.encode()) for each in wrong))
            sock.shutdown(socket.SHUT_WR)
            answers = b""
            while part := sock.recv(65_536):
                answers += part
            for status in statuses(answers)[0]:
                found[status] = found.get(status, 0) + 1
    return found
