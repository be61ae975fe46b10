"""Where events come from, by a text: `redis://HOST/DB?stream=KEY`, `kafka://BROKERS/TOPIC`, or a file."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from tailrace.errors import SetupError
from tailrace.features.streams import Stream
from tailrace.ingest.consumer import Consumer

_NEXT = "write redis://HOST:PORT/DB?stream=KEY, kafka://HOST:PORT,HOST:PORT/TOPIC, or a file's path"


def file_of(origin: str) -> Path | None:
    """Return the file that a text names, None where it names a stream."""
    return None if "://" in origin else Path(origin)


def open_consumer(origin: str, stream: Stream, *, group: str) -> Consumer:
    """Return the consumer that a text names. Raises SetupError for what names none, SourceError."""
    parts = urlsplit(origin)
    query = dict(parse_qsl(parts.query))
    if parts.scheme in ("redis", "rediss"):
        from tailrace.ingest.redis_stream import RedisStreamConsumer

        key = query.pop("stream", stream.name)
        _refuse_left(query, origin)
        return RedisStreamConsumer(urlunsplit(parts._replace(query="")), key, group=group)
    if parts.scheme == "kafka":
        from tailrace.ingest.kafka import KafkaConsumer

        topic = parts.path.strip("/") or stream.name
        _refuse_left(query, origin)
        return KafkaConsumer(parts.netloc, topic, group=group)
    raise SetupError(f"no events come from {parts.scheme!r}", where="--from", next=_NEXT)


def _refuse_left(query: dict[str, str], origin: str) -> None:
    if query:
        raise SetupError(f"nothing is known of {min(query)!r}", where=origin.rpartition("@")[2], next=_NEXT)
