"""The HTTP servers that the tests of the transport talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from http_server import PIPELINES, RawClient, RunningServer, ample

from tailrace.pipeline import Pipeline


@pytest.fixture(scope="session")
def http_server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve the small pipelines with the usual limits; shared, so its clock stands still."""
    pipelines = [ample(pipeline_of(name)) for name in PIPELINES]
    with RunningServer(pipelines) as server:
        yield server


@pytest.fixture
def client(http_server: RunningServer) -> Iterator[RawClient]:
    """Return a client of the shared server."""
    with http_server.connect() as client:
        yield client


@pytest.fixture
def serve(pipeline_of: Callable[[str], Pipeline]) -> Iterator[Callable[..., RunningServer]]:
    """Return what starts a server of its own with other limits; `names` are its pipelines."""
    with ExitStack() as stack:

        def start(*names: str, **options: Any) -> RunningServer:
            pipelines = [ample(pipeline_of(name)) for name in names or ("log",)]
            return stack.enter_context(RunningServer(pipelines, **options))

        yield start
