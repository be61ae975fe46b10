"""Remembered heads: what a real client repeats meets no parser, and what varies in it means what the parser says."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import RawClient, RunningServer, ample, assert_serves, head_of, payment_of, post
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tailrace.pipeline import Pipeline
from tailrace.server.http.forms import FORMS_MAX, FORMS_PER_SIZE_MAX, HeadMemory
from tailrace.server.http.head import Head
from tailrace.server.http.reader import RequestReader

Serve = Callable[..., RunningServer]
PATH = "/v1/pipelines/log/predict"
CLIENTS = sorted((Path(__file__).parents[2] / "bench" / "clients").glob("*.json"))
END = b"\r\n\r\n"
LABEL = "x" * 80
"""So long that every body has a length of three digits."""


@pytest.fixture(scope="module")
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve one pipeline, whose heads these tests alone fill."""
    with RunningServer([ample(pipeline_of("log"))], request_s=5) as server:
        yield server


@pytest.fixture(autouse=True)
def forgetful(server: RunningServer) -> None:
    """Begin with a server that has seen no head."""
    forget(server)


def forget(server: RunningServer) -> None:
    """Let a server forget all forms, and which headers vary."""
    server.on_loop(lambda: setattr(server.http.shared, "heads", HeadMemory(server.http.shared.limits.body_bytes_max)))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what goes through a parser, as it comes."""
    reads: list[bytes] = []
    read = RequestReader.read

    def watched(self: RequestReader, data: bytes, raw: bytes = b"") -> Any:
        reads.append(data)
        return read(self, data, raw)

    monkeypatch.setattr(RequestReader, "read", watched)
    return reads


def recorded(path: Path, number: int) -> bytes:
    """Return a request as a recorded client would send it here; its trace and its body are those of the number."""
    request = "".join(json.loads(path.read_text())["requests"][-1])
    source, body = random.Random(number), payment_of(1.0 + number % 7, f"{number:03}{LABEL}")
    head = request.partition("\r\n\r\n")[0].replace("/v1/pipelines/fraud/predict", PATH)
    head = re.sub(r"[0-9a-f]{16,}", lambda run: f"{source.getrandbits(4 * len(run[0])):0{len(run[0])}x}", head)
    head = re.sub(r"(?i)(content-length: )\d+", rf"\g<1>{len(body)}", head)
    return (head + "\r\n\r\n" + body).encode("latin-1")


# -- real clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("writes", [1, 2])
def test_real_client_meets_no_parser_from_its_third_request_on(
    server: RunningServer, parsed: list[bytes], path: Path, writes: int
) -> None:
    """Whatever a client varies is known after two requests, whether its head and its body come in one write or two."""
    with server.connect() as client:
        for number in range(12):
            head, _, body = recorded(path, number).partition(END)
            if writes == 2:
                client.send(head + END)
                server.settle()
                client.send(body)
            else:
                client.send(head + END + body)
            answer = client.read()
            assert (answer.status, answer.json["label"]) == (200, f"{number:03}{LABEL}")
            if number == 1:
                assert len(parsed) >= 2
                parsed.clear()
    assert parsed == []


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.stem)
def test_real_clients_share_what_the_first_one_taught(server: RunningServer, parsed: list[bytes], path: Path) -> None:
    """On a further connection, and pipelined, a form that another connection left is recognised at once."""
    with server.connect() as client:
        for number in range(3):
            assert client.ask(recorded(path, number)).status == 200
    parsed.clear()
    with server.connect() as client:
        client.send(b"".join(recorded(path, number) for number in range(20, 40)))
        assert [client.read().json["label"][:3] for _ in range(20)] == [f"{number:03}" for number in range(20, 40)]
    assert parsed == []


# -- what varies ------------------------------------------------------------------------------------------------------

ACTED_ON = {
    "Host": ("a.example", "b.example"),
    "Connection": ("keep-alive", "KEEP-ALIVE"),
    "Accept-Encoding": ("gzip", "none"),
    "Authorization": ("Bearer a", "Bearer b"),
    "Content-Type": ("text/json", "text/html"),
    "X-Trace": ("0", "1"),
    "Upgrade": ("h2c", "abc"),
}


@pytest.mark.parametrize("name", ACTED_ON)
def test_header_that_is_acted_on_is_never_set_apart(server: RunningServer, name: str) -> None:
    """However often the value changes, it stays a part of what is recognised, and is acted on each time."""
    body = payment_of(2.0, "y" * 1_200)
    with server.connect() as client:
        for number in range(8):
            value = ACTED_ON[name][number % 2]
            lines = [f"{name}: {value}"] if name == "Host" else ["Host: a", f"{name}: {value}"]
            top = [f"POST {PATH} HTTP/1.1", f"Content-Length: {len(body)}", *lines, f"X-Other: {number}"]
            answer = client.ask("\r\n".join([*top, "", body]).encode())
            assert answer.status == 200
            assert ("content-encoding" in answer.headers) == (value == "gzip")
            assert ("server-timing" in answer.headers) == (name == "X-Trace" and value == "1")
    for form in server.http.shared.heads:
        assert name.lower().encode() not in form.values
        assert any(value.encode() in stay for stay in form.stays for value in ACTED_ON[name])
    assert name.lower().encode() not in server.http.shared.heads._varying
    assert b"x-other" in server.http.shared.heads._varying


def test_budget_that_varies_is_each_calls_own(server: RunningServer, parsed: list[bytes]) -> None:
    """A client tells what is left of its own budget; each call is held to that, none is parsed once this is known."""

    def asked(budget: str) -> bytes:
        return post(payment_of(), f"X-Budget-Ms: {budget}")

    with server.connect() as client:
        assert [client.ask(asked(budget)).status for budget in ("19000", "18000")] == [200, 200]
        parsed.clear()
        budgets = ["19000", "0.001", "18500", "00.01", "-1.00", "1e4  ", "nan  "]
        statuses = [200, 503, 200, 503, 400, 200, 400]
        assert [client.ask(asked(budget)).status for budget in budgets] == statuses
        client.send(b"".join(map(asked, budgets)))
        assert [client.read().status for _ in budgets] == statuses
    assert parsed == []


@pytest.mark.parametrize(("name", "value"), [("Transfer-Encoding", "chunked"), ("Expect", "100-continue")])
def test_head_whose_body_is_waited_for_is_never_remembered(server: RunningServer, name: str, value: str) -> None:
    """A body in chunks, and a client that waits for a word, go through the parser each time."""
    body = payment_of(2.0, "z").encode()
    with server.connect() as client:
        for number in range(4):
            chunks = name == "Transfer-Encoding"
            length = [] if chunks else [f"Content-Length: {len(body)}"]
            client.send(head_of("POST", PATH, f"{name}: {value}", f"X-Other: {number}", *length))
            if not chunks:
                assert client.read().status == 100
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunks else body)
            assert client.read().json["label"] == "z"
    assert len(server.http.shared.heads) == 0


def varying(
    name: str, value: bytes, length: bytes | None = None, body: bytes = payment_of(2.0, LABEL).encode()
) -> bytes:
    """Return a request with a header that varies."""
    length = b"%d" % len(body) if length is None else length
    top = f"POST {PATH} HTTP/1.1\r\nHost: a\r\n{name}: ".encode() + value
    return top + b"\r\nAccept: */*\r\nContent-Length: " + length + END + body


def told(client: RawClient, data: bytes, cut: int | None, settle: Callable[[], object]) -> bytes:
    """Send data, in two pieces where it is cut, and say that no more comes; return all answers, but for their times."""
    if cut is not None:
        cut %= len(data) + 1
        client.try_send(data[:cut])
        settle()
        data = data[cut:]
    client.try_send(data)
    client.end()
    return re.sub(rb"(Date|Server-Timing): [^\r]*", rb"\1", client.read_to_end())


SPECIAL = [b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b"\x7f", b"\x80", b"\xff", b"\x0b", b"\x1f", b"a", b"70000"]
SPECIAL += [END, END + b"GET /livez HTTP/1.1\r\nHost: a" + END, b"\r\nContent-Length: 5", b"\r\nHost: b", b"\r\n a"]
SPECIAL += [
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nX-Budget-Ms: 0.001",
    b"\r\nExpect: 100-continue",
    b"\r\nX-Trace: 1",
]
values = st.lists(st.one_of(st.sampled_from(SPECIAL), st.binary(min_size=1, max_size=4)), max_size=12).map(b"".join)
WIDTH = 55


@st.composite
def varied(draw: st.DrawFn) -> bytes:
    """Draw a value: of the length that was seen, or of any."""
    value = draw(values)
    return value[:WIDTH].ljust(WIDTH, draw(st.sampled_from([b"a", b" ", b"\t"]))) if draw(st.booleans()) else value


LENGTHS = [b"+10", b" 10", b"010", b"1_0", b"0x1", b"-10", b"\xb210", b"1e2", b"000", b"999", b"10 ", b"10\t", b"\r\n1"]


@given(
    name=st.sampled_from(["traceparent", "X-Request-Id", "X-Budget-Ms"]),
    value=varied(),
    length=st.one_of(st.none(), st.sampled_from(LENGTHS)),
    cut=st.one_of(st.none(), st.integers(0, 400)),
    behind=st.sampled_from([b"", head_of(), post(payment_of(3.0, "behind")), varying("traceparent", b"c" * WIDTH)]),
)
@example(name="X-Request-Id", value=b" " * WIDTH, length=None, cut=None, behind=b"")
@example(name="X-Budget-Ms", value=b" " * WIDTH, length=None, cut=None, behind=b"")
@example(name="X-Budget-Ms", value=b"?".ljust(WIDTH), length=None, cut=None, behind=b"")
@example(name="X-Budget-Ms", value=b"%055d" % 7_000, length=None, cut=None, behind=b"")
@example(name="X-Budget-Ms", value=b"0.%053d" % 1, length=None, cut=None, behind=b"")
@settings(max_examples=150, deadline=None)
def test_what_varies_means_what_the_parser_says(
    server: RunningServer, name: str, value: bytes, length: bytes | None, cut: int | None, behind: bytes
) -> None:
    """Whatever bytes come where a value varied, or for the length, answers and framing are those of the parser."""
    data = varying(name, value, length) + behind
    forget(server)
    with server.connect() as client:
        by_parser = told(client, data, None, server.settle)
    forget(server)
    with server.connect() as client:
        for known in (b"1", b"2", b"3"):
            seen = (known + b"0000").rjust(WIDTH, b"0") if name == "X-Budget-Ms" else known * WIDTH
            assert client.ask(varying(name, seen)).status == 200
        assert told(client, data, cut, server.settle) == by_parser
    with server.connect() as client:  # and where the connection is new, but the form known
        assert told(client, data, cut, server.settle) == by_parser


@given(
    ids=st.lists(st.text("abz019-_ :;,", min_size=1, max_size=150).map(str.strip).filter(bool), min_size=3, max_size=8)
)
@settings(max_examples=30, deadline=None)
def test_request_id_that_varies_is_told_back(server: RunningServer, ids: list[str]) -> None:
    """Every answer carries its own request's id, whichever were seen before, cut at 128 bytes."""
    forget(server)
    with server.connect() as client:
        for each in [*ids, *reversed(ids)]:
            assert (
                client.ask(post(payment_of(), f"X-Request-Id: {each}")).headers["x-request-id"] == each[:128].rstrip()
            )
        client.send(b"".join(post(payment_of(), f"X-Request-Id: {each}") for each in ids))
        assert [client.read().headers["x-request-id"] for _ in ids] == [each[:128].rstrip() for each in ids]
        assert "x-request-id" not in client.ask(post(payment_of(), "X-Request-Id:    ")).headers


