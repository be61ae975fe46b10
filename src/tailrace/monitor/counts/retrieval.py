"""Counting what a pipeline's cache and breaker say of themselves: once a second, and not once a batch."""

from __future__ import annotations

from typing import Final

from tailrace.features.cached_retrieval import CachedRetrieval
from tailrace.features.retrieval import Retrieval
from tailrace.monitor.shared import MetricBlock

_COUNTERS: Final = ("tailrace_cache_hits_total", "tailrace_cache_misses_total", "tailrace_store_breaker_openings_total")


class RetrievalCounts:
    """The cells of one pipeline's cache and breaker; an embedded store has neither, and its cells stay 0."""

    def __init__(self, block: MetricBlock, pipeline: str, retrieval: Retrieval) -> None:
        self._cells = block.cells
        self._counters = [block.find(name, pipeline).offset for name in _COUNTERS]
        self._counted = [0] * len(_COUNTERS)
        self._bytes = block.find("tailrace_cache_bytes", pipeline).offset
        self._open = block.find("tailrace_store_breaker_open", pipeline).offset
        self._breaker = retrieval.breaker
        self._cache = retrieval.cache if isinstance(retrieval, CachedRetrieval) else None

    def look(self) -> None:
        """Add what has come since the last look; say what is now."""
        cache, breaker, cells = self._cache, self._breaker, self._cells
        hits, misses, bytes_ = (0, 0, 0) if cache is None else (cache.hits, cache.misses, cache.bytes)
        now = [hits, misses, 0 if breaker is None else breaker.openings]
        for place, value, counted in zip(self._counters, now, self._counted, strict=True):
            cells[place] += value - counted
        self._counted = now
        cells[self._bytes] = bytes_
        cells[self._open] = int(breaker is not None and breaker.is_open)
