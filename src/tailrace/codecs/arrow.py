"""The Arrow codec: a stream of record batches to requests, a row each; answers to a stream (Arrow IPC, streaming form).

Columns become Python values at once and rows dicts, which are validated as those of JSON are: one validation whatever
the codec. Lengths and offsets are looked at before anything is made of them (`arrow_messages`, `validate`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect as shape

from tailrace.codecs.arrow_form import column_of, columns_of
from tailrace.codecs.arrow_messages import check_messages
from tailrace.codecs.arrow_values import ColumnValues
from tailrace.codecs.decoder import refusal_of
from tailrace.codecs.msgpack import path_of_boundless
from tailrace.errors import InvalidRequestError, MalformedBodyError, ServingError, SetupError
from tailrace.request.schema import Request, bounded_type

CONTENT_TYPE: Final = b"application/vnd.apache.arrow.stream"
REASON_MAX: Final = 200
"""Characters of what pyarrow says is wrong."""


class ArrowCodec:
    """Reads arrays of requests of one type and writes their answers. array_max: requests in one array.

    body_bytes_max: what a stream may unpack to. request_type: of the requests that come out, the declared one or below
    it. decode: see `Codec`; gives a list, of one row too. Raises SetupError without pyarrow.
    """

    def __init__(
        self, request_type: type[Request], response_type: type, *, array_max: int, body_bytes_max: int,
        content_type: bytes = CONTENT_TYPE,
    ) -> None:  # fmt: skip
        try:
            import pyarrow as pa
        except ImportError:
            raise SetupError("Arrow needs pyarrow", where="--arrow",
                             next="pip install 'tailrace[arrow]', or leave the option out") from None  # fmt: skip
        info = shape.type_info(request_type)
        assert isinstance(info, shape.StructType)
        self.content_type = content_type
        self.request_type = bounded_type(request_type)
        self.decode: Callable[[bytes], Any] = self._decode
        self._known = None if info.forbid_unknown_fields else {field.encode_name for field in info.fields}
        self._array_max, self._body_bytes_max = array_max, body_bytes_max
        self._answers = columns_of(response_type)
        names = {field.name: field.encode_name for field in msgspec.structs.fields(response_type)}
        self._schema: Any = pa.schema([pa.field(names[name], kind) for name, kind in self._answers.items()])
        self._options: Any = pa.ipc.IpcReadOptions(use_threads=False)
        self._decode(self.encode([]))  # which loads pandas, where it is there: half a second that no call should take

    def _decode(self, body: bytes) -> Any:
        """See `Codec`."""
        try:
            check_messages(body, self._body_bytes_max)
            rows, is_boundless = self._rows(body)
            if is_boundless and (path := path_of_boundless(rows, "$")) is not None:
                return InvalidRequestError("Expected a finite number", where=path)
            return msgspec.convert(rows, list[self.request_type])  # type: ignore[name-defined]
        except Exception as error:
            return _refusal_of(error)

    def encode(self, value: Any) -> bytes:
        """Return the stream of an answer, or that of many: a row each."""
        import pyarrow as pa

        answers = value if type(value) is list else [value]
        columns = [column_of([getattr(each, name) for each in answers], kind) for name, kind in self._answers.items()]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=self._schema))
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the stream of each answer."""
        return list(map(self.encode, values))

    def _rows(self, body: bytes) -> tuple[list[dict[str, Any]], bool]:
        """Return the rows of a stream, and whether a number is among them that is not finite."""
        import pyarrow as pa

        rows: list[dict[str, Any]] = []
        values = ColumnValues(self._body_bytes_max)
        with pa.ipc.open_stream(pa.BufferReader(body), options=self._options) as reader:
            names = reader.schema.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise MalformedBodyError(f"the column {twice!r} is there twice", where="$")
            for batch in reader:
                if len(rows) + batch.num_rows > self._array_max:
                    raise InvalidRequestError(f"Expected `array` of length <= {self._array_max}", where="$")
                batch.validate(full=True)
                kept = [name for name in names if self._known is None or name in self._known]
                columns = [values.of(batch.column(name), name) for name in kept]
                if columns:
                    rows += [dict(zip(kept, each)) for each in zip(*columns)]  # noqa: B905 - as long as the batch
                else:
                    rows += [{} for _ in range(batch.num_rows)]
        return rows, values.is_boundless


def _refusal_of(error: Exception) -> ServingError:
    """Return what a caller gets to know of an error in decoding."""
    import pyarrow as pa

    if isinstance(error, pa.ArrowException | struct.error | OSError | EOFError):
        reason = (str(error).splitlines() or [type(error).__name__])[0][:REASON_MAX]
        return MalformedBodyError(f"the body is no Arrow stream: {reason}", where="$")
    return refusal_of(error)
