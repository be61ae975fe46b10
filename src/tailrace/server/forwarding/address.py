"""Where the prediction log is sent on to, by a text: a bucket, a Kafka topic, or a stream of Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tailrace.errors import SetupError
from tailrace.features.stores.redis_address import without_password
from tailrace.ingest.origin import BrokerOrigin

SINKS_MAX: Final = 8
"""Of one server."""
ENTRIES_MAX: Final = 100_000
"""That Redis keeps in a stream, unless told otherwise: some 100 MB."""
_BROKERS: Final = {"redis", "rediss", "kafka"}
_NEXT: Final = "write s3://BUCKET/PREFIX, kafka://HOST:PORT/TOPIC, or redis://HOST:PORT/DB?stream=KEY"


@dataclass(frozen=True, slots=True)
class SinkAddress:
    """One place. url: it may have a password. shown: what may be told of it. key: the topic, or the stream.

    entries_max: that a stream of Redis keeps; 0 for all.
    """

    url: str
    shown: str
    key: str = ""
    entries_max: int = ENTRIES_MAX

    @property
    def takes_lines(self) -> bool:
        """Whether it is sent lines as they come, not whole files."""
        return bool(self.key)

    @staticmethod
    def parse(text: str) -> SinkAddress:
        """Return the place that a text names. Raises SetupError for one that names none, or needs what is missing."""
        scheme = text.partition("://")[0]
        if scheme in _BROKERS:
            return _broker(text)
        if "://" not in text:
            raise SetupError("the log is there already" if text else "this is no place", where=text or "log_to",
                             next=f"--log names the directory; {_NEXT}")  # fmt: skip
        from tailrace.release.registry.opening import open_storage

        open_storage(text)
        return SinkAddress(text, without_password(text))


def _broker(text: str) -> SinkAddress:
    shown = without_password(text)
    try:
        parts = urlsplit(text)
        query = dict(parse_qsl(parts.query))
        entries_max = int(query.pop("maxlen", ENTRIES_MAX))
        if entries_max < 0:
            raise ValueError
    except ValueError:
        raise SetupError("not an address of a broker", where=shown, next=_NEXT) from None
    origin = BrokerOrigin.parse(urlunsplit(parts._replace(query=urlencode(query))))
    if not origin.key:
        raise SetupError("it is not said which stream or topic takes the log", where=shown, next=_NEXT)
    return SinkAddress(origin.url, origin.shown, origin.key, entries_max)


def check_sinks(sinks: Sequence[str], log: str | None) -> None:
    """Raise SetupError for a place that is none, or is named twice, or where nothing is logged."""
    if log is None:
        raise SetupError("what is sent on is kept on this machine first", where="log_to", next="give --log DIR too")
    shown = [SinkAddress.parse(sink).shown for sink in sinks]
    for each in shown:
        if shown.count(each) > 1:
            raise SetupError("the log would be sent there twice", where=each, next="name each place once")
