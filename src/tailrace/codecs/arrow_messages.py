"""The messages of an Arrow stream, looked at before they are read: how many, and how much they unpack to.

A buffer of a compressed record batch says how long it is once it is unpacked, and a reader sets so much aside. So that
is summed up first. See https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format; the metadata is
a table of FlatBuffers, which pyarrow has verified when a message is there.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from tailrace.errors import BodyTooLargeError, MalformedBodyError

MESSAGES_MAX: Final = 256
"""Of one stream, with its schema: each takes 20 µs, however little is in it."""

_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2
_HEADER_TYPE, _HEADER = 1, 2  # of a message
_DICTIONARY_DATA, _IS_DELTA = 1, 2  # of a dictionary's batch
_BUFFERS, _COMPRESSION = 2, 3  # of a record batch
_i32, _u32, _u16 = Struct("<i").unpack_from, Struct("<I").unpack_from, Struct("<H").unpack_from
_buffer = Struct("<qq")
_length = Struct("<q").unpack_from


def check_messages(body: bytes, bytes_max: int) -> None:
    """Raise BodyTooLargeError for a stream that unpacks to more, MalformedBodyError for one that is none.

    Raises pyarrow's errors and struct.error for what cannot be read.
    """
    import pyarrow as pa

    source = pa.BufferReader(body)
    reader = pa.ipc.MessageReader.open_stream(source)
    unpacked = 0
    for _ in range(MESSAGES_MAX):
        try:
            message = reader.read_next_message()
        except StopIteration:
            break
        unpacked += _unpacked_bytes(message.metadata.to_pybytes(), message.body)
        if unpacked > bytes_max:
            what = f"the body is over {bytes_max} bytes once it is unpacked"
            raise BodyTooLargeError(what, next="send fewer a call")
    else:
        raise MalformedBodyError(f"the stream has over {MESSAGES_MAX} messages", where="$", next="send fewer batches")
    if source.tell() != len(body):
        raise MalformedBodyError("something follows the end of the stream", where="$")


def _unpacked_bytes(metadata: bytes, body: Any) -> int:
    """Return how many bytes the buffers of a message unpack to; 0 where they are not compressed."""
    table = _u32(metadata, 0)[0]
    kind = metadata[at] if (at := _place(metadata, table, _HEADER_TYPE)) else 0
    if kind not in (_RECORD_BATCH, _DICTIONARY_BATCH):
        return 0
    batch = _table(metadata, table, _HEADER)
    if kind == _DICTIONARY_BATCH:
        if (at := _place(metadata, batch, _IS_DELTA)) and metadata[at]:
            raise MalformedBodyError("a dictionary grows within the stream", where="$", next="send it whole, once")
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    if not _place(metadata, batch, _COMPRESSION) or body is None:
        return 0
    buffers = _table(metadata, batch, _BUFFERS)
    total = 0
    for place in range(_u32(metadata, buffers)[0]):
        offset, length = _buffer.unpack_from(metadata, buffers + 4 + place * _buffer.size)
        if length:
            told = _length(body.slice(offset, 8).to_pybytes() if 0 <= offset <= body.size else b"")[0]
            total += length if told < 0 else told
    return total


def _place(metadata: bytes, table: int, field: int) -> int:
    """Return where a field of a table is; 0 where it has its default."""
    fields = table - _i32(metadata, table)[0]
    within = 4 + 2 * field
    offset = _u16(metadata, fields + within)[0] if within < _u16(metadata, fields)[0] else 0
    return table + offset if offset else 0


def _table(metadata: bytes, table: int, field: int) -> int:
    """Return where the table, or the list, begins that a field of a table leads to."""
    place = _place(metadata, table, field)
    if not place:
        raise MalformedBodyError("a message of the stream lacks a part", where="$")
    return place + int(_u32(metadata, place)[0])
