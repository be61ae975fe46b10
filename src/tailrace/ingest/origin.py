"""Where events come from, by a text: `redis://HOST/DB?stream=KEY`, `kafka://BROKERS/TOPIC`, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from tailrace.errors import SetupError, StoreError
from tailrace.features.stores.redis_address import RedisAddress, without_password
from tailrace.features.streams import Stream
from tailrace.ingest.consumer import Consumer

ORIGINS_MAX: Final = 64
"""Of one server."""
_NEXT: Final = "write redis://HOST:PORT/DB?stream=KEY, or kafka://HOST:PORT,HOST:PORT/TOPIC"


def file_of(origin: str) -> Path | None:
    """Return the file that a text names, None where it names a broker."""
    return None if "://" in origin else Path(origin)


@dataclass(frozen=True, slots=True)
class BrokerOrigin:
    """A stream that a broker keeps.

    url: of Redis, or `kafka://` with its brokers; it may have a password. shown: what may be told of it. key: the Redis
    stream or the Kafka topic; empty: it is called as the stream is.
    """

    url: str
    shown: str
    key: str

    @staticmethod
    def parse(text: str) -> BrokerOrigin:
        """Return the origin that a text names. Raises SetupError for one that names none, or needs what is missing."""
        shown = without_password(text)
        try:
            parts = urlsplit(text)
            query = dict(parse_qsl(parts.query))
        except ValueError:
            raise SetupError("not an address of a broker", where=shown, next=_NEXT) from None
        if parts.scheme in {"redis", "rediss"}:
            key, url = query.pop("stream", ""), urlunsplit(parts._replace(query=""))
            _refuse_left(query, parts.query, shown)
            try:
                shown = RedisAddress.parse(url).url
            except StoreError as error:  # of a URL that has lost its query, of which a password may be a part
                raise SetupError(error.what, where=shown, next=_NEXT) from None
            return BrokerOrigin(url, f"{shown}?stream={key}" if key else shown, key)
        if parts.scheme == "kafka":
            if "@" in text:
                raise SetupError("Kafka's brokers are entered without a password", where=shown, next=_NEXT)
            _refuse_left(query, parts.query, shown)
            _check_brokers(parts.netloc, shown)
            return BrokerOrigin(f"kafka://{parts.netloc}", shown, parts.path.strip("/"))
        raise SetupError(f"no events come from {parts.scheme!r}", where=shown, next=f"{_NEXT}, or a file's path")

    def open(self, stream: Stream, *, group: str, consumer: str | None = None) -> Consumer:
        """Return what brings the events of a stream. consumer: its name in the group, where Redis keeps one.

        Raises SourceError for a broker that cannot be reached.
        """
        key = self.key or stream.name
        scheme, _, brokers = self.url.partition("://")
        if scheme == "kafka":
            from tailrace.ingest.kafka import KafkaConsumer

            return KafkaConsumer(brokers, key, group=group)
        from tailrace.ingest.redis_stream import RedisStreamConsumer

        return RedisStreamConsumer(self.url, key, group=group, consumer=consumer)


@dataclass(frozen=True, slots=True)
class StreamOrigin:
    """A broker that a server follows for one of its streams. stream: its name; empty: the only one."""

    stream: str
    broker: BrokerOrigin

    @staticmethod
    def parse(text: str) -> StreamOrigin:
        """Return what `URL` or `STREAM=URL` names. Raises SetupError, for a file too: it ends, a server does not."""
        name, equals, url = text.partition("=")
        if not equals or "://" in name:
            name, url = "", text
        if file_of(url) is not None:
            raise SetupError("a server follows a broker, and a file ends", where=without_password(url),
                             next=f"count it in with tailrace ingest, or {_NEXT}")  # fmt: skip
        return StreamOrigin(name, BrokerOrigin.parse(url))

    @property
    def shown(self) -> str:
        """What may be told of it."""
        return f"{self.stream}={self.broker.shown}" if self.stream else self.broker.shown


def stream_named(streams: Sequence[Stream], name: str, *, where: str, option: str) -> Stream:
    """Return the stream of a name; of no name, the only one. Raises SetupError. option: by which one is named."""
    known = {each.name: each for each in streams}
    if not name and len(known) == 1:
        return streams[0]
    if name in known:
        return known[name]
    if not known:
        raise SetupError("no stream view is declared", where=where, next="declare one, as tr.StreamFeatureView")
    what = f"no stream is called {name!r}" if name else f"there are {len(known)} streams"
    raise SetupError(what, where=where, next=f"name one with {option}: {', '.join(known)}")


def check_origins(origins: Sequence[StreamOrigin], streams: Sequence[Stream]) -> None:
    """Raise SetupError for an origin of no stream, or two that would take each other's events."""
    taken = set()
    for origin in origins:
        stream = followed_stream(origin, streams)
        place = (origin.broker.url, origin.broker.key or stream.name)
        if place in taken:
            raise SetupError("events of one origin would be shared out between two consumers", where=origin.shown,
                             next="name each origin once")  # fmt: skip
        taken.add(place)


def followed_stream(origin: StreamOrigin, streams: Sequence[Stream]) -> Stream:
    """Return the stream that a server follows there. Raises SetupError where there is none."""
    return stream_named(streams, origin.stream, where=origin.shown, option="--ingest STREAM=URL")


def _check_brokers(brokers: str, shown: str) -> None:
    """Raise SetupError for what is no list of brokers, or where the client of Kafka is not installed."""
    for broker in brokers.split(","):
        host, colon, port = broker.rpartition(":")
        if not (host and port.isdecimal() and int(port) < 1 << 16) if colon else not broker:
            raise SetupError(f"{broker!r} is no broker", where=shown, next=_NEXT)
    if find_spec("confluent_kafka") is None:
        raise SetupError("Kafka needs confluent-kafka", where=shown, next="pip install 'tailrace[kafka]'")


def _refuse_left(query: dict[str, str], text: str, shown: str) -> None:
    if query:
        named = "" if "@" in text else f" {min(query)!r}"  # it may be a password's end
        raise SetupError(f"the address has an option{named} that is not known", where=shown, next=_NEXT)
