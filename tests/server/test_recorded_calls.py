"""Calls through a recording proxy before a real server: answered as by it, kept as they came, and replayed."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import http.client
import json
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from http_server import RunningServer, ample
from serving import serving
from typer.testing import CliRunner

import tailrace as tr
from tailrace.cli.main import app
from tailrace.errors import SetupError
from tailrace.pipeline import Pipeline
from tailrace.recording.answers import Sender
from tailrace.recording.comparison import compared
from tailrace.recording.condition import Condition, Wanted
from tailrace.recording.file import RecordedCall, read_recording, write_recording
from tailrace.recording.place import Place
from tailrace.recording.proxy import Proxy
from tailrace.recording.session import Limits, record, redaction_of

PATH = "/v1/pipelines/guarded/predict"


class Guarded(tr.Request):
    amount: float
    label: Annotated[str, tr.REDACTED] = ""


class GuardedScore(tr.Response):
    score: float
    label: Annotated[str, tr.REDACTED]


@pytest.fixture(scope="module")
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve a pipeline that redacts a field, and one that redacts nothing."""
    guarded = replace(
        pipeline_of("log"), name="guarded", request=Guarded, response=GuardedScore, features=[Guarded.amount]
    )
    with RunningServer([ample(guarded), ample(pipeline_of("log"))]) as server:
        yield server


def url_of(server: RunningServer) -> str:
    """Return where a server is."""
    return f"http://{server.address[0]}:{server.address[1]}"


@contextmanager
def recording(
    server: RunningServer, *conditions: str, keep_raw: bool = False, **wanted: Any
) -> Iterator[tuple[int, list[RecordedCall]]]:
    """Record while the block runs; give the proxy's port, and the calls that are kept."""
    calls: list[RecordedCall] = []
    asked = Wanted(conditions=tuple(map(Condition.parse, conditions)), **wanted)
    proxy = Proxy(Place.of(url_of(server)), asked, redaction_of(url_of(server), None, keep_raw=keep_raw), calls.append)
    with asyncio.Runner() as runner:
        port = runner.run(proxy.listen("127.0.0.1", 0))[1]
        stop = asyncio.Event()
        thread = threading.Thread(target=lambda: runner.run(_until(stop, proxy)))
        thread.start()
        try:
            yield port, calls
        finally:
            runner.get_loop().call_soon_threadsafe(stop.set)
            thread.join(20)


async def _until(stop: asyncio.Event, proxy: Proxy) -> None:
    await stop.wait()
    await proxy.close()


