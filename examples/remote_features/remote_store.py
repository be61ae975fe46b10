"""A store of one's own: features of a remote service over HTTP, in the form of Tecton's API.

    POST /api/v1/feature-service/get-features
    {"params": {"workspaceName": "prod", "featureServiceName": "fraud", "joinKeyMap": {"customer_id": "4021"},
                "metadataOptions": {"includeNames": true, "includeEffectiveTimes": true}}}

    {"result": {"features": [12.5, "3"]},
     "metadata": {"features": [{"name": "customer_profile.avg_amount", "effectiveTime": "2026-01-05T00:00:00Z"}, …]}}

One POST an entity, whatever the number of its views, side by side. A connection on which anything went wrong, a batch
that ran out of time included, is closed: its reply would be another's.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.rows import RowCodec

CONNECTIONS_MAX: Final = 32
HEAD_BYTES_MAX: Final = 65_536
_PATH: Final = "/api/v1/feature-service/get-features"
_KEY: Final = re.compile(rb'\{(\w+):(?:(-?\d+)|"(.*)")\}(\w+:[0-9a-f]{8})', re.DOTALL)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Told(msgspec.Struct):
    """What is said of one feature."""

    name: str
    effective_time: str | None = msgspec.field(default=None, name="effectiveTime")


class _Metadata(msgspec.Struct):
    features: list[_Told]


class _Result(msgspec.Struct):
    features: list[Any]


class _Answer(msgspec.Struct):
    """The part of an answer that is read."""

    result: _Result
    metadata: _Metadata


class RemoteFeatures:
    """Reads the features of some views: `features+http://host:port/WORKSPACE/SERVICE`.

    A feature is called `view.column` there, both in snake case. token: of the service's API key.
    """

    network: Final = True

    def __init__(self, url: str, views: Iterable[type[BatchFeatureView]], clock: Clock, token: str = "") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "localhost", parts.port or 80
        self._workspace, _, self._service = parts.path.strip("/").partition("/")
        if not self._service:
            raise StoreError("the URL names no feature service", where=url,
                             next="write features+http://host/WORKSPACE/SERVICE")  # fmt: skip
        self._views = {_end_of(codec): codec for codec in (RowCodec(view.spec) for view in views)}
        self._clock = clock
        self._token = token
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)

    async def open(self) -> None:
        """Do nothing: connections are made when they are needed, and kept."""

    def close(self) -> None:
        """Let go of the connections."""
        while self._idle:
            self._idle.pop()[1].close()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the packed row under each key, in order; None for what the service does not have."""
        left_s = (deadline_ns - self._clock.now_ns()) / NS_PER_S
        if left_s <= 0:
            raise TimeoutError("no time left to ask the feature service")
        matches = [_KEY.fullmatch(key) for key in keys]
        entities = {match.group(1, 2, 3): None for match in matches if match is not None and match[4] in self._views}
        tasks = [asyncio.ensure_future(self._ask(*entity)) for entity in entities]
        try:
            async with asyncio.timeout(left_s):
                found = dict(zip(entities, await asyncio.gather(*tasks), strict=True))
        except TimeoutError:
            raise TimeoutError("the feature service did not answer in time") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ConnectionError(f"{self._host}:{self._port}: {error}") from None
        finally:
            for task in tasks:  # gather leaves those beside a failed one running, without a deadline
                task.cancel()
        try:
            return [
                None
                if match is None or match[4] not in self._views
                else self._pack(self._views[match[4]], match, found[match.group(1, 2, 3)])
                for match in matches
            ]
        except (TypeError, ValueError, OverflowError) as error:
            raise self._unreadable(error) from None

    async def _ask(self, entity: bytes, number: bytes | None, text: bytes | None) -> dict[str, Any]:
        """Return the features of one entity by their name, each with its value and its time."""
        codec = next(codec for codec in self._views.values() if codec.spec.entity.name == entity.decode())
        entity_id = (text if number is None else number).decode()  # type: ignore[union-attr]
        body = msgspec.json.encode({
            "params": {
                "workspaceName": self._workspace,
                "featureServiceName": self._service,
                "joinKeyMap": {codec.spec.entity.key: entity_id},
                "metadataOptions": {"includeNames": True, "includeEffectiveTimes": True},
            }
        })  # fmt: skip
        answer = await self._post(body)
        try:
            told = msgspec.json.decode(answer, type=_Answer)
            features = zip(told.metadata.features, told.result.features, strict=True)
            return {each.name: (value, each.effective_time) for each, value in features}
        except ValueError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(f"the answer cannot be read: {error}", where=f"{self._host}:{self._port}",
                          next="see that it is a feature service, with types as in the views")  # fmt: skip

    async def _post(self, body: bytes) -> bytes:
        """Return the body of the answer. Raises StoreError for a refusal, ConnectionError where it may pass."""
        head = (
            f"POST {_PATH} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Tecton-key {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with self._free:
            while self._idle and self._idle[-1][0].at_eof():
                self._idle.pop()[1].close()
            connection = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
            reader, writer = connection
            is_whole = False
            try:
                writer.write(head.encode() + body)
                told = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(told)
                if length is None:
                    raise ConnectionError("an answer of unknown length")
                answer = await reader.readexactly(int(length[1]))
                is_whole = b"connection: close" not in told.lower()
            finally:
                if is_whole:
                    self._idle.append(connection)
                else:
                    writer.close()
        status = int(told.split(b" ", 2)[1])
        if status == 429 or status >= 500:
            raise ConnectionError(f"it answers {status}")
        if status != 200:
            what, where = f"the feature service refused: {status} {answer[:200]!r}", f"{self._host}:{self._port}"
            raise StoreError(what, where=where,
                             next="see that the service has these join keys, and that the token is right")  # fmt: skip
        return answer

    def _pack(self, codec: RowCodec, match: re.Match[bytes], features: dict[str, Any]) -> bytes | None:
        """Return one view's row of an entity; None where the service has none of its features."""
        view = _snake(codec.spec.name)
        found = {column: features.get(f"{view}.{column.name}", (None, None)) for column in codec.spec.columns}
        if all(value is None for value, _ in found.values()):
            return None
        times = [_ns(time) for _, time in found.values() if time is not None]
        entity_id = int(match[2]) if match[3] is None else match[3].decode()
        # It sends int64 as text. A null is served as the column's default.
        columns = {column.name: [None if value is None else _cast(column.dtype.kind, value)]
                   for column, (value, _) in found.items()}  # fmt: skip
        wall_ns = self._clock.wall_ns()
        return codec.pack([entity_id], columns, min(times, default=wall_ns), wall_ns)[0]


def opens(*views: type[BatchFeatureView]) -> Any:
    """Return what `tr.register_store` wants: opens the URL of a service that has these views."""

    def open_remote(url: str, clock: Clock) -> RemoteFeatures:
        return RemoteFeatures(url, views, clock, os.environ.get("FEATURE_SERVICE_TOKEN", ""))

    return open_remote


def _end_of(codec: RowCodec) -> bytes:
    """Return what the keys of a view end with."""
    return codec.key(0).rpartition(b"}")[2]


def _cast(kind: str, value: Any) -> Any:
    casts: dict[str, Any] = {"i": int, "u": int, "f": float, "b": bool, "O": str}
    return casts[kind](value)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _ns(time: str) -> int:
    return int(datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()) * NS_PER_S
