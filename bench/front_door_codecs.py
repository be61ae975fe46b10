"""What the codecs take to decode a request of 24 fields, beside JSON; and a data frame in Arrow, a row."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final, Literal

import msgspec
import pyarrow as pa

from figures import Figures
from machine import SERVER_CORE, BenchError, on_core
from part import Line, Part, Session
from tailrace.codecs.arrow import ArrowCodec
from tailrace.codecs.json import JsonCodec
from tailrace.codecs.msgpack import MsgpackCodec
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import locked
from tailrace.codecs.protobuf import ProtobufCodec
from tailrace.request.schema import Request
from tailrace.response.schema import Response

ROUNDS: Final = 15
CALLS: Final = 4_000
"""Of each codec in a round, for one request; of many as much less as they are more."""
MANY: Final = 1_000
FIELDS: Final = 24

Numbers = msgspec.defstruct("Numbers", [(f"f{i}", float) for i in range(FIELDS)], bases=(Request,), kw_only=True)
"""A request of the numbers that a model takes."""


class Mixed(Request):
    """A request of the kinds that requests have: times and texts cost more than numbers do."""

    transaction_id: str
    customer_id: int
    terminal_id: int
    merchant: str
    kind: Literal["card", "cash", "transfer"]
    is_online: bool
    time_s: float
    amount: float
    f0: float
    f1: float
    f2: float
    f3: float
    f4: float
    f5: float
    f6: float
    f7: float
    f8: float
    f9: float
    n0: int
    n1: int
    n2: int
    n3: int
    country: str
    currency: str


class Score(Response):
    """What is answered; nothing of it is measured here."""

    score: float


def request_of(kind: type[Any], draw: random.Random) -> dict[str, Any]:
    """Return a request of a type, drawn."""
    made: dict[type, Callable[[], Any]] = {
        float: lambda: draw.uniform(0, 1_000), int: lambda: draw.randrange(1_000_000), bool: lambda: True,
        str: lambda: f"m-{draw.randrange(10_000)}",
    }  # fmt: skip
    return {
        field.encode_name: made[field.type]() if field.type in made else "card"
        for field in msgspec.structs.fields(kind)
    }


def codecs_of(kind: type[Any]) -> dict[str, Any]:
    """Return the codecs of a type, by name."""
    lock = locked(message_forms(kind, Score), None)
    return {
        "json": JsonCodec(kind, array_max=MANY),
        "msgpack": MsgpackCodec(kind, array_max=MANY),
        "protobuf": ProtobufCodec(kind, Score, lock, array_max=MANY),
        "arrow": ArrowCodec(kind, Score, array_max=MANY, body_bytes_max=1 << 20),
    }


def bodies_of(kind: type[Any], codecs: Mapping[str, Any], value: Any) -> dict[str, bytes]:
    """Return a request, or many, as each codec reads it. Arrow has arrays alone."""
    from tailrace.codecs.proto_writer import message_writers

    rows = value if isinstance(value, list) else [value]
    writers = message_writers(message_forms(kind, Score), locked(message_forms(kind, Score), None))
    messages = [writers[kind.__name__].write(msgspec.convert(row, kind)) for row in rows]
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pylist(rows)
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    found = {"json": msgspec.json.encode(value), "msgpack": msgspec.msgpack.encode(value)}
    if isinstance(value, list):
        found["arrow"] = sink.getvalue().to_pybytes()
    else:
        found["protobuf"] = messages[0]
    expected = msgspec.to_builtins(codecs["json"].decode(found["json"]))
    for name, body in found.items():
        if msgspec.to_builtins(codecs[name].decode(body)) != expected:
            raise BenchError(f"front_door_codecs: {name} does not read what JSON does")
    return found


def take_turns(decoders: Mapping[str, Callable[[bytes], Any]], bodies: Mapping[str, bytes], rounds: int, calls: int
               ) -> dict[str, list[float]]:  # fmt: skip
    """Return the µs of the core that each decoding takes in each round, within which they take turns."""
    times_us: dict[str, list[float]] = {name: [] for name in bodies}
    for _ in range(rounds):
        for name, body in bodies.items():
            decode = decoders[name]
            began_ns = time.thread_time_ns()
            for _ in range(calls):
                decode(body)
            times_us[name].append((time.thread_time_ns() - began_ns) / calls / 1_000)
    return times_us


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, and of the ratios within each."""
    draw = random.Random(1)
    rounds, calls = session.pick(ROUNDS, 2), session.pick(CALLS, 500)
    figures: Figures = {}
    with on_core(SERVER_CORE):
        for prefix, kind in (("", Numbers), ("mixed_", Mixed)):
            session.tell(f"front door: decoding {kind.__name__.lower()} of {FIELDS} fields")
            codecs = codecs_of(kind)
            decoders = {name: codec.decode for name, codec in codecs.items()}
            one = take_turns(decoders, bodies_of(kind, codecs, request_of(kind, draw)), rounds, calls)
            rows = [request_of(kind, draw) for _ in range(MANY)]
            many = take_turns(decoders, bodies_of(kind, codecs, rows), rounds, max(calls // MANY, 1))
            ratios = [json / packed for json, packed in zip(one["json"], one["msgpack"], strict=True)]
            figures |= {
                f"{prefix}msgpack_ratio_json": round(median(ratios), 2),
                f"{prefix}protobuf_us": round(median(one["protobuf"]), 2),
                f"{prefix}json_us": round(median(one["json"]), 2),
                f"{prefix}msgpack_us": round(median(one["msgpack"]), 2),
                **{f"{prefix}{name}_row_us": round(median(found) / MANY, 2) for name, found in many.items()},
            }
    return {"front_door": figures}


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line(
            "MessagePack, decode, 24 numbers, JSON ÷ it", door["msgpack_ratio_json"], 1.0, 1.5, "×", more_is_better=True
        ),
        Line("Protocol Buffers, decode, 24 numbers", door["protobuf_us"], 3, 1, " µs"),
        Line("JSON, decode, 24 numbers", door["json_us"], unit=" µs"),
        Line("MessagePack, of 24 fields of several kinds", door["mixed_msgpack_ratio_json"], unit="×"),
        Line("Protocol Buffers, of the same", door["mixed_protobuf_us"], unit=" µs"),
        Line("JSON, of the same", door["mixed_json_us"], unit=" µs"),
        Line("Arrow, 1,000 rows of the same, a row", door["mixed_arrow_row_us"], unit=" µs"),
        Line("JSON, 1,000 of them, each", door["mixed_json_row_us"], unit=" µs"),
    ]


PART: Final = Part(
    name="front_door_codecs",
    about="from the bytes of a body to a validated request: MessagePack, Protocol Buffers and Arrow beside JSON",
    caveats=("front_door_codecs: the decoder alone, one body again and again, all of it in the core's cache.",),
    steps=lambda session: 2,
    measure=measure,
    lines=lines,
)
