"""The Kafka cluster of the tests as those see it: run, and fed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def kafka(topic: str) -> Iterator[Any]:
    """Run a cluster; give its process and its brokers."""
    pytest.importorskip("confluent_kafka")
    command = [sys.executable, str(Path(__file__).with_name("mock_kafka.py")), topic]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().decode().strip()
        finally:
            process.kill()


def produce(process: Any, events: Iterable[tuple[int, bytes]]) -> None:
    """Send events, each with its partition, and wait until they are there."""
    for partition, event in events:
        process.stdin.write(b"%d %b\n" % (partition, event))
    process.stdin.write(b"flush\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"flushed\n"
