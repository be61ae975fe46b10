"""Counting what becomes of calls of a remote model: times with each call; the rest once a second."""

from __future__ import annotations

from typing import Final

from tailrace.inference.remote.failure import RemoteFault
from tailrace.inference.remote.stage import RemoteStage
from tailrace.monitor.shared import MetricBlock
from tailrace.traffic import DIRECTIONS

_OPENINGS: Final = "tailrace_remote_breaker_openings_total"


class RemoteCounts:
    """The cells of one remote model of a pipeline. What came before, at the warm-up, is not counted."""

    def __init__(self, block: MetricBlock, pipeline: str, stage: RemoteStage) -> None:
        labels = (pipeline, stage.name)
        self._cells = block.cells
        self._client = stage.client
        self._faults = [
            (fault, block.find("tailrace_remote_failures_total", *labels, str(fault)).offset) for fault in RemoteFault
        ]
        self._bytes = [block.find("tailrace_remote_bytes_total", *labels, direction).offset for direction in DIRECTIONS]
        self._openings = block.find(_OPENINGS, *labels).offset
        self._open = block.find("tailrace_remote_breaker_open", *labels).offset
        self._connections = block.find("tailrace_remote_connections", *labels).offset
        self._counted = self._now()
        self._client.observe_call = block.histogram("tailrace_remote_seconds", *labels).observe

    def look(self) -> None:
        """Add what has come since the last look; say what is now."""
        cells, now = self._cells, self._now()
        places = [*(place for _, place in self._faults), self._openings, *self._bytes]
        for place, value, counted in zip(places, now, self._counted, strict=True):
            cells[place] += value - counted
        self._counted = now
        cells[self._open] = int(self._client.breaker.is_open)
        cells[self._connections] = self._client.pool.connections

    def _now(self) -> list[int]:
        """Return all that has been counted by the client so far."""
        client, traffic = self._client, self._client.pool.traffic
        failures = (client.failures[fault] for fault, _ in self._faults)
        return [*failures, client.breaker.openings, traffic.sent, traffic.received]
