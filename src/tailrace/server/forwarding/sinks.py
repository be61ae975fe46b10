"""The seam for where the prediction log is sent on to, and who comes through it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from tailrace.errors import RegistryError
from tailrace.server.forwarding.address import SinkAddress

ANSWER_S_MAX: Final = 10.0
"""How long a broker may take for one part."""
_CHUNK_BYTES: Final = 1 << 20


class Line(NamedTuple):
    """One line. key: the request id, empty where there is none. value: JSON."""

    key: bytes
    value: bytes


class SinkError(Exception):
    """What was sent has not arrived for certain: it is sent again."""


class LineSink(Protocol):
    """Takes lines. When `send` returns they are kept there; where it raises SinkError some may be."""

    def send(self, lines: Sequence[Line]) -> int:
        """Have lines kept, in their order; return how many it will never take."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class RedisSink:
    """Adds an entry a line to a stream, with the line in its field `event`."""

    def __init__(self, address: SinkAddress) -> None:
        import redis

        self._error = redis.RedisError
        self._key, self._entries_max = address.key, address.entries_max or None
        self._client: Any = redis.Redis.from_url(address.url, socket_connect_timeout=5, socket_timeout=ANSWER_S_MAX)

    def send(self, lines: Sequence[Line]) -> int:
        """Add the lines; the oldest go where the stream has more than it may."""
        pipe = self._client.pipeline(transaction=False)
        for line in lines:
            pipe.xadd(self._key, {b"event": line.value}, maxlen=self._entries_max, approximate=True)
        try:
            pipe.execute()
        except self._error as error:
            raise SinkError(str(error)) from None
        return 0

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class KafkaSink:
    """Sends a message a line to a topic, keyed by the request id, and waits until all replicas in sync have it."""

    def __init__(self, address: SinkAddress) -> None:
        import confluent_kafka

        self._error = confluent_kafka.KafkaException
        self._too_large = confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE
        self._topic = address.key
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": address.url.partition("://")[2],
                "enable.idempotence": True,
                "message.timeout.ms": int(ANSWER_S_MAX * 1e3),
                "linger.ms": 5,
                "compression.type": "lz4",
                "log_level": 2,
                "error_cb": lambda error: None,  # what fails is told by each message
            }
        )
        self._fault, self._refused = "", 0

    def send(self, lines: Sequence[Line]) -> int:
        """Send the lines, and wait for them. One that is larger than the brokers take is never taken."""
        self._fault, self._refused = "", 0
        try:
            for line in lines:
                self._produce(line)
            left = self._producer.flush(ANSWER_S_MAX + 1)
        except (self._error, BufferError) as error:
            self._fault, left = str(error), 1
        if left or self._fault:
            self._producer.purge()
            self._producer.flush(1.0)
            raise SinkError(self._fault or "the brokers do not answer")
        return self._refused

    def close(self) -> None:
        """Let go of the brokers."""
        self._producer.purge()

    def _produce(self, line: Line) -> None:
        try:
            self._producer.produce(self._topic, line.value, line.key or None, on_delivery=self._note)
        except self._error as error:
            self._note(error.args[0], None)

    def _note(self, error: Any, _: Any) -> None:
        if error is None:
            return
        if error.code() == self._too_large:
            self._refused += 1
        else:
            self._fault = str(error)


class FileSink:
    """Puts whole files into a bucket, or where else fsspec can, as PIPELINE/HOUR/NAME. Raises OSError."""

    def __init__(self, address: SinkAddress) -> None:
        from tailrace.release.registry.opening import open_storage

        if address.url.startswith("file://"):  # a directory that is there already says itself who may read it
            Path(address.url.removeprefix("file://")).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._storage = open_storage(address.url)

    def put(self, root: Path, path: Path) -> None:
        """Put a file, under its path below the log's directory. Raises SinkError; FileNotFoundError for one swept."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        try:
            self._storage.upload(path.relative_to(root).as_posix(), path, digest.hexdigest(), lambda count: None)
        except (OSError, RegistryError) as error:
            if not path.exists():
                raise FileNotFoundError(str(path)) from None
            raise SinkError(str(error)) from None


def open_line_sink(address: SinkAddress) -> LineSink:
    """Return what takes lines at an address; nothing is asked yet."""
    return KafkaSink(address) if address.url.startswith("kafka") else RedisSink(address)
