"""Reflection: what services there are, and the files that declare their messages, for grpcurl and its like.

It names every pipeline and field, so where calls need a key it does, as `/openapi.json` does over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tailrace.errors import MalformedBodyError
from tailrace.server.grpc.service import Service
from tailrace.server.grpc.stream import Stream

NAMES: Final = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""Of one service: its messages are the same in both versions."""


def reflection_services(services: Sequence[Service]) -> list[Service]:
    """Return the services that tell of these, and of themselves."""
    own = reflection_pb2.DESCRIPTOR.serialized_pb
    pool = DescriptorPool()
    for file in dict.fromkeys([*(file for each in services for file in each.files), own]):
        pool.AddSerializedFile(file)
    teller = Reflection(reflection.aio.ReflectionServicer([*(each.name for each in services), NAMES[0]], pool))
    return [Service(name, streams={"ServerReflectionInfo": teller.tell}, asks_key=True) for name in NAMES]


class Reflection:
    """Answers what is asked of descriptors, by grpcio's own servicer."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    async def tell(self, stream: Stream) -> None:
        """Answer each question in its turn."""
        async for answer in self._servicer.ServerReflectionInfo(_questions(stream), None):
            await stream.write(answer.SerializeToString())


async def _questions(stream: Stream) -> AsyncIterator[Any]:
    async for message in stream.messages():
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(message)
        except DecodeError as error:
            raise MalformedBodyError("the message is no ServerReflectionRequest") from error
