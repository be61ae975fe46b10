"""What the caller's process and a sending process say to each other, over the sender's stdin and stdout.

Each message is four bytes of length (little-endian) and MessagePack. To the sender: a Job, then a Start. From it:
Ready, any number of Progress, then a Result; or a Failure at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.record import ShotRecord

LENGTH_BYTES: Final = 4


class Job(msgspec.Struct, frozen=True, tag=True):
    """The plan, and which of its `plan.processes` shards this sender sends."""

    plan: LoadPlan
    shard: int


class Start(msgspec.Struct, frozen=True, tag=True):
    """When shot times begin to count: monotonic nanoseconds, one clock for all processes of a machine."""

    start_ns: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Every connection is open."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Shots so far."""

    sent: int
    answered: int
    failed: int


class Failure(msgspec.Struct, frozen=True, tag=True):
    """The run cannot go on: the parts of a LoadtestError."""

    what: str
    where: str
    next: str


class Result(msgspec.Struct, frozen=True, tag=True):
    """A shard's record, its arrays as raw bytes in this machine's order, and what sending it took."""

    intended_ns: bytes
    sent_ns: bytes
    answered_ns: bytes
    statuses: bytes
    held: bytes
    bodies: list[bytes | None]
    reconnects: int
    cpu_s: float


Message = Job | Start | Ready | Progress | Failure | Result
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """Return the bytes of one message."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def take_messages(buffer: bytearray) -> Iterator[Message]:
    """Yield the whole messages at the buffer's start, and remove them from it."""
    while len(buffer) >= LENGTH_BYTES:
        stop = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "little")
        if len(buffer) < stop:
            return
        body = bytes(buffer[LENGTH_BYTES:stop])
        del buffer[:stop]
        yield _DECODER.decode(body)


def pack_record(record: ShotRecord, reconnects: int, cpu_s: float) -> Result:
    """Return a record as a message."""
    return Result(
        record.intended_ns.tobytes(),
        record.sent_ns.tobytes(),
        record.answered_ns.tobytes(),
        record.statuses.tobytes(),
        record.held.tobytes(),
        record.bodies,
        reconnects,
        cpu_s,
    )


def unpack_record(result: Result) -> ShotRecord:
    """Return the record that a message carries."""
    return ShotRecord(
        np.frombuffer(result.intended_ns, np.int64),
        np.frombuffer(result.sent_ns, np.int64),
        np.frombuffer(result.answered_ns, np.int64),
        np.frombuffer(result.statuses, np.int16),
        np.frombuffer(result.held, np.uint8),
        result.bodies,
    )