# -- bounds -----------------------------------------------------------------------------------------------------------


def learn(memory: HeadMemory, *lines: str) -> bytes:
    """Let a memory remember a head with these lines; return its bytes."""
    raw = "\r\n".join(["GET /livez HTTP/1.1", *lines, "", ""]).encode()
    headers = [tuple(part.encode() for part in line.lower().split(": ")) for line in lines]
    head = Head(endpoint=None, body_bytes=0, is_plain=True, keep_alive=True)
    assert memory.remember(raw, head, headers, None) is not None  # type: ignore[arg-type]
    return raw


def test_memory_of_heads_is_bounded_and_forgets_the_oldest() -> None:
    """One form more than there may be costs the oldest, and no other, whatever their sizes."""
    memory = HeadMemory(1_000)
    raws = [learn(memory, "host: a", f"x-{place % 300:0{place % 300 + 3}}: {place}") for place in range(FORMS_MAX)]
    assert len(memory) == FORMS_MAX
    for place in range(50):
        newest = learn(memory, "host: a", f"y-{place}: " + "v" * (1_000 + place))
        assert len(memory) == len(list(memory)) == FORMS_MAX
        assert memory.find(newest)[0] is not None
        assert [memory.find(raw)[0] is not None for raw in raws[: place + 2]] == [False] * (place + 1) + [True]
    assert all(memory.find(raw)[0] is not None for raw in raws[50:])