def ask(port: int, body: bytes, path: str = PATH, **headers: str) -> tuple[int, bytes]:
    """Send one request over a connection of its own; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_for(calls: Sequence[RecordedCall], count: int) -> None:
    """Wait until so many calls are kept."""
    for _ in range(2_000):
        if len(calls) >= count:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{len(calls)} of {count} calls were kept")


def test_call_is_kept_with_its_answer_times_and_release(server: RunningServer) -> None:
    """And the client is answered what the server answers."""
    body = b'{"amount": 2.5}'
    direct = ask(server.address[1], body)
    with recording(server) as (port, calls):
        assert ask(port, body, X_Request_Id="r-1") == direct
        wait_for(calls, 1)
    (call,) = calls
    assert call.line == f"POST {PATH} HTTP/1.1"
    assert b"X-Request-Id: r-1\r\n" in call.head
    assert b"X-Trace" not in call.head
    assert (call.body, call.status, call.answer) == (body, *direct)
    assert call.layers.keys() >= {"queue", "request", "features", "inference", "postprocess", "response"}
    assert 0 < call.first_ms <= call.whole_ms
    assert b"X-Release: " in call.answer_head


def test_only_what_is_wanted_is_kept(server: RunningServer) -> None:
    """By status, time, pipeline or id."""
    for asked, kept in (
        ({"conditions": ("status>=400",)}, [422]),
        ({"conditions": ("status<400", "ms<60000")}, [200, 200]),
        ({"conditions": ("ms>60000",)}, []),
        ({"pipeline": "log"}, [200]),
        ({"request_id": "b"}, [422]),
    ):
        conditions = asked.pop("conditions", ())
        with recording(server, *conditions, **asked) as (port, calls):  # type: ignore[arg-type]
            ask(port, b'{"amount": 1}', X_Request_Id="a")
            ask(port, b'{"amount": "1"}', X_Request_Id="b")
            ask(port, b'{"amount": 1}', "/v1/pipelines/log/predict")
            wait_for(calls, len(kept))
        assert [call.status for call in calls] == kept


@pytest.mark.parametrize(
    ("body", "headers", "kept", "paths"),
    [
        (b'{"amount":1,"label":"4111"}', {}, b'{"amount":1,"label":"xxxx"}', ("$.label",)),
        (b'[{"amount":1},{"amount":2,"label":"ab"}]', {}, b'[{"amount":1},{"amount":2,"label":"xx"}]', ("$[1].label",)),
        (b'{"amount":1,"label":{"a":[7,"b",true]}}', {}, b'{"amount":1,"label":{"a":[0,"x",false]}}', ("$.label",)),
        (b'{"amount":1,"lable":"4111"}', {}, b'{"amount":1,"lable":"xxxx"}', ("$.lable",)),
        (msgspec.msgpack.encode({"amount": 1, "label": "ab"}), {"Content_Type": "application/msgpack"},
         msgspec.msgpack.encode({"amount": 1, "label": "xx"}), ("$.label",)),
        (gzip.compress(b'{"amount":1,"label":"ab"}', mtime=0), {"Content_Encoding": "gzip"},
         b'{"amount":1,"label":"xx"}', ("$.label",)),
        (b'{"amount": 1}', {}, b'{"amount": 1}', ()),
        (b'{"amount":1,"label":"41', {}, None, ()),
        (b'{"amount":1,"label":' + b"[" * 700 + b'"4111"' + b"]" * 700 + b"}", {}, None, ()),
        (b"\x08\x01", {"Content_Type": "application/protobuf"}, None, ()),
        (b'{"label":"4111"}', {"path": "/v1/pipelines/gaurded/predict"}, None, ()),
        (b'{"amount": 1, "label": "4111"}', {"path": "/v1/pipelines/log/predict"},
         b'{"amount": 1, "label": "4111"}', ()),
    ],
)  # fmt: skip
def test_what_is_redacted_is_not_kept(
    server: RunningServer, body: bytes, headers: dict[str, str], kept: bytes | None, paths: tuple[str, ...]
) -> None:
    """At every depth, in every coding that can be read; what cannot is left out, with the reason."""
    with recording(server) as (port, calls):
        ask(port, body, **headers)
        wait_for(calls, 1)
    (call,) = calls
    assert (call.body, call.redacted) == (kept, paths)
    assert bool(call.left_out) == (kept is None)
    if kept != body:
        assert b"4111" not in msgspec.json.encode(call)
        assert b"NDExM" not in msgspec.json.encode(call)  # as base64


def test_values_that_an_answer_tells_are_masked_too(server: RunningServer) -> None:
    """A field that is redacted in the response, and what a problem quotes."""
    with recording(server) as (port, calls):
        assert b"secret" in ask(port, b'{"amount":1,"label":"secret"}')[1]
        ask(port, b'{"amount":"secret","label":"secret"}')
        wait_for(calls, 2)
    assert [b"secret" in (call.answer or b"") for call in calls] == [False, False]
    assert calls[0].answer_redacted == ("$.label",)


def test_answer_in_tensors_is_not_kept_where_a_field_is_redacted(server: RunningServer) -> None:
    """The document names no such path, and so not which tensor is secret; the refusal of an unknown path is kept."""
    redaction = redaction_of(url_of(server), None, keep_raw=False)
    head, body = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b'{"outputs":[{"data":["4111"]}]}'
    assert redaction.of_answer("/v2/models/guarded/infer", head, body).content is None
    assert redaction_of(url_of(server), None, keep_raw=True).of_answer("/v2/a", head, body).content == body
    with recording(server) as (port, calls):
        ask(port, b'{"label":"4111"}', "/v1/pipelines/gaurded/predict")
        wait_for(calls, 1)
    assert calls[0].status == 404
    assert calls[0].answer


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\nAuthorization: Bearer hidden\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-API-Key:\r\n hidden\r\n\thidden\r\n\r\n",
        b"POST /v1/pipelines/guarded/predict HTTP/1.1\nContent-Length: 18\n\n{'label':'hidden'}",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nz{'label':'hidden'}\r\n",
    ],
)
def test_secret_that_is_written_otherwise_is_not_kept(server: RunningServer, sent: bytes) -> None:
    """Behind a bare line feed, in a folded line, or as the body of what is no HTTP."""
    with recording(server) as (port, calls), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass
        wait_for(calls, 1)
    assert b"hidden" not in calls[0].head
    assert b"hidden" not in (calls[0].body or b"")


def test_secrets_in_headers_are_never_kept(server: RunningServer) -> None:
    """Not with --raw either, under which a body that cannot be read is."""
    with recording(server, keep_raw=True) as (port, calls):
        ask(port, b'{"amount":1,"label":"41', Authorization="Bearer hidden", x_api_key="hidden", COOKIE="a=hidden")
        wait_for(calls, 1)
    assert calls[0].body == b'{"amount":1,"label":"41'
    assert b"hidden" not in calls[0].head
    assert calls[0].head.count(b"[redacted]") == 3


def test_every_way_to_send_is_kept_as_one_call_each(server: RunningServer) -> None:
    """Pipelined, chunked, with a head alone before its body, and what is no HTTP: all answered as without a proxy."""
    one = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n".encode() + b'{"amount":1}'
    chunks = (
        f"POST {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b'5;x=y\r\n{"amo\r\n7\r\nunt":1}\r\n0\r\nX: y\r\n\r\n'
    )
    waits = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n".encode()
    head = b"HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n"
    bad = b"GARBAGE \x00\r\n\r\n"
    with recording(server, keep_raw=True) as (port, calls):
        found = []
        for place in (port, server.address[1]):
            with socket.create_connection(("127.0.0.1", place), 10) as sock:
                sock.sendall(one + one + head)
                sock.sendall(chunks[:90])
                sock.sendall(chunks[90:] + waits)
                while b"100 Continue" not in (heard := sock.recv(1 << 16)):
                    found.append(heard)
                sock.sendall(b'{"amount":1}' + bad)
                found.append(heard)
                while heard := sock.recv(1 << 16):
                    found.append(heard)
            found.append(b"|")
        wait_for(calls, 6)
    through, direct = (side.split(b"\r\n") for side in b"".join(found).strip(b"|").split(b"|"))
    left_out = (b"Date:", b"Server-Timing:", b"X-Release:")
    assert [each for each in through if not each.startswith(left_out)] == [
        each for each in direct if not each.startswith(left_out)
    ]
    assert [call.status for call in calls] == [200] * 5 + [400]
    assert [call.body for call in calls[:5]] == [b'{"amount":1}'] * 2 + [b""] + [b'{"amount":1}'] * 2
    assert [call.is_chunked for call in calls] == [False, False, False, True, False, False]
    assert calls[5].head == bad


def test_server_that_is_gone_is_a_call_without_an_answer(server: RunningServer) -> None:
    """Its client sees the connection end, and the request is kept."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calls: list[RecordedCall] = []
        redaction = redaction_of(url_of(server), None, keep_raw=False)
        place = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def send() -> bytes:
            proxy = Proxy(Place.of(place), Wanted(), redaction, calls.append)
            _, port = await proxy.listen("127.0.0.1", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n".encode() + b'{"amount":1}')
            there, _ = await asyncio.to_thread(listener.accept)
            await asyncio.to_thread(there.recv, 1 << 16)
            there.close()
            heard = await reader.read()
            writer.close()
            await proxy.close()
            return heard

        assert asyncio.run(send()) == b""
    assert [(call.status, call.body) for call in calls] == [(0, b'{"amount":1}')]


def test_replay_finds_the_same_and_what_is_different(server: RunningServer, tmp_path: Path) -> None:
    """Every call is answered as it was, but for what was changed in the file; numbers may be told to be close."""
    with recording(server) as (port, calls):
        for body in (b'{"amount":2}', b'{"amount":"2"}', b'[{"amount":1},{"amount":3,"label":"abc"}]', b"{"):
            ask(port, body)
        wait_for(calls, 4)
    write_recording(tmp_path / "calls.trr", url_of(server), calls)
    kept = read_recording(tmp_path / "calls.trr").calls
    assert kept == tuple(calls)
    with Sender(url_of(server)) as sender:
        sendable = [call for call in kept if call.body is not None]
        assert all(compared(call, sender.ask(call)).is_same for call in sendable)
        first = kept[0]
        assert first.answer is not None
        other = msgspec.structs.replace(first, status=503, answer=first.answer.replace(b"0.69", b"0.68"))
        told = compared(other, sender.ask(other)).differences
        assert told[0] == "status 503 → 200"
        assert told[1].startswith("$.score 0.68")
        close = msgspec.structs.replace(other, status=200)
        assert compared(close, sender.ask(close), tolerance=0.1).is_same


def test_answer_that_comes_compressed_is_compared_by_what_it_says(server: RunningServer) -> None:
    """Masked or not, as most clients ask for it: over a kilobyte it comes in gzip."""
    for path in (PATH, "/v1/pipelines/log/predict"):
        rows = [{"amount": n + 1, "label": f"{n:020d}"} for n in range(60)]
        with recording(server) as (port, calls), Sender(url_of(server)) as sender:
            ask(port, json.dumps(rows).encode(), path, Accept_Encoding="gzip")
            wait_for(calls, 1)
            call = calls[0]
            assert b"Content-Encoding: gzip" in call.answer_head
            assert compared(call, sender.ask(call)).is_same
            rows[7]["amount"] = 1_000_000
            other = msgspec.structs.replace(call, body=json.dumps(rows).encode())
            assert [each.partition(" ")[0] for each in compared(other, sender.ask(other)).differences] == ["$[7].score"]


def test_call_behind_one_that_was_cut_by_time_has_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the first answer is nobody's: it was taken for no answer, and the call was sent twice."""
    monkeypatch.setattr("tailrace.recording.answers.TIMEOUT_S", 0.2)
    asked: list[bytes] = []
    late, head = threading.Event(), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"

    class Halves(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while heard := self.request.recv(1 << 16):
                    asked.append(heard.split(b" ")[1])
                    self.request.sendall(head + (b"fi" if b"/first" in heard else b"other"))
                    if b"/first" in heard:
                        late.wait(5)
                        self.request.sendall(b"rst")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Halves) as listener:
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        with Sender(f"http://127.0.0.1:{listener.server_address[1]}") as sender:
            answers = []
            for path in (b"/first", b"/second"):
                call = RecordedCall(at=dt.datetime.now(dt.UTC), head=b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path,
                                    body=b"", status=200)  # fmt: skip
                answers.append(sender.ask(call))
                late.set()
        listener.shutdown()
        thread.join(5)
    assert [answer.body for answer in answers] == [b"fi", b"other"]
    assert asked == [b"/first", b"/second"]


def test_commands_record_and_replay(server: RunningServer, tmp_path: Path) -> None:
    """`record` ends after as many calls as it is told; `replay` exits with 1 where an answer is another."""
    out = tmp_path / "calls.trr"
    command = [sys.executable, "-m", "tailrace.cli.main", "record", url_of(server), "--out", str(out), "--count", "2",
               "--where", "status>=400"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stderr.readline().rpartition(":")[2])
        for body in (b'{"amount":1}', b'{"amount":"a"}', b'{"amount":null}'):
            ask(port, body)
        assert "2 calls" in process.stdout.read()
    assert process.returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
    run = CliRunner().invoke
    same = run(app, ["replay", str(out), url_of(server), "--json"])
    assert same.exit_code == 0, same.output
    assert [each["same"] for each in json.loads(same.stdout)] == [True, True]
    recorded = read_recording(out)
    write_recording(out, recorded.server, [msgspec.structs.replace(recorded.calls[0], status=200)])
    shown = run(app, ["replay", str(out), url_of(server)])
    assert shown.exit_code == 1
    assert "status 200 → 422" in shown.output


def test_recording_without_a_call_writes_nothing(server: RunningServer, tmp_path: Path) -> None:
    """Exit code 1 at the end of the time, or at a signal."""
    command = [sys.executable, "-m", "tailrace.cli.main", "record", url_of(server), "--out", str(tmp_path / "none.trr")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "send calls to" in process.stderr.readline()
        os.kill(process.pid, signal.SIGINT)
        assert "no call" in process.stderr.read()
    assert process.returncode == 1
    assert not list(tmp_path.iterdir())
    calls = asyncio.run(
        record(url_of(server), ("127.0.0.1", 0), Wanted(), redaction_of(url_of(server), None, keep_raw=False),
               Limits(1, 0.01))
    )  # fmt: skip
    assert calls == []


def test_server_that_does_not_say_what_to_redact_is_not_recorded(tmp_path: Path) -> None:
    """Unless it is asked for by --raw; nor one that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                with sock:
                    sock.recv(1 << 16)
                    sock.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SetupError, match="does not say what is to be redacted"):
            redaction_of(url, None, keep_raw=False)
        redaction_of(url, "key", keep_raw=True)
        thread.join()
    with pytest.raises(SetupError, match="cannot be reached"):
        redaction_of(url, None, keep_raw=True)


FILE = '''
"""A pipeline whose model needs no files."""

from typing import Annotated

import numpy as np

import tailrace as tr


class Amount(tr.Request):
    amount: float
    label: Annotated[str, tr.REDACTED] = ""


class Score(tr.Response):
    score: float


class Half:
    """Scores half of the amount."""

    def predict(self, feeds):
        """Return a score for each row."""
        return feeds["features"][:, 0] / 2


halved = tr.Pipeline(
    name="halved", request=Amount, response=Score, features=[Amount.amount], model=tr.PythonModel("half", Half),
    budget=tr.Budget("5s"),
)
'''


@pytest.mark.slow
def test_calls_are_replayed_at_a_server_of_the_file(tmp_path: Path) -> None:
    """Started for it, and gone afterwards; a changed file gives another release, and another answer."""
    file, out = tmp_path / "pipeline.py", tmp_path / "calls.trr"
    file.write_text(FILE)
    path = "/v1/pipelines/halved/predict"
    with serving(tmp_path / "log", file) as server:
        calls: list[RecordedCall] = []
        proxy = Proxy(Place.of(server.url), Wanted(), redaction_of(server.url, None, keep_raw=False), calls.append)
        with asyncio.Runner() as runner:
            port = runner.run(proxy.listen("127.0.0.1", 0))[1]
            bodies = [b'{"amount":4,"label":"a"}', b'{"amount":"4"}']
            for body in bodies:
                runner.run(asyncio.to_thread(ask, port, body, path))
            runner.run(proxy.close())
    assert [call.status for call in calls] == [200, 422]
    assert all(call.release for call in calls)
    write_recording(out, server.url, calls)
    run = CliRunner().invoke
    same = run(app, ["replay", str(out), str(file), "--json"])
    assert same.exit_code == 0, same.output
    told = json.loads(same.stdout)
    assert [each["now"]["release"] for each in told] == [call.release for call in calls]
    file.write_text(FILE.replace("/ 2", "/ 4"))
    other = run(app, ["replay", str(out), str(file), "--json"])
    assert other.exit_code == 1
    first, second = json.loads(other.stdout)
    assert first["differences"] == ["$.score 2.0 → 1.0"]
    assert first["now"]["release"] != first["then"]["release"]
    assert second["same"]
    broken = run(app, ["replay", str(out), str(tmp_path / "none.py")])
    assert broken.exit_code == 1


def test_server_that_speaks_tls_is_recorded_and_asked(tmp_path: Path) -> None:
    """Believed by the authority of a file alone; whom nobody has signed for is not reached."""
    pytest.importorskip("cryptography")
    from tls_files import Authority

    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    signed = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.cert, signed.key)
    body = b'{"paths":{}}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)

    class Speaks(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sock = context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
            with suppress(OSError), sock:
                sock.do_handshake()
                heard = sock.recv(1 << 16)
                while heard.startswith(b"POST") and not heard.endswith(b"{}"):  # what is unread at the end resets it
                    heard += sock.recv(1 << 16)
                sock.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Speaks) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        url = f"https://127.0.0.1:{listener.server_address[1]}"
        try:
            calls: list[RecordedCall] = []
            redaction = redaction_of(url, None, keep_raw=False, ca_file=str(authority.file))
            with pytest.raises(SetupError, match="cannot be reached"):
                redaction_of(url, None, keep_raw=False, ca_file=str(other.file))
            with asyncio.Runner() as runner:
                proxy = Proxy(Place.of(url, str(authority.file)), Wanted(), redaction, calls.append)
                port = runner.run(proxy.listen("127.0.0.1", 0))[1]
                assert runner.run(asyncio.to_thread(ask, port, b"{}")) == (200, body)
                runner.run(proxy.close())
            with Sender(url, ca_file=str(authority.file)) as sender:
                assert compared(calls[0], sender.ask(calls[0])).is_same
        finally:
            listener.shutdown()
            thread.join()
    with pytest.raises(SetupError, match="no certificates"):
        Place.of(url, str(tmp_path / "none.pem"))


def test_long_bodies_are_passed_on_and_not_held(server: RunningServer) -> None:
    """Over the limit of one, or of all that are under way, only the head is kept; what was held is let go of."""
    body = b'{"amount":1,"label":"' + b"a" * 5_000 + b'"}'
    for name, limit in (("BODY_BYTES_MAX", 1_000), ("HELD_BYTES_MAX", 1_000)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"tailrace.recording.proxy.{name}", limit)
            with recording(server) as (port, calls):
                assert ask(port, body)[0] == 200
                assert ask(port, b'{"amount":1}')[0] == 200
                wait_for(calls, 2)
        assert [call.body for call in calls] == [None, b'{"amount":1}']
        assert "5023 bytes" in calls[0].left_out
        assert calls[0].answer is None
        assert calls[1].answer
