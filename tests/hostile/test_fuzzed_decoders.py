"""Every decoder on bodies that were damaged, or are none: it gives requests or says what is wrong, and takes no time.

`make fuzz` draws thousands of them for each.
"""

from __future__ import annotations

import datetime as dt
import gzip
import math
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tailrace as tr
from tailrace.codecs.arrow import CONTENT_TYPE as ARROW
from tailrace.codecs.arrow import ArrowCodec
from tailrace.codecs.inflating import CODINGS
from tailrace.codecs.offer import Offer
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import lock_path, locked, write_lock
from tailrace.codecs.protobuf import ARRAY_TAG, protobuf_codecs
from tailrace.codecs.tensor_form import TensorForm
from tailrace.errors import ClientError, ServingError
from tailrace.loop_load import LoopLoad
from tailrace.server.endpoint import Answer, Page
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.reader import RequestReader
from tailrace.server.http.server import HttpServer
from tailrace.server.oip.asked import OipModel
from tailrace.server.oip.rest import RestReader
from tailrace.server.options import ServeOptions
from tailrace.testing import Turns

DECODE_S_MAX = 1.0
"""Of bodies of some hundred bytes, on a busy machine; each takes microseconds."""
INFLATED_BYTES_MAX = 1 << 16
ARRAY_MAX = 50
DRAWN = settings().max_examples
"""By the profile: `make fuzz` wants thousands."""
FEW = settings(max_examples=DRAWN if DRAWN > 1_000 else 60, suppress_health_check=[HealthCheck.too_slow])


class Place(tr.Request):
    city: str
    zip: str | None = None


class Payment(tr.Request):
    name: str
    amount: Annotated[float, tr.Field(gt=0, le=100_000)]
    count: int = 0
    vip: bool = False
    kind: Literal["card", "cash"] = "card"
    time: dt.datetime | None = None
    tags: list[str] = msgspec.field(default_factory=list)
    place: Place | None = None


class Free(tr.Request):
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    other: Any = None


class Plain(tr.Request):
    amount: float
    count: int
    name: str


class Scored(tr.Response):
    score: float
    label: str