def test_memory_of_heads_of_one_size_is_bounded_and_forgets_the_oldest() -> None:
    """A head is compared with few others."""
    memory = HeadMemory(1_000)
    raws = [learn(memory, "host: a", f"x-name: {place}") for place in range(10, 10 + FORMS_PER_SIZE_MAX + 3)]
    assert [memory.find(raw)[0] is not None for raw in raws] == [False] * 3 + [True] * FORMS_PER_SIZE_MAX
    assert len(memory) == FORMS_PER_SIZE_MAX


@pytest.mark.parametrize("writes", [1, 2])
def test_body_too_long_behind_a_known_head_is_refused(serve: Serve, writes: int) -> None:
    """A length over the limit, with as many digits as the known one has, is 413 as it is for the parser."""
    server = serve(body_bytes_max=500)
    with server.connect() as client:
        for size in (100, 200, 300):
            assert client.ask(post(payment_of(label="x" * size))).status == 200
        head, _, body = post(payment_of(label="x" * 600)).partition(END)
        client.send(head + END)
        if writes == 2:
            server.settle()
        client.try_send(body)
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        client.assert_closed()
    assert_serves(server)


@pytest.mark.parametrize("piece", [1, 7, 50])
def test_body_in_many_pieces_behind_a_known_head_is_put_together(
    server: RunningServer, parsed: list[bytes], piece: int
) -> None:
    """Each piece in a read of its own, and a whole request right behind the last: both are answered, without parser."""
    request = post(payment_of(2.0, LABEL))
    with server.connect() as client:
        for _ in range(2):
            assert client.ask(request).status == 200
        parsed.clear()
        head, _, body = request.partition(END)
        client.send(head + END)
        for at in range(0, len(body), piece):
            server.settle()
            last = at + piece >= len(body)
            client.send(body[at : at + piece] + (request if last else b""))
        assert [client.read().json["label"] for _ in range(2)] == [LABEL] * 2
        assert client.ask(request).status == 200
    assert parsed == []


@pytest.mark.parametrize("pieces", [0, 1, 6])
def test_slow_body_behind_a_known_head_is_told_so(server: RunningServer, pieces: int) -> None:
    """From the head on a client has `request_s`, whether nothing more comes, or a byte a second."""
    request = post(payment_of(2.0, LABEL))
    with server.connect() as client:
        for _ in range(2):
            assert client.ask(request).status == 200
        end = request.index(END) + 4
        client.send(request[:end])
        for second in range(6):
            server.sweep()
            if second < 5:
                assert client.is_silent()
                if second < pieces:
                    client.send(request[end + second : end + second + 1])
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        client.assert_closed()
        assert server.load.bytes == 0
