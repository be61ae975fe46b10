"""Counting what holds up a worker's loop, or goes through it for all pipelines: garbage, and bytes of stores."""

from __future__ import annotations

import gc
import time
from typing import Any

from tailrace.monitor.shared import MetricBlock
from tailrace.traffic import DIRECTIONS, Traffic


class LoopCounts:
    """The cells of one worker. Collections are timed as they are made, which costs nothing between them.

    traffic: with stores, of all pipelines; what came before, at the warm-up, is not counted.
    """

    def __init__(self, block: MetricBlock, slot: int, traffic: Traffic) -> None:
        find, worker = block.find, str(slot)
        self._cells = block.cells
        self._pauses = find("tailrace_gc_pauses_total", worker).offset
        self._pause_ns = find("tailrace_gc_pause_seconds_total", worker).offset
        self._bytes = [find("tailrace_store_bytes_total", worker, direction).offset for direction in DIRECTIONS]
        self._traffic = traffic
        self._counted = [traffic.sent, traffic.received]
        self._began_ns = 0
        gc.callbacks.append(self._on_collection)

    def look(self) -> None:
        """Add what has come since the last look; once a second."""
        now = [self._traffic.sent, self._traffic.received]
        for place, value, counted in zip(self._bytes, now, self._counted, strict=True):
            self._cells[place] += value - counted
        self._counted = now

    def close(self) -> None:
        """Time collections no more."""
        gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: str, info: dict[str, Any]) -> None:
        """Hear that a collection begins, or has ended."""
        if phase == "start":
            self._began_ns = time.perf_counter_ns()
        else:
            self._cells[self._pauses] += 1
            self._cells[self._pause_ns] += time.perf_counter_ns() - self._began_ns
