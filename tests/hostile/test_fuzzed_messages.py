"""The messages of the Open Inference Protocol over gRPC, damaged: tensors or the caller's fault, as over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from test_fuzzed_decoders import FEW, MODEL, any_body, check_plain, in_time, said

from tailrace.errors import ServingError

pytest.importorskip("grpc")
from google.protobuf.message import DecodeError

from tailrace.server.oip.grpc_asked import GrpcAsked, GrpcReader
from tailrace.server.oip.grpc_messages import message_class


def test_sound_message_is_read() -> None:
    """What is damaged is sound to begin with."""
    assert not isinstance(read_message(MESSAGE), ServingError)


def sound_message() -> bytes:
    """Return tensors as a message of gRPC."""
    message = message_class("ModelInferRequest")(model_name="plain")
    for name, datatype in (("amount", "FP64"), ("count", "INT64"), ("name", "BYTES")):
        message.inputs.add(name=name, datatype=datatype, shape=[1])
    message.raw_input_contents.extend([b"\0" * 6 + b"\xf8\x3f", b"\x01" + b"\0" * 7, b"\x01\0\0\0a"])
    return bytes(message.SerializeToString())


MESSAGE = sound_message()
READER = GrpcReader(MODEL)
"""One for all, since it keeps what messages have in common."""


def read_message(data: bytes, reader: GrpcReader = READER) -> Any:
    """Return the requests that a message is; None where the library refuses it, before it is ours."""
    try:
        message = message_class("ModelInferRequest").FromString(data)
    except DecodeError:
        return None
    asked = GrpcAsked(reader, message, data)
    try:
        asked.read()
    except ServingError as error:
        return error
    return asked.requests


@given(data=any_body([MESSAGE]))
@FEW
def test_damaged_message_of_tensors_is_refused_or_read(data: bytes) -> None:
    """The same over gRPC, also by a reader that has read others before."""
    found = in_time(lambda: read_message(data))
    if found is not None:
        check_plain(found)
        assert said(found) == said(read_message(data, GrpcReader(MODEL)))