VALID: list[dict[str, Any]] = [
    {"name": "ann", "amount": 12.5},
    {"name": "böb", "amount": 1.0, "count": -7, "vip": True, "kind": "cash", "time": "2025-01-02T03:04:05Z",
     "tags": ["a", "b"], "place": {"city": "x", "zip": "1"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Offer:
    """Return the codecs of the requests, all there are."""
    folder = tmp_path_factory.mktemp("fuzzed")
    write_lock(locked(message_forms(Payment, Scored), None), lock_path(folder, "fuzzed"))
    more: list[Any] = [*protobuf_codecs("fuzzed", Payment, Scored, folder, array_max=ARRAY_MAX)]
    more.append(ArrowCodec(Payment, Scored, array_max=ARRAY_MAX, body_bytes_max=INFLATED_BYTES_MAX))
    return Offer(Payment, array_max=ARRAY_MAX, body_bytes_max=INFLATED_BYTES_MAX, more=more)


def arrow_body(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as a stream of Arrow."""
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist([{"name": row["name"], "amount": row["amount"]} for row in rows])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


PROTO = b"\x0a\x03ann\x11\x00\x00\x00\x00\x00\x00\x29\x40"
"""A name and an amount as a message, by the numbers 1 and 2."""
BODIES: dict[bytes, list[bytes]] = {
    b"application/json": [msgspec.json.encode(VALID[0]), msgspec.json.encode(VALID)],
    b"application/msgpack": [msgspec.msgpack.encode(VALID[0]), msgspec.msgpack.encode(VALID)],
    b"application/x-protobuf": [PROTO, 2 * (ARRAY_TAG + bytes([len(PROTO)]) + PROTO)],
    ARROW: [arrow_body(VALID)],
}
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0xC1, 0xDD, 0xDF]
LONGS = [
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",
    b'{"a":' * 40,
]


@st.composite
def damaged(draw: st.DrawFn, bodies: list[bytes]) -> bytes:
    """Draw a sound body with some damage: bytes changed, put in, taken out, doubled, or cut off."""
    body = bytearray(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(1, 4))):
        at, size = draw(st.integers(0, len(body))), draw(st.integers(0, 8))
        match draw(st.sampled_from(["changed", "taken", "put", "long", "doubled", "cut"])):
            case "changed":
                body[at : at + 1] = bytes([draw(st.sampled_from(NUMBERS) | st.integers(0, 255))])
            case "taken":
                del body[at : at + size]
            case "put":
                body[at:at] = draw(st.binary(max_size=8))
            case "long":
                body[at : at + 4] = draw(st.sampled_from(LONGS))
            case "doubled":
                body[at:at] = body[at : at + size * 4]
            case _:
                del body[at:]
    return bytes(body)


def any_body(bodies: list[bytes]) -> st.SearchStrategy[bytes]:
    """Draw a damaged body, or any bytes."""
    return st.one_of(damaged(bodies), damaged(bodies), st.binary(max_size=200))


def in_time(decode: Callable[[], Any]) -> Any:
    """Return what is decoded; assert that it took no time."""
    began_s = time.monotonic()
    found = decode()
    assert time.monotonic() - began_s < DECODE_S_MAX
    return found


def check(found: Any) -> None:
    """Assert that a body is requests, each of which is one when it is written again, or the caller's fault."""
    if isinstance(found, ServingError):
        assert isinstance(found, ClientError)
        assert 400 <= found.status < 500
        return
    requests = found if type(found) is list else [found]
    assert len(requests) <= ARRAY_MAX
    for request in requests:
        assert isinstance(request, Payment)
        plain = msgspec.to_builtins(request)
        assert msgspec.to_builtins(msgspec.convert(plain, Payment)) == plain
        assert 0 < request.amount <= 100_000
        assert -(2**63) <= request.count < 2**63


@pytest.mark.parametrize("content_type", BODIES, ids=bytes.decode)
def test_sound_bodies_are_read(offer: Offer, content_type: bytes) -> None:
    """What is damaged below is sound to begin with."""
    codec = offer.find(content_type, b"") or offer.usual
    for body in BODIES[content_type]:
        found = codec.decode(body)
        assert not isinstance(found, ServingError), found
        check(found)


@pytest.mark.parametrize("content_type", BODIES, ids=bytes.decode)
@given(data=st.data())
@FEW
def test_damaged_body_is_refused_or_read(offer: Offer, content_type: bytes, data: st.DataObject) -> None:
    """Nothing raises, no fault is the server's, and what is taken holds to the type."""
    codec = offer.find(content_type, b"") or offer.usual
    body = data.draw(any_body(BODIES[content_type]))
    check(in_time(lambda: codec.decode(body)))


ANYTHING: list[Any] = [
    {"extra": {"a": [1.5, {"b": None, "c": "d"}]}, "other": [[[[1]]]]},
    [{"extra": {"a": {"a": {"a": {}}}}}, {"other": 1e300}],
]
FREE: dict[bytes, list[bytes]] = {
    b"application/json": [*map(msgspec.json.encode, ANYTHING), b'{"other":' + b"[" * 1_000],
    b"application/msgpack": [
        *map(msgspec.msgpack.encode, ANYTHING),
        msgspec.msgpack.encode({"other": [msgspec.msgpack.Ext(5, b"a"), math.inf, {1: {2.5: math.nan}}]}),
        b"\x81\xa5other" + b"\x91" * 700 + msgspec.msgpack.encode(math.inf),
    ],
}


@pytest.mark.parametrize("content_type", FREE, ids=bytes.decode)
@given(data=st.data())
@FEW
def test_damaged_body_of_anything_is_refused_or_read(content_type: bytes, data: st.DataObject) -> None:
    """Whatever is in a field that may hold anything, and however deep, it is a request or the caller's fault."""
    codec = Offer(Free, array_max=ARRAY_MAX)
    decode = (codec.find(content_type, b"") or codec.usual).decode
    body = data.draw(any_body(FREE[content_type]))
    for found in (in_time(lambda: decode(body)), *map(decode, FREE[content_type])):
        assert not isinstance(found, ServingError) or isinstance(found, ClientError), found


@pytest.mark.parametrize("coding", sorted({*CODINGS} - {b"x-gzip"}), ids=bytes.decode)
@given(data=st.data())
@FEW
def test_damaged_compression_is_refused_or_read(offer: Offer, coding: bytes, data: st.DataObject) -> None:
    """A frame that is damaged, or long where it is inflated, gives what it may hold at most."""
    bodies = [gzip.compress(each, mtime=0) for each in (*BODIES[b"application/json"], b"0" * 300_000)]
    if coding == b"zstd":
        zstd = pytest.importorskip("backports.zstd")
        bodies = [zstd.compress(each) for each in (*BODIES[b"application/json"], b"0" * 300_000)]
    codec = offer.find(b"", b"", coding)
    assert codec is not None
    body = data.draw(any_body(bodies))
    check(in_time(lambda: codec.decode(body)))
    inflated = CODINGS[coding](body, INFLATED_BYTES_MAX)
    assert isinstance(inflated, ServingError) or len(inflated) <= INFLATED_BYTES_MAX


# -- tensors ----------------------------------------------------------------------------------------------------------

TENSORS = b"""{"id":"a","inputs":[{"name":"amount","shape":[2],"datatype":"FP64","data":[1.5,2.5]},
{"name":"count","shape":[2,1],"datatype":"INT64","data":[[1],[2]]},
{"name":"name","shape":[2],"datatype":"BYTES","data":["a","b"]}],"outputs":[{"name":"score"}]}"""
BINARY_HEAD = b"""{"inputs":[{"name":"amount","shape":[1],"datatype":"FP64","parameters":{"binary_data_size":8}},
{"name":"count","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":8}},
{"name":"name","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}"""
BINARY = BINARY_HEAD + b"\0" * 6 + b"\xf8\x3f" + b"\x01" + b"\0" * 7 + b"\x01\0\0\0a"
MODEL = OipModel("plain", "r1", TensorForm(Plain, Scored, array_max=ARRAY_MAX))


READER = RestReader(MODEL)
"""One for all, since it keeps what bodies have in common."""


def read_tensors(body: bytes, json_bytes: int, reader: RestReader = READER) -> Any:
    """Return the requests that a body of tensors is, or why it is none."""
    try:
        return reader.read(body, json_bytes).requests
    except ServingError as error:
        return error


def said(found: Any) -> Any:
    """Return requests, or what is wrong with them, in a form that can be compared."""
    return repr(found) if isinstance(found, ServingError) else msgspec.to_builtins(found)


def check_plain(found: Any) -> None:
    """Assert that tensors are requests, or the caller's fault."""
    if isinstance(found, ServingError):
        assert isinstance(found, ClientError), repr(found)
        return
    for request in found if type(found) is list else [found]:
        plain = msgspec.to_builtins(request)
        assert msgspec.to_builtins(msgspec.convert(plain, Plain)) == plain


@given(body=any_body([TENSORS, BINARY]), json_bytes=st.sampled_from([-1, 0, len(BINARY_HEAD)]) | st.integers(0, 600))
@FEW
def test_damaged_tensors_are_refused_or_read(body: bytes, json_bytes: int) -> None:
    """Shapes, sizes and datatypes that lie are the caller's fault, in JSON and in bytes.

    A reader that has read others before reads them alike.
    """
    found = in_time(lambda: read_tensors(body, json_bytes))
    check_plain(found)
    assert said(found) == said(read_tensors(body, json_bytes, RestReader(MODEL)))


def test_sound_tensors_are_read() -> None:
    """What is damaged is sound to begin with."""
    for found in (read_tensors(TENSORS, -1), read_tensors(BINARY, len(BINARY_HEAD))):
        assert not isinstance(found, ServingError), found


# -- heads ------------------------------------------------------------------------------------------------------------

REQUESTS = [
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n",
    b"GET /p?q HTTP/1.0\r\nConnection: keep-alive\r\nX-Request-Id: 7\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
]
PARTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"Content-Length: 7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: b\r\n",
]


def read_all(pieces: list[bytes]) -> tuple[list[tuple[bytes | None, bool, int]], str]:
    """Return what a connection reads of some pieces: bodies, whether each is faulty, its length; and the last error."""
    page = Page(lambda: Answer(200, b"text/plain", b""))
    turns = Turns()
    limits = HttpLimits.of(ServeOptions(files=(), body_bytes_max=100, header_bytes_max=400))
    http = HttpServer({b"/p": {b"POST": page, b"GET": page}}, limits, LoopLoad(turns), lambda kind: None)
    reader, found = RequestReader(http.shared), []
    for piece in pieces:
        messages, error = reader.read(piece)
        found += [(each.body, each.head.fault is not None, each.head.body_bytes) for each in messages]
        if error is not None:
            assert isinstance(error, ClientError)
            assert (error.__traceback__, error.__context__) == (None, None)  # else it holds what was read
            return found, type(error).__name__
        assert reader.bytes_held <= 400 + 100 + len(piece)
    return found, ""


@pytest.mark.parametrize("data", [b"GET /p HTTP/1.1\r\nX: " + b"a" * 600, b"POST /p HTTP/1.1\r\nHost: a\r\nX: b\nc"])
def test_head_that_is_refused_holds_nothing(data: bytes) -> None:
    """Neither what was read, nor the frames that it was read in."""
    assert read_all([data])[1]


@given(
    data=st.lists(any_body(REQUESTS) | st.sampled_from(REQUESTS + PARTS), min_size=1, max_size=4).map(b"".join),
    size=st.integers(1, 40),
)
@FEW
def test_damaged_heads_are_read_alike_in_pieces(data: bytes, size: int) -> None:
    """However the network cuts it, a connection reads the same requests, and refuses at the same one."""
    whole = in_time(lambda: read_all([data]))
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert in_time(lambda: read_all(pieces)) == whole
