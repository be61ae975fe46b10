"""A Kafka cluster for tests: librdkafka's own mock of it, in a process of its own, fed by lines of its standard input.

It says on its first line where it is. Each line, PARTITION and an event, is produced; "flush" is answered once all
are. A partition keeps 5 MiB.
"""

from __future__ import annotations

import sys

from confluent_kafka import Producer


def say(line: str) -> None:
    """Write a line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(topic: str) -> None:
    """Run the cluster until standard input ends."""
    producer = Producer({"bootstrap.servers": "localhost:1", "test.mock.num.brokers": 1, "linger.ms": 1})
    brokers = producer.list_topics(topic, timeout=10).brokers
    say(",".join(f"{broker.host}:{broker.port}" for broker in brokers.values()))
    for line in sys.stdin:
        if line == "flush\n":
            producer.flush(10)
            say("flushed")
            continue
        partition, _, event = line.rstrip("\n").partition(" ")
        producer.produce(topic, event.encode(), partition=int(partition))
        producer.poll(0)


if __name__ == "__main__":
    main(sys.argv[1])
