"""The Protocol Buffers codec: bodies to validated requests or a refusal, answers to bodies.

It reads by the numbers that `tailrace export proto` keeps beside the pipeline's file (`proto_lock`). Our own reader
gives plain values, which are validated as those of JSON are; a library's would drop a second value of a field unseen.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace.codecs.decoder import refusal_of
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import ARRAY_NUMBER, Lock, fitting, lock_path
from tailrace.codecs.proto_reader import LENGTH
from tailrace.codecs.proto_values import Spent, WireError, varint_of
from tailrace.codecs.proto_wiring import message_readers
from tailrace.codecs.proto_writer import message_writers
from tailrace.errors import InvalidRequestError, MalformedBodyError, ServingError
from tailrace.request.schema import Request, bounded_type

CONTENT_TYPES: Final = (b"application/x-protobuf", b"application/protobuf")
"""The first is what most clients say, the second is registered at IANA; each is answered with its own."""

FIELDS_MAX: Final = 32_768
"""Of one body, with those of the messages within it; more where an array of requests may have more. Doubles that are
read at once are one. 1 MiB can hold half a million, which would take half a second."""

ARRAY_TAG: Final = varint_of(ARRAY_NUMBER << 3 | LENGTH)


class ProtobufCodec:
    """Reads the requests of one type and writes their answers. array_max: requests in one array.

    lock: has the numbers of both types. request_type: of the requests that come out, the declared one or below it.
    Raises SetupError for a type that no message can have.
    """

    def __init__(
        self, request_type: type[Request], response_type: type, lock: Lock, *, array_max: int,
        content_type: bytes = CONTENT_TYPES[0],
    ) -> None:  # fmt: skip
        forms = message_forms(request_type, response_type)
        self.content_type = content_type
        self.request_type = bounded_type(request_type)
        fields = array_max * (len(forms[request_type.__name__].fields) + 1)
        self._spent = Spent(max(FIELDS_MAX, fields))
        self._reader = message_readers(forms, lock, self._spent)[request_type.__name__]
        self._read = self._reader.read
        self._array_max = array_max
        self._write = message_writers(forms, lock)[response_type.__name__].write
        self.decode: Callable[[bytes], Any] = self._decode

    def _decode(self, body: bytes) -> Any:
        """See `Codec`. An array is told by its first bytes: no request has a field of that number."""
        self._spent.fields = 0
        try:
            if body.startswith(ARRAY_TAG):
                return self._decode_array(body)
            return msgspec.convert(self._read(body, 0, len(body)), self.request_type)
        except Exception as error:
            return _refusal_of(error)

    def encode(self, value: Any) -> bytes:
        """Return the message of an answer, or that of many."""
        if type(value) is not list:
            return self._write(value)
        return b"".join([ARRAY_TAG + varint_of(len(each)) + each for each in map(self._write, value)])

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the message of each answer."""
        return list(map(self.encode, values))

    def _decode_array(self, body: bytes) -> list[Any] | ServingError:
        """Return the requests of an array. Stops at one more than there may be, whatever follows."""
        found: list[Any] = []
        at, end, begins = 0, len(body), len(ARRAY_TAG)
        while at < end:
            if not body.startswith(ARRAY_TAG, at):
                raise WireError("an array has items, and nothing else", malformed=True)
            if len(found) == self._array_max:
                raise WireError(f"Expected `array` of length <= {self._array_max}")
            try:
                values, at = self._reader.take(body, at + begins, end)
            except WireError as fault:
                fault.path.append(f"[{len(found)}]")
                raise
            found.append(values)
        return msgspec.convert(found, list[self.request_type])  # type: ignore[name-defined]


def protobuf_codecs(
    pipeline: str, request_type: type[Request], response_type: type, folder: Path, *, array_max: int
) -> list[ProtobufCodec]:
    """Return the codecs of a pipeline; none where no numbers of it are kept in its folder.

    Raises SetupError where its types are no longer those of the numbers.
    """
    path = lock_path(folder, pipeline)
    if not path.exists():
        return []
    lock = fitting(message_forms(request_type, response_type), path)
    if lock is None:
        return []
    return [
        ProtobufCodec(request_type, response_type, lock, array_max=array_max, content_type=each)
        for each in CONTENT_TYPES
    ]


def _refusal_of(error: Exception) -> ServingError:
    """Return what a caller gets to know of an error in decoding."""
    match error:
        case WireError(malformed=False):
            return InvalidRequestError(error.what, where="$" + "".join(reversed(error.path)))
        case WireError():
            return MalformedBodyError(error.what, where="$" + "".join(reversed(error.path)))
        case IndexError() | struct.error():
            return MalformedBodyError("the body is cut short", where="$")
    return refusal_of(error)
