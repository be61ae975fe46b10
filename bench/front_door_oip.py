"""What a request of 24 numbers takes to be read from tensors of the Open Inference Protocol, beside usual JSON."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import msgspec

from figures import Figures
from front_door_codecs import CALLS, FIELDS, MANY, ROUNDS, Numbers, Score, request_of, take_turns
from machine import SERVER_CORE, BenchError, on_core
from part import Line, Part, Session
from tailrace.codecs.json import JsonCodec
from tailrace.codecs.tensor_form import TensorForm
from tailrace.server.oip.asked import OipModel
from tailrace.server.oip.rest import RestReader

WAYS: Final = ("json", "oip_json", "oip_bytes")


def bodies_of(rows: list[dict[str, Any]]) -> tuple[dict[str, bytes], int]:
    """Return requests in each way, and how many bytes of the last are JSON."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    begin = {"datatype": "FP64", "shape": [len(rows)]}
    in_json = [{"name": name, **begin, "data": values} for name, values in columns.items()]
    size = {"parameters": {"binary_data_size": 8 * len(rows)}}
    head = msgspec.json.encode({"inputs": [{"name": name, **begin, **size} for name in columns]})
    tensors = [struct.pack(f"<{len(rows)}d", *values) for values in columns.values()]
    value = rows if len(rows) > 1 else rows[0]
    bodies = [msgspec.json.encode(value), msgspec.json.encode({"inputs": in_json}), b"".join([head, *tensors])]
    return dict(zip(WAYS, bodies, strict=True)), len(head)


def measure_rows(rows: list[dict[str, Any]], rounds: int, calls: int) -> dict[str, float]:
    """Return the µs of the core that reading some rows takes, in each way."""
    bodies, head_bytes = bodies_of(rows)
    reader = RestReader(OipModel("numbers", "1", TensorForm(Numbers, Score, array_max=MANY)))
    decoders: dict[str, Callable[[bytes], Any]] = {
        "json": JsonCodec(Numbers, array_max=MANY).decode,
        "oip_json": lambda body: reader.read(body, -1).requests,
        "oip_bytes": lambda body: reader.read(body, head_bytes).requests,
    }
    found = [msgspec.to_builtins(decoders[way](bodies[way])) for way in WAYS]
    if any(each != found[0] for each in found):
        raise BenchError("front_door_oip: tensors are not read as JSON is")
    return {way: median(times) for way, times in take_turns(decoders, bodies, rounds, calls).items()}


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within which the ways take turns."""
    draw, rounds, calls = random.Random(1), session.pick(ROUNDS, 2), session.pick(CALLS // 8, 100)
    session.tell("front door: reading tensors")
    with on_core(SERVER_CORE):
        one = measure_rows([request_of(Numbers, draw)], rounds, calls)
        many = measure_rows([request_of(Numbers, draw) for _ in range(MANY)], rounds, max(calls // MANY, 1))
    figures: Figures = {f"{way}_us": round(one[way], 1) for way in WAYS[1:]}
    return {"front_door": figures | {f"{way}_row_us": round(many[way] / MANY, 2) for way in WAYS[1:]}}


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line(f"Tensors in bytes, {FIELDS} numbers", door["oip_bytes_us"], unit=" µs"),
        Line("  in JSON", door["oip_json_us"], unit=" µs"),
        Line("Tensors in bytes, 1,000 rows of them, a row", door["oip_bytes_row_us"], unit=" µs"),
        Line("  in JSON", door["oip_json_row_us"], unit=" µs"),
    ]


PART: Final = Part(
    name="front_door_oip",
    about="from tensors of the Open Inference Protocol to validated requests, in bytes and in JSON",
    caveats=("front_door_oip: the reader alone, one call again and again, the layout of its bytes known.",),
    steps=lambda session: 1,
    measure=measure,
    lines=lines,
)
