"""Events from a Kafka topic, with offsets committed by hand: once the events before them are counted, never sooner."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tailrace.errors import SourceError
from tailrace.ingest.consumer import Arrived

MESSAGES_MAX: Final = 512
"""Read at once, and so counted in one update: for as long an ingester may wait that writes the same store."""
SESSION_MS: Final = 10_000
"""How long a consumer that died keeps its partitions from the others of its group."""
ASK_S: Final = 10.0
"""How long brokers may take to answer before they count as gone."""
_FIRST_WAIT_S: Final = 0.05


class KafkaConsumer:
    """Reads a topic for a group. brokers: "host:port,host:port". settings: of librdkafka, beside ours.

    Raises SourceError for brokers that cannot be reached.
    """

    def __init__(
        self, brokers: str, topic: str, *, group: str = "tailrace", settings: dict[str, Any] | None = None
    ) -> None:
        import confluent_kafka

        self._kafka = confluent_kafka
        self.where = f"kafka://{brokers}/{topic}"
        self._topic = topic
        self._partitions: dict[str, bool] = {}
        self._are_down = False
        own = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "session.timeout.ms": SESSION_MS,
            "partition.assignment.strategy": "cooperative-sticky",
            "error_cb": self._on_error,
            "log_level": 2,  # else it writes twenty lines a second to stderr while a broker is gone
        }
        try:
            self._consumer = confluent_kafka.Consumer({**(settings or {}), **own})
            found = self._consumer.list_topics(topic, timeout=ASK_S)
            self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
        except confluent_kafka.KafkaException as error:
            raise self._fault(error) from None
        if (fault := found.topics[topic].error) is not None:
            raise self._fault(fault)

    @property
    def partitions(self) -> Mapping[str, bool]:
        """Of each partition that is assigned, whether it was behind its end when last heard of."""
        return self._partitions

    def poll(self, wait_s: float) -> Sequence[Arrived]:
        """Return messages, those of each partition together."""
        if self._are_down:
            self._ask_again()
        messages = self._consumer.consume(MESSAGES_MAX, timeout=min(wait_s, _FIRST_WAIT_S))
        if not messages:
            messages = self._consumer.consume(1, timeout=wait_s)
        by_partition: dict[int, list[Any]] = {}
        for message in messages:
            source = f"{self._topic}/{message.partition()}"
            if (error := message.error()) is not None:
                if error.fatal():
                    raise self._fault(error)
                if error.code() == self._kafka.KafkaError._PARTITION_EOF:
                    self._partitions[source] = False
                continue
            self._partitions[source] = True
            by_partition.setdefault(message.partition() or 0, []).append(message)
        return [
            Arrived(
                f"{self._topic}/{partition}",
                [message.value() or b"" for message in own],
                [str(message.offset()) for message in own],
                own[-1],
            )
            for partition, own in by_partition.items()
        ]

    def commit(self, arrived: Sequence[Arrived]) -> None:
        """Commit the offset behind each partition's last message."""
        offsets = [
            self._kafka.TopicPartition(self._topic, each.token.partition(), each.token.offset() + 1) for each in arrived
        ]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except self._kafka.KafkaException as error:
            if error.args[0].fatal():
                raise self._fault(error) from None  # else the partition is another's by now, which counts them again

    def lag(self) -> int | None:
        """Return how many messages of this consumer's partitions are yet to come, None before it has any."""
        if not self._partitions:
            return None
        if not any(self._partitions.values()):
            return 0
        lag = 0
        with contextlib.suppress(self._kafka.KafkaException):
            for place in self._consumer.position(self._consumer.assignment()):
                _, end = self._consumer.get_watermark_offsets(place, timeout=1, cached=True)
                lag += max(0, end - max(place.offset, 0))
        return max(lag, 1)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _on_error(self, error: Any) -> None:
        """Hear that all brokers are down; of a small cluster that is said too when it closes what was idle."""
        self._are_down |= error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN

    def _ask_again(self) -> None:
        """See whether the brokers answer: their client would try for ever, and not say so."""
        try:
            self._consumer.list_topics(self._topic, timeout=ASK_S)
        except self._kafka.KafkaException as error:
            raise self._fault(error) from None
        self._are_down = False

    def _on_assign(self, consumer: Any, assigned: Sequence[Any]) -> None:
        """Hear which partitions are read from now on: what they hold is not known yet."""
        self._partitions |= {f"{self._topic}/{each.partition}": True for each in assigned}

    def _on_revoke(self, consumer: Any, revoked: Sequence[Any]) -> None:
        """Hear which partitions are another consumer's."""
        for each in revoked:
            self._partitions.pop(f"{self._topic}/{each.partition}", None)

    def _fault(self, error: Any) -> SourceError:
        return SourceError(
            f"cannot be read: {error}", where=self.where, next="see that the brokers and the topic are there"
        )
