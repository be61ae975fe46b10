"""Servers of gRPC that return a constant: `python bare_servicer.py aio|core`, which print their port.

aio: a servicer of grpcio's asyncio server, as its documentation has it, but that it reads and writes bytes. core: a
method of our own server, which has no pipeline behind it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import grpc
import uvloop

from tailrace.server.grpc.call import Desk, GrpcCall
from tailrace.server.grpc.limits import GrpcLimits
from tailrace.server.grpc.server import GrpcServer
from tailrace.server.grpc.service import Service
from tailrace.server.options import ServeOptions

ANSWER: Final = b"y" * 24
"""About as long as a decision and a score."""


async def predict(body: bytes, context: Any) -> bytes:
    """Answer."""
    return ANSWER


def answer(call: GrpcCall, body: bytes) -> bytes:
    """Answer."""
    return ANSWER


async def serve(kind: str) -> None:
    """Serve on a free port, and say which."""
    if kind == "aio":
        server = grpc.aio.server()
        methods = {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bare", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
    else:
        limits = GrpcLimits.of(ServeOptions(files=()))
        own = GrpcServer(
            [Service("bench.Bare", {"Predict": answer})], limits, Desk(lambda kind: None, time.monotonic_ns)
        )
        port = own.open("127.0.0.1:0")
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
