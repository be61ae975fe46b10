"""Both clients behind one face, so that a test holds for either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tailrace.client import AsyncClient, Client, Options


class Turned:
    """An `AsyncClient` whose calls are turned to their end."""

    def __init__(self, urls: Any, options: Options) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(urls, options)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Call, and wait."""
        return self._runner.run(self._client.predict(*args, **kwargs))

    def predict_each(self, *args: Any, **kwargs: Any) -> Any:
        """Call, and return all answers."""

        async def collect() -> list[Any]:
            return [each async for each in self._client.predict_each(*args, **kwargs)]

        return self._runner.run(collect())

    def close(self) -> None:
        """Close the connections and the loop."""
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Return what makes a client, once of each kind."""
    kind: Any = Client if request.param == "sync" else Turned
    with ExitStack() as stack:

        def make(urls: Any, **options: Any) -> Any:
            client = kind(urls, Options(**options))
            stack.callback(client.close)
            return client

        yield make
