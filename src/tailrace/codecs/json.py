"""The JSON codec: bodies to validated requests or a refusal, answers to bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tailrace.batch import JSON
from tailrace.codecs.decoder import RequestDecoder
from tailrace.request.schema import Request


class JsonEncoder:
    """Turns values into JSON."""

    content_type = JSON

    def __init__(self) -> None:
        encoder = msgspec.json.Encoder()
        self.encode = encoder.encode
        self._encode_lines = encoder.encode_lines

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the JSON of each value. JSON holds no bare newline, so one call serves all (bench/layers.py)."""
        bodies = self._encode_lines(values).split(b"\n")
        bodies.pop()
        if len(bodies) != len(values):  # but for a msgspec.Raw, which keeps what a caller sent
            return list(map(self.encode, values))
        return bodies


class JsonCodec(JsonEncoder):
    """Reads the requests of one type and writes their answers. array_max: requests in one array.

    request_type: of the requests that come out, the declared one or below it.
    """

    def __init__(self, request_type: type[Request], *, array_max: int) -> None:
        super().__init__()
        decoder = RequestDecoder(request_type, array_max=array_max)
        self.request_type = decoder.request_type
        self.decode = decoder.decode
