"""The load generator in C sends what was recorded, byte for byte, and tells what came of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from machine import BenchError
from recorder import Recorder, Request
from recording import BODY_MARK, CUT_MARK, HEX_MARK, LENGTH_MARK, plain_template, read_recordings, template_of
from replay import FLAGS, SOURCES, Replay

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc compiles it (apt-get install gcc libc6-dev)")

ANSWERING = Path(__file__).parents[1] / "loadtest" / "answering_server.py"
BODIES = [b'{"a":1}', b'{"longer":[1,2,3,4]}', b"{}"]
RECORDINGS = read_recordings()
RUN_S = 0.05
CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """Return the compiled program, on a core that is there."""
    return Replay(tmp_path_factory.mktemp("replay"), core=CORES[-1])


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    """Return a file of three bodies of different lengths."""
    path = tmp_path / "bodies.jsonl"
    path.write_bytes(b"\n".join(BODIES) + b"\n")
    return path


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Return the port of a server that does what the path says."""
    with subprocess.Popen([sys.executable, str(ANSWERING)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.terminate()


def sent_by(
    replay: Replay, template_for: Callable[[str], str], bodies: Path, connections: int = 1, seconds: float = RUN_S
) -> tuple[str, list[list[Request]]]:
    """Return the template for a server's address, and what the program sent it on each connection, as it was read."""
    with Recorder() as recorder, ThreadPoolExecutor(1) as pool:
        port, template = int(recorder.authority.rpartition(":")[2]), template_for(recorder.authority)
        run = pool.submit(replay.run, port, template, bodies, seconds, connections=connections, judged=False)
        found = recorder.record(run.done, 30)
        run.result()
    return template, found


def pattern_of(template: str, body: bytes) -> re.Pattern[bytes]:
    """Return what a request of a template looks like with this body: all bytes but the random ones are given."""
    filled = re.escape(template.replace(CUT_MARK, "")).encode("latin-1")
    for mark, words in ((LENGTH_MARK, b"%d" % len(body)), (BODY_MARK, re.escape(body)), (HEX_MARK, b"([0-9a-f])")):
        filled = filled.replace(mark.encode(), words)
    return re.compile(filled)


def test_program_compiles_without_a_warning(tmp_path: Path) -> None:
    """With all warnings on, the compiler has nothing to say."""
    command = ["gcc", *FLAGS, "-Werror", "-fsyntax-only", str(SOURCES[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", RECORDINGS)
def test_client_is_replayed_byte_for_byte(replay: Replay, bodies: Path, name: str) -> None:
    """Every request is the client's head with the length of its body, in a new trace; the bodies come in turns."""
    template, (requests,) = sent_by(
        replay, lambda authority: template_of(RECORDINGS[name], authority, "/predict"), bodies
    )
    assert len(requests) >= len(BODIES)
    traces = set()
    for index, request in enumerate(requests):
        found = pattern_of(template, BODIES[index % len(BODIES)]).fullmatch(b"".join(request))
        assert found, b"".join(request)
        traces.add(b"".join(found.groups()))
    assert len(traces) == len(requests)
    assert {len(trace) for trace in traces} == {48}


@pytest.fixture
def own_core() -> Iterator[None]:
    """Keep this process off the program's core, where it would not see a write before the next one."""
    os.sched_setaffinity(0, set(CORES[:-1]))
    yield
    os.sched_setaffinity(0, set(CORES))


@pytest.mark.skipif(len(CORES) < 2, reason="on one core, two writes are always read as one")
@pytest.mark.usefixtures("own_core")
@pytest.mark.parametrize("writes", [1, 2])
def test_request_is_written_as_often_as_its_client_does(replay: Replay, bodies: Path, writes: int) -> None:
    """A client that writes its body apart is replayed in two writes, cut before the body, and others in one."""
    _, (requests,) = sent_by(replay, lambda authority: plain_template(authority, "/", writes), bodies, seconds=0.4)
    most = max(requests, key=len)
    assert len(most) == writes
    if writes > 1:
        assert most[0].endswith(b"\r\n\r\n")
        assert most[1] in BODIES


def test_every_connection_is_used(replay: Replay, bodies: Path) -> None:
    """Each connection has a request under way, and is kept open."""
    _, found = sent_by(replay, lambda authority: plain_template(authority, "/"), bodies, connections=5)
    assert len(found) == 5
    assert all(len(requests) > 1 for requests in found)


def test_rate_and_latency_are_told(replay: Replay, bodies: Path, port: int) -> None:
    """One request at a time takes its latency, so the rate is about one over it."""
    run = replay.plain(f"http://127.0.0.1:{port}/echo", bodies, 0.3, connections=1)
    assert run.refused == 0
    assert 0 < run.p50_us <= run.p99_us
    assert run.rps * run.p50_us < 2e6


def test_refusals_are_no_rate(replay: Replay, bodies: Path, port: int) -> None:
    """Answers other than 200 are counted apart, and a run of them is no figure unless it is let pass."""
    url = f"http://127.0.0.1:{port}/refuse"
    with pytest.raises(BenchError, match="were not 200, such as 503"):
        replay.plain(url, bodies, RUN_S)
    run = replay.plain(url, bodies, RUN_S, judged=False)
    assert run.rps == 0
    assert run.refused > 0


@pytest.mark.parametrize(("path", "told"), [("chunked", "Content-Length"), ("goodbye", "closed a connection")])
def test_answer_that_cannot_be_read_is_an_error(replay: Replay, bodies: Path, port: int, path: str, told: str) -> None:
    """An answer without a length, or a connection that is closed, ends the run with a sentence that says so."""
    with pytest.raises(BenchError, match=told):
        replay.plain(f"http://127.0.0.1:{port}/{path}", bodies, RUN_S, connections=1)
